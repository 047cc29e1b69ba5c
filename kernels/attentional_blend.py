"""attentional_blend: m x + (1 - m) y with m = sigmoid(local + global), one global number a channel, and its adjoint.

    forward    x, y, local (N,C,H,W), global (N,C,1,1) -> (N,C,H,W)                        reads 3, writes 1 map
    backward   grad, x, y, local, global -> grad_x, grad_y, grad_local, grad_global        reads 4, writes 3 maps

    grad_x = m g,   grad_y = (1 - m) g,   grad_local = m (1 - m) (x - y) g,   grad_global = the sum of grad_local

The backward pass recomputes the mask, writes the gradients and sums them (lib/channel_sums.py).
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.channel_sums import as_summed, launch_sums, map_address
from fastiqa.kernels.lib.channels import channel_values, launch_channelwise
from fastiqa.kernels.lib.sigmoid import sigmoid
from fastiqa.kernels.lib.tiles import address, locate, widened
from torch import Tensor

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "attentional_blend_kernel": (3, 1, "global, one value a plane"),
    "channel_sums_by_planes_kernel": (4, 3, "global and its gradient, one value a plane"),
    "channel_sums_by_pixels_kernel": (4, 3, "global, and partial sums of a block's pixels"),
    "finish_channel_sums_kernel": (0, 0, "a few bytes a channel"),
}

# ---- kernels ----


@triton.jit
def attentional_blend_kernel(
    x_ptr, y_ptr, local_ptr, out_ptr, values, sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, A_ROW: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    (shared,) = channel_values(values, i0, i1, i2, element, inside, sizes, PACK, A_ROW)
    x = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    y = widened(tl.load(address(y_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside))
    local = widened(tl.load(address(local_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), inside))
    m = sigmoid(local + widened(shared))
    out = (m * x + (1 - m) * y).to(out_ptr.dtype.element_ty)
    tl.store(address(out_ptr, i0, i1, i2, element, strides[3], inner[3], PACK), out, inside)


@triton.jit
def attentional_blend_terms(
    maps, values, n, c, i, j, inside, strides, CONSTANT, PACK: tl.constexpr, BY_PIXELS: tl.constexpr
):
    (shared,) = values
    grad_ptr, x_ptr, y_ptr, local_ptr, to_x_ptr, to_y_ptr, to_local_ptr = maps
    grad = widened(tl.load(map_address(grad_ptr, n, c, i, j, strides[0], PACK, BY_PIXELS), inside, 0))
    x = widened(tl.load(map_address(x_ptr, n, c, i, j, strides[1], PACK, BY_PIXELS), inside, 0))
    y = widened(tl.load(map_address(y_ptr, n, c, i, j, strides[2], PACK, BY_PIXELS), inside, 0))
    local = widened(tl.load(map_address(local_ptr, n, c, i, j, strides[3], PACK, BY_PIXELS), inside, 0))
    m = sigmoid(local + shared)
    to_local = grad * (x - y) * (1 - m) * m
    to = to_x_ptr.dtype.element_ty
    tl.store(map_address(to_x_ptr, n, c, i, j, strides[4], PACK, BY_PIXELS), (grad * m).to(to), inside)
    tl.store(map_address(to_y_ptr, n, c, i, j, strides[5], PACK, BY_PIXELS), (grad * (1 - m)).to(to), inside)
    tl.store(map_address(to_local_ptr, n, c, i, j, strides[6], PACK, BY_PIXELS), to_local.to(to), inside)
    return (to_local,)


# ---- launchers ----


def attentional_blend(x: Tensor, y: Tensor, local: Tensor, shared: Tensor, out: Tensor) -> None:
    launch_channelwise(attentional_blend_kernel, (x, y, local, out), (shared,))


def attentional_blend_backward(
    grad: Tensor, x: Tensor, y: Tensor, local: Tensor, shared: Tensor,
    grad_x: Tensor, grad_y: Tensor, grad_local: Tensor, grad_shared: Tensor,
) -> None:  # fmt: skip
    maps = (grad, x, y, local, grad_x, grad_y, grad_local)
    launch_sums(attentional_blend_terms, as_summed, maps, (shared,), (grad_shared,))
