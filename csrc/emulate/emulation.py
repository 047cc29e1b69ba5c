"""The kernels' sources without PyTorch, on this CPU.

The CUDA sources become a library in this process (emulate.h); the sources of either device become a program for each
sanitizer. The tests use both, and `fastiqa.bench.machine_code` notes the launches of the library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
ENTRY = CSRC / "emulate" / "entry.cpp"
TEMPLATE = ROOT / "examples" / "template_op"

# Two compilations, since the thread sanitizer goes with no other; -g1: reports name lines. -O0: -Og took a third longer
# to compile under the first.
SANITIZERS = {
    "address_undefined": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O0"),
    "thread": ("-fsanitize=thread", "-g1", "-O0"),
}

# The sources of a device without PyTorch. For the CPU nothing is inlined: what is unrolled there took twice as long to
# compile, and ssim 1.5 GB.
DEVICES = {
    "cuda": ("-include", "emulate/emulate.h"),
    "cpu": ("-include", "emulate/plain_tensor.h", "-Dalways_inline=noinline"),
}

READ, WRITTEN = 1, 2  # Access in csrc/emulate/plain_tensor.h

Call = tuple[str, tuple[Any, ...]]  # an operator's name and its arguments, outputs last

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # Dtype in csrc/core/dtype.h


class Value(ctypes.Structure):
    """fastiqa::emulate::Value."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 8),
        ("strides", ctypes.c_int64 * 8),
        ("data", ctypes.c_void_p),
        ("access", ctypes.c_int64),
        ("whole", ctypes.c_int64),
        ("number", ctypes.c_double),
        ("characters", ctypes.c_char * 32),
    )


@functools.cache
def build() -> Any:
    """csrc/build.py as a module."""
    spec = importlib.util.spec_from_file_location("fastiqa_csrc_build", CSRC / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def building(work: Path) -> FileLock:
    """Makes the folder and keeps the other test processes out of it."""
    work.mkdir(parents=True, exist_ok=True)
    return FileLock(work / "lock")


def sources(device: str) -> list[Path]:
    kind = {"cuda": "*.cu", "cpu": "*.cpp"}[device]
    operators = [source for tree in (CSRC, TEMPLATE / "csrc") for source in sorted(tree.glob(f"ops/*/{kind}"))]
    return [*operators, ENTRY, *([ENTRY.with_name("selftest.cu")] if device == "cuda" else [])]


@functools.cache
def library() -> ctypes.CDLL:
    work = ROOT / "build" / "emulated" / "plain"
    output = work / "libfastiqa_emulated.so"
    with building(work):
        # 25 s to compile where -O1 takes 37, and the tests hardly slower; with -O0 they take a fifth longer.
        build().build_plain(output, work, sources("cuda"), (*DEVICES["cuda"], "-Og"), shared=True)
    loaded = ctypes.CDLL(str(output))
    loaded.fastiqa_emulate.restype = ctypes.c_char_p
    loaded.fastiqa_emulate.argtypes = (ctypes.c_char_p, ctypes.POINTER(Value), ctypes.c_int64)
    return loaded


def program(device: str, sanitizer: str, dtypes: Sequence[torch.dtype]) -> Path:
    """The driver of entry.cpp with all sources of a device, under a sanitizer, for operands of these dtypes."""
    work = ROOT / "build" / "emulated" / f"{device}_{sanitizer}"
    with building(work):
        return program_of(sources(device), work, device, sanitizer, dtypes)


def program_of(
    files: Sequence[Path], work: Path, device: str, sanitizer: str, dtypes: Sequence[torch.dtype], *flags: str
) -> Path:
    bits = sum(1 << _DTYPES.index(dtype) for dtype in dtypes)
    flags = (*SANITIZERS[sanitizer], *DEVICES[device], "-DFASTIQA_DRIVER", f"-DFASTIQA_DTYPES={bits}", *flags)
    build().build_plain(work / "driver", work, files, flags, shared=False)
    return work / "driver"


def box(value: Any) -> Value:
    if isinstance(value, Tensor):
        boxed = Value(kind=0, dtype=_DTYPES.index(value.dtype), rank=value.dim(), data=value.data_ptr())
        boxed.sizes[: value.dim()] = list(value.shape)
        boxed.strides[: value.dim()] = list(value.stride())
        return boxed
    if isinstance(value, float):
        return Value(kind=2, number=value)
    if isinstance(value, str):
        return Value(kind=3, characters=value.encode())
    if value is None:
        return Value(kind=4)
    return Value(kind=1, whole=int(value))


def call(name: str, *args: Any) -> list[int]:
    """Runs an emulated operator in this process; says of each argument whether it was READ and WRITTEN."""
    values = (Value * len(args))(*map(box, args))
    error = library().fastiqa_emulate(name.encode(), values, len(args))
    if error is not None:
        raise RuntimeError(error.decode())
    return [value.access for value in values]


@contextlib.contextmanager
def as_cuda_backend(names: Sequence[str]) -> Iterator[None]:
    """Within the block the backend `cuda` takes CPU tensors and runs the emulated sources."""
    from fastiqa.runtime import dispatch

    accepts, kernels = dispatch.Backend.accepts, dict(dispatch._kernels)
    dispatch.Backend.accepts = lambda self, device: self.name == "cuda" or accepts(self, device)  # type: ignore[method-assign]
    dispatch._kernels.update({("cuda", name): functools.partial(call, name) for name in names})
    try:
        yield
    finally:
        dispatch.Backend.accepts = accepts  # type: ignore[method-assign]
        dispatch._kernels.clear()
        dispatch._kernels.update(kernels)


def run_recorded(driver: Path, calls: Sequence[Call], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs calls in the driver; on success the storages of the tensors are replaced by what it computed."""
    recorded, results = folder / "calls", folder / "results"
    with recorded.open("wb") as file:
        file.write(struct.pack("q", len(calls)))
        for name, args in calls:
            file.write(struct.pack("q", len(name)) + name.encode() + struct.pack("q", len(args)))
            for value in args:
                file.write(bytes(box(value)))
                if isinstance(value, Tensor):
                    whole = storage(value)
                    offset = value.storage_offset() * value.element_size()
                    file.write(struct.pack("qq", whole.numel(), offset) + whole.numpy().tobytes())
    done = subprocess.run([str(driver), str(recorded), str(results)], capture_output=True, text=True, timeout=600)
    if done.returncode == 0:
        computed = torch.frombuffer(bytearray(results.read_bytes()), dtype=torch.uint8)
        for value in (value for _, args in calls for value in args if isinstance(value, Tensor)):
            whole = storage(value)
            whole.copy_(computed[: whole.numel()])
            computed = computed[whole.numel() :]
    return done


def storage(x: Tensor) -> Tensor:
    """The bytes of a tensor's whole storage."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())
