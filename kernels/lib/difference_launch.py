"""Launches of the kernels in difference.py: how maps lie, and how sums are cut to fill a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from fastiqa.kernels.lib.difference import products_kernel, spread_kernel, sums_kernel
from fastiqa.kernels.lib.difference_parts import collect_kernel, gather_kernel
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of, pack_size
from torch import Tensor

PROGRAMS = 512  # that fill a GPU: sums are cut into parts until there are as many, whatever the batch
LANES = 256
MOST_REGISTERS = 128  # said to ptxas 13, which else holds one kernel to 64 and spills
BLOCK = 256  # results of a program that adds up parts


class Triple(NamedTuple):
    """Three maps of one size: sizes, strides (but the lanes' own in packs), and the form of their tiles."""

    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, ...], ...]
    limits: tuple[int, int]  # pixels and channels; what lanes run along in packs
    form: int
    pack: int
    outer: int
    lanes: int

    @property
    def tile(self) -> tuple[int, int]:
        """Pixels and channels of a tile."""
        return (self.outer, self.lanes) if self.form == 1 else (self.lanes, self.outer)


def triple(maps: Sequence[Tensor]) -> Triple:
    n, c, h, w = maps[0].shape
    strides = [[s if size > 1 else 0 for s, size in zip(x.stride(), x.shape, strict=True)] for x in maps]
    flat = all((w == 1 or s[3] == 1) and (h == 1 or s[2] == w) for s in strides)
    channels = all(c == 1 or s[1] == 1 for s in strides)
    form = 1 if channels and (not flat or c > h * w) else 0 if flat else 2
    length, outside = (c, (0, 2, 3)) if form == 1 else (h * w, (0, 1))
    pack = 1 if form == 2 else pack_size(maps[0].element_size(), (), length, *(s[d] for s in strides for d in outside))
    lane = {0: (2, 3), 1: (1,), 2: ()}[form]
    packed = tuple(tuple(s[d] if d in lane else s[d] // pack for d in range(4)) for s in strides)
    limits = (h * w, c // pack) if form == 1 else (h * w // pack, c)
    most = TILE if maps[0].dtype == torch.float64 else LANES  # one channel's weights take fewer registers
    lanes = min(most, triton.next_power_of_2(length))
    return Triple((n, c, h, w), packed, limits, form, pack, TILE // lanes, lanes)


def weight_strides(weight: Tensor) -> tuple[int, ...]:
    """Of samples (0 where all share one), outputs, sides, channels, rows and columns."""
    *sample, output, channel, row, column = weight.stride()
    return (sample[0] if sample else 0, output, weight.shape[-3] // 2 * channel, channel, row, column)


def cut(length: int, step: int, programs: int, least: int) -> tuple[int, int]:
    """Terms in a part, a multiple of `step`, and parts, of a sum of that length of which there are so many."""
    most = triton.cdiv(length, step * least)
    parts = max(1, min(most, PROGRAMS // max(1, programs)))
    terms = triton.cdiv(triton.cdiv(length, parts), step) * step
    return terms, triton.cdiv(length, terms)


def rows_at_once(rows: int, dtype: torch.dtype) -> int:
    return 1 if rows == 1 or dtype == torch.float64 else 3  # three sums of float64 are more than the registers


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def sums(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    t, (outputs, size) = triple(maps), (weight.shape[-4], weight.shape[-1])
    (n, c, h, w), rows, (pixels, channels) = t.sizes, outputs * size**2, t.tile
    at_once = rows_at_once(rows, out.dtype)
    programs = triton.cdiv(h * w, pixels) * triton.cdiv(rows, at_once)
    terms, parts = cut(c, channels, programs, 1 if t.form == 1 else 4)
    scratch = torch.empty((parts, n, rows, h * w), dtype=accumulator(out.dtype), device=out.device)
    grid = (programs * parts * n,)
    with on_device_of(out):
        sums_kernel[grid](
            *maps, weight, scratch, t.sizes, t.strides, weight_strides(weight), rows, size**2, size, t.limits, terms,
            parts,
            FORM=t.form, PACK=t.pack, ROWS=at_once, OUTER=t.outer, LANES=t.lanes,
            num_warps=WARPS, enable_fp_fusion=True, maxnreg=MOST_REGISTERS,
        )  # fmt: skip
    grid = (triton.cdiv(out.numel(), BLOCK),)
    with on_device_of(out):
        gather_kernel[grid](
            scratch, out if bias is None else bias, out, t.sizes, out.stride(), 0 if bias is None else bias.stride(0),
            outputs, size**2, size, parts,
            BIAS=bias is not None, BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def products(maps: Sequence[Tensor], gate: Tensor, strides: Sequence[int], size: int, each: bool, out: Tensor) -> None:
    """`strides` are those of the output as a weight: weight_strides."""
    t, outputs = triple(maps), gate.shape[1]
    (n, c, h, w), rows, (pixels, channels) = t.sizes, outputs * size**2, t.tile
    at_once = rows_at_once(rows, out.dtype)
    programs = triton.cdiv(c, channels) * triton.cdiv(rows, at_once)
    terms, parts = cut(h * w, pixels, programs, 4)
    scratch = torch.empty((n, parts, rows, 2, c), dtype=accumulator(out.dtype), device=out.device)
    grid = (programs * parts * n,)
    with on_device_of(out):
        products_kernel[grid](
            *maps, gate, scratch, t.sizes, t.strides, gate.stride(), rows, size**2, size, t.limits, terms, parts,
            FORM=t.form, PACK=t.pack, ROWS=at_once, OUTER=t.outer, LANES=t.lanes,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    together = parts if each else parts * n
    grid = (triton.cdiv(out.numel(), BLOCK),)
    with on_device_of(out):
        collect_kernel[grid](
            scratch, out, tuple(strides), c, rows, size**2, size, together, out.numel(),
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def spread(gate: Tensor, weight: Tensor, grads: Sequence[Tensor]) -> None:
    t, (outputs, size) = triple(grads), (weight.shape[-4], weight.shape[-1])
    (n, c, h, w), (pixels, channels) = t.sizes, t.tile
    grid = (triton.cdiv(h * w, pixels) * triton.cdiv(c, channels) * n,)
    with on_device_of(gate):
        spread_kernel[grid](
            gate, weight, *grads, t.sizes, t.strides, gate.stride(), weight_strides(weight),
            outputs * size**2, size**2, size, t.limits,
            FORM=t.form, PACK=t.pack, OUTER=t.outer, LANES=t.lanes, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
