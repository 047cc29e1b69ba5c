"""template_op: y = x |x|, and its adjoint 2 |x| g.

forward    (N,C,H,W) -> (N,C,H,W)          reads 1, writes 1 map
backward   (N,C,H,W) x2 -> (N,C,H,W)       reads 2, writes 1 map
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import launch
from fastiqa.kernels.lib.tiles import address, locate, widened
from torch import Tensor

# ---- kernels ----


@triton.jit
def template_op_kernel(
    x_ptr, y_ptr, sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    x = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    y = x * tl.abs(x)
    tl.store(address(y_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def template_op_backward_kernel(
    x_ptr, grad_ptr, y_ptr, sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    x = widened(tl.load(address(x_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    grad = widened(tl.load(address(grad_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside))
    y = 2 * tl.abs(x) * grad
    tl.store(address(y_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), y.to(y_ptr.dtype.element_ty), inside)


# ---- launchers ----


def template_op(x: Tensor, out: Tensor) -> None:
    launch(template_op_kernel, (x, out))


def template_op_backward(x: Tensor, grad: Tensor, out: Tensor) -> None:
    launch(template_op_backward_kernel, (x, grad, out))
