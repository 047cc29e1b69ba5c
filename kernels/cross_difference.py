"""cross_difference: [ref - a, ref - b] along the channels, and its adjoint.

    forward    (N,C,H,W) x3 -> (N,2C,H,W)      reads 3, writes 2 maps
    backward   (N,2C,H,W) -> (N,C,H,W) x3      reads 2, writes 3 maps:  ga + gb, -ga, -gb

A program moves a tile of rows of all five maps; the halves of the wide tensor are two operands.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import launch
from fastiqa.kernels.lib.tiles import address, locate, widened
from torch import Tensor

# ---- kernels ----


@triton.jit
def cross_difference_kernel(
    ref_ptr, a_ptr, b_ptr, to_a_ptr, to_b_ptr,
    sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    ref = widened(tl.load(address(ref_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    a = widened(tl.load(address(a_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside))
    b = widened(tl.load(address(b_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), inside))
    to = to_a_ptr.dtype.element_ty
    tl.store(address(to_a_ptr, i0, i1, i2, element, strides[3], inner[3], PACK), (ref - a).to(to), inside)
    tl.store(address(to_b_ptr, i0, i1, i2, element, strides[4], inner[4], PACK), (ref - b).to(to), inside)


@triton.jit
def cross_difference_backward_kernel(
    to_a_ptr, to_b_ptr, ref_ptr, a_ptr, b_ptr,
    sizes, strides, inner, packs,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    i0, i1, i2, element, inside = locate(sizes, packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    ga = widened(tl.load(address(to_a_ptr, i0, i1, i2, element, strides[0], inner[0], PACK), inside))
    gb = widened(tl.load(address(to_b_ptr, i0, i1, i2, element, strides[1], inner[1], PACK), inside))
    to = ref_ptr.dtype.element_ty
    tl.store(address(ref_ptr, i0, i1, i2, element, strides[2], inner[2], PACK), (ga + gb).to(to), inside)
    tl.store(address(a_ptr, i0, i1, i2, element, strides[3], inner[3], PACK), (-ga).to(to), inside)
    tl.store(address(b_ptr, i0, i1, i2, element, strides[4], inner[4], PACK), (-gb).to(to), inside)


# ---- launchers ----


def cross_difference(ref: Tensor, a: Tensor, b: Tensor, out: Tensor) -> None:
    launch(cross_difference_kernel, (ref, a, b, *out.chunk(2, 1)))


def cross_difference_backward(grad: Tensor, grad_ref: Tensor, grad_a: Tensor, grad_b: Tensor) -> None:
    launch(cross_difference_backward_kernel, (*grad.chunk(2, 1), grad_ref, grad_a, grad_b))
