"""Writes down the kernels that calls of the operators launch, forward and for each gradient; prints a JSON line a call.

    python -m fastiqa.bench.machine_code.launches [DTYPE ...]     all dtypes by default

A program of its own: within a process Triton either interprets or compiles, so TRITON_INTERPRET must be unset. Nothing
is launched. The emulated CUDA sources note their launches, and a stand-in notes Triton's. Launches of PyTorch's own
kernels, such as the sums of small tensors in an adjoint, are not counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from triton.runtime.jit import JITFunction

from fastiqa import ops
from fastiqa.runtime import dispatch

from ..runner.rows import ROOT
from ..runner.settings import DTYPES, LAYOUTS, Setting, tensors
from .compile_triton import Target

sys.path.insert(0, str(ROOT / "csrc" / "emulate"))
import emulation  # type: ignore[import-not-found]

SIZE = (2, 64, 56, 56)
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
        """The launches since the last call of this."""
        count = emulation.library().fastiqa_note_launches(self._room, ctypes.c_int64(len(self._room)))
        return [(self._names[note.kernel], note.blocks, note.threads) for note in self._room[:count]]

    def active(self) -> contextlib.AbstractContextManager[None]:
        active: contextlib.AbstractContextManager[None] = emulation.as_cuda_backend([*ops.OPERATORS])
        return active


class Triton:
    """Launches are calls of JITFunction.run, which compiles nothing here."""

    name = "triton"

    def __init__(self) -> None:
        self._noted: list[Launch] = []
        triton.runtime.driver.set_active(Target(90))

    def taken(self) -> list[Launch]:
        """The launches since the last call of this."""
        noted, self._noted = self._noted, []
        return noted

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        def note(kernel: Any, *args: Any, grid: Any, num_warps: int, **kwargs: Any) -> None:
            self._noted.append((kernel.__name__, math.prod(grid), 32 * num_warps))

        accepts = dispatch.Backend.accepts
        JITFunction.run = note
        dispatch.Backend.accepts = lambda self, device: self.name == "triton" or accepts(self, device)  # type: ignore[method-assign]
        yield
        dispatch.Backend.accepts = accepts  # type: ignore[method-assign]


def launches_of(op: ops.Op, args: tuple[Any, ...], backend: Cuda | Triton) -> Iterator[tuple[str, list[Launch]]]:
    """The launches of the forward pass, of the gradient of each tensor alone, and of all gradients."""
    backend.taken()
    op(*args)
    yield "forward", backend.taken()
    if op.name.endswith("_backward"):
        return
    positions = [k for k in op.signature.tensors if args[k] is not None]
    for chosen in [*([k] for k in positions), positions] if len(positions) > 1 else [positions]:
        values = tuple(x.clone().requires_grad_() if k in chosen else x for k, x in enumerate(args))
        results = [result for result in tensors(op(*values)) if result.requires_grad]
        backend.taken()
        torch.autograd.grad(results, [values[k] for k in chosen], [torch.ones_like(result) for result in results])
        yield "gradient of " + ", ".join(op.signature.names[k] for k in chosen), backend.taken()


def print_calls(setting: Setting, op: ops.Op, backend: Cuda | Triton) -> None:
    """Print a line for each call of an operator with one setting's arguments."""
    args = setting.arguments()
    outputs = [output.empty() for output in op.layout(*op.signature.promote(args))]
    elements = max(x.numel() for x in (*args, *outputs) if isinstance(x, torch.Tensor))
    about: dict[str, Any] = {"op": op.name, "backend": backend.name, "dtype": setting.dtype, "layout": setting.layout}
    about |= {"arguments": setting.label, "elements": elements, "bytes": op.bytes(*args)}
    for mode, launches in launches_of(op, args, backend):
        print(json.dumps({**about, "mode": mode, "launches": launches}))


def main(dtypes: Sequence[str]) -> None:
    for backend in (Cuda(), Triton()):
        with backend.active(), dispatch.use(backend.name):
            for op in ops.OPERATORS.values():
                if not any(known.name == backend.name for known in op.backends):
                    continue
                for dtype in dtypes:
                    for layout in LAYOUTS:
                        for sample in range(len(list(op.samples(*SIZE)))):
                            print_calls(Setting(op, sample, SIZE, dtype, layout, "cpu"), op, backend)


if __name__ == "__main__":
    main(sys.argv[1:] or [*DTYPES])
