"""mix_kernels: sums of convolution kernels, weighted by the rows of a small matrix, and the gradients.

    forward    mix (R,S,K), weight (K,C,k,k) -> (R,SC,k,k)                  reads the weight
    backward   grad (R,SC,k,k), mix, weight -> (R,S,K), (K,C,k,k)           reads the weight, writes its gradient

    out = mix weight              mix_sums_kernel, mix_collect_kernel
    grad_mix = grad weight^T      mix_dots_kernel
    grad_weight = mix^T grad      mix_outer_kernel

The columns of the weight are the elements of a kernel in memory order, as in csrc/ops/mix_kernels: runs of neighbours.
A tile has some kernels and some columns of a run. A first kernel gathers the rows of grad in the order of the columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import MOST_REGISTERS, TILE, WARPS, accumulator, cut, joined, on_device_of, pack_size
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

# For tests: how many tensors a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "mix_sums_kernel": (1, 0, "factors, and sums, of which a tile has one a column"),
    "mix_dots_kernel": (1, 0, "rows of grad, of which a tile has one element a column, and sums"),
    "mix_outer_kernel": (0, 1, "rows of grad, of which a tile has one element a column, and factors"),
    "mix_collect_kernel": (0, 0, "single elements, put where they belong"),
    "mix_gather_kernel": (0, 0, "single elements, from where they are"),
}

FEW, MANY = 2, 6  # rows at a time
LANES = 256  # columns of a tile
BLOCK = 256  # elements for a program that collects or gathers

# ---- on the device ----


@triton.jit
def locate_columns(sizes, groups, PACK: tl.constexpr, LANES: tl.constexpr):
    """This program's run of columns, its elements and which exist, its group of rows or kernels, and the part."""
    program = tl.program_id(0)  # 32 bits for divisions, which are cheaper, 64 for products
    blocks, runs = tl.cdiv(sizes[0] * PACK, LANES), sizes[1] * sizes[2]
    x = (program % blocks).to(tl.int64) * LANES + tl.arange(0, LANES)[None, :]
    rest = program // blocks
    group, part = rest // runs % groups, rest // runs // groups
    return (rest % runs).to(tl.int64), x, x < sizes[0] * PACK, group.to(tl.int64), part.to(tl.int64)


@triton.jit
def offsets(run, x, sizes, strides, PACK: tl.constexpr):
    """Offsets of elements x of a run; strides between runs are in packs."""
    return (run % sizes[1] * strides[1] + run // sizes[1] * strides[2]) * PACK + x * strides[0]


@triton.jit
def row_of(m, sides, strides):
    """The offset of row m of a tensor (R, S ...)."""
    return m // sides * strides[0] + m % sides * strides[1]


@triton.jit
def rows_from(group, ROWS: tl.constexpr):
    """Row numbers of a group, as tiles of one element: the interpreter cannot combine a mask with a scalar."""
    rows = ()
    for r in tl.static_range(ROWS):
        rows += (group * ROWS + r + tl.arange(0, 1)[:, None],)
    return rows


@triton.jit
def mix_sums_kernel(
    mix_ptr, weight_ptr, parts_ptr, sides, rows, groups, mix_strides, kernels, kernel_stride, sizes, strides, length,
    PACK: tl.constexpr, ROWS: tl.constexpr, KERNELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    run, x, inside, group, part = locate_columns(sizes, groups, PACK, LANES)
    weight_ptr += offsets(run, x, sizes, strides, PACK)
    ms = rows_from(group, ROWS)
    j = part * length + tl.arange(0, KERNELS)[:, None]
    end = tl.minimum((part + 1) * length, kernels)
    sums = (tl.zeros((KERNELS, LANES), parts_ptr.dtype.element_ty),) * ROWS
    for _ in range(0, length, KERNELS):
        w = widened(tl.load(weight_ptr + j * kernel_stride * PACK, inside & (j < end), 0.0))
        after = ()
        for r in tl.static_range(ROWS):
            at = mix_ptr + row_of(ms[r], sides, mix_strides) + j * mix_strides[2]
            after += (sums[r] + widened(tl.load(at, (j < end) & (ms[r] < rows), 0.0)) * w,)
        sums = after
        j += KERNELS
    columns = tl.full((), 1, tl.int64) * sizes[0] * PACK * sizes[1] * sizes[2]
    for r in tl.static_range(ROWS):
        to = parts_ptr + (part * rows + ms[r]) * columns + run * sizes[0] * PACK + x
        tl.store(to, tl.sum(sums[r], 0, keep_dims=True), inside & (ms[r] < rows))


@triton.jit
def mix_dots_kernel(
    grad_ptr, weight_ptr, out_ptr, sides, rows, groups, out_strides, kernels, kernel_stride, sizes, strides,
    PACK: tl.constexpr, ROWS: tl.constexpr, KERNELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    ms = rows_from(program % groups, ROWS)
    j = program // groups * KERNELS + tl.arange(0, KERNELS)[:, None]
    weight_ptr += j * kernel_stride * PACK
    one = tl.full((), 1, tl.int64)
    length, runs = one * sizes[0] * PACK, one * sizes[1] * sizes[2]
    sums = (tl.zeros((KERNELS, LANES), grad_ptr.dtype.element_ty),) * ROWS
    for run in range(runs):
        for start in range(0, length, LANES):
            x = start + tl.arange(0, LANES)[None, :]
            w = tl.load(weight_ptr + offsets(run, x, sizes, strides, PACK), (x < length) & (j < kernels), 0.0)
            after = ()
            for r in tl.static_range(ROWS):
                g = tl.load(grad_ptr + ms[r] * (length * runs) + run * length + x, (x < length) & (ms[r] < rows), 0.0)
                after += (sums[r] + g * widened(w),)
            sums = after
    for r in tl.static_range(ROWS):
        to = out_ptr + row_of(ms[r], sides, out_strides) + j * out_strides[2]
        total = tl.sum(sums[r], 1, keep_dims=True).to(out_ptr.dtype.element_ty)
        tl.store(to, total, (j < kernels) & (ms[r] < rows))


@triton.jit
def mix_outer_kernel(
    grad_ptr, mix_ptr, to_ptr, sides, rows, groups, mix_strides, kernels, kernel_stride, sizes, strides,
    PACK: tl.constexpr, KERNELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    run, x, inside, group, _ = locate_columns(sizes, groups, PACK, LANES)
    j = group * KERNELS + tl.arange(0, KERNELS)[:, None]
    columns = tl.full((), 1, tl.int64) * sizes[0] * PACK * sizes[1] * sizes[2]
    grad_ptr += run * sizes[0] * PACK + x
    total = tl.zeros((KERNELS, LANES), grad_ptr.dtype.element_ty)
    for m in range(rows):
        at = mix_ptr + row_of(m, sides, mix_strides) + j * mix_strides[2]
        total += widened(tl.load(at, j < kernels, 0.0)) * tl.load(grad_ptr + m * columns, inside, 0.0)
    at = to_ptr + j * kernel_stride * PACK + offsets(run, x, sizes, strides, PACK)
    tl.store(at, total.to(to_ptr.dtype.element_ty), inside & (j < kernels))


@triton.jit
def element(i, sides, row_strides, sizes, strides):
    """The offset of element i of the rows: all columns of the first row, then all of the next."""
    columns = tl.full((), 1, tl.int64) * sizes[0] * sizes[1] * sizes[2]
    n = i % columns
    return row_of(i // columns, sides, row_strides) + offsets(n // sizes[0], n % sizes[0], sizes, strides, 1)


@triton.jit
def mix_collect_kernel(parts_ptr, out_ptr, parts, elements, sides, row_strides, sizes, strides, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), parts_ptr.dtype.element_ty)
    for part in range(parts):
        total += tl.load(parts_ptr + part * elements + i, i < elements, 0.0)
    to = out_ptr + element(i, sides, row_strides, sizes, strides)
    tl.store(to, total.to(out_ptr.dtype.element_ty), i < elements)


@triton.jit
def mix_gather_kernel(grad_ptr, to_ptr, elements, sides, row_strides, sizes, strides, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = grad_ptr + element(i, sides, row_strides, sizes, strides)
    tl.store(to_ptr + i, widened(tl.load(at, i < elements, 0.0)), i < elements)


# ---- launchers ----


class Columns(NamedTuple):
    """The columns of a weight in a tensor: runs of neighbours in two dimensions, strides of all three."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def columns_of(x: Tensor, weight: Tensor) -> Columns:
    sizes, steps = joined((1, *weight.shape[1:]), (x.stride(), weight.stride()))
    return Columns(tuple(sizes[:3]), tuple(step[0] for step in steps[:3]))


class Kernels(NamedTuple):
    """A weight or its gradient for the kernels above, in packs: columns, and the constants of their tiles."""

    stride: int
    columns: Columns
    pack: int
    lanes: int

    @property
    def blocks(self) -> int:
        (packs, *runs), _ = self.columns
        return triton.cdiv(packs * self.pack, self.lanes) * runs[0] * runs[1]


def kernels_of(x: Tensor, weight: Tensor, lanes: int = LANES) -> Kernels:
    (length, *runs), (inner, *outer) = columns_of(x, weight)
    stride = x.stride(0) if x.shape[0] > 1 else 0
    pack = pack_size(x.element_size(), (inner,), length, stride, *outer)
    columns = Columns((length // pack, *runs), (inner, *(step // pack for step in outer)))
    return Kernels(stride // pack, columns, pack, min(lanes, triton.next_power_of_2(length)))


def row_strides(x: Tensor, channels: int) -> tuple[int, int]:
    return x.stride(0), channels * x.stride(1)


def mix_kernels(mix: Tensor, weight: Tensor, out: Tensor) -> None:
    (r, sides, kernels), w = mix.shape, kernels_of(weight, weight)
    rows, at_once, together = r * sides, FEW if r * sides <= FEW else MANY, TILE // w.lanes
    groups = triton.cdiv(rows, at_once)
    length, parts = cut(kernels, together, w.blocks * groups, 4)
    sums = torch.empty((parts, out.numel()), dtype=accumulator(out.dtype), device=out.device)
    with on_device_of(out):
        mix_sums_kernel[(w.blocks * groups * parts,)](
            mix, weight, sums, sides, rows, groups, mix.stride(), kernels, w.stride, *w.columns, length,
            PACK=w.pack, ROWS=at_once, KERNELS=together, LANES=w.lanes, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    with on_device_of(out):
        mix_collect_kernel[(triton.cdiv(out.numel(), BLOCK),)](
            sums, out, parts, out.numel(), sides, row_strides(out, weight.shape[1]), *columns_of(out, weight),
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def mix_kernels_backward(grad: Tensor, mix: Tensor, weight: Tensor, grad_mix: Tensor, grad_weight: Tensor) -> None:
    rows, (_, sides, kernels) = mix.shape[0] * mix.shape[1], mix.shape
    gathered = torch.empty((rows, weight[0].numel()), dtype=accumulator(grad.dtype), device=grad.device)
    with on_device_of(grad):
        mix_gather_kernel[(triton.cdiv(grad.numel(), BLOCK),)](
            grad, gathered, grad.numel(), sides, row_strides(grad, weight.shape[1]), *columns_of(grad, weight),
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip

    # One kernel a program if rows are few, for only so there are many programs.
    w, at_once = (kernels_of(weight, weight, TILE), FEW) if rows <= FEW else (kernels_of(weight, weight), MANY)
    groups, together = triton.cdiv(rows, at_once), TILE // w.lanes
    with on_device_of(grad):
        mix_dots_kernel[(groups * triton.cdiv(kernels, together),)](
            gathered, weight, grad_mix, sides, rows, groups, grad_mix.stride(), kernels, w.stride, *w.columns,
            PACK=w.pack, ROWS=at_once, KERNELS=together, LANES=w.lanes, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip

    w = kernels_of(grad_weight, weight)
    together = TILE // w.lanes
    groups = triton.cdiv(kernels, together)
    with on_device_of(grad):
        mix_outer_kernel[(w.blocks * groups,)](
            gathered, mix, grad_weight, sides, rows, groups, mix.stride(), kernels, w.stride, *w.columns,
            PACK=w.pack, KERNELS=together, LANES=w.lanes,
            num_warps=WARPS, enable_fp_fusion=True, maxnreg=MOST_REGISTERS,
        )  # fmt: skip
