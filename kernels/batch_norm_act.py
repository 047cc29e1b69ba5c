"""batch_norm_act: batch normalisation by the statistics of the batch and leaky ReLU, and the adjoint.

    forward    x (N,C,H,W), weight, bias (C) -> (N,C,H,W), mean, rstd (C)                     reads 2, writes 1 map
    backward   grad, x (N,C,H,W), weight, bias, mean, rstd (C) -> grad_x, grad_weight, grad_bias     reads 4, writes 1

    d = x - mean,   z = weight rstd d + bias,   out = z > 0 ? z : slope z
    g = grad where z > 0, else slope grad;   S = sum of g,   P = sum of g d,   M = N H W
    grad_x = weight rstd (g - S / M - d rstd^2 P / M),   grad_weight = rstd P,   grad_bias = S

Forward and backward have two passes each, as in csrc/ops/batch_norm_act. The first takes exact sums
(lib/channel_sums.py), of x - shift and its square, and S and P. The kernels between the passes have a few numbers a
channel, and compute in float64.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from fastiqa.kernels.lib.channel_sums import exact_sums, exact_total, map_address
from fastiqa.kernels.lib.channels import channel_values, launch_channelwise
from fastiqa.kernels.lib.launch import WARPS, block, on_device_of
from fastiqa.kernels.lib.tiles import address, locate, widened
from torch import Tensor

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "batch_norm_act_kernel": (1, 1, "mean, scale and bias, one value a plane"),
    "batch_norm_act_backward_kernel": (2, 1, "numbers of a channel, one value a plane"),
    "channel_sums_by_planes_kernel": (1, 0, "numbers of a channel and its sums, one value a plane"),
    "channel_sums_by_pixels_kernel": (1, 0, "numbers of a channel, and partial sums of a block's pixels"),
    "batch_norm_shift_kernel": (0, 0, "a few pixels a channel"),
    "batch_norm_statistics_kernel": (0, 0, "a few bytes a channel"),
    "batch_norm_gradients_kernel": (0, 0, "a few bytes a channel"),
}
# For tests: kernels that compute in float64, and why they may.
FLOAT64 = {
    "batch_norm_statistics_kernel": "a few numbers a channel, differences of large sums",
    "batch_norm_gradients_kernel": "a few numbers a channel, sums of many parts",
}

PIXELS = 32  # for the shift: from a row, a column, or one pixel of every sample

# ---- numbers of a channel ----


@triton.jit
def batch_norm_shift_kernel(
    x_ptr, shift_ptr, channels, stride, step, pixels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    """The mean of a few pixels of a channel, to half its digits.

    So most x - shift are exact; otherwise all x of one binade would share one rounding error. A mean that is no number
    becomes 0, and the sums show it.
    """
    c = tl.program_id(0).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    pixel = tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
    x = widened(tl.load(x_ptr + c * stride + pixel * step, (pixel < pixels) & (c < channels), 0))
    mean = tl.sum(x, 0, keep_dims=True) / pixels
    scaled = mean * (134217729 if x.dtype == tl.float64 else 4097)
    half = scaled - (scaled - mean)
    tl.store(shift_ptr + c, tl.where(half - half == 0, half, 0.0), c < channels)


@triton.jit
def batch_norm_statistics_kernel(
    parts_ptr, shift_ptr, weight_ptr, mean_ptr, rstd_ptr, scale_ptr, strides, parts, channels, count,
    EPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    inside = c < channels
    share = tl.full((), 1, tl.float64) / count
    first = exact_total(parts_ptr, 0, parts, channels, c, BLOCK_ROWS) * share
    variance = exact_total(parts_ptr, 1, parts, channels, c, BLOCK_ROWS) * share - first * first
    variance = tl.where(variance < 0, 0.0, variance)  # NaN stays NaN
    mean = tl.load(shift_ptr + c, inside, 0).to(tl.float64) + first
    rstd = tl.rsqrt(variance + EPS).to(rstd_ptr.dtype.element_ty)
    tl.store(mean_ptr + c * strides[1], mean.to(mean_ptr.dtype.element_ty), inside)
    tl.store(rstd_ptr + c * strides[2], rstd, inside)
    tl.store(scale_ptr + c, tl.load(weight_ptr + c * strides[0], inside, 0) * rstd, inside)


@triton.jit
def batch_norm_gradients_kernel(
    parts_ptr, weight_ptr, rstd_ptr, grad_weight_ptr, grad_bias_ptr, numbers_ptr, strides, parts, channels, count,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias; numbers: scale, and what g loses, its mean and a multiple of d."""
    c = tl.program_id(0).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    inside = c < channels
    to = numbers_ptr.dtype.element_ty
    s = exact_total(parts_ptr, 0, parts, channels, c, BLOCK_ROWS)
    p = exact_total(parts_ptr, 1, parts, channels, c, BLOCK_ROWS)
    share = tl.full((), 1, tl.float64) / count
    rstd = tl.load(rstd_ptr + c * strides[1], inside, 0)
    r = rstd.to(tl.float64)
    tl.store(grad_weight_ptr + c * strides[2], (p * r).to(to), inside)
    tl.store(grad_bias_ptr + c * strides[3], s.to(to), inside)
    tl.store(numbers_ptr + c, tl.load(weight_ptr + c * strides[0], inside, 0) * rstd, inside)
    tl.store(numbers_ptr + channels + c, (s * share).to(to), inside)
    tl.store(numbers_ptr + 2 * channels + c, (p * r * r * share).to(to), inside)


# ---- passes over maps ----


@triton.jit
def moment_terms(maps, values, n, c, y, x, inside, strides, CONSTANT, PACK: tl.constexpr, BY_PIXELS: tl.constexpr):
    value = widened(tl.load(map_address(maps[0], n, c, y, x, strides[0], PACK, BY_PIXELS), inside, 0))
    d = tl.where(inside, value - values[0], 0.0)
    return d, d * d


@triton.jit
def batch_norm_act_kernel(
    x_ptr, out_ptr, values, sizes, strides, inner, packs,
    SLOPE: tl.constexpr, PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, A_ROW: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    mean, scale, bias = channel_values(values, i0, i1, i2, element, inside, sizes, PACK, A_ROW)
    x = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    z = (x - mean) * scale + bias
    y = tl.where(z > 0, z, z * SLOPE).to(out_ptr.dtype.element_ty)
    tl.store(address(out_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), y, inside)


@triton.jit
def gradient_terms(
    maps, values, n, c, y, x, inside, strides, SLOPE: tl.constexpr, PACK: tl.constexpr, BY_PIXELS: tl.constexpr
):  # fmt: skip
    mean, rstd, weight, bias = values
    grad = widened(tl.load(map_address(maps[0], n, c, y, x, strides[0], PACK, BY_PIXELS), inside, 0))
    value = widened(tl.load(map_address(maps[1], n, c, y, x, strides[1], PACK, BY_PIXELS), inside, 0))
    d = tl.where(inside, value - mean, 0.0)
    g = tl.where(d * (weight * rstd) + bias > 0, grad, grad * SLOPE)
    return g, g * d


@triton.jit
def batch_norm_act_backward_kernel(
    grad_ptr, x_ptr, to_ptr, values, sizes, strides, inner, packs,
    SLOPE: tl.constexpr, PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, A_ROW: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    mean, bias, scale, s, p = channel_values(values, i0, i1, i2, element, inside, sizes, PACK, A_ROW)
    grad = widened(tl.load(address(grad_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    d = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside)) - mean
    g = tl.where(d * scale + bias > 0, grad, grad * SLOPE)
    y = ((g - s - d * p) * scale).to(to_ptr.dtype.element_ty)
    tl.store(address(to_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), y, inside)


# ---- launchers ----

# Slope and eps are compiled in: an argument would arrive as float32 in any case, and a network has one of each.


def for_samples(x: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Expand numbers of a channel (C,) to values (N, C, 1, 1)."""
    return tuple(column[None, :, None, None].expand(x.shape[0], -1, 1, 1) for column in numbers)


def launch_per_channel(kernel: Any, rows: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run a kernel whose programs take some channels of x each, with that many rows of numbers."""
    channels = x.shape[1]
    block_channels, block_rows = block(channels, rows, 1)
    with on_device_of(x):
        kernel[(triton.cdiv(channels, block_channels),)](
            *args, BLOCK_ROWS=block_rows, BLOCK_CHANNELS=block_channels, num_warps=WARPS, enable_fp_fusion=False,
            **constants,
        )  # fmt: skip


def batch_norm_act(
    x: Tensor, weight: Tensor, bias: Tensor, negative_slope: float, eps: float, out: Tensor, mean: Tensor, rstd: Tensor
) -> None:
    n, c, h, w = x.shape
    along = 3 if w >= h and w >= n else 2 if h >= n else 0
    pixels = min(x.shape[along], PIXELS)
    shift, scale = mean.new_empty((2, c))
    launch_per_channel(batch_norm_shift_kernel, pixels, x, x, shift, c, x.stride(1), x.stride(along), pixels)
    parts = exact_sums(moment_terms, 2, (x,), for_samples(x, shift))
    columns = (weight, mean, rstd)
    launch_per_channel(
        batch_norm_statistics_kernel, parts.shape[2], x, parts, shift, *columns, scale,
        tuple(y.stride(0) for y in columns), parts.shape[2], c, n * h * w, EPS=eps,
    )  # fmt: skip
    launch_channelwise(batch_norm_act_kernel, (x, out), for_samples(x, mean, scale, bias), SLOPE=negative_slope)


def batch_norm_act_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, negative_slope: float,
    grad_x: Tensor, grad_weight: Tensor, grad_bias: Tensor,
) -> None:  # fmt: skip
    n, c, h, w = x.shape
    parts = exact_sums(gradient_terms, 2, (grad, x), for_samples(x, mean, rstd, weight, bias), negative_slope)
    numbers = mean.new_empty((3, c))
    columns = (weight, rstd, grad_weight, grad_bias)
    launch_per_channel(
        batch_norm_gradients_kernel, parts.shape[2], x, parts, *columns, numbers, tuple(y.stride(0) for y in columns),
        parts.shape[2], c, n * h * w,
    )  # fmt: skip
    values = for_samples(x, mean, bias, *numbers)
    launch_channelwise(batch_norm_act_backward_kernel, (grad, x, grad_x), values, SLOPE=negative_slope)
