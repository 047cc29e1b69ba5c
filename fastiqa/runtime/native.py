"""The compiled libraries: their files, how they were built, and why they cannot be used.

The first call of an operator looks for them. A failure is remembered with its reason.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("cpu", "cuda")


class Unavailable(Exception):
    """A library, or a kernel in it, cannot be used; the message tells the user why."""


class DoesNotLoad(Unavailable):
    """A library was built for the running torch, and cannot be loaded."""


def path(library: str) -> Path:
    """The file of the library `cpu` or `cuda`, if it was built."""
    return Path(__file__).resolve().parents[1] / f"libfastiqa_{library}.so"


@functools.cache
def build_record(library: str) -> dict[str, Any]:
    """How the library was built: torch, compiler, flags and, for CUDA, architectures. Raises Unavailable."""
    _load(library)
    entry = ctypes.CDLL(str(path(library))).fastiqa_build_record
    entry.restype = ctypes.c_char_p
    return dict(json.loads(entry()))


def kernel(library: str, name: str) -> Callable[..., None]:
    """The compiled kernel of an operator. Raises Unavailable with the reason."""
    _load(library)
    overloads = getattr(getattr(torch.ops, f"fastiqa_{library}"), name, None)
    if overloads is None:
        raise Unavailable(f"{path(library).name} has no kernel of that name; rebuild it")
    return overloads.default  # type: ignore[no-any-return]


@functools.cache
def device_reason(device: torch.device) -> str | None:
    """Return why the loaded CUDA library cannot run on that GPU: it holds no code for it. None if it can."""
    if device.type != "cuda":
        return None
    record = build_record("cuda")
    archs = [int(arch) for arch in record["archs"]]
    return _arch_reason(archs, int(record["ptx"]), torch.cuda.get_device_capability(device))


def _arch_reason(archs: list[int], ptx: int, capability: tuple[int, int]) -> str | None:
    major, minor = capability
    have = major * 10 + minor
    # Real code runs on later minors of its major, PTX on everything after it.
    if any(arch // 10 == major and arch <= have for arch in archs) or have >= ptx:
        return None
    return f"built for compute capabilities {archs}, this GPU has {have}; rebuild with FASTIQA_CUDA_ARCHS={have}"


def _load(library: str) -> None:
    error = _load_once(library)
    if error is not None:
        raise error


@functools.cache
def _load_once(library: str) -> Unavailable | None:
    file = path(library)
    if not file.exists():
        note = file.with_suffix(".txt")  # setup.py's note about a failed build
        if note.exists():
            return Unavailable(f"{file.name} was not built: {note.read_text(encoding='utf-8').strip()}")
        if library == "cuda" and torch.version.cuda is None:
            reason = f"torch {torch.__version__} has no CUDA (FASTIQA_CUDA=1 builds it all the same)"
            return Unavailable(f"{file.name} was not built: {reason}")
        compiler = "nvcc and a C++ compiler" if library == "cuda" else "a C++ compiler"
        return Unavailable(f"{file.name} was not built; reinstall where {compiler} can be found")
    if library == "cuda" and torch.version.cuda is None:
        return Unavailable(f"built, but torch {torch.__version__} has no CUDA")
    try:
        torch.ops.load_library(str(file))
    except OSError as error:
        return DoesNotLoad(f"{file.name} does not load: {error.__cause__ or error}")
    return None
