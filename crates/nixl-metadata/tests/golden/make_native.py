"""Prints `v3-full.bin` for `dynamo_write.json`: its message with a peer, a doorbell and shares.

Written from the documented layout alone.
"""
import base64, json, struct, sys, zlib

message = json.load(open(sys.argv[1]))


def blob(data):
    return struct.pack("<Q", len(data)) + data


def text(value):
    return blob(value.encode())


kinds = {"cpu": 1, "cuda": 2, "xpu": 3}
payload = struct.pack("<B", message["operation_kind"]) + text(message["notification_key"])
payload += struct.pack("<Q", len(message["descriptors"]))
for d in message["descriptors"]:
    kind, _, index = d["device"].partition(":")
    payload += struct.pack("<BIQQ", kinds[kind], int(index or 0), d["ptr"], d["size"])
payload += blob(base64.b64decode(message["nixl_metadata"][4:]))
payload += b"\x01" + text("worker-1")
payload += (0x00112233445566778899AABBCCDDEEFF).to_bytes(16, "little")
payload += text("node-7") + text("3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11")
payload += struct.pack("<IQQ", 4242, 4026531836, 1 << 40)  # process, PID and IPC namespace
payload += struct.pack("<I", 1 | 4)  # capabilities: staging, shared memory
payload += struct.pack("<Q", 2) + text("nixl") + text("tcp")
payload += struct.pack("<Q", 2)  # devices: ordinal, UUID, GPU Direct
payload += struct.pack("<I16sB", 3, b"0123456789abcdef", 1) + struct.pack("<I16sB", 0, b"", 0)
payload += b"\x01" + struct.pack("<II16sQIQ", 4242, 18, b"d" * 16, 33288, 4095, 1 << 63)  # doorbell
payload += struct.pack("<Q", 2)  # shares: first, count, offset, variant
handle = b"\xa5" * 64 + struct.pack("<Q", (1 << 30) + 4096)
payload += struct.pack("<IIQI", 0, 1, 4096, 0) + blob(handle)
payload += struct.pack("<IIQI", 2, 1, 8, 1) + struct.pack("<II16sQ", 4243, 17, b"k" * 16, (1 << 62) + 8)

header = b"\x89NXM" + struct.pack("<HHI", 3, 0, len(payload))
sys.stdout.buffer.write(header + struct.pack("<I", zlib.crc32(header + payload)) + payload)
