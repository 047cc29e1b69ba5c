"""A pass over the 2x2 blocks of maps: the Triton form of csrc/passes/blocks.

Fine maps have the full size (N, C, H, W), coarse maps one value for each block. A program gets a tile of runs of
blocks. `load_fine` returns four tensors, one for each pixel of the blocks (zero for a missing pixel), and `store_fine`
takes four. `coarse` returns the pointers of a coarse map's tile, one for each block.

There are two walks. If columns lie side by side, a row of pixels is one access, split into even and odd columns in
registers. Otherwise every pixel of the blocks is one access, along the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

# ---- device functions ----


@triton.jit
def locate_blocks(sizes, RUNS: tl.constexpr, COUNT: tl.constexpr):
    """This program's tile: three indices of its runs, its first block in a run, which runs exist."""
    one = tl.full((), 1, tl.int64)  # a size of one arrives as a constant without a dtype
    across = tl.cdiv(one * sizes[0], COUNT)
    program = tl.program_id(0).to(tl.int64)
    run = (program // across) * RUNS + tl.arange(0, RUNS)
    i1 = run % sizes[1]
    i2 = run // sizes[1] % sizes[2]
    i3 = run // sizes[1] // sizes[2]
    return i1, i2, i3, (program % across) * COUNT, run < one * sizes[1] * sizes[2] * sizes[3]


@triton.jit
def second_row(tile, height, COLUMNS: tl.constexpr):
    """Whether the blocks of a run have a second row."""
    return 2 * (tile[0] if COLUMNS else tile[1]) + 1 < height


@triton.jit
def shares(tile, size, like, COLUMNS: tl.constexpr, COUNT: tl.constexpr):
    """1 / existing pixels, for each block, in the dtype of `like`."""
    rows = tl.where(second_row(tile, size[0], COLUMNS), 0.5, 1.0).to(like.dtype)[:, None]
    if COLUMNS:
        result = rows * tl.where(2 * (tile[3] + tl.arange(0, COUNT)) + 1 < size[1], 0.5, 1.0).to(like.dtype)[None, :]
    else:
        result = rows * tl.where(2 * tile[0] + 1 < size[1], 0.5, 1.0).to(like.dtype)[:, None]
    return result


@triton.jit
def fine(pointer, tile, strides, size, packs, row: tl.constexpr, column: tl.constexpr, COLUMNS: tl.constexpr,
         PACK: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    """Pointers and mask of one access to a fine map: a row of pixels, or one pixel, of every block."""
    start = (tile[0] * strides[0] + tile[1] * strides[1] + tile[2] * strides[2] + row * strides[3]) * PACK
    exists = tile[4]
    if row == 1:
        exists &= second_row(tile, size[0], COLUMNS)
    if COLUMNS:
        element = 2 * tile[3] + tl.arange(0, 2 * COUNT)
    else:
        element = tile[3] + tl.arange(0, COUNT)
        if column == 1:
            start += tl.zeros_like(start) + strides[4] * PACK
            exists &= 2 * tile[0] + 1 < size[1]
    inside = exists[:, None] & (element < tl.full((), 1, tl.int64) * packs * PACK)[None, :]
    return pointer + start[:, None] + (element * strides[5])[None, :], inside


@triton.jit
def pairs(x, RUNS: tl.constexpr, COUNT: tl.constexpr):
    """Even and odd columns of a row of pixels."""
    return tl.split(tl.reshape(x, (RUNS, COUNT, 2)))


@triton.jit
def load_fine(pointer, tile, strides, size, packs, COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr,
              COUNT: tl.constexpr):  # fmt: skip
    p00, m00 = fine(pointer, tile, strides, size, packs, 0, 0, COLUMNS, PACK, COUNT)
    p10, m10 = fine(pointer, tile, strides, size, packs, 1, 0, COLUMNS, PACK, COUNT)
    if COLUMNS:
        x00, x01 = pairs(widened(tl.load(p00, m00, 0.0)), RUNS, COUNT)
        x10, x11 = pairs(widened(tl.load(p10, m10, 0.0)), RUNS, COUNT)
    else:
        p01, m01 = fine(pointer, tile, strides, size, packs, 0, 1, COLUMNS, PACK, COUNT)
        p11, m11 = fine(pointer, tile, strides, size, packs, 1, 1, COLUMNS, PACK, COUNT)
        x00 = widened(tl.load(p00, m00, 0.0))
        x01 = widened(tl.load(p01, m01, 0.0))
        x10 = widened(tl.load(p10, m10, 0.0))
        x11 = widened(tl.load(p11, m11, 0.0))
    return x00, x01, x10, x11


@triton.jit
def store_fine(pointer, tile, strides, size, packs, x00, x01, x10, x11, COLUMNS: tl.constexpr, PACK: tl.constexpr,
               RUNS: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    to = pointer.dtype.element_ty
    p00, m00 = fine(pointer, tile, strides, size, packs, 0, 0, COLUMNS, PACK, COUNT)
    p10, m10 = fine(pointer, tile, strides, size, packs, 1, 0, COLUMNS, PACK, COUNT)
    if COLUMNS:
        tl.store(p00, tl.reshape(tl.join(x00.to(to), x01.to(to)), (RUNS, 2 * COUNT)), m00)
        tl.store(p10, tl.reshape(tl.join(x10.to(to), x11.to(to)), (RUNS, 2 * COUNT)), m10)
    else:
        p01, m01 = fine(pointer, tile, strides, size, packs, 0, 1, COLUMNS, PACK, COUNT)
        p11, m11 = fine(pointer, tile, strides, size, packs, 1, 1, COLUMNS, PACK, COUNT)
        tl.store(p00, x00.to(to), m00)
        tl.store(p01, x01.to(to), m01)
        tl.store(p10, x10.to(to), m10)
        tl.store(p11, x11.to(to), m11)


@triton.jit
def coarse(pointer, tile, strides, packs, COLUMNS: tl.constexpr, PACK: tl.constexpr, COUNT: tl.constexpr):
    """Pointers and mask of an access to a coarse map; along columns its packs are half as wide as a fine map's."""
    HALF: tl.constexpr = PACK // 2 if COLUMNS and PACK > 1 else PACK
    start = (tile[0] * strides[0] + tile[1] * strides[1] + tile[2] * strides[2]) * HALF
    element = tile[3] + tl.arange(0, COUNT)
    inside = tile[4][:, None] & (element < tl.full((), 1, tl.int64) * packs * HALF)[None, :]
    return pointer + start[:, None] + (element * strides[5])[None, :], inside


# ---- launcher ----


def launch_blocks(
    kernel: Any, fine_maps: Sequence[Tensor], coarse_maps: Sequence[Tensor] = (), **constants: float
) -> None:
    """Run `kernel(*fine, *coarse, sizes, strides, size, packs, ...)`; inputs come before outputs in both sequences.

    sizes: blocks along the run, and three outer sizes. strides: for each operand the steps from block to block in those
    three, to the next row and column of pixels, and along the run; all but the last are in packs. size: (H, W).
    packs: in a run of a fine map, and of a coarse one.
    """
    (n, c, h, w), operands = fine_maps[0].shape, (*fine_maps, *coarse_maps)
    columns = all(x.stride(3) == 1 or x.shape[3] == 1 for x in operands)
    if columns and c > w and all(x.stride(1) == 1 for x in operands):
        columns = False
    order = (3, 2, 1, 0) if columns else (1, 3, 2, 0)
    blocks = (n, c, (h + 1) // 2, (w + 1) // 2)

    steps = []
    for k, x in enumerate(operands):
        s = x.stride()
        pixels = 2 if k < len(fine_maps) else 1
        outer = [s[d] * (pixels if d >= 2 else 1) for d in order[1:]]
        unit = s[order[0]] if x.shape[order[0]] > 1 else 1
        steps.append([*outer, s[2] if pixels == 2 else 0, s[3] if pixels == 2 and not columns else 0, unit])

    length = w if columns else c
    pack = 16 // operands[0].element_size() if all(step[5] == 1 for step in steps) else 1
    halves = [2 if columns and k >= len(fine_maps) else 1 for k in range(len(operands))]
    while pack > 1 and (
        length % pack
        or any(s % max(1, pack // half) for step, half in zip(steps, halves, strict=True) for s in step[:5])
    ):
        pack //= 2
    half = max(1, pack // 2)
    widths = [half if columns and k >= len(fine_maps) else pack for k in range(len(operands))]
    strides = tuple((*(s // width for s in step[:5]), step[5]) for step, width in zip(steps, widths, strict=True))
    packs = (length // pack, blocks[3] // half if columns else length // pack)

    # Two rows of 8 elements a thread, or four pixels of 16 bytes.
    budget = TILE // 2 if columns or operands[0].element_size() > 2 else TILE
    runs = blocks[0] * blocks[2] * blocks[1 if columns else 3]
    block_count = min(triton.next_power_of_2(blocks[order[0]]), budget)
    block_runs = min(triton.next_power_of_2(runs), budget // block_count)
    sizes = tuple(blocks[d] for d in order)
    grid = (triton.cdiv(runs, block_runs) * triton.cdiv(sizes[0], block_count),)
    with on_device_of(operands[0]):
        kernel[grid](
            *operands, sizes, strides, (h, w), packs,
            COLUMNS=columns, PACK=pack, RUNS=block_runs, COUNT=block_count, num_warps=WARPS, enable_fp_fusion=False,
            **constants,
        )  # fmt: skip
