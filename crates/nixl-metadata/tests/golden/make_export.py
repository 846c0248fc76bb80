"""Prints `export-1-full.bin` or `export-1-tensors.bin`, or a ticket: `ticket-1-write.bin` or `ticket-1-minimal.bin`. Tickets need the package `xxhash`.

Written from the documented layouts alone. Arguments: `export`, `write` or `minimal`; for the export then the path of
`dynamo_write.json`, whose agent metadata it has, and `tensors` for the second.
"""
import base64, json, math, struct, sys, zlib


def blob(data):
    return struct.pack("<Q", len(data)) + data


def text(value):
    return blob(value.encode())


def ticket(flags, layout, layers, slot, export, generation, token, expires, ids):
    import xxhash

    header = struct.pack("<BBHHHIIQQ", 1, flags, layout, *layers, slot, len(ids), export, generation) + token
    header += struct.pack("<Q", expires)
    signed = header + b"".join(struct.pack("<I", i) for i in ids)
    out = header + struct.pack("<Q", xxhash.xxh3_64_intdigest(signed, int.from_bytes(token[:8], "little")))
    before = 0
    for i in ids:
        difference, before = i - before, i
        number = 2 * difference if difference >= 0 else -2 * difference - 1
        while number > 127:
            out += bytes([number % 128 + 128])
            number //= 128
        out += bytes([number])
    return out


def layout(name, kind, shape, inner, width, stride, device, parts):
    out = text(name) + struct.pack("<B", kind) + struct.pack("<QHBQ", *shape) + struct.pack("<QQ", *inner)
    out += struct.pack("<BQBI", width, stride, *device) + struct.pack("<Q", len(parts))
    return out + b"".join(struct.pack("<QQ", *part) for part in parts)


def export(agent, tensors):
    core = struct.pack("<Q", 0x0123456789ABCDEF) + blob(agent)

    peer = text("worker-1")
    peer += (0x00112233445566778899AABBCCDDEEFF).to_bytes(16, "little")
    peer += text("node-7") + text("3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11")
    peer += struct.pack("<IQQ", 4242, 4026531836, 1 << 40)  # process, PID and IPC namespace
    peer += struct.pack("<I", 1 | 4)  # capabilities: staging, shared memory
    peer += struct.pack("<Q", 2) + text("nixl") + text("tcp")
    peer += struct.pack("<Q", 2)  # devices: ordinal, UUID, GPU Direct
    peer += struct.pack("<I16sB", 3, b"0123456789abcdef", 1) + struct.pack("<I16sB", 0, b"", 0)
    versions = struct.pack("<8H", 1, 3, 2, 1, 3, 2, 4, 1)  # staging, remote copy, doorbell, claims

    shares = struct.pack("<Q", 2)  # first, count, offset, variant
    handle = b"\xa5" * 64 + struct.pack("<Q", 3 << 32)
    shares += struct.pack("<IIQI", 0, 3, 4096, 0) + blob(handle)
    shares += struct.pack("<IIQI", 4, 2, 8192, 1) + struct.pack("<II16sQ", 4243, 17, b"k" * 16, 1 << 30)

    # Blocks, layers, outer, page size; heads and their size, or 0 and the elements of a token.
    layouts = struct.pack("<Q", 3)
    parts = [(layer << 32, 262144) for layer in (1, 2, 3)]
    layouts += layout("full", 2, (4, 3, 2, 16), (8, 128), 2, 32768, (2, 3), parts)
    layouts += layout("état", 0, (1, 1, 1, 1), (0, 512), 2, 1024, (1, 0), [(0x7F0000001000, 1024)])
    parts = [(0x7F0010000000, 1 << 20), (0x7F0020000000, 1 << 20)]
    layouts += layout("window", 1, (4, 2, 2, 16), (8, 128), 2, 32768, (1, 0), parts)

    words = struct.pack("<QIB", 0x7F0000002000, 4096, 1)
    words += struct.pack("<II16sQ", 4242, 20, b"words of grants!", 131072)
    claims = struct.pack("<II16sQ", 4242, 21, b"c" * 16, 32768)

    payload = struct.pack("<I", len(core)) + core
    sections = [(1, 1, peer), (2, 0, versions), (3, 0, shares), (7, 1, layouts), (8, 1, words), (9, 0, claims)]
    if tensors:
        content = struct.pack("<Q", 2)
        for position, code, bits, sizes in [(0, 4, 16, (3, 2, 16, 8, 128)), (2, 10, 8, (2, 2, 16, 8, 256))]:
            content += struct.pack("<HBBQ", position, code, bits, len(sizes))
            for axis, size in enumerate(sizes):
                content += struct.pack("<QQ", size, math.prod(sizes[axis + 1 :]))
        sections.append((12, 0, content))
    for number, flags, content in sections:
        payload += struct.pack("<HHI", number, flags, len(content)) + content
    header = b"\x89NXE" + struct.pack("<HHI", 1, 0, len(payload))
    return header + struct.pack("<I", zlib.crc32(header + payload)) + payload


if sys.argv[1] == "export":
    message = json.load(open(sys.argv[2]))
    out = export(base64.b64decode(message["nixl_metadata"][4:]), sys.argv[3:] == ["tensors"])
elif sys.argv[1] == "write":
    ids = [7, 8, 6, 70, 0, 2**32 - 1, 1, 100000, 99000]
    out = ticket(1, 3, (2, 80), 4095, 0x0123456789ABCDEF, 2**63 - 2, b"0123456789abcdef", 1900000000123, ids)
else:
    out = ticket(0, 0, (0, 1), 0, 1, 1, bytes(16), 0, [0])
sys.stdout.buffer.write(out)
