"""large_kernel_conv: depthwise 5x5, then depthwise 7x7 of dilation 3; and its gradients.

    forward           x -> t -> y                          a pass each: reads x and t, writes t and y
    input_backward    grad -> gt -> grad_x                 the same with kernels turned by 180 degrees, in reverse order
    backward          both, then grad_w7, grad_b7 of t and grad, grad_w5, grad_b5 of x and gt

t and its gradient gt go through memory, in float32 (float64 for float64): 2|x| + 2|t| forward, 5|x| + 5|t| backward,
|t| = 2|x| for 16-bit types. One pass for both convolutions would need the t of a tile and its halo of 9 pixels in
shared memory, which Triton does not offer.

In "planes" rows lie together (NCHW, any strides), in "pixels" channels do, and so do the weights of a tap. For the
gradients of weights a program has one row of a kernel, some channels and some pixels, either of which lie along the
rows of its tile; a second kernel adds the programs' partial sums in order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of
from fastiqa.kernels.lib.maps import map_at, map_tile, pack_of, steps_of, strides_of
from fastiqa.kernels.lib.tiles import locate, widened
from torch import Tensor

FOUR = "4 elements a thread, with 8 sums each (8 took 152 registers); in NCHW neighbours of a pack"
# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "depthwise_planes_kernel": (0, 1, "neighbours along x of a pack, which start anywhere; weights, one a row"),
    "weight_gradient_sums_kernel": (0, 0, FOUR),
    "weight_gradient_total_kernel": (0, 0, "sums, some of which are the bias's"),
}

DILATIONS = {5: 1, 7: 3}
STEPS = 8  # tiles in the sums of a program

# ---- convolutions ----


@triton.jit
def convolved(
    x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, known,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PIXELS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """A tile of the convolution in the accumulation type; `known` masks existing channels."""
    HALF: tl.constexpr = DILATION * (K // 2)
    weight_ptr = w_ptr + c * w_strides[0]
    row_of_weight, column_of_weight = steps_of(w_strides, PIXELS, PACK if PIXELS else 1)
    zero = tl.zeros(inside.shape, tl.float64 if w_ptr.dtype.element_ty == tl.float64 else tl.float32)
    total = zero
    if BIAS:
        total += widened(tl.load(b_ptr + c * b_stride, known, other=0.0))
    row_step, column_step = steps_of(x_strides, PIXELS, PACK)
    here = map_at(x_ptr, x_strides, n, c, y, x, PIXELS, PACK)
    sides = tl.full((), 1, tl.int32) * size[0] * size[1]  # int64 if one of them needs it
    # Narrow indices halve the registers for an x of each element: else Triton 3.6 spills 152 bytes on sm_80.
    if not PIXELS and sides.dtype == tl.int32:
        y, x = y.to(tl.int32), x.to(tl.int32)
    for ky in range(K):
        v = y + (ky * DILATION - HALF)
        row_inside = inside & (v >= 0) & (v < size[0])
        row = zero  # a sum for each row of the kernel: fewer roundings in a chain
        for kx in tl.static_range(K):
            u = x + (kx * DILATION - HALF)
            near = here + ((ky * DILATION - HALF) * row_step + (kx * DILATION - HALF) * column_step)
            value = widened(tl.load(near, row_inside & (u >= 0) & (u < size[1]), other=0.0))
            tap = (K - 1 - ky if FLIP else ky) * row_of_weight + (K - 1 - kx if FLIP else kx) * column_of_weight
            row += value * widened(tl.load(weight_ptr + tap, known, other=0.0))
        total += row
    return total


@triton.jit
def depthwise_planes_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, x_strides, w_strides, b_stride, y_strides, size, batch, channels, packs,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    row, channel, sample, column, inside = locate((size[0], channels, batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, c, y, x = sample[:, None], channel[:, None], row[:, None], column[None, :]
    total = convolved(
        x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, c < channels,
        K, DILATION, FLIP, BIAS, False, PACK,
    )  # fmt: skip
    tl.store(map_at(y_ptr, y_strides, n, c, y, x, False, PACK), total.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def depthwise_pixels_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, x_strides, w_strides, b_stride, y_strides, size, batch, channels, packs,
    K: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    column, row, sample, element, inside = locate((size[1], size[0], batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, c, y, x = sample[:, None], element[None, :], row[:, None], column[:, None]
    known = c < (tl.full((), 1, tl.int64) * packs) * PACK
    total = convolved(
        x_ptr, w_ptr, b_ptr, x_strides, w_strides, b_stride, n, c, y, x, inside, size, known,
        K, DILATION, FLIP, BIAS, True, PACK,
    )  # fmt: skip
    tl.store(map_at(y_ptr, y_strides, n, c, y, x, True, PACK), total.to(y_ptr.dtype.element_ty), inside)


# ---- gradients of weights ----


@triton.jit
def weight_gradient_sums_kernel(
    g_ptr, x_ptr, partial_ptr, g_strides, x_strides, size, batch, channels, packs, steps,
    K: tl.constexpr, DILATION: tl.constexpr, PIXELS: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = DILATION * (K // 2)
    ky, part, chunk = tl.program_id(1) % K, (tl.program_id(1) // K).to(tl.int64), tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_PACKS * PACK)[None, :]
    row_step, column_step = steps_of(x_strides, PIXELS, PACK)
    if PIXELS:
        c = part * (BLOCK_PACKS * PACK) + columns
        known = c < (tl.full((), 1, tl.int64) * packs) * PACK
    else:
        c = part * BLOCK_ROWS + rows
        known = c < channels
    bias = tl.zeros((BLOCK_ROWS, BLOCK_PACKS * PACK), partial_ptr.dtype.element_ty)
    sums = (bias,) * K
    for step in range(steps):
        if PIXELS:
            pixel = (chunk * steps + step) * BLOCK_ROWS + rows
            line, x = pixel // size[1], pixel % size[1]
        else:
            pack = (chunk * steps + step) * BLOCK_PACKS + columns // PACK
            line, x = pack // packs, pack % packs * PACK + columns % PACK
        n, y = line // size[0], line % size[0]
        inside = (n < batch) & known
        g = widened(tl.load(map_at(g_ptr, g_strides, n, c, y, x, PIXELS, PACK), inside, other=0.0))
        bias += g
        here = map_at(x_ptr, x_strides, n, c, y, x, PIXELS, PACK) + (ky * DILATION - HALF) * row_step
        v = y + (ky * DILATION - HALF)
        inside &= (v >= 0) & (v < size[0])
        added = ()
        for kx in tl.static_range(K):
            u = x + (kx * DILATION - HALF)
            near = here + (kx * DILATION - HALF) * column_step
            product = g * widened(tl.load(near, inside & (u >= 0) & (u < size[1]), other=0.0))
            added = added + (sums[kx] + product,)  # noqa: RUF005  Triton has no starred tuples
        sums = added
    to = partial_ptr + (chunk * channels + c) * (K * K + 1)
    for kx in tl.static_range(K):
        tl.store(to + ky * K + kx, summed(sums[kx], PIXELS), c < channels)
    if ky == 0:
        tl.store(to + K * K, summed(bias, PIXELS), c < channels)


@triton.jit
def summed(x, PIXELS: tl.constexpr):
    """The sums of a tile over its pixels: its rows, or its columns."""
    if PIXELS and x.shape[0] > 8:  # eight at a time first, so that no sum is long
        x = tl.sum(tl.reshape(x, (x.shape[0] // 8, 8, x.shape[1])), 1)
    return tl.sum(x, 0 if PIXELS else 1, keep_dims=True)


@triton.jit
def weight_gradient_total_kernel(
    partial_ptr, w_ptr, b_ptr, w_strides, b_stride, channels, chunks, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    SUMS: tl.constexpr = K * K + 1
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c, k, inside = i // SUMS, i % SUMS, i < (tl.full((), 1, tl.int64) * channels) * SUMS
    total = tl.zeros((BLOCK,), partial_ptr.dtype.element_ty)
    for chunk in range(chunks):
        total += tl.load(partial_ptr + (tl.full((), 0, tl.int64) + chunk) * channels * SUMS + i, inside, other=0.0)
    to = w_ptr + c * w_strides[0] + k // K * w_strides[2] + k % K * w_strides[3]
    tl.store(to, total.to(w_ptr.dtype.element_ty), inside & (k < K * K))
    tl.store(b_ptr + c * b_stride, total.to(b_ptr.dtype.element_ty), inside & (k == K * K))


# ---- launchers ----


class DepthwiseWalk:
    """How the kernels of a call walk maps of one size: by planes or by pixels."""

    def __init__(self, out: Tensor) -> None:
        self.shape = out.shape
        self.pixels = out.stride(1) == 1 and out.shape[1] > 1
        self.inner = 1 if self.pixels else 3

    def between(self, like: Tensor) -> Tensor:
        """An empty map for the values between the convolutions."""
        formats = torch.channels_last if self.pixels else torch.contiguous_format
        wide = torch.promote_types(like.dtype, torch.float32)
        return torch.empty(self.shape, dtype=wide, device=like.device, memory_format=formats)

    def packs(self, *maps: Tensor) -> tuple[int, int, list[tuple[int, ...]]]:
        """Elements of a pack, packs along the inner dimension, strides of each map."""
        pack = pack_of(self.inner, *sorted(maps, key=Tensor.element_size))  # 16 bytes of the narrower one
        return pack, self.shape[self.inner] // pack, [strides_of(x, self.inner, pack) for x in maps]

    def run(self, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        with on_device_of(args[0]):
            kernel[grid](*args, **constants, enable_fp_fusion=True)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, flip: bool = False) -> None:
        n, c, *size = self.shape
        pack, packs, (x_strides, out_strides) = self.packs(x, out)
        rows = x.numel() // self.shape[self.inner]
        blocks = map_tile(rows, packs, pack)
        grid = (triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(packs, blocks["BLOCK_PACKS"]),)
        w_strides = weight.stride()
        if self.pixels:  # a tap's weights side by side, as their channels are
            weight = weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
            w_strides = strides_of(weight, 0, pack)
        most = 128 if x.dtype != torch.float64 else None  # without a limit the compiler takes up to 147 registers
        warps = WARPS if x.dtype != torch.float64 else 2 * WARPS
        b, b_stride = (weight, 0) if bias is None else (bias, bias.stride(0))
        self.run(
            depthwise_pixels_kernel if self.pixels else depthwise_planes_kernel, grid,
            x, weight, b, out, x_strides, w_strides, b_stride, out_strides, tuple(size), n, c, packs,
            K=weight.shape[2], DILATION=DILATIONS[weight.shape[2]], FLIP=flip, BIAS=bias is not None, **blocks,
            num_warps=warps, maxnreg=most,
        )  # fmt: skip

    def correlate(self, grad: Tensor, x: Tensor, to_weight: Tensor, to_bias: Tensor) -> None:
        n, c, *size = self.shape
        pack, packs, strides = self.packs(grad, x)
        k = to_weight.shape[2]
        lines = n * size[0]
        if self.pixels:
            blocks = map_tile(lines * size[1], packs, pack)
            parts, tiles = triton.cdiv(packs, blocks["BLOCK_PACKS"]), triton.cdiv(lines * size[1], blocks["BLOCK_ROWS"])
        else:
            blocks = map_tile(c, lines * packs, pack)
            parts, tiles = triton.cdiv(c, blocks["BLOCK_ROWS"]), triton.cdiv(lines * packs, blocks["BLOCK_PACKS"])
        steps = min(STEPS, tiles)
        chunks, sums = triton.cdiv(tiles, steps), c * (k * k + 1)
        wide = torch.promote_types(to_weight.dtype, torch.float32)
        partial = torch.empty(chunks * sums, dtype=wide, device=x.device)
        self.run(
            weight_gradient_sums_kernel, (chunks, k * parts),
            grad, x, partial, *strides, tuple(size), n, c, packs, steps,
            K=k, DILATION=DILATIONS[k], PIXELS=self.pixels, num_warps=2 * WARPS, **blocks,
        )  # fmt: skip
        block = min(TILE // WARPS, triton.next_power_of_2(sums))
        self.run(
            weight_gradient_total_kernel, (triton.cdiv(sums, block),),
            partial, to_weight, to_bias, to_weight.stride(), to_bias.stride(0), c, chunks,
            K=k, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip


def large_kernel_conv(x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, b7: Tensor, out: Tensor) -> None:
    walk = DepthwiseWalk(out)
    t = walk.between(x)
    walk.convolve(x, w5, b5, t)
    walk.convolve(t, w7, b7, out)


def large_kernel_conv_input_backward(grad: Tensor, w5: Tensor, w7: Tensor, to_x: Tensor) -> None:
    walk = DepthwiseWalk(to_x)
    to_t = walk.between(grad)
    walk.convolve(grad, w7, None, to_t, flip=True)
    walk.convolve(to_t, w5, None, to_x, flip=True)


def large_kernel_conv_backward(
    x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, grad: Tensor,
    to_x: Tensor, to_w5: Tensor, to_b5: Tensor, to_w7: Tensor, to_b7: Tensor,
) -> None:  # fmt: skip
    walk = DepthwiseWalk(to_x)
    t, to_t = walk.between(x), walk.between(x)
    walk.convolve(x, w5, b5, t)
    walk.convolve(grad, w7, None, to_t, flip=True)
    walk.convolve(to_t, w5, None, to_x, flip=True)
    walk.correlate(grad, t, to_w7, to_b7)
    walk.correlate(to_t, x, to_w5, to_b5)
