"""The kernels of difference_response and difference_pool: the Triton form of csrc/passes/difference.

    sums        y[n,o,p] = bias + sum over taps, sides, channels of weight * d(p + shift)
    products    g[n,o,s,c,t] = sum over pixels of map(q - shift) * d(q)
    spread      gradients of ref, a, b: sums over outputs and taps of weight * map(q - shift)

A tile has OUTER x LANES elements. Lanes run along the pixels (FORM 0: a map's are neighbours), along the channels (FORM
1) or along pixels of any strides (FORM 2). Sums are kept for every element of the tile, for three rows of the
weight, a row being an output and a tap, and added up at the end; parts of sums are added by difference_parts.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.tiles import widened

NARROW = {
    "sums_kernel": (3, 0, "weights, and sums, of which a tile has one a pixel"),
    "products_kernel": (3, 0, "shifted maps, and sums, of which a tile has one a channel"),
    "spread_kernel": (0, 3, "shifted maps and weights"),
    "gather_kernel": (0, 0, "shifted sums of single pixels"),
    "collect_kernel": (0, 0, "sums of single channels, scattered into a weight"),
}

# ---- device functions ----


@triton.jit
def extents(limits, FORM: tl.constexpr, PACK: tl.constexpr):
    """Pixels and channels of a map; `limits` counts the inner ones, channels where FORM is 1, in packs."""
    one = tl.full((), 1, tl.int64)
    return one * limits[0] * (1 if FORM == 1 else PACK), one * limits[1] * (PACK if FORM == 1 else 1)


@triton.jit
def address(pointer, n, c, p, w, strides, FORM: tl.constexpr, PACK: tl.constexpr):
    """Pointers of one map's tile; strides but the lanes' own are in packs."""
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
    ref = widened(tl.load(address(ref_ptr, n, c, p, w, strides[0], FORM, PACK), inside, 0.0))
    a = widened(tl.load(address(a_ptr, n, c, p, w, strides[1], FORM, PACK), inside, 0.0))
    b = widened(tl.load(address(b_ptr, n, c, p, w, strides[2], FORM, PACK), inside, 0.0))
    return ref - a, ref - b


@triton.jit
def weights(pointer, n, r, c, strides, taps, size, exists):
    """A row's weights of both sides for some channels."""
    t = r % taps
    at = pointer + n * strides[0] + r // taps * strides[1] + t // size * strides[4] + t % size * strides[5]
    wa = widened(tl.load(at + c.to(tl.int64) * strides[3], exists, 0.0))
    wb = widened(tl.load(at + strides[2] + c.to(tl.int64) * strides[3], exists, 0.0))
    return wa, wb


@triton.jit
def shifted(pointer, n, r, p, h, w, strides, taps, size, exists):
    """A row's map at some pixels: its output's map, moved by its tap; and where it exists."""
    t = r % taps
    y = p // w - t // size + size // 2
    x = p % w - t % size + size // 2
    inside = exists & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    at = pointer + n * strides[0] + r // taps * strides[1] + y.to(tl.int64) * strides[2] + x.to(tl.int64) * strides[3]
    return widened(tl.load(at, inside, 0.0)), inside


@triton.jit
def bound(limit, r, rows):
    """The limit for a row that exists, else zero; the interpreter cannot join a mask with a single truth."""
    return limit * (r < rows).to(tl.int64)


@triton.jit
def locate(across, groups, parts, GROUP: tl.constexpr):
    """This program's place along memory, its first of a group, its part of a sum, its sample."""
    program = tl.program_id(0)  # 32 bits to take apart, which is cheaper, and 64 to multiply
    place, group = program % across, program // across % groups * GROUP
    rest = program // across // groups
    return place, group, (rest % parts).to(tl.int64), (rest // parts).to(tl.int64)


@triton.jit
def axes(first_c, first_p, FORM: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr):
    """Channels and pixels of a tile: one is a column, the other a row. Both are counted in 32 bits."""
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
def sums_kernel(
    ref_ptr, a_ptr, b_ptr, weight_ptr, sums_ptr,
    sizes, strides, weight_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits, length, parts,
    FORM: tl.constexpr, PACK: tl.constexpr, ROWS: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    one = tl.full((), 1, tl.int64)  # a size of one arrives as a constant, which has no dtype to widen
    pixels, channels = extents(limits, FORM, PACK)
    across, groups = tl.cdiv(pixels, PIXELS).to(tl.int32), tl.cdiv(one * rows, ROWS).to(tl.int32)
    first_p, r, part, n = locate(across, groups, parts, ROWS)
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
        wa, wb = weights(weight_ptr, n, r, c, weight_strides, taps, size, c < end)
        sum0 += tl.where(c < end, wa * da + wb * db, 0.0)
        if ROWS == 3:
            wa, wb = weights(weight_ptr, n, r + 1, c, weight_strides, taps, size, c < bound(end, r + 1, rows))
            sum1 += tl.where(c < end, wa * da + wb * db, 0.0)
            wa, wb = weights(weight_ptr, n, r + 2, c, weight_strides, taps, size, c < bound(end, r + 2, rows))
            sum2 += tl.where(c < end, wa * da + wb * db, 0.0)
        c += CHANNELS
    along: tl.constexpr = 1 if FORM == 1 else 0
    to = sums_ptr + ((part * sizes[0] + n) * rows + r) * pixels + p
    tl.store(to, tl.sum(sum0, along, keep_dims=True), p < pixels)
    if ROWS == 3:
        tl.store(to + pixels, tl.sum(sum1, along, keep_dims=True), p < bound(pixels, r + 1, rows))
        tl.store(to + 2 * pixels, tl.sum(sum2, along, keep_dims=True), p < bound(pixels, r + 2, rows))


@triton.jit
def products_kernel(
    ref_ptr, a_ptr, b_ptr, map_ptr, parts_ptr,
    sizes, strides, map_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits, length, parts,
    FORM: tl.constexpr, PACK: tl.constexpr, ROWS: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    one = tl.full((), 1, tl.int64)
    pixels, channels = extents(limits, FORM, PACK)
    across, groups = tl.cdiv(channels, CHANNELS).to(tl.int32), tl.cdiv(one * rows, ROWS).to(tl.int32)
    first_c, r, part, n = locate(across, groups, parts, ROWS)
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
def spread_kernel(
    map_ptr, weight_ptr, ref_ptr, a_ptr, b_ptr,
    sizes, strides, map_strides, weight_strides, rows, taps: tl.constexpr, size: tl.constexpr, limits,
    FORM: tl.constexpr, PACK: tl.constexpr, OUTER: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = OUTER if FORM == 1 else LANES
    CHANNELS: tl.constexpr = LANES if FORM == 1 else OUTER
    pixels, channels = extents(limits, FORM, PACK)
    across, down = tl.cdiv(pixels, PIXELS).to(tl.int32), tl.cdiv(channels, CHANNELS).to(tl.int32)
    first_p, first_c, _, n = locate(across, down, 1, CHANNELS)
    c, p = axes(first_c, first_p * PIXELS, FORM, OUTER, LANES)
    wide: tl.constexpr = tl.float64 if ref_ptr.dtype.element_ty == tl.float64 else tl.float32
    ga = tl.zeros((OUTER, LANES), wide)
    gb = tl.zeros((OUTER, LANES), wide)
    for r in range(rows):
        m, inside = shifted(map_ptr, n, r, p, sizes[2], sizes[3], map_strides, taps, size, p < pixels)
        wa, wb = weights(weight_ptr, n, r, c, weight_strides, taps, size, c < channels)
        ga += tl.where(inside, m * wa, 0.0)
        gb += tl.where(inside, m * wb, 0.0)
    exists = (p < pixels) & (c < channels)
    to = ref_ptr.dtype.element_ty
    tl.store(address(ref_ptr, n, c, p, sizes[3], strides[0], FORM, PACK), (ga + gb).to(to), exists)
    tl.store(address(a_ptr, n, c, p, sizes[3], strides[1], FORM, PACK), (-ga).to(to), exists)
    tl.store(address(b_ptr, n, c, p, sizes[3], strides[2], FORM, PACK), (-gb).to(to), exists)
