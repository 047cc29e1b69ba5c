"""gated_upsample: features times the interpolated sigmoid of a smaller map, and its adjoint.

    forward    f (N,C,H,W), l (N,1|C,h,w) -> f * up(s), s = sigmoid(l)          reads f and l, writes one map
    backward   g, f (N,C,H,W), l -> g * up(s), s (1 - s) upT(sum_c g * f)       reads g, f and l, writes one map and dl

A program computes a gate of one channel once for its tile of pixels, and then goes through the channels. Backward it
also sums g * f over them, and a second kernel gathers those sums. A gate of C channels is computed at each use. In
"planes" rows lie together (NCHW), in "pixels" channels do; tiles are rows of elements along either.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of
from fastiqa.kernels.lib.maps import map_at, map_tile, pack_of, strides_of
from fastiqa.kernels.lib.sigmoid import sigmoid
from fastiqa.kernels.lib.tiles import locate, widened
from torch import Tensor

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "one_gate_planes_kernel": (1, 1, "logits, which lie half a pack or less beneath a pack of elements"),
    "one_gate_pixels_kernel": (1, 1, "logits and sums, one a pixel, beside packs of channels"),
    "channel_gates_kernel": (1, 1, "in NCHW logits, which lie half a pack or less beneath a pack of elements"),
    "gate_gradient_kernel": (0, 0, "elements in a logit's own window, which starts anywhere"),
}

# ---- interpolation: source indices and weights as PyTorch has them ----


@triton.jit
def scaled(at, size, outputs, scale, DOUBLE: tl.constexpr):
    """Return at and size / outputs in the accumulation type. Float arguments are float32, so float64 divides here."""
    if DOUBLE:
        one = tl.full((), 1, tl.float64)
        position, step = at.to(tl.float64), (one * size) / (one * outputs)
    else:
        position, step = at.to(tl.float32), tl.full((), 1, tl.float32) * scale
    return position, step


@triton.jit
def source_taps(at, size, outputs, scale, NEAREST: tl.constexpr, DOUBLE: tl.constexpr):
    """PyTorch's source indices and weights along one axis, as in csrc/ops/gated_upsample."""
    position, step = scaled(at, size, outputs, scale, DOUBLE)
    if NEAREST:
        i = tl.minimum((position * step).to(tl.float32).to(tl.int32), size - 1)
        after, w1 = i, position * 0
    else:
        source = tl.maximum((position + 0.5) * step - 0.5, 0.0)
        i = tl.minimum(source.to(tl.int32), size - 1)
        w1 = tl.minimum(source - i.to(source.dtype), 1.0)
        after = tl.where((i + 1 < size) & (size != outputs), i + 1, i)
    return i, after, 1 - w1, w1


@triton.jit
def interpolated_gates(
    logits, strides, n, c, y, x, inside, low, high, scales,
    NEAREST: tl.constexpr, DOUBLE: tl.constexpr, PIXELS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    y0, y1, v0, v1 = source_taps(y, low[0], high[0], scales[0], NEAREST, DOUBLE)
    x0, x1, u0, u1 = source_taps(x, low[1], high[1], scales[1], NEAREST, DOUBLE)
    gate = sigmoid(widened(tl.load(map_at(logits, strides, n, c, y0, x0, PIXELS, PACK), inside, other=0.0)))
    if not NEAREST:
        a = sigmoid(widened(tl.load(map_at(logits, strides, n, c, y0, x1, PIXELS, PACK), inside, other=0.0)))
        b = sigmoid(widened(tl.load(map_at(logits, strides, n, c, y1, x0, PIXELS, PACK), inside, other=0.0)))
        d = sigmoid(widened(tl.load(map_at(logits, strides, n, c, y1, x1, PIXELS, PACK), inside, other=0.0)))
        gate = v0 * (u0 * gate + u1 * a) + v1 * (u0 * b + u1 * d)
    return gate


@triton.jit
def first_output_of(i, step, EXACT: tl.constexpr):
    """An output element at or before the first to which input i contributes; as in csrc/ops/gated_upsample.

    EXACT: sizes double, and it is the first of five; five because output 0 reaches input 1, with a weight of 0.
    """
    if EXACT:
        return tl.maximum(2 * i - 2, 0)
    before = ((i.to(step.dtype) - 0.5) / step - 0.5).to(tl.int64) - 2
    return tl.where(i <= 1, 0, tl.maximum(before, 0))


@triton.jit
def tap_weight(tap0, tap1, w0, w1, i, NEAREST: tl.constexpr):
    """The weight of input i among the taps, and whether they name it: a weight of 0 counts, for 0 * inf is NaN."""
    w, names = tl.where(tap0 == i, w0, 0.0), tap0 == i
    if not NEAREST:
        w, names = w + tl.where(tap1 == i, w1, 0.0), names | (tap1 == i)
    return w, names


# ---- kernels ----


@triton.jit
def one_gate_planes_kernel(
    x_ptr, f_ptr, y_ptr, l_ptr, sum_ptr, x_strides, f_strides, y_strides, l_strides,
    low, high, scales, batch, channels, packs, group,
    SUM: tl.constexpr, NEAREST: tl.constexpr, DOUBLE: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    row, sample, _, column, inside = locate((high[0], batch, 1), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, y, x = sample[:, None], row[:, None], column[None, :]
    gate = interpolated_gates(l_ptr, l_strides, n, 0, y, x, inside, low, high, scales, NEAREST, DOUBLE, False, 1)
    total = tl.zeros_like(gate)
    first = tl.program_id(1) * group
    for start in range(first, tl.minimum(first + group, channels), PART):
        # Sums of a few channels first: adding many one by one would lose more than PyTorch's sum.
        part = tl.zeros_like(gate)
        for k in range(start, tl.minimum(tl.minimum(start + PART, first + group), channels)):
            c = tl.full((), 0, tl.int64) + k
            g = widened(tl.load(map_at(x_ptr, x_strides, n, c, y, x, False, PACK), inside, other=0.0))
            tl.store(map_at(y_ptr, y_strides, n, c, y, x, False, PACK), (g * gate).to(y_ptr.dtype.element_ty), inside)
            if SUM:
                f = widened(tl.load(map_at(f_ptr, f_strides, n, c, y, x, False, PACK), inside, other=0.0))
                part += g * f
        total += part
    if SUM:
        tl.store(sum_ptr + (n * high[0] + y) * (packs * PACK) + x, total, inside)


@triton.jit
def one_gate_pixels_kernel(
    x_ptr, f_ptr, y_ptr, l_ptr, sum_ptr, x_strides, f_strides, y_strides, l_strides,
    low, high, scales, batch, channels, packs,
    SUM: tl.constexpr, NEAREST: tl.constexpr, DOUBLE: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    column, row, sample, element, _ = locate((high[1], high[0], batch), BLOCK_PACKS, PACK, BLOCK_ROWS, BLOCK_PACKS)
    n, y, x = sample[:, None], row[:, None], column[:, None]
    gate = interpolated_gates(l_ptr, l_strides, n, 0, y, x, n < batch, low, high, scales, NEAREST, DOUBLE, True, 1)
    total = tl.zeros_like(gate)
    for start in range(0, packs, BLOCK_PACKS):
        c = (tl.full((), 0, tl.int64) + start) * PACK + element[None, :]
        inside = (n < batch) & (c < (tl.full((), 1, tl.int64) * packs) * PACK)
        g = widened(tl.load(map_at(x_ptr, x_strides, n, c, y, x, True, PACK), inside, other=0.0))
        tl.store(map_at(y_ptr, y_strides, n, c, y, x, True, PACK), (g * gate).to(y_ptr.dtype.element_ty), inside)
        if SUM:
            f = widened(tl.load(map_at(f_ptr, f_strides, n, c, y, x, True, PACK), inside, other=0.0))
            total += tl.sum(g * f, axis=1, keep_dims=True)
    if SUM:
        tl.store(sum_ptr + (n * high[0] + y) * high[1] + x, total, n < batch)


@triton.jit
def channel_gates_kernel(
    x_ptr, y_ptr, l_ptr, x_strides, y_strides, l_strides, low, high, scales, batch, channels, packs,
    NEAREST: tl.constexpr, DOUBLE: tl.constexpr, PIXELS: tl.constexpr, LOGIT_PACK: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    if PIXELS:
        column, row, sample, element, inside = locate((high[1], high[0], batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
        n, c, y, x = sample[:, None], element[None, :], row[:, None], column[:, None]
    else:
        row, channel, sample, element, inside = locate((high[0], channels, batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
        n, c, y, x = sample[:, None], channel[:, None], row[:, None], element[None, :]
    gate = interpolated_gates(
        l_ptr, l_strides, n, c, y, x, inside, low, high, scales, NEAREST, DOUBLE, PIXELS, LOGIT_PACK
    )
    g = widened(tl.load(map_at(x_ptr, x_strides, n, c, y, x, PIXELS, PACK), inside))
    tl.store(map_at(y_ptr, y_strides, n, c, y, x, PIXELS, PACK), (g * gate).to(y_ptr.dtype.element_ty), inside)


@triton.jit
def gate_gradient_kernel(
    g_ptr, f_ptr, sum_ptr, l_ptr, y_ptr, g_strides, f_strides, l_strides, y_strides,
    low, high, scales, windows, batch, channels, packs,
    SUM: tl.constexpr, NEAREST: tl.constexpr, DOUBLE: tl.constexpr, PIXELS: tl.constexpr, DOUBLES: tl.constexpr,
    MAP_PACK: tl.constexpr,
    PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr,
):  # fmt: skip
    if PIXELS:
        column, row, sample, element, inside = locate((low[1], low[0], batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
        n, c, iy, ix = sample[:, None], element[None, :], row[:, None], column[:, None]
    else:
        row, channel, sample, element, inside = locate((low[0], channels, batch), packs, PACK, BLOCK_ROWS, BLOCK_PACKS)
        n, c, iy, ix = sample[:, None], channel[:, None], row[:, None], element[None, :]
    logit = widened(tl.load(map_at(l_ptr, l_strides, n, c, iy, ix, PIXELS, PACK), inside, other=0.0))
    total = tl.zeros_like(logit)
    _, step_y = scaled(iy, low[0], high[0], scales[0], DOUBLE)
    _, step_x = scaled(ix, low[1], high[1], scales[1], DOUBLE)
    first_y, first_x = first_output_of(iy, step_y, DOUBLES), first_output_of(ix, step_x, DOUBLES)
    for j in range(windows[0]):
        y = first_y + j
        y0, y1, v0, v1 = source_taps(y, low[0], high[0], scales[0], NEAREST, DOUBLE)
        v, names_y = tap_weight(y0, y1, v0, v1, iy, NEAREST)
        across = tl.zeros_like(logit)
        for k in range(windows[1]):
            x = first_x + k
            x0, x1, u0, u1 = source_taps(x, low[1], high[1], scales[1], NEAREST, DOUBLE)
            u, names_x = tap_weight(x0, x1, u0, u1, ix, NEAREST)
            reached = inside & names_y & names_x & (y < high[0]) & (x < high[1])
            if SUM:
                product = tl.load(sum_ptr + (n * high[0] + y) * high[1] + x, reached, other=0.0)
            else:
                g = widened(tl.load(map_at(g_ptr, g_strides, n, c, y, x, PIXELS, MAP_PACK), reached, other=0.0))
                product = g * widened(
                    tl.load(map_at(f_ptr, f_strides, n, c, y, x, PIXELS, MAP_PACK), reached, other=0.0)
                )
            across += u * product
        total += tl.where(names_y & (y < high[0]), v * across, 0.0)
    s = sigmoid(logit)
    tl.store(
        map_at(y_ptr, y_strides, n, c, iy, ix, PIXELS, PACK), (total * (1 - s) * s).to(y_ptr.dtype.element_ty), inside
    )


# ---- launchers ----


class GateCall:
    """Shared by the kernels of one call: sizes, scales, the mode and the inner dimension."""

    def __init__(self, x: Tensor, logits: Tensor, mode: str, out: Tensor) -> None:
        self.n, self.c, *high = x.shape
        self.low, self.high = tuple(logits.shape[2:]), tuple(high)
        self.scales = tuple(low / high for low, high in zip(self.low, self.high, strict=True))
        self.pixels = out.stride(1) == 1 and self.c > 1
        self.inner = 1 if self.pixels else 3
        self.constants: dict[str, Any] = {"NEAREST": mode == "nearest", "DOUBLE": x.dtype == torch.float64}
        self.logits = logits

    def run(self, kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = WARPS, **constants: Any) -> None:
        with on_device_of(self.logits):
            kernel[grid](*args, **self.constants, **constants, num_warps=warps, enable_fp_fusion=False)


def multiply_by_one_gate(call: GateCall, x: Tensor, features: Tensor, out: Tensor, sums: Tensor | None) -> None:
    """out = x * gate, with one gate for all channels; `sums`, if given, gets the sum over channels of x * features."""
    pack = pack_of(call.inner, x, features, out)
    maps = (x, features, out)
    args = (
        *maps, call.logits, out if sums is None else sums,
        *(strides_of(m, call.inner, pack) for m in maps), call.logits.stride(), call.low, call.high, call.scales,
        call.n, call.c,
    )  # fmt: skip
    if call.pixels:
        packs = call.c // pack
        # 32 or more channels at a time, and pixels for the rest of the tile.
        blocks = map_tile(call.n * call.high[0] * call.high[1], min(packs, max(1, 32 // pack)), pack)
        grid = (triton.cdiv(call.n * call.high[0] * call.high[1], blocks["BLOCK_ROWS"]),)
        call.run(one_gate_pixels_kernel, grid, *args, packs, SUM=sums is not None, **blocks)
    else:
        packs, rows = call.high[1] // pack, call.n * call.high[0]
        # With sums a program has all channels of its pixels, so it takes fewer pixels.
        blocks = map_tile(rows, packs, pack, TILE if sums is None else TILE // WARPS)
        tiles = triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(packs, blocks["BLOCK_PACKS"])
        group = 16 if sums is None else call.c
        call.run(
            one_gate_planes_kernel, (tiles, triton.cdiv(call.c, group)), *args, packs, group,
            SUM=sums is not None, PART=16, warps=WARPS if sums is None else 1, **blocks,
        )  # fmt: skip


def multiply_by_channel_gates(call: GateCall, x: Tensor, out: Tensor) -> None:
    """out = x * gate, with a gate for each channel."""
    maps = (x, out, call.logits) if call.pixels else (x, out)
    pack = pack_of(call.inner, *maps)
    logit_pack = pack if call.pixels else 1
    packs = x.shape[call.inner] // pack
    rows = x.numel() // x.shape[call.inner]
    blocks = map_tile(rows, packs, pack)
    grid = (triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(packs, blocks["BLOCK_PACKS"]),)
    call.run(
        channel_gates_kernel, grid, x, out, call.logits,
        strides_of(x, call.inner, pack), strides_of(out, call.inner, pack),
        strides_of(call.logits, call.inner, logit_pack), call.low, call.high, call.scales, call.n, call.c, packs,
        PIXELS=call.pixels, LOGIT_PACK=logit_pack, **blocks,
    )  # fmt: skip


def launch_gate_gradient(call: GateCall, grad: Tensor, features: Tensor, sums: Tensor | None, out: Tensor) -> None:
    """The gradient of the logits, from the sums over channels or from products of grad and features."""
    pixels, inner = (call.pixels, call.inner) if sums is None else (False, 3)
    pack = pack_of(inner, out, call.logits, *((grad, features) if pixels else ()))
    map_pack = pack if pixels else 1
    packs, rows = out.shape[inner] // pack, out.numel() // out.shape[inner]
    blocks = map_tile(rows, packs, pack, TILE // 2)  # with 1024 elements, 8 a thread, it took 154 registers
    doubles = all(high == 2 * low for low, high in zip(call.low, call.high, strict=True))
    windows = (
        (5, 5)
        if doubles
        else tuple(min(high, int(2.5 * high / low) + 5) for low, high in zip(call.low, call.high, strict=True))
    )
    grid = (triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(packs, blocks["BLOCK_PACKS"]),)
    call.run(
        gate_gradient_kernel, grid, grad, features, out if sums is None else sums, call.logits, out,
        strides_of(grad, inner, map_pack), strides_of(features, inner, map_pack),
        strides_of(call.logits, inner, pack), strides_of(out, inner, pack),
        call.low, call.high, call.scales, windows, call.n, out.shape[1], packs,
        SUM=sums is not None, PIXELS=pixels, MAP_PACK=map_pack, DOUBLES=doubles, **blocks,
    )  # fmt: skip


def gated_upsample(features: Tensor, logits: Tensor, mode: str, out: Tensor) -> None:
    call = GateCall(features, logits, mode, out)
    if logits.shape[1] == 1:
        multiply_by_one_gate(call, features, features, out, None)
    else:
        multiply_by_channel_gates(call, features, out)


def gated_upsample_backward(
    grad: Tensor, features: Tensor, logits: Tensor, mode: str, to_features: Tensor, to_logits: Tensor
) -> None:
    call = GateCall(grad, logits, mode, to_features)
    sums = None
    if logits.shape[1] == 1:
        dtype = torch.promote_types(grad.dtype, torch.float32)
        sums = torch.empty((call.n, *call.high), dtype=dtype, device=grad.device)
        multiply_by_one_gate(call, grad, features, to_features, sums)
    else:
        multiply_by_channel_gates(call, grad, to_features)
    launch_gate_gradient(call, grad, features, sums, to_logits)
