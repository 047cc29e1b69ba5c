"""The logistic function, 1 / (1 + exp(-x)), as accurate as the dtype."""

import triton
import triton.language as tl


@triton.jit
def _exp_float32(x):
    """exp within 0.98 units in the last place, equal to vector_exp in csrc/core/sigmoid.h bit for bit.

    tl.exp is the GPU's ex2.approx of a rounded multiple of x: off by 2 units for small x, by tens at x = 80.
    """
    x = tl.where(x < -105, -105.0, x)
    x = tl.where(x > 105, 105.0, x)
    shifted = x * 1.44269504 + 12582912.0
    n = shifted - 12582912.0
    r = x - n * 0.693359375 + n * 2.12194440e-4
    p = 1.9875691500e-4 * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * (r * r) + r + 1.0
    exponent = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    half = exponent >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    return p * first * second


@triton.jit
def sigmoid(x):
    """The logistic function of stored values: in float64 for float64, in float32 otherwise."""
    if x.dtype == tl.float64:
        y = 1 / (1 + tl.exp(-x))
    elif x.dtype == tl.float32:
        # This division is within 2 units in the last place; an exact one is a call that spills registers.
        y = 1 / (1 + _exp_float32(-x))
    else:
        y = 1 / (1 + tl.exp(-x.to(tl.float32)))
    return y
