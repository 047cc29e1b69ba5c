"""Counts what Triton would compile for an operator over many sizes; prints one JSON line an operator.

A program of its own, as compile_triton.py is, and quick: nothing is compiled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
from fastiqa.bench.machine_code import compile_triton
from triton.runtime.jit import JITFunction

from support.cases import Case, arguments, operators

# Fifty maps, from a pixel to 57 x 41: odd, even and divisible sizes, three numbers of channels.
SIZES = [(n % 3 + 1, c, 1 + 5 * n % 57, 1 + 8 * n % 41) for n in range(17) for c in (3, 64, 96)][:50]

seen: set[tuple[str, str]] = set()
contracted: set[str] = set()


def record(self: Any, key: str, signature: Any, device: Any, constexprs: Any, options: Any, *rest: Any) -> None:
    seen.add((self.__name__, str(key)))
    if options.enable_fp_fusion:
        contracted.add(self.__name__)


def main() -> None:
    JITFunction._do_compile = record
    triton.runtime.driver.set_active(compile_triton.Target(90))
    for op in operators().values():
        for backend in op.backends:
            if backend.name == "triton":
                kernel = backend.load(op.name)
                for k, size in enumerate(SIZES):
                    for args in arguments(op, Case(size, torch.float32, ("nchw", "nhwc")[k % 2 :][:1], turn=0)):
                        args = op.signature.promote(args)
                        kernel(*args, *(output.empty() for output in op.layout(*args)))
                kernels = len({name for name, _ in seen})
                row = {"op": op.name, "kernels": kernels, "variants": len(seen), "contracted": sorted(contracted)}
                print(json.dumps(row))
                seen.clear()
                contracted.clear()


if __name__ == "__main__":
    main()
