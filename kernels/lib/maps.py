"""Addresses and tiles of maps that are not folded, because neighbours along y and x matter.

In "planes" rows lie together (NCHW, any strides), in "pixels" channels do.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, block, pack_size
from torch import Tensor

# ---- on the device ----


@triton.jit
def map_at(pointer, strides, n, c, y, x, PIXELS: tl.constexpr, PACK: tl.constexpr):
    """Pointers into a map whose strides are in packs, except that of the innermost dimension."""
    y, x = y.to(tl.int64), x.to(tl.int64)
    if PIXELS:
        outer, inner = n * strides[0] + y * strides[2] + x * strides[3], c * strides[1]
    else:
        outer, inner = n * strides[0] + c * strides[1] + y * strides[2], x * strides[3]
    return pointer + outer * PACK + inner


@triton.jit
def steps_of(strides, PIXELS: tl.constexpr, PACK: tl.constexpr):
    """Elements from a row to the next, and from a column to the next."""
    one = tl.full((), 1, tl.int64)
    return one * strides[2] * PACK, one * strides[3] * (PACK if PIXELS else 1)


# ---- on the host ----


def pack_of(inner: int, *maps: Tensor) -> int:
    """The widest pack along dimension `inner` that every length and stride allows, up to 16 bytes."""
    others = (x.stride(d) for x in maps for d in range(4) if d != inner)
    return pack_size(maps[0].element_size(), (x.stride(inner) for x in maps), maps[0].shape[inner], *others)


def strides_of(x: Tensor, inner: int, pack: int) -> tuple[int, ...]:
    return tuple(s if d == inner else s // pack for d, s in enumerate(x.stride()))


def map_tile(rows: int, packs: int, pack: int, elements: int = TILE) -> dict[str, int]:
    block_rows, block_packs = block(rows, packs, pack, elements)
    return {"BLOCK_ROWS": block_rows, "BLOCK_PACKS": block_packs, "PACK": pack}
