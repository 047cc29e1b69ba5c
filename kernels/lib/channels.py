"""Element-wise passes over feature maps with values for every channel of every sample.

The Python form of csrc/passes/channelwise; passes that also sum are in channel_sums.py. If the pixels of a channel are
neighbours in memory (by planes: NCHW), a row of a tile has one of each value; if the channels of a pixel are (by
pixels: channels-last), all rows have the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import WARPS, Nest, joined, on_device_of, pack_size, tile
from torch import Tensor

# ---- on the device ----


@triton.jit
def channel_values(values, i0, i1, i2, element, inside, sizes, PACK: tl.constexpr, A_ROW: tl.constexpr):
    """Values for a tile of tiles.locate: one for each row, or one for each element."""
    loaded = ()
    for k in tl.static_range(len(values)):
        pointer, strides, inner = values[k]
        row = i0 * strides[0] + i1 * strides[1] + i2 * strides[2]
        if A_ROW:
            loaded += (tl.load(pointer + row[:, None], (i2 < sizes[2])[:, None]),)
        else:
            loaded += (tl.load(pointer + (row * PACK)[:, None] + (element * inner)[None, :], inside),)
    return loaded


# ---- launches ----


def launch_channelwise(kernel: Any, maps: Sequence[Tensor], values: Sequence[Tensor], **constants: Any) -> None:
    """Run an element-wise kernel over maps, outputs last, and values (N, C, 1, 1).

    The kernel is called as `kernel(*maps, values, sizes, strides, inner, packs)`, see launch.launch; each of the
    values, for channel_values, is a pointer, strides and an inner stride. With A_ROW there is one value for each row,
    and its strides are in elements; otherwise they are in packs, as the maps' strides are.
    """
    count = len(values)
    strides = [x.expand(maps[0].shape).stride() for x in (*values, *maps)]
    sizes, (along, *outer) = joined(maps[0].shape, strides)
    a_row = not any(along[:count])
    packed = slice(count if a_row else 0, None)
    pack = pack_size(maps[0].element_size(), along[packed], sizes[0], *(s for step in outer for s in step[packed]))
    of_maps = tuple(zip(*([s // pack for s in step[count:]] for step in outer), strict=True))
    of_values = tuple(zip(*([s if a_row else s // pack for s in step[:count]] for step in outer), strict=True))
    nest = Nest((sizes[1], sizes[2], sizes[3]), of_maps, tuple(along[count:]), sizes[0] // pack, pack)
    block_rows, block_packs, grid = tile(nest)
    with on_device_of(maps[0]):
        kernel[grid](
            *maps, tuple(zip(values, of_values, along, strict=False)), nest.sizes, nest.strides, nest.inner, nest.packs,
            PACK=pack, BLOCK_ROWS=block_rows, BLOCK_PACKS=block_packs, A_ROW=a_row, num_warps=WARPS,
            enable_fp_fusion=False, **constants,
        )  # fmt: skip
