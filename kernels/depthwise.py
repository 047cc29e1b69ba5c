"""Depthwise convolutions of stride 1 that keep the size of a map, and the gradients of their weights.

"Planes" are maps whose rows lie together (NCHW, any strides), "pixels" those whose channels do; for these a tap's
weights lie side by side as well. Sums: a program has one row of a kernel, some channels and some pixels, either of
which lie along the rows of its tile; a second kernel adds the programs' partial sums in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.maps import at, steps_of
from fastiqa.kernels.lib.tiles import locate, widened

# For tests: maps that a kernel reads and writes, 16 bytes at a time; what else it touches, and may touch in less.
NARROW = {
    "planes_kernel": (0, 1, "neighbours along x of a pack, which start anywhere; weights, one a row"),
    "sums_kernel": (0, 0, "4 elements a thread, with 8 sums each (8 took 152 registers); in NCHW neighbours of a pack"),
    "total_kernel": (0, 0, "sums, some of which are the bias's"),
}

# ---- convolutions ----


@triton.jit
def convolved(
    x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, known,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PIXELS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """A tile of the convolution in the accumulation type; `known` says which channels there are."""
    HALF: tl.constexpr = DILATION * (K // 2)
    weight_ptr = w_ptr + c * w_strides[0]
    row_of_weight, column_of_weight = steps_of(w_strides, PIXELS, PACK if PIXELS else 1)
    zero = tl.zeros(inside.shape, tl.float64 if w_ptr.dtype.element_ty == tl.float64 else tl.float32)
    total = zero
    if BIAS:
        total += widened(tl.load(b_ptr + c * b_stride, known, other=0.0))
    row_step, column_step = steps_of(x_strides, PIXELS, PACK)
    here = at(x_ptr, x_strides, n, c, y, x, PIXELS, PACK)
    sides = tl.full((), 1, tl.int32) * size[0] * size[1]  # int64 where one of them needs it
    # An x for each element, in half the registers: otherwise Triton 3.6 spills 152 bytes on sm_80.
    if not PIXELS and sides.dtype == tl.int32:
        y, x = y.to(tl.int32), x.to(tl.int32)
    for ky in range(K):
        v = y + (ky * DILATION - HALF)
        row_inside = inside & (v >= 0) & (v < size[0])
        row = zero  # a row of the kernel is summed by itself: fewer roundings upon each other
        for kx in tl.static_range(K):
            u = x + (kx * DILATION - HALF)
            near = here + ((ky * DILATION - HALF) * row_step + (kx * DILATION - HALF) * column_step)
            value = widened(tl.load(near, row_inside & (u >= 0) & (u < size[1]), other=0.0))
            tap = (K - 1 - ky if FLIP else ky) * row_of_weight + (K - 1 - kx if FLIP else kx) * column_of_weight
            row += value * widened(tl.load(weight_ptr + tap, known, other=0.0))
        total += row
    return total


@triton.jit
def planes_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, x_strides, w_strides, b_stride, y_strides, size, batch, channels, packs,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    row, channel, sample, column, inside = locate((size[0], channels, batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, c, y, x = sample[:, None], channel[:, None], row[:, None], column[None, :]
    total = convolved(
        x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, c < channels,
        K, DILATION, FLIP, BIAS, False, PACK,
    )  # fmt: skip
    tl.store(at(y_ptr, y_strides, n, c, y, x, False, PACK), total.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def pixels_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, x_strides, w_strides, b_stride, y_strides, size, batch, channels, packs,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    column, row, sample, element, inside = locate((size[1], size[0], batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, c, y, x = sample[:, None], element[None, :], row[:, None], column[:, None]
    known = c < (tl.full((), 1, tl.int64) * packs) * PACK
    total = convolved(
        x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, known,
        K, DILATION, FLIP, BIAS, True, PACK,
    )  # fmt: skip
    tl.store(at(y_ptr, y_strides, n, c, y, x, True, PACK), total.to(y_ptr.dtype.element_ty), inside)


# ---- gradients of weights ----


@triton.jit
def sums_kernel(
    g_ptr, x_ptr, partial_ptr, g_strides, x_strides, size, batch, channels, packs, steps,
    K: tl.constexpr, DILATION: tl.constexpr, PIXELS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = DILATION * (K // 2)
    ky, part, chunk = tl.program_id(1) % K, (tl.program_id(1) // K).to(tl.int64), tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_PACKS * PACK)[None, :]
    row_step, column_step = steps_of(x_strides, PIXELS, PACK)
    if PIXELS:
        c = part * (BLOCK_PACKS * PACK) + columns
        known = c < (tl.full((), 1, tl.int64) * packs) * PACK
    else:
        c = part * BLOCK_ROWS + rows
        known = c < channels
    bias = tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), partial_ptr.dtype.element_ty)
    sums = (bias,) * K
    for step in range(steps):
        if PIXELS:
            pixel = (chunk * steps + step) * BLOCK_ROWS + rows
            line, x = pixel // size[1], pixel % size[1]
        else:
            pack = (chunk * steps + step) * BLOCK_PACKS + columns // PACK
            line, x = pack // packs, pack % packs * PACK + columns % PACK
        n, y = line // size[0], line % size[0]
        inside = (n < batch) & known
        g = widened(tl.load(at(g_ptr, g_strides, n, c, y, x, PIXELS, PACK), inside, other=0.0))
        bias += g
        here = at(x_ptr, x_strides, n, c, y, x, PIXELS, PACK) + (ky * DILATION - HALF) * row_step
        v = y + (ky * DILATION - HALF)
        inside &= (v >= 0) & (v < size[0])
        added = ()
        for kx in tl.static_range(K):
            u = x + (kx * DILATION - HALF)
            near = here + (kx * DILATION - HALF) * column_step
            product = g * widened(tl.load(near, inside & (u >= 0) & (u < size[1]), other=0.0))
            added = added + (sums[kx] + product,)  # noqa: RUF005  Triton has no starred tuples
        sums = added
    to = partial_ptr + (chunk * channels + c) * (K * K + 1)
    for kx in tl.static_range(K):
        tl.store(to + ky * K + kx, summed(sums[kx], PIXELS), c < channels)
    if ky == 0:
        tl.store(to + K * K, summed(bias, PIXELS), c < channels)


@triton.jit
def summed(x, PIXELS: tl.constexpr):
    """The sums of a tile over its pixels: its rows, or its columns."""
    if PIXELS and x.shape[0] > 8:  # eight at a time first, so that no sum is long
        x = tl.sum(tl.reshape(x, (x.shape[0] // 8, 8, x.shape[1])), 1)
    return tl.sum(x, 0 if PIXELS else 1, keep_dims=True)


@triton.jit
def total_kernel(
    partial_ptr, w_ptr, b_ptr, w_strides, b_stride, channels, chunks, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    SUMS: tl.constexpr = K * K + 1
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c, k, inside = i // SUMS, i % SUMS, i < (tl.full((), 1, tl.int64) * channels) * SUMS
    total = tl.zeros((BLOCK,), partial_ptr.dtype.element_ty)
    for chunk in range(chunks):
        total += tl.load(partial_ptr + (tl.full((), 0, tl.int64) + chunk) * channels * SUMS + i, inside, other=0.0)
    to = w_ptr + c * w_strides[0] + k // K * w_strides[2] + k % K * w_strides[3]
    tl.store(to, total.to(w_ptr.dtype.element_ty), inside & (k < K * K))
    tl.store(b_ptr + c * b_stride, total.to(b_ptr.dtype.element_ty), inside & (k == K * K))
