"""high_pass: x minus the mean of its 2x2 block. Its own adjoint.

(N,C,H,W) -> (N,C,H,W)      reads 1, writes 1 map
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.blocks import launch_blocks, load_fine, locate_blocks, shares, store_fine
from torch import Tensor

# ---- kernels ----


@triton.jit
def high_pass_kernel(
    x_ptr, y_ptr, sizes, strides, size, packs,
    COLUMNS: tl.constexpr, PACK: tl.constexpr, RUNS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    tile = locate_blocks(sizes, RUNS, COUNT)
    a, b, c, d = load_fine(x_ptr, tile, strides[0], size, packs[0], COLUMNS, PACK, RUNS, COUNT)
    mean = (a + b + c + d) * shares(tile, size, a, COLUMNS, COUNT)
    store_fine(
        y_ptr, tile, strides[1], size, packs[0], a - mean, b - mean, c - mean, d - mean, COLUMNS, PACK, RUNS, COUNT
    )


# ---- launchers ----


def high_pass(x: Tensor, out: Tensor) -> None:
    launch_blocks(high_pass_kernel, (x, out))
