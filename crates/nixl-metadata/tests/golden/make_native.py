"""Prints `v3-full.bin` or `v4-full.bin` for `dynamo_write.json`: its message with all that the version carries.
Or prints `v4-checksum.bin` for `dynamo_read.json`: its message with a checksum.
Or, with `trace`, `tensor` or `word` as a third argument, `v4-trace-context.bin`, `v4-tensor.bin` or `v4-word.bin`.

Written from the documented layout alone. Arguments: the path of the JSON, and 3 or 4.
"""
import base64, json, struct, sys, zlib

message, version = json.load(open(sys.argv[1])), int(sys.argv[2])


def blob(data):
    return struct.pack("<Q", len(data)) + data


def text(value):
    return blob(value.encode())


kinds = {"cpu": 1, "cuda": 2, "xpu": 3}
core = struct.pack("<B", message["operation_kind"]) + text(message["notification_key"])
core += struct.pack("<Q", len(message["descriptors"]))
for d in message["descriptors"]:
    kind, _, index = d["device"].partition(":")
    core += struct.pack("<BIQQ", kinds[kind], int(index or 0), d["ptr"], d["size"])
core += blob(base64.b64decode(message["nixl_metadata"][4:]))

peer = text("worker-1")
peer += (0x00112233445566778899AABBCCDDEEFF).to_bytes(16, "little")
peer += text("node-7") + text("3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11")
peer += struct.pack("<IQQ", 4242, 4026531836, 1 << 40)  # process, PID and IPC namespace
peer += struct.pack("<I", 1 | 4)  # capabilities: staging, shared memory
peer += struct.pack("<Q", 2) + text("nixl") + text("tcp")
peer += struct.pack("<Q", 2)  # devices: ordinal, UUID, GPU Direct
peer += struct.pack("<I16sB", 3, b"0123456789abcdef", 1) + struct.pack("<I16sB", 0, b"", 0)

doorbell = struct.pack("<II16sQIQ", 4242, 18, b"d" * 16, 33288, 4095, 1 << 63)

shares = struct.pack("<Q", 2)  # first, count, offset, variant
handle = b"\xa5" * 64 + struct.pack("<Q", (1 << 30) + 4096)
shares += struct.pack("<IIQI", 0, 1, 4096, 0) + blob(handle)
shares += struct.pack("<IIQI", 2, 1, 8, 1) + struct.pack("<II16sQ", 4243, 17, b"k" * 16, (1 << 62) + 8)

if version == 3:
    payload = core + b"\x01" + peer + b"\x01" + doorbell + shares
else:
    versions = struct.pack("<8H", 1, 3, 2, 1, 3, 2, 4, 1)  # staging, remote copy, doorbell, claims
    terms = struct.pack("<QQIBQ", 1795878000123, 1795877400123, 1, 1, 0xFEEDF00DDEADBEEF)
    payload = struct.pack("<I", len(core)) + core
    sections = [(1, 0, peer), (2, 0, versions), (3, 0, shares), (4, 0, doorbell), (5, 1, terms)]
    if message["operation_kind"] == 1:
        sections = [(6, 0, struct.pack("<HQ", 1, 0x0123456789ABCDEF))]  # XXH3
    if sys.argv[3:] == ["trace"]:
        ids = "4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7"
        sections = [(10, 0, bytes.fromhex(ids) + b"\x01")]  # trace id, parent id, sampled
    if sys.argv[3:] == ["tensor"]:
        rows = sum(d["size"] for d in message["descriptors"]) // 2
        dimensions = [(2, 2 * rows), (rows, 1), (2, rows)]  # size, stride
        content = struct.pack("<BBQ", 17, 4, len(dimensions))  # DLPack's code and bits of F4
        sections = [(11, 0, content + b"".join(struct.pack("<QQ", *d) for d in dimensions))]
    if sys.argv[3:] == ["word"]:
        sections = [(13, 0, struct.pack("<QQ", 0x7F1234567FF8, 0x0123456789ABCDEF))]  # address, number
    for number, flags, content in sections:
        payload += struct.pack("<HHI", number, flags, len(content)) + content

header = b"\x89NXM" + struct.pack("<HHI", version, 0, len(payload))
sys.stdout.buffer.write(header + struct.pack("<I", zlib.crc32(header + payload)) + payload)
