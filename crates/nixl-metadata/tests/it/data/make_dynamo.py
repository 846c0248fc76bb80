"""Prints `dynamo_*.json` and `blob.bin` into the current folder, by Dynamo's own code.

Needs `ai-dynamo-runtime` 1.6.1, `numpy` and `pydantic`; neither NIXL nor torch.
"""
import sys, types

torch = types.ModuleType("torch")
torch.Tensor = type("Tensor", (), {})
sys.modules["torch"] = torch
import dynamo.nixl_connect as nc

BLOB = bytes(range(256)) * 4 + b"nixl agent metadata " * 30
KEY = "0f6b4f0e-8a1d-4c1b-9a53-4a7c0d9f2b11"


def descriptor(device, ptr, size):
    """A descriptor of memory that does not exist."""
    fake = types.SimpleNamespace(
        _serialized=None, _data_device=nc.Device(device), _data_ptr=ptr, _data_size=size
    )
    return types.SimpleNamespace(metadata=nc.Descriptor.metadata.fget(fake))


def emit(name, kind, hexadecimal, *descriptors):
    operation = types.SimpleNamespace(
        _serialized_request=None,
        _local_desc_list=list(descriptors),
        _connection=types.SimpleNamespace(metadata=BLOB),
        _notification_key=KEY,
        _operation_kind=kind,
    )
    text = nc.PassiveOperation.metadata(operation, hexadecimal).model_dump_json()
    open(name, "w").write(text)


several = (
    descriptor("cuda:3", 0x7F00_0000_0000, 1 << 30),
    descriptor("gpu", 2**63 + 8, 1),
    descriptor("cpu", 1, 2**62),
)
emit("dynamo_read.json", nc.OperationKind.READ, False, descriptor("cpu", 0x7F00_1234_5000, 4096))
emit("dynamo_write.json", nc.OperationKind.WRITE, False, *several)
emit("dynamo_write_hex.json", nc.OperationKind.WRITE, True, *several)
open("blob.bin", "wb").write(BLOB)
