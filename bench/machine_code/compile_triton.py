"""Compiles every Triton kernel, through its own launcher, for GPUs that are absent; prints a JSON line for each.

    python -m fastiqa.bench.machine_code.compile_triton FOLDER [--few]     cubins into FOLDER, facts about each kernel
    python -m fastiqa.bench.machine_code.compile_triton --variants         counts what fifty sizes would compile

A program of its own: within a process Triton either interprets or compiles, so TRITON_INTERPRET must be unset. Nothing
is launched. A driver that only names a target replaces the real one.

--few takes a minute and a half of one core instead of ten or more. For sm_90 in float32 it compiles one sample of an
operator for each of `CALLS`; otherwise it takes one of the calls, and one of the other two architectures, by turns.
Kernels that do not depend on the dtype are described with the first, float32, so that dtype is always compiled.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from fastiqa import ops

from ..runner.settings import DTYPES, Setting, Size

# sm_90 takes every dtype and, for the two that networks use, every sample. The others take those two dtypes and one
# sample by turns.
NETWORKS = ("float32", "bfloat16")
ARCHITECTURES: dict[int, tuple[str, ...]] = {80: NETWORKS, 90: tuple(DTYPES), 100: NETWORKS}
FEW: dict[int, tuple[str, ...]] = {80: NETWORKS[:1], 90: NETWORKS, 100: NETWORKS[:1]}
# 40 channels: a channels-last row of them is a multiple of 16 bytes but not of 16 elements.
CALLS: tuple[tuple[Size, str], ...] = (((2, 64, 56, 56), "nchw"), ((2, 64, 56, 56), "nhwc"), ((2, 40, 7, 8), "nhwc"))
# Fifty maps, from a pixel to 57 x 41: odd, even and divisible sizes, three numbers of channels.
SIZES: list[Size] = [(n % 3 + 1, c, 1 + 5 * n % 57, 1 + 8 * n % 41) for n in range(17) for c in (3, 64, 96)][:50]


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


def launcher(op: ops.Op) -> Any:
    """The function that launches an operator's Triton kernels, None where its record names none."""
    return next((backend.load(op.name) for backend in op.backends if backend.name == "triton"), None)


def sample_calls(
    op: ops.Op, size: Size, dtype: str, layout: str, turn: int | None = None
) -> Iterator[tuple[tuple[Any, ...], list[torch.Tensor]]]:
    """Arguments and outputs of each sample, or of the one whose turn it is."""
    samples = range(len(list(op.samples(*size))))
    for sample in samples if turn is None else [turn % len(samples)]:
        args = op.signature.promote(Setting(op, sample, size, dtype, layout, "cpu").arguments())
        yield args, [output.empty() for output in op.layout(*args)]


# ---- what is compiled ----

compiled: list[tuple[str, Any, int]] = []  # name, kernel and programs of each launch since they were last described
run = JITFunction.run


def compile_only(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    compiled.append((self.__name__, kernel, math.prod(grid)))
    return kernel


def compile_all(operators: Mapping[str, ops.Op], folder: Path, few: bool) -> None:
    """Compile the operators' kernels; write cubins into the folder and print a line for each."""
    JITFunction.run = compile_only
    described: set[tuple[int, str]] = set()  # samples differ in numbers that a kernel does not depend on
    for arch, dtypes in (FEW if few else ARCHITECTURES).items():
        triton.runtime.driver.set_active(Target(arch))
        for number, op in enumerate(operators.values()):
            launch = launcher(op)
            if launch is None:
                continue
            narrow, float64 = (getattr(sys.modules[launch.__module__], name, {}) for name in ("NARROW", "FLOAT64"))
            for dtype in dtypes:
                for k, (size, layout) in enumerate(CALLS):
                    if few and (arch, dtype) != (90, "float32") and (k + number) % len(CALLS):
                        continue
                    if few and arch == (80, 100)[number // 2 % 2]:
                        continue
                    turn = None if arch == 90 and dtype in NETWORKS and not few else k + arch // 10
                    for args, outputs in sample_calls(op, size, dtype, layout, turn):
                        launch(*args, *outputs)
                        elements = max(x.numel() for x in (*args, *outputs) if isinstance(x, torch.Tensor))
                        while compiled:
                            name, kernel, programs = compiled.pop()
                            if (id(kernel), layout) in described:  # Triton keeps what it has compiled
                                continue
                            described.add((id(kernel), layout))
                            about = {"op": op.name, "kernel": name, "arch": arch, "dtype": dtype, "layout": layout}
                            about |= {"narrow": narrow.get(name) or narrow.get(layout), "wide": float64.get(name)}
                            about |= {"blocks": programs, "elements": elements, "bytes": op.bytes(*args)}
                            print(json.dumps(about | facts(kernel, folder / f"{len(described)}-{name}-{arch}.cubin")))


def facts(kernel: Any, cubin: Path) -> dict[str, Any]:
    """What PTX and metadata say of a kernel; its cubin is written to that file."""
    cubin.write_bytes(kernel.asm["cubin"])
    ptx = kernel.asm["ptx"]
    return {
        "cubin": str(cubin),
        "threads": 32 * kernel.metadata.num_warps,
        "shared": kernel.metadata.shared,
        "loads": re.findall(r"ld\.global[\w.:]*", ptx),
        "stores": re.findall(r"st\.global[\w.:]*", ptx),
        "atomics": re.findall(r"\b(?:atom|red)\.[\w.:]*", ptx),
        "float64": len(re.findall(r"\.f64", ptx)),
    }


# ---- what would be compiled ----


def count_variants(operators: Mapping[str, ops.Op]) -> None:
    """Print how many kernels and variants `SIZES` ask of each operator, and which kernels fuse a product with a sum."""
    variants: set[tuple[str, str]] = set()
    contracted: set[str] = set()

    def record(self: Any, key: str, signature: Any, device: Any, constexprs: Any, options: Any, *rest: Any) -> None:
        variants.add((self.__name__, str(key)))
        if options.enable_fp_fusion:
            contracted.add(self.__name__)

    JITFunction._do_compile = record
    triton.runtime.driver.set_active(Target(90))
    for op in operators.values():
        launch = launcher(op)
        if launch is None:
            continue
        for k, size in enumerate(SIZES):
            for args, outputs in sample_calls(op, size, "float32", ("nchw", "nhwc")[k % 2], turn=0):
                launch(*args, *outputs)
        counts = {"kernels": len({name for name, _ in variants}), "variants": len(variants)}
        print(json.dumps({"op": op.name, **counts, "contracted": sorted(contracted)}))
        variants.clear()
        contracted.clear()


def main(arguments: list[str], operators: Mapping[str, ops.Op] = ops.OPERATORS) -> None:
    if arguments == ["--variants"]:
        count_variants(operators)
    else:
        compile_all(operators, Path(arguments[0]), few="--few" in arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
