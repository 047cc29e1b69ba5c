"""octave_merge: a half-size map added to a full-size one.

    y = high + up(low)             high, y: (N, C, H, W),  low: (N, C, ⌈H/2⌉, ⌈W/2⌉)

up repeats a value over its 2×2 block: y[i, j] = high[i, j] + low[⌊i/2⌋, ⌊j/2⌋]. At odd borders a block has one row or
column, or both.

Adjoint, with g the gradient of y:

    grad_high = g,   grad_low = sums of g over the 2×2 blocks

grad_high is g itself, not a copy. The adjoint of the sums is up. Saved: nothing for the first derivative.

Bytes: 2.25|high| forward, 1.25|high| backward; eager PyTorch moves 4.25 in two kernels, and 1.25.
Memory format of the result: that of the first argument that is not expanded, as in PyTorch.

    cpu     octave_merge.cpp          a pass over 2×2 blocks, any strides
    cuda    octave_merge.cu           the same source, two rows of 16 bytes a thread where addresses allow
    triton  kernels/octave_merge.py   tiles of blocks, any strides

Source: an octave convolution joins its low branch to the high one (arXiv 1904.05049, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_not_empty, memory_format
from fastiqa.runtime.op import Map, Op


def half(size: int) -> int:
    """The number of 2×2 blocks along so many rows or columns."""
    return (size + 1) // 2


def reference(high: Tensor, low: Tensor) -> Tensor:
    """Add a map of half the size, each value over its 2×2 block, to a map of full size, in one pass.

    Equivalent to ``high + interpolate(low, size=high.shape[-2:], mode="nearest")``.

    Args:
        high: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        low: (N, C, ⌈H/2⌉, ⌈W/2⌉), as `high`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: `low` has another size, devices differ, or there are not four dimensions.

    Example:
        >>> import torch
        >>> from fastiqa.ops import octave_merge
        >>> octave_merge(torch.zeros(1, 1, 2, 3), torch.tensor([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]]]
    """
    return high + interpolate(low, size=high.shape[-2:], mode="nearest")


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs_high, needs_low = saved.needs
    return grad if needs_high else None, octave_merge_backward(grad) if needs_low else None


def layout(high: Tensor, low: Tensor) -> tuple[Output]:
    check_maps(("high", "low"), high, low)
    check_not_empty("high", high)
    n, c, h, w = high.shape
    want = (n, c, half(h), half(w))
    if low.shape != want:
        raise ValueError(
            f"low: got shape {tuple(low.shape)}, want {want}, half of high's {tuple(high.shape)} rounded up"
        )
    return (Output(high.shape, high.dtype, high.device, memory_format(high, low)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map]]:
    yield Map((n, c, h, w)), Map((n, c, half(h), half(w)))


octave_merge = Op(
    "octave_merge(Tensor high, Tensor low) -> Tensor",
    reference,
    adjoint,
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda high, low: 2 * high.nbytes + low.nbytes,
)


def backward_reference(grad: Tensor) -> Tensor:
    """Gradient of `octave_merge` for `low`: sums over 2×2 blocks.

    Equivalent to ``avg_pool2d(grad, 2, ceil_mode=True, divisor_override=1)``.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `octave_merge`.

    Returns:
        (N, C, ⌈H/2⌉, ⌈W/2⌉) in `grad`'s dtype.

    Raises:
        TypeError, ValueError: as `octave_merge`.
    """
    if torch.onnx.is_in_onnx_export():  # PyTorch 2.13 drops a divisor there without a word
        return avg_pool2d(pad(grad, (0, grad.shape[3] % 2, 0, grad.shape[2] % 2)), 2) * 4
    return avg_pool2d(grad, 2, ceil_mode=True, divisor_override=1)


def backward_adjoint(saved: Any, to_low: Tensor) -> Tensor:
    return interpolate(to_low, size=saved.grad.shape[-2:], mode="nearest")


def backward_layout(grad: Tensor) -> tuple[Output]:
    check_maps(("grad",), grad)
    check_not_empty("grad", grad)
    n, c, h, w = grad.shape
    return (Output((n, c, half(h), half(w)), grad.dtype, grad.device, memory_format(grad)),)


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map]]:
    yield (Map((n, c, h, w)),)


octave_merge_backward = Op(
    "octave_merge_backward(Tensor grad) -> Tensor",
    backward_reference,
    backward_adjoint,
    saves=("grad",),  # for its size, used in a second derivative only
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad: grad.nbytes + grad.nbytes // 4,
)
