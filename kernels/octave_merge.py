"""octave_merge: high + up(low), where up repeats a value over its 2x2 block, and the adjoint of up.

forward    (N,C,H,W), (N,C,H/2,W/2) -> (N,C,H,W)      reads 1.25, writes 1 map
backward   (N,C,H,W) -> (N,C,H/2,W/2)                 reads 1, writes 0.25 maps: sums over blocks
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.blocks import coarse, launch_blocks, load_fine, locate_blocks, store_fine
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

# For tests: bytes of the narrowest access by memory format if fewer than 16, and why.
NARROW = {"nchw": (8, "a row of the half-size map is half as wide as the two rows of 16 bytes that it meets")}

# ---- kernels ----


@triton.jit
def octave_merge_kernel(
    high_ptr, y_ptr, low_ptr, sizes, strides, size, packs,
    COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    tile = locate_blocks(sizes, RUNS, COUNT)
    a, b, c, d = load_fine(high_ptr, tile, strides[0], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    at, inside = coarse(low_ptr, tile, strides[2], packs[1], COLUMNS, PACK, COUNT)
    low = widened(tl.load(at, inside, 0.0))
    store_fine(y_ptr, tile, strides[1], size, packs[0], a + low, b + low, c + low, d + low, COLUMNS, PACK, RUNS, COUNT)


@triton.jit
def octave_merge_backward_kernel(
    grad_ptr, low_ptr, sizes, strides, size, packs,
    COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    tile = locate_blocks(sizes, RUNS, COUNT)
    a, b, c, d = load_fine(grad_ptr, tile, strides[0], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    at, inside = coarse(low_ptr, tile, strides[1], packs[1], COLUMNS, PACK, COUNT)
    tl.store(at, (a + b + c + d).to(low_ptr.dtype.element_ty), inside)


# ---- launchers ----


def octave_merge(high: Tensor, low: Tensor, out: Tensor) -> None:
    launch_blocks(octave_merge_kernel, (high, out), (low,))


def octave_merge_backward(grad: Tensor, grad_low: Tensor) -> None:
    launch_blocks(octave_merge_backward_kernel, (grad,), (grad_low,))
