"""The second step of difference.py: parts of sums, added in order and put where they belong."""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.tiles import widened


@triton.jit
def gather_kernel(
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
def collect_kernel(
    parts_ptr,
    g_ptr,
    strides,
    channels,
    rows,
    taps: tl.constexpr,
    size: tl.constexpr,
    together,
    elements,
    BLOCK: tl.constexpr,
):
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
