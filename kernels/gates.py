"""Device functions on interpolated gates: PyTorch's source indices and weights, sigmoids, windows."""

from __future__ import annotations

import triton
import triton.language as tl
from fastiqa.kernels.lib.maps import at
from fastiqa.kernels.lib.sigmoid import sigmoid
from fastiqa.kernels.lib.tiles import widened


@triton.jit
def scaled(at, size, wanted, scale, DOUBLE: tl.constexpr):
    """at and size / wanted in the accumulation type; a float argument is float32, so float64 divides here."""
    if DOUBLE:
        one = tl.full((), 1, tl.float64)
        position, step = at.to(tl.float64), (one * size) / (one * wanted)
    else:
        position, step = at.to(tl.float32), tl.full((), 1, tl.float32) * scale
    return position, step


@triton.jit
def taps(at, size, wanted, scale, NEAREST: tl.constexpr, DOUBLE: tl.constexpr):
    """PyTorch's source indices and weights along one axis, as in csrc/ops/gated_upsample."""
    position, step = scaled(at, size, wanted, scale, DOUBLE)
    if NEAREST:
        i = tl.minimum((position * step).to(tl.float32).to(tl.int32), size - 1)
        after, w1 = i, position * 0
    else:
        source = tl.maximum((position + 0.5) * step - 0.5, 0.0)
        i = tl.minimum(source.to(tl.int32), size - 1)
        w1 = tl.minimum(source - i.to(source.dtype), 1.0)
        after = tl.where((i + 1 < size) & (size != wanted), i + 1, i)
    return i, after, 1 - w1, w1


@triton.jit
def gates(
    logits, strides, n, c, y, x, inside, low, high, scales,
    NEAREST: tl.constexpr, DOUBLE: tl.constexpr, PIXELS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    y0, y1, v0, v1 = taps(y, low[0], high[0], scales[0], NEAREST, DOUBLE)
    x0, x1, u0, u1 = taps(x, low[1], high[1], scales[1], NEAREST, DOUBLE)
    gate = sigmoid(widened(tl.load(at(logits, strides, n, c, y0, x0, PIXELS, PACK), inside, other=0.0)))
    if not NEAREST:
        a = sigmoid(widened(tl.load(at(logits, strides, n, c, y0, x1, PIXELS, PACK), inside, other=0.0)))
        b = sigmoid(widened(tl.load(at(logits, strides, n, c, y1, x0, PIXELS, PACK), inside, other=0.0)))
        d = sigmoid(widened(tl.load(at(logits, strides, n, c, y1, x1, PIXELS, PACK), inside, other=0.0)))
        gate = v0 * (u0 * gate + u1 * a) + v1 * (u0 * b + u1 * d)
    return gate


@triton.jit
def start_of(i, step, EXACT: tl.constexpr):
    """An output element at or before the first to which input i contributes; as in csrc/ops/gated_upsample.

    EXACT: where sizes double, the first of five; five because output 0 reaches input 1, with a weight of 0.
    """
    if EXACT:
        return tl.maximum(2 * i - 2, 0)
    before = ((i.to(step.dtype) - 0.5) / step - 0.5).to(tl.int64) - 2
    return tl.where(i <= 1, 0, tl.maximum(before, 0))


@triton.jit
def weight(tap0, tap1, w0, w1, i, NEAREST: tl.constexpr):
    """What the taps give to input i, and whether they name it: a weight of 0 counts, 0 times infinity being NaN."""
    w, names = tl.where(tap0 == i, w0, 0.0), tap0 == i
    if not NEAREST:
        w, names = w + tl.where(tap1 == i, w1, 0.0), names | (tap1 == i)
    return w, names
