"""Shared by all Triton launchers: the device guard, the folded loop nest, and fixed launch heuristics.

There is no autotuning: block sizes follow from the sizes of the maps, so the compiled variants stay few and the first
call on a new shape does not stall.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

# Elements of a program: 4 warps of 32 threads with 8 elements each, two 16-byte accesses of float32, one of bfloat16.
TILE = 1024
WARPS = 4

PROGRAMS = 512  # fill a GPU: long sums are cut into parts until there are as many, whatever the batch
MOST_REGISTERS = 128  # told to ptxas 13, which otherwise limits one kernel to 64 and spills


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's GPU current: Triton launches on the current device, whatever the pointers."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


class Nest(NamedTuple):
    """Operands of an element-wise pass folded into rows: the Python form of csrc/core/nest.h.

    sizes: three outer sizes, whose product is the number of rows; strides: for each operand its outer strides in packs;
    inner: for each operand the stride along a row, in elements (1 if pack > 1); packs: packs a row.
    """

    sizes: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    inner: tuple[int, ...]
    packs: int
    pack: int

    @property
    def rows(self) -> int:
        return self.sizes[0] * self.sizes[1] * self.sizes[2]


def joined(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Join dimensions, from the innermost on, if all operands allow: sizes, and for each the strides of all operands.

    The last operand, an output, decides the order of the walk. There are always four dimensions; the rest have size 1.
    """
    order = sorted((d for d in reversed(range(4)) if shape[d] != 1), key=lambda d: strides[-1][d])
    sizes: list[int] = []
    steps: list[list[int]] = []
    for d in order:
        step = [s[d] for s in strides]
        if sizes and step == [s * sizes[-1] for s in steps[-1]]:
            sizes[-1] *= shape[d]
        else:
            sizes.append(shape[d])
            steps.append(step)
    sizes += [1] * (4 - len(sizes))
    steps += [[0] * len(strides)] * (4 - len(steps))
    if sizes[0] == 1:
        steps[0] = [1] * len(strides)
    return sizes, steps


def pack_size(element_size: int, inner: Iterable[int], *multiples: int) -> int:
    """Elements of a pack: 16 bytes, fewer if a length or stride is not a multiple, 1 unless inner strides are 1.

    Launchers pass lengths and strides in packs. So the compiler knows their divisors and keeps 16-byte accesses under
    the mask; with a plain length it would not, unless that is a multiple of 16.
    """
    pack = 16 // element_size if all(i == 1 for i in inner) else 1
    while pack > 1 and any(n % pack for n in multiples):
        pack //= 2
    return pack


def fold(operands: Sequence[Tensor]) -> Nest:
    """Fold four-dimensional operands of equal sizes; the last one, an output, decides the order of the walk."""
    sizes, steps = joined(operands[0].shape, [x.stride() for x in operands])
    inner = tuple(steps[0])
    pack = pack_size(operands[0].element_size(), inner, sizes[0], *(s for step in steps[1:] for s in step))
    outer = tuple(zip(*([s // pack for s in step] for step in steps[1:]), strict=True))
    return Nest((sizes[1], sizes[2], sizes[3]), outer, inner, sizes[0] // pack, pack)


def block(rows: int, packs: int, pack: int, elements: int = TILE) -> tuple[int, int]:
    """Rows and packs of a program's tile of that many elements."""
    block_packs = min(triton.next_power_of_2(packs), elements // pack)
    return min(triton.next_power_of_2(rows), elements // (block_packs * pack)), block_packs


def tile(nest: Nest) -> tuple[int, int, tuple[int]]:
    """Rows and packs of a program's tile, and the grid."""
    block_rows, block_packs = block(nest.rows, nest.packs, nest.pack)
    return block_rows, block_packs, (triton.cdiv(nest.rows, block_rows) * triton.cdiv(nest.packs, block_packs),)


def cut(length: int, step: int, programs: int, least: int) -> tuple[int, int]:
    """Cut sums of `length` terms, `programs` of them side by side: terms in a part, a multiple of `step`, and parts."""
    most = triton.cdiv(length, step * least)
    parts = max(1, min(most, PROGRAMS // max(1, programs)))
    terms = triton.cdiv(triton.cdiv(length, parts), step) * step
    return terms, triton.cdiv(length, terms)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which kernels add."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def launch(kernel: Any, operands: Sequence[Tensor]) -> None:
    """Run an element-wise kernel over operands of equal sizes, outputs last: `kernel(*pointers, *nest, *tile)`."""
    nest = fold(operands)
    block_rows, block_packs, grid = tile(nest)
    with on_device_of(operands[0]):
        kernel[grid](
            *operands, nest.sizes, nest.strides, nest.inner, nest.packs,
            PACK=nest.pack, BLOCK_ROWS=block_rows, BLOCK_PACKS=block_packs, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
