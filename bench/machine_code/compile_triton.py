"""Compiles every Triton kernel, through its own launcher, for GPUs that are not here; prints one JSON line a kernel.

    python bench/machine_code/compile_triton.py FOLDER [--few]

A program of its own, because Triton is either interpreting or compiling in a process. Nothing is launched: the driver
is replaced by one that only names a target. --few takes one of an operator's samples a case, by turns, and every case
for one architecture and dtype alone, elsewhere one an operator, and by turns one of the other two architectures: a
minute and a half of one core in the place of ten or more. Kernels that do not depend on the dtype are told of the
first one alone, float32, so that none but the last may be left out.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from support import cases

# Every dtype for one architecture, the two that networks use for the others; every sample for these two and that one,
# elsewhere one by turns.
NETWORKS = (torch.float32, torch.bfloat16)
DTYPES = {80: NETWORKS, 90: cases.DTYPES, 100: NETWORKS}
FEW = {80: NETWORKS[:1], 90: NETWORKS, 100: NETWORKS[:1]}
# 40 channels: a channels-last row of them is a multiple of 16 bytes but not of 16 elements.
CASES = (((2, 64, 56, 56), "nchw"), ((2, 64, 56, 56), "nhwc"), ((2, 40, 7, 8), "nhwc"))


class Target:
    """A Triton driver without a device."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


compiled: list[tuple[str, Any, int]] = []  # kernels by name, and the programs of a launch
described: set[tuple[int, str]] = set()  # samples differ in numbers that a kernel does not depend on
run = JITFunction.run


def compile_only(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    compiled.append((self.__name__, kernel, math.prod(grid)))
    return kernel


def main(folder: Path, few: bool) -> None:
    JITFunction.run = compile_only
    for arch, dtypes in (FEW if few else DTYPES).items():
        triton.runtime.driver.set_active(Target(arch))
        for number, op in enumerate(cases.operators().values()):
            if not any(backend.name == "triton" for backend in op.backends):
                continue
            kernel = next(backend for backend in op.backends if backend.name == "triton").load(op.name)
            narrow = getattr(sys.modules[kernel.__module__], "NARROW", {})
            float64 = getattr(sys.modules[kernel.__module__], "FLOAT64", {})
            for dtype in dtypes:
                for k, (shape, layout) in enumerate(CASES):
                    if few and (arch, dtype) != (90, torch.float32) and (k + number) % len(CASES):
                        continue
                    if few and arch == (80, 100)[number // 2 % 2]:
                        continue
                    turn = None if arch == 90 and dtype in NETWORKS and not few else k + arch // 10
                    for args in cases.arguments(op, cases.Case(shape, dtype, (layout,), turn=turn)):
                        args = op.signature.promote(args)
                        call = (*args, *(output.empty() for output in op.layout(*args)))
                        kernel(*call)
                        elements = max(x.numel() for x in call if isinstance(x, torch.Tensor))
                        while compiled:
                            name, made, programs = compiled.pop()
                            if (id(made), layout) in described:  # Triton keeps what it has compiled
                                continue
                            described.add((id(made), layout))
                            reason = narrow.get(name) or narrow.get(layout)
                            facts = {"narrow": reason, "wide": float64.get(name)}
                            facts |= {"blocks": programs, "elements": elements, "bytes": op.bytes(*args)}
                            describe(name, made, arch, op.name, str(dtype), layout, facts, folder)


def describe(name: str, kernel: Any, arch: int, op: str, dtype: str, layout: str, facts: Any, folder: Path) -> None:
    ptx = kernel.asm["ptx"]
    cubin = folder / f"{len(list(folder.glob('*.cubin')))}-{name}-{arch}.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    facts = {
        "op": op, "kernel": name, "arch": arch, "dtype": dtype, "layout": layout, "cubin": str(cubin), **facts,
        "threads": 32 * kernel.metadata.num_warps, "shared": kernel.metadata.shared,
        "loads": re.findall(r"ld\.global[\w.:]*", ptx), "stores": re.findall(r"st\.global[\w.:]*", ptx),
        "atomics": re.findall(r"\b(?:atom|red)\.[\w.:]*", ptx), "float64": len(re.findall(r"\.f64", ptx)),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--few" in sys.argv[2:])
