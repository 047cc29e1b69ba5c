"""Passes over feature maps, with values as in channels.py, that also sum every channel of every sample.

The Python form of csrc/passes/channelwise. NCHW maps are summed plane by plane. In channels-last maps each program sums
some pixels of some channels, and a second kernel adds the programs' partial sums. There are no atomics: the order
depends on sizes and layout alone.

A sum is a pair: its value so far and, if exact, the loss by roundings. In an exact sum the roundings of many terms do
not add up, without float64, in which most GPUs compute 32 or 64 times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, WARPS, block, on_device_of, pack_size
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

STEPS = 8  # tiles of pixels in the sums of a program by pixels
LINE = 128  # most bytes of a pixel in such a tile: the wider, the fewer pixels share a partial sum

# ---- sums in tiles, plain or exact ----


@triton.jit
def add_terms(sums, terms, EXACT: tl.constexpr):
    """Add to each sum its term."""
    result = ()
    for k in tl.static_range(len(terms)):
        before, lost = sums[k]
        after = before + terms[k]
        if EXACT:  # Knuth's TwoSum
            rounded = after - before
            lost += (before - (after - rounded)) + (terms[k] - rounded)
        result += ((after, lost),)
    return result


@triton.jit
def lane_totals(sums, AXIS: tl.constexpr, EXACT: tl.constexpr):
    """Each tile's total along an axis; after each exact total its loss."""
    result = ()
    for k in tl.static_range(len(sums)):
        lanes, lost = sums[k]
        if EXACT:
            # First the leading digits: multiples of the last place of a number so large that they add without rounding.
            # The rest of each lane is, in float32, below 2^-21 of the sum of the lanes' magnitudes; its roundings were
            # at most 2^-40 of that sum in 300 random tiles of 1024.
            large = 4 * tl.sum(tl.abs(lanes), AXIS, keep_dims=True)
            large = tl.where(large == float("inf"), 0.0, large)  # an infinite sum stays infinite, and its loss is NaN
            leading = (lanes + large) - large
            rest = tl.sum(lanes - leading + lost, AXIS, keep_dims=True)
            result += (tl.sum(leading, AXIS, keep_dims=True), rest)
        else:
            result += (tl.sum(lanes, AXIS, keep_dims=True),)
    return result


@triton.jit
def exact_total(parts_ptr, k, parts, channels, c, BLOCK_ROWS: tl.constexpr):
    """Sum k of channels c, a row, in float64 from the exact sums and their losses: (sums, 2, parts, channels)."""
    total = tl.zeros(c.shape, tl.float64)
    for start in range(0, parts, BLOCK_ROWS):
        part = (start + tl.arange(0, BLOCK_ROWS).to(tl.int64))[:, None]
        at = parts_ptr + (2 * k * parts + part) * channels + c
        inside = (part < parts) & (c < channels)
        lost = tl.load(at + parts * channels, inside, 0).to(tl.float64)
        lost = tl.where(tl.abs(lost) < float("inf"), lost, 0.0)  # NaN beside an infinite sum
        total += tl.sum(tl.load(at, inside, 0).to(tl.float64) + lost, 0, keep_dims=True)
    return total


# ---- passes over maps ----


@triton.jit
def planes(sizes, BLOCK_ROWS: tl.constexpr):
    """The planes of this program, as a column: n, c, and which exist."""
    plane = (tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    return plane // sizes[1], plane % sizes[1], plane // sizes[1] < sizes[0]


@triton.jit
def map_address(pointer, n, c, y, x, strides, PACK: tl.constexpr, BY_PIXELS: tl.constexpr):
    """Pointers of one map's tile. Strides are in packs, along the rows in elements."""
    if BY_PIXELS:
        offset = (n * strides[0] + y * strides[2] + x * strides[3]) * PACK + c * strides[1]
    else:
        offset = (n * strides[0] + c * strides[1] + y * strides[2]) * PACK + x * strides[3]
    return pointer + offset


@triton.jit
def load_values(columns, n, c, inside):
    """The values of each channel of a tile, in the accumulation type."""
    return [widened(tl.load(x[0] + n * x[1][0] + c * x[1][1], inside, 0)) for x in columns]


@triton.jit
def store_totals(columns, totals, n, c, inside):
    for k in tl.static_range(len(columns)):
        pointer, strides = columns[k]
        tl.store(pointer + n * strides[0] + c * strides[1], totals[k].to(pointer.dtype.element_ty), inside)


@triton.jit
def channel_sums_by_planes_kernel(
    maps, values, totals, sizes, strides, packs,
    FINISH: tl.constexpr, TERMS: tl.constexpr, CONSTANT: tl.constexpr, SUMS: tl.constexpr, EXACT: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    n, c, inside = planes(sizes, BLOCK_ROWS)
    given = load_values(values, n, c, inside)
    zero = widened(tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), maps[0].dtype.element_ty))
    sums = ((zero, zero),) * SUMS
    for y in range(sizes[2]):
        for start in range(0, packs, BLOCK_PACKS):
            x = start * PACK + tl.arange(0, BLOCK_PACKS * PACK).to(tl.int64)[None, :]
            exists = inside & (x < packs * PACK)
            sums = add_terms(sums, TERMS(maps, given, n, c, y, x, exists, strides, CONSTANT, PACK, False), EXACT)
    store_totals(totals, FINISH(given, lane_totals(sums, 1, EXACT)), n, c, inside)


@triton.jit
def channel_sums_by_pixels_kernel(
    maps, values, parts_ptr, sizes, strides, blocks, packs,
    TERMS: tl.constexpr, CONSTANT: tl.constexpr, SUMS: tl.constexpr, EXACT: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    slices = tl.cdiv(packs, BLOCK_PACKS)
    c = (program % slices) * (BLOCK_PACKS * PACK) + tl.arange(0, BLOCK_PACKS * PACK)[None, :]
    n, b, inside = program // slices // blocks, program // slices % blocks, c < packs * PACK
    given = load_values(values, n, c, inside)
    zero = widened(tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), maps[0].dtype.element_ty))
    sums = ((zero, zero),) * SUMS
    for step in range(STEPS):
        pixel = ((b * STEPS + step) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
        y, x = pixel // sizes[3], pixel % sizes[3]
        exists = inside & (y < sizes[2])
        sums = add_terms(sums, TERMS(maps, given, n, c, y, x, exists, strides, CONSTANT, PACK, True), EXACT)
    totals = lane_totals(sums, 0, EXACT)
    for k in tl.static_range(len(totals)):
        tl.store(parts_ptr + ((k * sizes[0] + n) * blocks + b) * sizes[1] + c, totals[k], inside)


@triton.jit
def finish_channel_sums_kernel(
    parts_ptr, values, totals, sizes, blocks, FINISH: tl.constexpr, BLOCK_ROWS: tl.constexpr
):  # fmt: skip
    n, c, inside = planes(sizes, BLOCK_ROWS)
    sums = ()
    for k in tl.static_range(len(totals)):
        part = parts_ptr + (k * sizes[0] + n) * blocks * sizes[1] + c
        summed = tl.load(part, inside, 0)
        for b in range(1, blocks):
            summed += tl.load(part + b * sizes[1], inside, 0)
        sums += (summed,)
    store_totals(totals, FINISH(load_values(values, n, c, inside), sums), n, c, inside)


@triton.jit
def as_summed(values, sums):
    """A `finish` that leaves sums as they are."""
    return sums


# ---- launches ----


class ChannelWalk(NamedTuple):
    """How the kernels walk maps.

    strides: of each map, for map_address; rows: planes, or pixels of a sample; packs: of a row; tile: constants that
    the kernels are compiled for.
    """

    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, ...], ...]
    by_pixels: bool
    rows: int
    packs: int
    tile: dict[str, int]


def channel_walk(maps: Sequence[Tensor]) -> ChannelWalk:
    n, c, h, w = maps[0].shape
    strides = [x.stride() for x in maps]
    if h == 1 or w == 1 or all(s[2] == w * s[3] for s in strides):
        strides = [(*s[:2], 0, s[2] if w == 1 else s[3]) for s in strides]
        h, w = 1, h * w
    by_pixels = c > 1 and (h * w == 1 or strides[-1][1] < strides[-1][3])
    if by_pixels and h == 1:  # channel_sums_by_pixels_kernel divides by w: a call in 64 bits, nothing for 1
        h, w, strides = w, 1, [(*s[:2], s[3], 0) for s in strides]
    length, along, rows = (c, 1, h * w) if by_pixels else (w, 3, n * c)
    inner = [1 if length == 1 else s[along] for s in strides]
    outer = [s[d] for s in strides for d in range(4) if d != along]
    size = maps[0].element_size()
    pack = pack_size(size, inner, length, *outer)
    steps = tuple(
        tuple(i if d == along else s[d] // pack for d in range(4)) for s, i in zip(strides, inner, strict=True)
    )
    packs = length // pack
    block_rows, block_packs = block(rows, min(packs, LINE // (size * pack)) if by_pixels else packs, pack)
    tile = {"PACK": pack, "BLOCK_ROWS": block_rows, "BLOCK_PACKS": block_packs}
    return ChannelWalk((n, c, h, w), steps, by_pixels, rows, packs, tile)


def columns(tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, tuple[int, ...]], ...]:
    """The tensors and their strides, for load_values and store_totals."""
    return tuple((x, x.stride()[:2]) for x in tensors)


def launch_by_planes(
    walk: ChannelWalk, finish: Any, maps: Sequence[Tensor], values: Any, totals: Sequence[Tensor], **constants: Any
) -> None:
    with on_device_of(maps[0]):
        channel_sums_by_planes_kernel[(triton.cdiv(walk.rows, walk.tile["BLOCK_ROWS"]),)](
            tuple(maps), values, columns(totals), walk.sizes, walk.strides, walk.packs,
            FINISH=finish, **constants, **walk.tile, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def launch_by_pixels(walk: ChannelWalk, numbers: int, maps: Sequence[Tensor], values: Any, **constants: Any) -> Tensor:
    """Partial sums (numbers, N * blocks of pixels, C)."""
    n, c, *_ = walk.sizes
    blocks = triton.cdiv(walk.rows, walk.tile["BLOCK_ROWS"] * STEPS)
    parts = maps[0].new_empty((numbers, n * blocks, c), dtype=torch.promote_types(maps[0].dtype, torch.float32))
    with on_device_of(maps[0]):
        channel_sums_by_pixels_kernel[(n * blocks * triton.cdiv(walk.packs, walk.tile["BLOCK_PACKS"]),)](
            tuple(maps), values, parts, walk.sizes, walk.strides, blocks, walk.packs,
            STEPS=STEPS, **constants, **walk.tile, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return parts


def launch_sums(
    terms: Any, finish: Any, maps: Sequence[Tensor], values: Sequence[Tensor], totals: Sequence[Tensor]
) -> None:
    """Run one pass over maps, outputs last, that sums over H and W; values and totals are (N, C, 1, 1).

    terms: device function `(pointers of the maps, values, n, c, y, x, inside, strides, CONSTANT, PACK, BY_PIXELS)` for
    a tile, used with map_address; it writes the outputs and returns the terms of the sums. finish: device function
    `(values, sums)` that returns the totals.
    """
    walk, given = channel_walk(maps), columns(values)
    constants = {"TERMS": terms, "CONSTANT": None, "SUMS": len(totals), "EXACT": False}
    if not walk.by_pixels:
        launch_by_planes(walk, finish, maps, given, totals, **constants)
        return
    parts = launch_by_pixels(walk, len(totals), maps, given, **constants)
    n, c, *_ = walk.sizes
    with on_device_of(maps[0]):
        finish_channel_sums_kernel[(triton.cdiv(n * c, TILE),)](
            parts, given, columns(totals), walk.sizes, parts.shape[1] // n,
            FINISH=finish, BLOCK_ROWS=TILE, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def exact_sums(
    terms: Any, count: int, maps: Sequence[Tensor], values: Sequence[Tensor], constant: float | None = None
) -> Tensor:
    """As launch_sums, for exact parts of `count` sums over N, H and W: (count, 2, parts, C), for exact_total.

    constant: a number that the terms are compiled for.
    """
    walk, given = channel_walk(maps), columns(values)
    constants = {"TERMS": terms, "CONSTANT": constant, "SUMS": count, "EXACT": True}
    if walk.by_pixels:
        parts = launch_by_pixels(walk, 2 * count, maps, given, **constants)
    else:
        n, c, *_ = walk.sizes
        parts = maps[0].new_empty((2 * count, n, c), dtype=torch.promote_types(maps[0].dtype, torch.float32))
        launch_by_planes(walk, as_summed, maps, given, parts[..., None, None].unbind(), **constants)
    return parts.unflatten(0, (count, 2))
