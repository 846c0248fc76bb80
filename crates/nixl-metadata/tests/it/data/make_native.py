"""Prints `native_v1.bin`: the message of `dynamo_write.json` with a peer, written from the documented layout alone."""
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
payload += struct.pack("<II", 4242, 1)  # process, capabilities (staging)
payload += struct.pack("<Q", 2) + text("nixl") + text("tcp")

header = b"\x89NXM" + struct.pack("<HHI", 1, 0, len(payload))
sys.stdout.buffer.write(header + struct.pack("<I", zlib.crc32(header + payload)) + payload)
