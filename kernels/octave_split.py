"""octave_split: leaky ReLU and the average of its result over 2x2 blocks, and the adjoint.

forward    (N,C,H,W) -> (N,C,H,W), (N,C,H/2,W/2)      reads 1, writes 1.25 maps
backward   (N,C,H,W) x2, (N,C,H/2,W/2) -> (N,C,H,W)   reads 2.25, writes 1 map
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.blocks import coarse, launch_blocks, load_fine, locate_blocks, shares, store_fine
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

# For tests: bytes of the narrowest access by memory format if fewer than 16, and why.
NARROW = {"nchw": (8, "a row of the half-size map is half as wide as the two rows of 16 bytes that it meets")}

# ---- kernels ----


@triton.jit
def leaky(x, by, SLOPE: tl.constexpr):
    """x where `by` is positive, else x times the slope."""
    return tl.where(by > 0, x, x * SLOPE)


@triton.jit
def octave_split_kernel(
    x_ptr, act_ptr, pooled_ptr, sizes, strides, size, packs,
    COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr, COUNT: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    tile = locate_blocks(sizes, RUNS, COUNT)
    a, b, c, d = load_fine(x_ptr, tile, strides[0], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    a, b, c, d = leaky(a, a, SLOPE), leaky(b, b, SLOPE), leaky(c, c, SLOPE), leaky(d, d, SLOPE)
    store_fine(act_ptr, tile, strides[1], size, packs[0], a, b, c, d, COLUMNS, PACK, RUNS, COUNT)
    mean = (a + b + c + d) * shares(tile, size, a, COLUMNS, COUNT)
    at, inside = coarse(pooled_ptr, tile, strides[2], packs[1], COLUMNS, PACK, COUNT)
    tl.store(at, mean.to(pooled_ptr.dtype.element_ty), inside)


@triton.jit
def octave_split_backward_kernel(
    act_ptr, grad_act_ptr, to_ptr, grad_pooled_ptr, sizes, strides, size, packs,
    COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr, COUNT: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    tile = locate_blocks(sizes, RUNS, COUNT)
    a, b, c, d = load_fine(act_ptr, tile, strides[0], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    ga, gb, gc, gd = load_fine(grad_act_ptr, tile, strides[1], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    at, inside = coarse(grad_pooled_ptr, tile, strides[3], packs[1], COLUMNS, PACK, COUNT)
    g = widened(tl.load(at, inside, 0.0)) * shares(tile, size, a, COLUMNS, COUNT)
    ga, gb, gc, gd = leaky(ga + g, a, SLOPE), leaky(gb + g, b, SLOPE), leaky(gc + g, c, SLOPE), leaky(gd + g, d, SLOPE)
    store_fine(to_ptr, tile, strides[2], size, packs[0], ga, gb, gc, gd, COLUMNS, PACK, RUNS, COUNT)


# ---- launchers ----

# The slope is compiled in: an argument would arrive as float32 in any case, and a network has one slope.


def octave_split(x: Tensor, negative_slope: float, act: Tensor, pooled: Tensor) -> None:
    launch_blocks(octave_split_kernel, (x, act), (pooled,), SLOPE=negative_slope)


def octave_split_backward(
    act: Tensor, grad_act: Tensor, grad_pooled: Tensor, negative_slope: float, grad_x: Tensor
) -> None:
    launch_blocks(octave_split_backward_kernel, (act, grad_act, grad_x), (grad_pooled,), SLOPE=negative_slope)
