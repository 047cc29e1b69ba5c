"""Feature maps of which every channel of every sample has a value of its own, and may have a sum.

The Python form of csrc/common/channelwise.h. Where the pixels of a channel are neighbours in memory (by planes: NCHW) a
row of a tile has one value; where the channels of a pixel are (by pixels: channels-last) all rows have the same values.
Sums are taken plane by plane in the first case; in the second each program sums some pixels of some channels, and a
second kernel adds up the programs' partial sums. No atomics: the order depends on sizes and layout alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from fastiqa.kernels.launch import TILE, WARPS, Nest, joined, on_device_of, pack_size, tile
from fastiqa.kernels.tiles import widened
from torch import Tensor

STEPS = 8  # tiles of pixels that a program sums by pixels

# ---- on the device ----


@triton.jit
def channel_values(
    pointer, i0, i1, i2, element, inside, sizes, strides, inner, PACK: tl.constexpr, A_ROW: tl.constexpr
):
    """Values for a tile of tiles.locate: one a row, or one an element."""
    row = i0 * strides[0] + i1 * strides[1] + i2 * strides[2]
    if A_ROW:
        values = tl.load(pointer + row[:, None], (i2 < sizes[2])[:, None])
    else:
        values = tl.load(pointer + (row * PACK)[:, None] + (element * inner)[None, :], inside)
    return values


@triton.jit
def planes(sizes, BLOCK_ROWS: tl.constexpr):
    """The planes of this program, as a column: n, c, and which exist."""
    plane = (tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    return plane // sizes[1], plane % sizes[1], plane // sizes[1] < sizes[0]


@triton.jit
def map_address(pointer, n, c, y, x, strides, PACK: tl.constexpr, BY_PIXELS: tl.constexpr):
    """Pointers of one map's tile in a kernel with sums. Strides are in packs, along the rows in elements."""
    if BY_PIXELS:
        offset = (n * strides[0] + y * strides[2] + x * strides[3]) * PACK + c * strides[1]
    else:
        offset = (n * strides[0] + c * strides[1] + y * strides[2]) * PACK + x * strides[3]
    return pointer + offset


@triton.jit
def channel_address(pointer, n, c, strides):
    """Pointers of what each channel has one of."""
    return pointer + n * strides[0] + c * strides[1]


@triton.jit
def sum_by_planes(
    maps, value_ptr, total_ptr, sizes, strides, value_strides, total_strides, packs,
    TERMS: tl.constexpr, FINISH: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    n, c, inside = planes(sizes, BLOCK_ROWS)
    value = widened(tl.load(channel_address(value_ptr, n, c, value_strides), inside, 0))
    terms = tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), value.dtype)
    for y in range(sizes[2]):
        for start in range(0, packs, BLOCK_PACKS):
            x = start * PACK + tl.arange(0, BLOCK_PACKS * PACK).to(tl.int64)[None, :]
            terms += TERMS(maps, value, n, c, y, x, inside & (x < packs * PACK), strides, PACK, False)
    total = FINISH(value, tl.sum(terms, 1, keep_dims=True)).to(total_ptr.dtype.element_ty)
    tl.store(channel_address(total_ptr, n, c, total_strides), total, inside)


@triton.jit
def sum_by_pixels(
    maps, value_ptr, partial_ptr, sizes, strides, value_strides, blocks, packs,
    TERMS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    slices = tl.cdiv(packs, BLOCK_PACKS)
    c = (program % slices) * (BLOCK_PACKS * PACK) + tl.arange(0, BLOCK_PACKS * PACK)[None, :]
    n, b, inside = program // slices // blocks, program // slices % blocks, c < packs * PACK
    value = widened(tl.load(channel_address(value_ptr, n, c, value_strides), inside, 0))
    terms = tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), value.dtype)
    for step in range(STEPS):
        pixel = ((b * STEPS + step) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
        y, x = pixel // sizes[3], pixel % sizes[3]
        terms += TERMS(maps, value, n, c, y, x, inside & (y < sizes[2]), strides, PACK, True)
    tl.store(partial_ptr + (n * blocks + b) * sizes[1] + c, tl.sum(terms, 0, keep_dims=True), inside)


@triton.jit
def finish_sum(
    partial_ptr, value_ptr, total_ptr, sizes, value_strides, total_strides, blocks,
    FINISH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    n, c, inside = planes(sizes, BLOCK_ROWS)
    summed = tl.load(partial_ptr + n * blocks * sizes[1] + c, inside, 0)
    for b in range(1, blocks):
        summed += tl.load(partial_ptr + (n * blocks + b) * sizes[1] + c, inside, 0)
    value = widened(tl.load(channel_address(value_ptr, n, c, value_strides), inside, 0))
    total = FINISH(value, summed).to(total_ptr.dtype.element_ty)
    tl.store(channel_address(total_ptr, n, c, total_strides), total, inside)


# ---- launches ----


def launch_channelwise(kernel: Any, maps: Sequence[Tensor], value: Tensor) -> None:
    """Runs an element-wise kernel over maps, outputs last, and values (N, C, 1, 1).

    `kernel(*maps, value, sizes, strides, inner, value_strides, value_inner, packs)` as launch.launch; A_ROW says that
    the value is one a row, and its strides are in elements; else they are in packs as the maps'.
    """
    strides = [value.expand(maps[0].shape).stride(), *(x.stride() for x in maps)]
    sizes, (along, *outer) = joined(maps[0].shape, strides)
    a_row = along[0] == 0
    packed = [step[a_row:] for step in outer]
    pack = pack_size(maps[0].element_size(), along[a_row:], sizes[0], *(s for step in packed for s in step))
    per_map = tuple(zip(*([s // pack for s in step[1:]] for step in outer), strict=True))
    nest = Nest((sizes[1], sizes[2], sizes[3]), per_map, tuple(along[1:]), sizes[0] // pack, pack)
    value_strides = tuple(step[0] if a_row else step[0] // pack for step in outer)
    block_rows, block_packs, grid = tile(nest)
    with on_device_of(value):
        kernel[grid](
            *maps, value, nest.sizes, nest.strides, nest.inner, value_strides, along[0], nest.packs,
            PACK=pack, BLOCK_ROWS=block_rows, BLOCK_PACKS=block_packs, A_ROW=a_row, num_warps=WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip


def launch_sum(terms: Any, finish: Any, maps: Sequence[Tensor], value: Tensor, total: Tensor) -> None:
    """One pass over maps, outputs last, that sums over H and W; values and sums are (N, C, 1, 1).

    terms: device function `(pointers of the maps, value, n, c, y, x, inside, strides, PACK, BY_PIXELS)` of one tile, to
    be used with map_address; it writes the outputs and returns the terms of the sum. finish: device function `(value,
    sum)` that gives the total.
    """
    n, c, h, w = maps[0].shape
    strides = [x.stride() for x in maps]
    if h == 1 or w == 1 or all(s[2] == w * s[3] for s in strides):
        strides = [(*s[:2], 0, s[2] if w == 1 else s[3]) for s in strides]
        h, w = 1, h * w
    sizes = (n, c, h, w)
    pixelwise = c > 1 and (h * w == 1 or strides[-1][1] < strides[-1][3])
    length, along = (c, 1) if pixelwise else (w, 3)
    inner = [1 if length == 1 else s[along] for s in strides]
    outer = [s[d] for s in strides for d in range(4) if d != along]
    pack = pack_size(maps[0].element_size(), inner, length, *outer)
    steps = tuple(
        tuple(i if d == along else s[d] // pack for d in range(4)) for s, i in zip(strides, inner, strict=True)
    )
    rows = h * w if pixelwise else n * c
    value_strides, total_strides = value.stride()[:2], total.stride()[:2]
    block_rows, block_packs, _ = tile(Nest((rows, 1, 1), (), (), length // pack, pack))
    options = {"PACK": pack, "BLOCK_ROWS": block_rows, "BLOCK_PACKS": block_packs, "num_warps": WARPS,
               "enable_fp_fusion": False}  # fmt: skip
    with on_device_of(value):
        if not pixelwise:
            grid = (triton.cdiv(rows, block_rows),)
            sum_by_planes[grid](
                tuple(maps), value, total, sizes, steps, value_strides, total_strides, w // pack,
                TERMS=terms, FINISH=finish, **options,
            )  # fmt: skip
            return
        blocks = triton.cdiv(rows, block_rows * STEPS)
        wide = torch.promote_types(value.dtype, torch.float32)
        partial = torch.empty(n * blocks * c, dtype=wide, device=value.device)
        grid = (n * blocks * triton.cdiv(c // pack, block_packs),)
        sum_by_pixels[grid](
            tuple(maps), value, partial, sizes, steps, value_strides, blocks, c // pack,
            TERMS=terms, STEPS=STEPS, **options,
        )  # fmt: skip
        finish_sum[(triton.cdiv(n * c, TILE),)](
            partial, value, total, sizes, value_strides, total_strides, blocks,
            FINISH=finish, BLOCK_ROWS=TILE, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
