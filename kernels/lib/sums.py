"""Device functions on sums in tiles, plain or exact.

A sum is a pair: what it is so far and, if it is exact, what its roundings lost. Exact means that the roundings of many
terms do not add up, and that without float64, in which most GPUs compute 32 or 64 times slower.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def added(sums, terms, EXACT: tl.constexpr):
    """To each sum its term."""
    result = ()
    for k in tl.static_range(len(terms)):
        before, lost = sums[k]
        after = before + terms[k]
        if EXACT:  # Knuth's TwoSum
            rounded = after - before
            lost += (before - (after - rounded)) + (terms[k] - rounded)
        result += ((after, lost),)
    return result


@triton.jit
def merged(sums, AXIS: tl.constexpr, EXACT: tl.constexpr):
    """Each tile's total along an axis, and after each exact one what that lost."""
    result = ()
    for k in tl.static_range(len(sums)):
        lanes, lost = sums[k]
        if EXACT:
            # First the leading digits: multiples of the last place of a number so large that they add up without
            # rounding. What is left of each lane is, in float32, below 2^-21 of the lanes' magnitudes together, and its
            # roundings came to 2^-40 of them at most in 300 random tiles of 1024.
            large = 4 * tl.sum(tl.abs(lanes), AXIS, keep_dims=True)
            large = tl.where(large == float("inf"), 0.0, large)  # an infinite sum stays one, and what it lost is NaN
            leading = (lanes + large) - large
            rest = tl.sum(lanes - leading + lost, AXIS, keep_dims=True)
            result += (tl.sum(leading, AXIS, keep_dims=True), rest)
        else:
            result += (tl.sum(lanes, AXIS, keep_dims=True),)
    return result


@triton.jit
def exact_total(parts_ptr, k, parts, channels, c, BLOCK_ROWS: tl.constexpr):
    """In float64 sum k of channels c, a row, from exact sums and what they lost: (sums, 2, parts, channels)."""
    total = tl.zeros(c.shape, tl.float64)
    for start in range(0, parts, BLOCK_ROWS):
        part = (start + tl.arange(0, BLOCK_ROWS).to(tl.int64))[:, None]
        at = parts_ptr + (2 * k * parts + part) * channels + c
        inside = (part < parts) & (c < channels)
        lost = tl.load(at + parts * channels, inside, 0).to(tl.float64)
        lost = tl.where(tl.abs(lost) < float("inf"), lost, 0.0)  # NaN beside an infinite sum
        total += tl.sum(tl.load(at, inside, 0).to(tl.float64) + lost, 0, keep_dims=True)
    return total
