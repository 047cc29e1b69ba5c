"""scale_residual_relu: relu(x s + residual), with s = sigmoid(gate) for each channel, and its adjoint.

    forward    x, residual (N,C,H,W), gate (N,C,1,1) -> (N,C,H,W)                       reads 2, writes 1 map
    backward   grad, x, out (N,C,H,W), gate -> grad_x, grad_residual, grad_gate          reads 3, writes 2 maps

    with m = grad where out > 0, else 0:   grad_x = m s,   grad_residual = m,   grad_gate = s (1 - s) sum of m x

The pass that writes the gradients also takes the sum (lib/channel_sums.py).
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.channel_sums import launch_sums, map_address
from fastiqa.kernels.lib.channels import channel_values, launch_channelwise
from fastiqa.kernels.lib.sigmoid import sigmoid
from fastiqa.kernels.lib.tiles import address, locate, widened
from torch import Tensor

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "scale_residual_relu_kernel": (2, 1, "the gate, one value a plane"),
    "channel_sums_by_planes_kernel": (3, 2, "the gate and its gradient, one value a plane"),
    "channel_sums_by_pixels_kernel": (3, 2, "the gate, and partial sums of a block's pixels"),
    "finish_channel_sums_kernel": (0, 0, "a few bytes a channel"),
}

# ---- kernels ----


@triton.jit
def scale_residual_relu_kernel(
    x_ptr, residual_ptr, out_ptr, values, sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, A_ROW: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    (gate,) = channel_values(values, i0, i1, i2, element, inside, sizes, PACK, A_ROW)
    x = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    residual = widened(tl.load(address(residual_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside))
    y = x * sigmoid(gate) + residual
    y = tl.where(y <= 0, 0.0, y)  # NaN stays NaN
    tl.store(address(out_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), y.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def scale_residual_relu_terms(
    maps, values, n, c, y, x, inside, strides, CONSTANT, PACK: tl.constexpr, BY_PIXELS: tl.constexpr
):
    (gate,) = values
    grad_ptr, x_ptr, out_ptr, to_x_ptr, to_residual_ptr = maps
    grad = widened(tl.load(map_address(grad_ptr, n, c, y, x, strides[0], PACK, BY_PIXELS), inside, 0))
    value = widened(tl.load(map_address(x_ptr, n, c, y, x, strides[1], PACK, BY_PIXELS), inside, 0))
    out = widened(tl.load(map_address(out_ptr, n, c, y, x, strides[2], PACK, BY_PIXELS), inside, 0))
    passed = tl.where(out <= 0, 0.0, grad)
    to_x = (passed * sigmoid(gate)).to(to_x_ptr.dtype.element_ty)
    tl.store(map_address(to_x_ptr, n, c, y, x, strides[3], PACK, BY_PIXELS), to_x, inside)
    to_residual = passed.to(to_residual_ptr.dtype.element_ty)
    tl.store(map_address(to_residual_ptr, n, c, y, x, strides[4], PACK, BY_PIXELS), to_residual, inside)
    return (passed * value,)


@triton.jit
def scale_residual_relu_finish(values, sums):
    s = sigmoid(values[0])
    return (sums[0] * (1 - s) * s,)


# ---- launchers ----


def scale_residual_relu(x: Tensor, gate: Tensor, residual: Tensor, out: Tensor) -> None:
    launch_channelwise(scale_residual_relu_kernel, (x, residual, out), (gate,))


def scale_residual_relu_backward(
    grad: Tensor, x: Tensor, gate: Tensor, out: Tensor, grad_x: Tensor, grad_gate: Tensor, grad_residual: Tensor
) -> None:
    maps = (grad, x, out, grad_x, grad_residual)
    launch_sums(scale_residual_relu_terms, scale_residual_relu_finish, maps, (gate,), (grad_gate,))
