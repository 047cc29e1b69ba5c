"""Device functions on the windows of two images: where a program works, sums under windows, what is made of them.

A program has a tile of planes by columns of windows and goes down their rows. csrc/ops/ssim/similarity_cuda.h
says what is summed and why.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.tiles import widened

# ---- where a program works ----


@triton.jit
def locate(planes, high, wide, rows, BLOCK_PLANES: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Its tile of planes and columns, x, and which planes exist; its first row and how many."""
    across, down = tl.cdiv(wide, BLOCK_COLUMNS), tl.cdiv(high, rows)
    program = tl.program_id(0)
    plane = ((program // across // down).to(tl.int64) * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES))[:, None]
    x = ((program % across).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    y = program // across % down * rows
    return plane, plane < planes, x, y.to(tl.int64), tl.minimum(rows, high - y)


@triton.jit
def at(pointer, strides, n, c, y, x):
    return pointer + (n * strides[0] + c * strides[1] + y * strides[2]) + x * strides[3]


@triton.jit
def steps(strides):
    """Elements from a row to the next, and from a column to the next."""
    one = tl.full((), 1, tl.int64)
    return one * strides[2], one * strides[3]


@triton.jit
def mean_of_some(pointer, strides, n, c, known, y, x, high, wide):
    """Of eight pixels of `high` x `wide` in each plane, no two in a row or column; 0 where that is not finite, so that
    no other pixel suffers."""
    lane = tl.arange(0, 8).to(tl.int64)[None, :]
    pixels = at(pointer, strides, n, c, y + (high - 1) * lane // 7, x + (wide - 1) * (3 * lane % 8) // 7)
    mean = tl.sum(widened(tl.load(pixels, known, other=0.0)), 1, keep_dims=True) / 8
    return tl.where(mean - mean == 0, mean, 0.0)


@triton.jit
def centre(x_ptr, y_ptr, x_strides, y_strides, n, c, known, y, x, high, wide):
    """Numbers near the pixels of x and of x - y in a part of each plane."""
    of_x = mean_of_some(x_ptr, x_strides, n, c, known, y, x, high, wide)
    return of_x, of_x - mean_of_some(y_ptr, y_strides, n, c, known, y, x, high, wide)


# ---- sums ----


@triton.jit
def packed(a, b, c, d):
    """Four tiles as one, whose last dimension a thread has."""
    both = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(both, (a.shape[0], a.shape[1], 4))


@triton.jit
def unpacked(x):
    first, second = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], 2, 2)))
    a, c = tl.split(first)
    b, d = tl.split(second)
    return a, b, c, d


@triton.jit
def image_row(x_at, y_at, x_step, y_step, inside, middle, zero, WEIGHTS: tl.constexpr):
    """A row's part of E[x], E[d], E[d^2] and E[xy] under windows that begin at these pixels, x and d less `middle`."""
    sum_x, sum_d, sum_dd, sum_xy = zero, zero, zero, zero
    for k in tl.static_range(len(WEIGHTS)):
        x = tl.load(x_at, inside, other=0.0).to(zero.dtype)
        d = (x - tl.load(y_at, inside, other=0.0).to(zero.dtype)) - middle[1]
        x -= middle[0]
        weighted_x, weighted_d = WEIGHTS[k] * x, WEIGHTS[k] * d
        sum_x += weighted_x
        sum_d += weighted_d
        sum_dd += weighted_d * d
        sum_xy += weighted_x * (x - d)
        x_at += x_step
        y_at += y_step
    return packed(sum_x, sum_d, sum_dd, sum_xy)


@triton.jit
def pushed(sums, row, WEIGHTS: tl.constexpr):
    """With one more row, sums of windows that begin here, a row before, two before and so on; the last are whole."""
    result = (WEIGHTS[0] * row,)
    for k in tl.static_range(1, len(WEIGHTS)):
        result += (sums[k - 1] + WEIGHTS[k] * row,)
    return result


@triton.jit
def quotient(x, y):
    """Rounded to nearest, so that equal numbers give 1."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def similarity(sums, middle, C1: tl.constexpr, C2: tl.constexpr):
    """Luminance and contrast, and for gradients: the means of x and d whole, what the divisors are, and the excess of
    contrast's over its dividend."""
    mean_x, mean_d, square_d, product = unpacked(sums)
    twice = 2 * (product - mean_x * (mean_x - mean_d))
    excess = square_d - mean_d * mean_d
    excess = tl.where(excess < 0, 0.0, excess)  # what rounding may have made of variances; NaN stays
    excess = tl.where(excess < -2 * twice, -2 * twice, excess)
    x, d = mean_x + middle[0], mean_d + middle[1]
    contrast, luminance = twice + C2, 2 * x * (x - d) + C1
    contrast_divisor, luminance_divisor = contrast + excess, luminance + d * d
    luminance, contrast = quotient(luminance, luminance_divisor), quotient(contrast, contrast_divisor)
    return luminance, contrast, x, d, luminance_divisor, contrast_divisor, excess
