"""The other side of the interoperation tests: Dynamo's own `nixl_connect`.

Takes one command a line on stdin and answers each with one line on stdout, both JSON:

    {"do": "offer", "kind": "READ" | "WRITE", "sizes": [N, ...], "seed": S}
        -> {"id": N, "metadata": "..."}
        "buffers": NAME   uses the same buffers again whenever the name is given
        "hex": true       prints the metadata as early versions did
    {"do": "wait", "id": N}
        -> {"crc32": "xxxxxxxx"}    of the buffers, once the peer is done with them
    {"do": "transfer", "metadata": "...", "seed": S}
        -> {"crc32": "xxxxxxxx"}    of the buffers, once they are read or written
        "keep": true      does not release the operation
    {"do": "read_media", "media": {...}}
        -> {"shape": [N, ...], "crc32": "xxxxxxxx", "metadata": ..., "seconds": S}    by Dynamo's own reader
    {"do": "offer_media", "shape": [N, ...], "seed": S}
        -> {"item": {"Decoded": {...}}, "crc32": "xxxxxxxx"}    as Dynamo's frontend, which is not in Python
    {"do": "read_embeddings", "request": {...}}
        -> {"shape": [N, ...], "dtype": "...", "crc32": "xxxxxxxx"}    by Dynamo's own receiver
    {"do": "offer_embeddings", "shape": [N, ...], "seed": S}
        -> {"id": N, "request": {...}, "crc32": "xxxxxxxx"}    by Dynamo's own sender
    {"do": "sent_embeddings", "id": N}
        -> {}    once the peer has read them
    anything that fails
        -> {"error": "..."}

Sources hold the output of SplitMix64 started with the seed, as little-endian bytes, through all
buffers of the operation; destinations are filled with its inverse beforehand.
"""

import os
import sys

# NIXL and UCX may print on stdout too; what they print goes to stderr, the answers where stdout was.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import asyncio
import importlib.metadata
import importlib.util
import pathlib
import json
import time
import types
import zlib

import numpy as np
import torch
from dynamo import nixl_connect

TIMEOUT = 60


def pattern(seed, size):
    with np.errstate(over="ignore"):
        z = np.arange(1, (size + 7) // 8 + 1, dtype="<u8")
        z *= np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z.view(np.uint8)[:size]


def fill(buffers, content):
    start = 0
    for buffer in buffers:
        buffer[:] = content[start : start + buffer.size]
        start += buffer.size


def crc32(buffers):
    crc = 0
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    return f"{crc:08x}"


def descriptors(buffers):
    found = [nixl_connect.Descriptor((buffer, "cpu")) for buffer in buffers]
    return found[0] if len(found) == 1 else found


def alone(path):
    """A module of dynamo.common alone: its package imports much that is not installed."""
    file = pathlib.Path(nixl_connect.__file__).parents[1] / "common" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embedding_transfer():
    """Its imports, of which the transfer by reads uses the first alone."""
    utils = types.ModuleType("dynamo.common.utils")
    utils.nvtx_utils = alone("utils/nvtx_utils.py")
    runtime = types.ModuleType("dynamo.common.utils.runtime")
    # The connection for buffers that are registered beforehand, of which the tests have none.
    runtime.run_async = lambda connects: None
    safetensors = types.ModuleType("safetensors")
    safetensors.torch = None
    standins = {
        "dynamo.common": types.ModuleType("dynamo.common"),
        "dynamo.common.utils": utils,
        "dynamo.common.utils.runtime": runtime,
        "msgspec": types.ModuleType("msgspec"),
        "safetensors": safetensors,
    }
    sys.modules.update(standins)
    return alone("multimodal/embedding_transfer.py")


MEDIA_NIXL = alone("utils/media_nixl.py")
EMBEDDINGS = embedding_transfer()


class Peer:
    def __init__(self):
        self.connector = nixl_connect.Connector()
        self.offers = []
        self.kept = []
        self.named = {}

    def buffers(self, sizes, name=None):
        fresh = self.named.get(name) or [np.empty(max(sizes), np.uint8) for _ in sizes]
        if name is not None:
            self.named[name] = fresh
        return [buffer[:size] for buffer, size in zip(fresh, sizes, strict=True)]

    async def offer(self, kind, sizes, seed, buffers=None, hex=False):
        buffers = self.buffers(sizes, buffers)
        content = pattern(seed, sum(sizes))
        if kind == "READ":
            fill(buffers, content)
            operation = await self.connector.create_readable(descriptors(buffers))
        else:
            fill(buffers, ~content)
            operation = await self.connector.create_writable(descriptors(buffers))
        self.offers.append((operation, buffers))
        metadata = operation.metadata(hex_encode=hex).model_dump_json()
        return {"id": len(self.offers) - 1, "metadata": metadata}

    async def wait(self, id):
        operation, buffers = self.offers[id]
        self.offers[id] = None
        await asyncio.wait_for(operation.wait_for_completion(), TIMEOUT)
        self.check(operation)
        return {"crc32": crc32(buffers)}

    async def transfer(self, metadata, seed, keep=False):
        remote = nixl_connect.RdmaMetadata.model_validate_json(metadata)
        buffers = self.buffers([descriptor.size for descriptor in remote.descriptors])
        content = pattern(seed, sum(buffer.size for buffer in buffers))
        if remote.operation_kind == nixl_connect.OperationKind.READ:
            fill(buffers, ~content)
            operation = await self.connector.begin_read(remote, descriptors(buffers))
        else:
            fill(buffers, content)
            operation = await self.connector.begin_write(descriptors(buffers), remote)
        await asyncio.wait_for(operation.wait_for_completion(), TIMEOUT)
        self.check(operation)
        if keep:
            self.kept.append(operation)
        return {"crc32": crc32(buffers)}

    async def read_media(self, media):
        read = MEDIA_NIXL.read_decoded_media_via_nixl
        begun = time.perf_counter()
        array, metadata = await read(self.connector, media, return_metadata=True)
        seconds = time.perf_counter() - begun
        crc32 = f"{zlib.crc32(np.ascontiguousarray(array)):08x}"
        return {"shape": array.shape, "crc32": crc32, "metadata": metadata, "seconds": seconds}

    async def offer_media(self, shape, seed):
        buffer = np.empty(int(np.prod(shape)), np.uint8)
        buffer[:] = pattern(seed, buffer.size)
        operation = await self.connector.create_readable(descriptors([buffer]))
        # Read without its notification: kept to the end, as a frontend keeps it for its request.
        self.kept.append((operation, buffer))
        metadata = operation.metadata(hex_encode=False)
        [memory] = metadata.descriptors
        decoded = {
            "nixl_metadata": metadata.nixl_metadata,
            "nixl_descriptor": {
                "addr": memory.ptr,
                "size": memory.size,
                "mem_type": "Dram",
                "device_id": 0,
            },
            "shape": shape,
            "dtype": "UINT8",
            "metadata": {"Image": {"format": "Png", "color_type": "Rgb8", "layout": "HWC"}},
        }
        return {"item": {"Decoded": decoded}, "crc32": f"{zlib.crc32(buffer):08x}"}

    async def read_embeddings(self, request):
        receiver = EMBEDDINGS.NixlReadEmbeddingReceiver(max_items=0)
        request = EMBEDDINGS.TransferRequest.model_validate(request)
        number, tensor = await asyncio.wait_for(receiver.receive_embeddings(request), TIMEOUT)
        array = tensor.numpy().copy()
        receiver.release_tensor(number)
        return {
            "shape": array.shape,
            "dtype": str(array.dtype),
            "crc32": f"{zlib.crc32(array):08x}",
        }

    async def offer_embeddings(self, shape, seed):
        values = pattern(seed, 4 * int(np.prod(shape))).astype(np.uint8).view(np.float32).reshape(shape)
        sender = EMBEDDINGS.NixlReadEmbeddingSender()
        tensor = torch.Tensor(values)
        request, sent = await sender.send_embeddings(tensor, stage_embeddings=True)
        self.kept.append((sender, tensor, sent))
        crc = f"{zlib.crc32(np.ascontiguousarray(values)):08x}"
        return {"id": len(self.kept) - 1, "request": request.model_dump(), "crc32": crc}

    async def sent_embeddings(self, id):
        await asyncio.wait_for(self.kept[id][2], TIMEOUT)
        return {}

    def check(self, operation):
        if operation.status != nixl_connect.OperationStatus.COMPLETE:
            raise RuntimeError(f"the operation ended as {operation.status}")


async def main():
    peer = Peer()
    answer({"version": importlib.metadata.version("ai-dynamo-runtime")})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer(await getattr(peer, command.pop("do"))(**command))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


def answer(value):
    print(json.dumps(value), file=answers, flush=True)


asyncio.run(main())
