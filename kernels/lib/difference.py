"""Convolutions of [ref - a, ref - b] and their gradients, for difference_response and difference_pool.

    sums        y[n,o,p] = bias + sum over taps, sides, channels of weight * d(p + shift)
    products    g[n,o,s,c,t] = sum over pixels of map(q - shift) * d(q)
    spread      gradients of ref, a, b: sums over outputs and taps of weight * map(q - shift)

The Triton form of csrc/passes/difference. A tile has OUTER x LANES elements. Lanes run along the pixels (FORM 0: pixels
of a map are neighbours), along the channels (FORM 1) or along pixels of any strides (FORM 2). Every element of the tile
keeps sums for three rows of the weight, a row being an output and a tap; the program adds them up at the end. A second
kernel adds the programs' parts in order and puts them where they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import MOST_REGISTERS, TILE, WARPS, accumulator, cut, on_device_of, pack_size
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "difference_sums_kernel": (3, 0, "weights, and sums, of which a tile has one a pixel"),
    "difference_products_kernel": (3, 0, "shifted maps, and sums, of which a tile has one a channel"),
    "difference_spread_kernel": (0, 3, "shifted maps and weights"),
    "difference_gather_kernel": (0, 0, "shifted sums of single pixels"),
    "difference_collect_kernel": (0, 0, "sums of single channels, scattered into a weight"),
}

LANES = 256
BLOCK = 256  # results for a program that adds parts

# ---- device functions ----


@triton.jit
def extents(limits, FORM: tl.constexpr, PACK: tl.constexpr):
    """Pixels and channels of a map; `limits` counts the inner ones (channels for FORM 1) in packs."""
    one = tl.full((), 1, tl.int64)
    return one * limits[0] * (1 if FORM == 1 else PACK), one * limits[1] * (PACK if FORM == 1 else 1)


@triton.jit
def form_address(pointer, n, c, p, w, strides, FORM: tl.constexpr, PACK: tl.constexpr):
    """Pointers of one map's tile; all strides but the lanes' are in packs."""
    if FORM == 0:
        offset = (n * strides[0] + c.to(tl.int64) * strides[1]) * PACK + p
    elif FORM == 1:
        offset = (n * strides[0] + (p // w).to(tl.int64) * strides[2] + (p % w).to(tl.int64) * strides[3]) * PACK + c
    else:
        offset = (
            n * strides[0]
            + c.to(tl.int64) * strides[1]
            + (p // w).to(tl.int64) * strides[2]
            + (p % w).to(tl.int64) * strides[3]
        )
    return pointer + offset


@triton.jit
def differences(ref_ptr, a_ptr, b_ptr, n, c, p, w, strides, inside, FORM: tl.constexpr, PACK: tl.constexpr):
    ref = widened(tl.load(form_address(ref_ptr, n, c, p, w, strides[0], FORM, PACK), inside, 0.0))
    a = widened(tl.load(form_address(a_ptr, n, c, p, w, strides[1], FORM, PACK), inside, 0.0))
    b = widened(tl.load(form_address(b_ptr, n, c, p, w, strides[2], FORM, PACK), inside, 0.0))
    return ref - a, ref - b


@triton.jit
def row_weights(pointer, n, r, c, strides, taps, size, exists):
    """The weights of a row, of both sides, for some channels."""
    t = r % taps
    at = pointer + n * strides[0] + r // taps * strides[1] + t // size * strides[4] + t % size * strides[5]
    wa = widened(tl.load(at + c.to(tl.int64) * strides[3], exists, 0.0))
    wb = widened(tl.load(at + strides[2] + c.to(tl.int64) * strides[3], exists, 0.0))
    return wa, wb


@triton.jit
def shifted(pointer, n, r, p, h, w, strides, taps, size, exists):
    """The map of a row at some pixels: its output's map, moved by its tap; and where it exists."""
    t = r % taps
    y = p // w - t // size + size // 2
    x = p % w - t % size + size // 2
    inside = exists & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    at = pointer + n * strides[0] + r // taps * strides[1] + y.to(tl.int64) * strides[2] + x.to(tl.int64) * strides[3]
    return widened(tl.load(at, inside, 0.0)), inside


@triton.jit
def bound(limit, r, rows):
    """The limit for an existing row, else zero: the interpreter cannot combine a mask with a scalar."""
    return limit * (r < rows).to(tl.int64)


@triton.jit
def locate_part(across, groups, parts, GROUP: tl.constexpr):
    """This program's place along memory, the first of its group, its part of a sum, its sample."""
    program = tl.program_id(0)  # 32 bits for divisions, which are cheaper, 64 for products
    place, group = program % across, program // across % groups * GROUP
    rest = program // across // groups
    return place, group, (rest % parts).to(tl.int64), (rest // parts).to(tl.int64)


@triton.jit
def axes(first_c, first_p, FORM: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr):
    """Channels and pixels of a tile, one a column, the other a row, both counted in 32 bits."""
    first_c = first_c.to(tl.int32)
    first_p = first_p.to(tl.int32)
    outer = tl.arange(0, OUTER)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    if FORM == 1:
        c = first_c + lane
        p = first_p + outer
    else:
        c = first_c + outer
        p = first_p + lane
    return c, p


# ---- kernels ----


@triton.jit
def difference_sums_kernel(
    ref_ptr, a_ptr, b_ptr, weight_ptr, sums_ptr,
    sizes, strides, weight_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits, length, parts,
    FORM: tl.constexpr, PACK: tl.constexpr, ROWS: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    one = tl.full((), 1, tl.int64)  # a size of one arrives as a constant without a dtype
    pixels, channels = extents(limits, FORM, PACK)
    across, groups = tl.cdiv(pixels, PIXELS).to(tl.int32), tl.cdiv(one * rows, ROWS).to(tl.int32)
    first_p, r, part, n = locate_part(across, groups, parts, ROWS)
    first_p *= PIXELS

    c, p = axes(part * length, first_p, FORM, OUTER, LANES)
    wide: tl.constexpr = tl.float64 if ref_ptr.dtype.element_ty == tl.float64 else tl.float32
    sum0 = tl.zeros((OUTER, LANES), wide)
    sum1 = tl.zeros((OUTER, LANES), wide)
    sum2 = tl.zeros((OUTER, LANES), wide)
    end = tl.minimum((part + 1) * length, channels)
    for _ in range(0, length, CHANNELS):
        da, db = differences(
            ref_ptr, a_ptr, b_ptr, n, c, p, sizes[3], strides, (p < pixels) & (c < channels), FORM, PACK
        )
        wa, wb = row_weights(weight_ptr, n, r, c, weight_strides, taps, size, c < end)
        sum0 += tl.where(c < end, wa * da + wb * db, 0.0)
        if ROWS == 3:
            wa, wb = row_weights(weight_ptr, n, r + 1, c, weight_strides, taps, size, c < bound(end, r + 1, rows))
            sum1 += tl.where(c < end, wa * da + wb * db, 0.0)
            wa, wb = row_weights(weight_ptr, n, r + 2, c, weight_strides, taps, size, c < bound(end, r + 2, rows))
            sum2 += tl.where(c < end, wa * da + wb * db, 0.0)
        c += CHANNELS
    along: tl.constexpr = 1 if FORM == 1 else 0
    to = sums_ptr + ((part * sizes[0] + n) * rows + r) * pixels + p
    tl.store(to, tl.sum(sum0, along, keep_dims=True), p < pixels)
    if ROWS == 3:
        tl.store(to + pixels, tl.sum(sum1, along, keep_dims=True), p < bound(pixels, r + 1, rows))
        tl.store(to + 2 * pixels, tl.sum(sum2, along, keep_dims=True), p < bound(pixels, r + 2, rows))


@triton.jit
def difference_products_kernel(
    ref_ptr, a_ptr, b_ptr, map_ptr, parts_ptr,
    sizes, strides, map_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits, length, parts,
    FORM: tl.constexpr, PACK: tl.constexpr, ROWS: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    one = tl.full((), 1, tl.int64)
    pixels, channels = extents(limits, FORM, PACK)
    across, groups = tl.cdiv(channels, CHANNELS).to(tl.int32), tl.cdiv(one * rows, ROWS).to(tl.int32)
    first_c, r, part, n = locate_part(across, groups, parts, ROWS)
    first_c *= CHANNELS

    c, p = axes(first_c, part * length, FORM, OUTER, LANES)
    wide: tl.constexpr = tl.float64 if ref_ptr.dtype.element_ty == tl.float64 else tl.float32
    a0 = tl.zeros((OUTER, LANES), wide)
    b0 = tl.zeros((OUTER, LANES), wide)
    a1 = tl.zeros((OUTER, LANES), wide)
    b1 = tl.zeros((OUTER, LANES), wide)
    a2 = tl.zeros((OUTER, LANES), wide)
    b2 = tl.zeros((OUTER, LANES), wide)
    for _ in range(0, length, PIXELS):
        da, db = differences(
            ref_ptr, a_ptr, b_ptr, n, c, p, sizes[3], strides, (p < pixels) & (c < channels), FORM, PACK
        )
        m, inside = shifted(map_ptr, n, r, p, sizes[2], sizes[3], map_strides, taps, size, p < pixels)
        a0 += tl.where(inside, m * da, 0.0)
        b0 += tl.where(inside, m * db, 0.0)
        if ROWS == 3:
            m, inside = shifted(map_ptr, n, r + 1, p, sizes[2], sizes[3], map_strides, taps, size,
                                p < bound(pixels, r + 1, rows))  # fmt: skip
            a1 += tl.where(inside, m * da, 0.0)
            b1 += tl.where(inside, m * db, 0.0)
            m, inside = shifted(map_ptr, n, r + 2, p, sizes[2], sizes[3], map_strides, taps, size,
                                p < bound(pixels, r + 2, rows))  # fmt: skip
            a2 += tl.where(inside, m * da, 0.0)
            b2 += tl.where(inside, m * db, 0.0)
        p += PIXELS
    along: tl.constexpr = 0 if FORM == 1 else 1
    to = parts_ptr + ((n * parts + part) * rows + r) * 2 * channels + c
    tl.store(to, tl.sum(a0, along, keep_dims=True), c < channels)
    tl.store(to + channels, tl.sum(b0, along, keep_dims=True), c < channels)
    if ROWS == 3:
        tl.store(to + 2 * channels, tl.sum(a1, along, keep_dims=True), c < bound(channels, r + 1, rows))
        tl.store(to + 3 * channels, tl.sum(b1, along, keep_dims=True), c < bound(channels, r + 1, rows))
        tl.store(to + 4 * channels, tl.sum(a2, along, keep_dims=True), c < bound(channels, r + 2, rows))
        tl.store(to + 5 * channels, tl.sum(b2, along, keep_dims=True), c < bound(channels, r + 2, rows))


@triton.jit
def difference_spread_kernel(
    map_ptr, weight_ptr, ref_ptr, a_ptr, b_ptr,
    sizes, strides, map_strides, weight_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits,
    FORM: tl.constexpr, PACK: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    pixels, channels = extents(limits, FORM, PACK)
    across, down = tl.cdiv(pixels, PIXELS).to(tl.int32), tl.cdiv(channels, CHANNELS).to(tl.int32)
    first_p, first_c, _, n = locate_part(across, down, 1, CHANNELS)
    c, p = axes(first_c, first_p * PIXELS, FORM, OUTER, LANES)
    wide: tl.constexpr = tl.float64 if ref_ptr.dtype.element_ty == tl.float64 else tl.float32
    ga = tl.zeros((OUTER, LANES), wide)
    gb = tl.zeros((OUTER, LANES), wide)
    for r in range(rows):
        m, inside = shifted(map_ptr, n, r, p, sizes[2], sizes[3], map_strides, taps, size, p < pixels)
        wa, wb = row_weights(weight_ptr, n, r, c, weight_strides, taps, size, c < channels)
        ga += tl.where(inside, m * wa, 0.0)
        gb += tl.where(inside, m * wb, 0.0)
    exists = (p < pixels) & (c < channels)
    to = ref_ptr.dtype.element_ty
    tl.store(form_address(ref_ptr, n, c, p, sizes[3], strides[0], FORM, PACK), (ga + gb).to(to), exists)
    tl.store(form_address(a_ptr, n, c, p, sizes[3], strides[1], FORM, PACK), (-ga).to(to), exists)
    tl.store(form_address(b_ptr, n, c, p, sizes[3], strides[2], FORM, PACK), (-gb).to(to), exists)


# ---- parts of sums, added in order ----


@triton.jit
def difference_gather_kernel(
    sums_ptr, bias_ptr, y_ptr, sizes, strides, bias_stride, outputs, taps: tl.constexpr, size: tl.constexpr, parts,
    BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    one = tl.full((), 1, tl.int64)
    h, w = one * sizes[2], one * sizes[3]
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p, o, n = i % (h * w), i // (h * w) % outputs, i // (h * w) // outputs
    exists = n < sizes[0]
    total = tl.zeros((BLOCK,), sums_ptr.dtype.element_ty)
    if BIAS:
        total += widened(tl.load(bias_ptr + o * bias_stride, exists, 0.0))
    for t in range(taps):
        y, x = p // w + t // size - size // 2, p % w + t % size - size // 2
        inside = exists & (y >= 0) & (y < h) & (x >= 0) & (x < w)
        for part in range(parts):
            row = ((part * one * sizes[0] + n) * outputs + o) * taps + t
            total += tl.load(sums_ptr + row * (h * w) + y * w + x, inside, 0.0)
    to = y_ptr + n * strides[0] + o * strides[1] + p // w * strides[2] + p % w * strides[3]
    tl.store(to, total.to(y_ptr.dtype.element_ty), exists)


@triton.jit
def difference_collect_kernel(
    parts_ptr, g_ptr, strides, channels, rows, taps: tl.constexpr, size: tl.constexpr, together, elements,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    one = tl.full((), 1, tl.int64) * rows * 2 * channels
    n, j = i // one, i % one
    total = tl.zeros((BLOCK,), parts_ptr.dtype.element_ty)
    for k in range(together):
        total += tl.load(parts_ptr + (n * together + k) * one + j, i < elements, 0.0)
    c, side, r = j % channels, j // channels % 2, j // channels // 2
    t = r % taps
    to = g_ptr + n * strides[0] + r // taps * strides[1] + side * strides[2] + c * strides[3]
    to += t // size * strides[4] + t % size * strides[5]
    tl.store(to, total.to(g_ptr.dtype.element_ty), i < elements)


# ---- launches ----


class Triple(NamedTuple):
    """Three maps of one size: sizes, strides (all but the lanes' in packs), and the form of their tiles."""

    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, ...], ...]
    limits: tuple[int, int]  # pixels and channels; those along the lanes in packs
    form: int
    pack: int
    outer: int
    lanes: int

    @property
    def tile(self) -> tuple[int, int]:
        """Pixels and channels of a tile."""
        return (self.outer, self.lanes) if self.form == 1 else (self.lanes, self.outer)


def triple(maps: Sequence[Tensor]) -> Triple:
    n, c, h, w = maps[0].shape
    strides = [[s if size > 1 else 0 for s, size in zip(x.stride(), x.shape, strict=True)] for x in maps]
    flat = all((w == 1 or s[3] == 1) and (h == 1 or s[2] == w) for s in strides)
    channels = all(c == 1 or s[1] == 1 for s in strides)
    form = 1 if channels and (not flat or c > h * w) else 0 if flat else 2
    length, outside = (c, (0, 2, 3)) if form == 1 else (h * w, (0, 1))
    pack = 1 if form == 2 else pack_size(maps[0].element_size(), (), length, *(s[d] for s in strides for d in outside))
    lane = {0: (2, 3), 1: (1,), 2: ()}[form]
    packed = tuple(tuple(s[d] if d in lane else s[d] // pack for d in range(4)) for s in strides)
    limits = (h * w, c // pack) if form == 1 else (h * w // pack, c)
    most = TILE if maps[0].dtype == torch.float64 else LANES  # the weights of one channel take fewer registers
    lanes = min(most, triton.next_power_of_2(length))
    return Triple((n, c, h, w), packed, limits, form, pack, TILE // lanes, lanes)


def weight_strides(weight: Tensor) -> tuple[int, ...]:
    """Strides of samples (0 if all share one weight), outputs, sides, channels, rows and columns."""
    *sample, output, channel, row, column = weight.stride()
    return (sample[0] if sample else 0, output, weight.shape[-3] // 2 * channel, channel, row, column)


def rows_at_once(rows: int, dtype: torch.dtype) -> int:
    return 1 if rows == 1 or dtype == torch.float64 else 3  # three sums of float64 exceed the registers


def difference_sums(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    t, (outputs, size) = triple(maps), (weight.shape[-4], weight.shape[-1])
    (n, c, h, w), rows, (pixels, channels) = t.sizes, outputs * size**2, t.tile
    at_once = rows_at_once(rows, out.dtype)
    programs = triton.cdiv(h * w, pixels) * triton.cdiv(rows, at_once)
    terms, parts = cut(c, channels, programs, 1 if t.form == 1 else 4)
    scratch = torch.empty((parts, n, rows, h * w), dtype=accumulator(out.dtype), device=out.device)
    grid = (programs * parts * n,)
    with on_device_of(out):
        difference_sums_kernel[grid](
            *maps, weight, scratch, t.sizes, t.strides, weight_strides(weight), rows, size**2, size, t.limits, terms,
            parts,
            FORM=t.form, PACK=t.pack, ROWS=at_once, OUTER=t.outer, LANES=t.lanes,
            num_warps=WARPS, enable_fp_fusion=True, maxnreg=MOST_REGISTERS,
        )  # fmt: skip
    grid = (triton.cdiv(out.numel(), BLOCK),)
    with on_device_of(out):
        difference_gather_kernel[grid](
            scratch, out if bias is None else bias, out, t.sizes, out.stride(), 0 if bias is None else bias.stride(0),
            outputs, size**2, size, parts,
            BIAS=bias is not None, BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def difference_products(
    maps: Sequence[Tensor], gate: Tensor, strides: Sequence[int], size: int, each: bool, out: Tensor
) -> None:
    """`strides`: those of the output as a weight, see weight_strides."""
    t, outputs = triple(maps), gate.shape[1]
    (n, c, h, w), rows, (pixels, channels) = t.sizes, outputs * size**2, t.tile
    at_once = rows_at_once(rows, out.dtype)
    programs = triton.cdiv(c, channels) * triton.cdiv(rows, at_once)
    terms, parts = cut(h * w, pixels, programs, 4)
    scratch = torch.empty((n, parts, rows, 2, c), dtype=accumulator(out.dtype), device=out.device)
    grid = (programs * parts * n,)
    with on_device_of(out):
        difference_products_kernel[grid](
            *maps, gate, scratch, t.sizes, t.strides, gate.stride(), rows, size**2, size, t.limits, terms, parts,
            FORM=t.form, PACK=t.pack, ROWS=at_once, OUTER=t.outer, LANES=t.lanes,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    together = parts if each else parts * n
    grid = (triton.cdiv(out.numel(), BLOCK),)
    with on_device_of(out):
        difference_collect_kernel[grid](
            scratch, out, tuple(strides), c, rows, size**2, size, together, out.numel(),
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def difference_spread(gate: Tensor, weight: Tensor, grads: Sequence[Tensor]) -> None:
    t, (outputs, size) = triple(grads), (weight.shape[-4], weight.shape[-1])
    (n, c, h, w), (pixels, channels) = t.sizes, t.tile
    grid = (triton.cdiv(h * w, pixels) * triton.cdiv(c, channels) * n,)
    with on_device_of(gate):
        difference_spread_kernel[grid](
            gate, weight, *grads, t.sizes, t.strides, gate.stride(), weight_strides(weight),
            outputs * size**2, size**2, size, t.limits,
            FORM=t.form, PACK=t.pack, OUTER=t.outer, LANES=t.lanes, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
