"""Writes down the kernels that calls of the operators launch, forward and for each gradient; prints a JSON line a call.

A program of its own, because Triton is either interpreting or compiling in a process. Nothing is launched: the emulated
CUDA sources note their launches, and so does what stands here for Triton's. Launches of PyTorch's own kernels, such as
the sums of small tensors in an adjoint, are not counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
from fastiqa.bench.machine_code import compile_triton
from triton.runtime.jit import JITFunction

from fastiqa import ops
from fastiqa.runtime import dispatch
from fastiqa.runtime.op import Op
from support import cases, emulation

SHAPE = (2, 64, 56, 56)
LAYOUTS = ("nchw", "nhwc")
Launch = tuple[str, int, int]  # kernel, blocks, threads of a block


class Noted(ctypes.Structure):
    """fastiqa::emulate::Noted."""

    _fields_ = (("kernel", ctypes.c_uint64), ("blocks", ctypes.c_int64), ("threads", ctypes.c_int64))


class Cuda:
    """The emulated sources, whose kernels are known by their place in the library."""

    name = "cuda"

    def __init__(self) -> None:
        library = emulation.library()
        library.fastiqa_note_launches.restype = ctypes.c_int64
        symbols = subprocess.run(
            ["nm", "-C", "--defined-only", library._name], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        self._names = {int(line[:16], 16): line[19:] for line in symbols}
        self._room = (Noted * 64)()
        self.taken()

    def taken(self) -> list[Launch]:
        count = emulation.library().fastiqa_note_launches(self._room, ctypes.c_int64(len(self._room)))
        return [(self._names[note.kernel], note.blocks, note.threads) for note in self._room[:count]]

    def active(self) -> contextlib.AbstractContextManager[None]:
        return emulation.as_cuda_backend([*ops.OPERATORS])


class Triton:
    """Launches are calls of JITFunction.run, which compiles nothing here."""

    name = "triton"

    def __init__(self) -> None:
        self._noted: list[Launch] = []
        triton.runtime.driver.set_active(compile_triton.Target(90))

    def taken(self) -> list[Launch]:
        noted, self._noted = self._noted, []
        return noted

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        def note(kernel: Any, *args: Any, grid: Any, num_warps: int, **kwargs: Any) -> None:
            self._noted.append((kernel.__name__, math.prod(grid), 32 * num_warps))

        accepts = dispatch.Backend.accepts
        JITFunction.run = note
        dispatch.Backend.accepts = lambda backend, device: backend.name == "triton" or accepts(backend, device)  # type: ignore[method-assign]
        yield
        dispatch.Backend.accepts = accepts  # type: ignore[method-assign]


def calls(op: Op, args: tuple[Any, ...], backend: Any) -> Iterator[tuple[str, list[Launch]]]:
    """The forward pass, the gradient of each tensor alone, and all of them."""
    backend.taken()
    op(*args)
    yield "forward", backend.taken()
    if op.name.endswith("_backward"):
        return
    tensors = [k for k in op.signature.tensors if args[k] is not None]
    for chosen in [*([k] for k in tensors), tensors] if len(tensors) > 1 else [tensors]:
        values = tuple(x.clone().requires_grad_() if k in chosen else x for k, x in enumerate(args))
        results = [result for result in cases.outputs(op(*values)) if result.requires_grad]
        backend.taken()
        torch.autograd.grad(results, [values[k] for k in chosen], [torch.ones_like(result) for result in results])
        yield "gradient of " + ", ".join(op.signature.names[k] for k in chosen), backend.taken()


def main(dtypes: Sequence[torch.dtype]) -> None:
    for backend in (Cuda(), Triton()):
        with backend.active(), dispatch.use(backend.name):
            for op in ops.OPERATORS.values():
                if not any(known.name == backend.name for known in op.backends):
                    continue
                for dtype in dtypes:
                    for layout in LAYOUTS:
                        for args in cases.arguments(op, cases.Case(SHAPE, dtype, (layout,))):
                            describe(op, args, str(dtype).removeprefix("torch."), layout, backend)


def describe(op: Op, args: tuple[Any, ...], dtype: str, layout: str, backend: Any) -> None:
    tensors = [x for x in args if isinstance(x, torch.Tensor)]
    first = tensors[0].shape
    named = zip(op.signature.names, args, strict=False)
    label = " ".join(
        f"{name}={'x'.join(map(str, x.shape)) if isinstance(x, torch.Tensor) else x}"
        for name, x in named
        if not (isinstance(x, torch.Tensor) and x.shape == first)
    )
    outputs = [output.empty() for output in op.layout(*op.signature.promote(args))]
    elements = max(x.numel() for x in (*tensors, *outputs))
    facts = {"op": op.name, "backend": backend.name, "dtype": dtype, "layout": layout, "arguments": label}
    facts |= {"elements": elements, "bytes": op.bytes(*args)}
    for mode, launches in calls(op, args, backend):
        print(json.dumps({**facts, "mode": mode, "launches": launches}))


if __name__ == "__main__":
    main([dtype for dtype in cases.DTYPES if not sys.argv[1:] or str(dtype).removeprefix("torch.") in sys.argv[1:]])
