"""large_kernel_conv: depthwise 5x5, then depthwise 7x7 of dilation 3; and its gradients.

    forward           x -> t -> y                          a pass each: reads x and t, writes t and y
    input_backward    grad -> gt -> grad_x                 the same with kernels turned by half, in the other order
    backward          both, then grad_w7, grad_b7 of t and grad, grad_w5, grad_b5 of x and gt

What lies between (t and its gradient gt) goes through memory, in float32 (float64 for float64): 2|x| + 2|t| forward,
5|x| + 5|t| backward, |t| = 2|x| for 16-bit types. One pass for both convolutions would want t of a tile and its halo of
9 pixels at other addresses than those at which a program has them: shared memory, which Triton does not hand out.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from fastiqa.kernels.depthwise import NARROW as NARROW
from fastiqa.kernels.depthwise import pixels_kernel, planes_kernel, sums_kernel, total_kernel
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of
from fastiqa.kernels.lib.maps import pack_of, strides_of, tile
from torch import Tensor

DILATIONS = {5: 1, 7: 3}
STEPS = 8  # tiles that a program sums


class Walk:
    """How the kernels of a call go through maps of one size: by planes or by pixels."""

    def __init__(self, out: Tensor) -> None:
        self.shape = out.shape
        self.pixels = out.stride(1) == 1 and out.shape[1] > 1
        self.inner = 1 if self.pixels else 3

    def between(self, like: Tensor) -> Tensor:
        """What lies between the convolutions."""
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
        blocks = tile(rows, packs, pack)
        grid = (triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(packs, blocks["BLOCK_PACKS"]),)
        w_strides = weight.stride()
        if self.pixels:  # a tap's weights side by side, as the channels that they meet
            weight = weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
            w_strides = strides_of(weight, 0, pack)
        most = 128 if x.dtype != torch.float64 else None  # left alone the compiler takes up to 147 registers
        warps = WARPS if x.dtype != torch.float64 else 2 * WARPS
        b, b_stride = (weight, 0) if bias is None else (bias, bias.stride(0))
        self.run(
            pixels_kernel if self.pixels else planes_kernel, grid,
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
            blocks = tile(lines * size[1], packs, pack)
            parts, tiles = triton.cdiv(packs, blocks["BLOCK_PACKS"]), triton.cdiv(lines * size[1], blocks["BLOCK_ROWS"])
        else:
            blocks = tile(c, lines * packs, pack)
            parts, tiles = triton.cdiv(c, blocks["BLOCK_ROWS"]), triton.cdiv(lines * packs, blocks["BLOCK_PACKS"])
        steps = min(STEPS, tiles)
        chunks, sums = triton.cdiv(tiles, steps), c * (k * k + 1)
        wide = torch.promote_types(to_weight.dtype, torch.float32)
        partial = torch.empty(chunks * sums, dtype=wide, device=x.device)
        self.run(
            sums_kernel, (chunks, k * parts),
            grad, x, partial, *strides, tuple(size), n, c, packs, steps,
            K=k, DILATION=DILATIONS[k], PIXELS=self.pixels, num_warps=2 * WARPS, **blocks,
        )  # fmt: skip
        block = min(TILE // WARPS, triton.next_power_of_2(sums))
        self.run(
            total_kernel, (triton.cdiv(sums, block),),
            partial, to_weight, to_bias, to_weight.stride(), to_bias.stride(0), c, chunks,
            K=k, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip


def large_kernel_conv(x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, b7: Tensor, out: Tensor) -> None:
    walk = Walk(out)
    t = walk.between(x)
    walk.convolve(x, w5, b5, t)
    walk.convolve(t, w7, b7, out)


def large_kernel_conv_input_backward(grad: Tensor, w5: Tensor, w7: Tensor, to_x: Tensor) -> None:
    walk = Walk(to_x)
    to_t = walk.between(grad)
    walk.convolve(grad, w7, None, to_t, flip=True)
    walk.convolve(to_t, w5, None, to_x, flip=True)


def large_kernel_conv_backward(
    x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, grad: Tensor,
    to_x: Tensor, to_w5: Tensor, to_b5: Tensor, to_w7: Tensor, to_b7: Tensor,
) -> None:  # fmt: skip
    walk = Walk(to_x)
    t, to_t = walk.between(x), walk.between(x)
    walk.convolve(x, w5, b5, t)
    walk.convolve(grad, w7, None, to_t, flip=True)
    walk.convolve(to_t, w5, None, to_x, flip=True)
    walk.correlate(grad, t, to_w7, to_b7)
    walk.correlate(to_t, x, to_w5, to_b5)
