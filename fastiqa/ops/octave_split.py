"""octave_split: an activation and its half-size average, from one read of the map.

    act = leaky_relu(x, slope),   pooled = pool(act)     x, act: (N, C, H, W),  pooled: (N, C, ⌈H/2⌉, ⌈W/2⌉)

pool averages 2×2 blocks; at odd borders a block has one row or column, or both, and the average covers the existing
pixels. A slope of one leaves x unchanged, a slope of zero is ReLU.

Adjoint, with ga and gp the gradients of act and pooled, and n the number of pixels in a block:

    grad_x = slope_at(x) · (ga + up(gp / n)),   slope_at(x) = 1 where x > 0, else slope

Saved: act, which has the sign of x, and which the next convolution saves anyway.

Bytes: 2.25|x| forward, 3.25|x| backward; eager PyTorch moves 3.25 in two kernels, and 7.25 in three.
Memory format of both results: that of x.

    cpu     octave_split.cpp          a pass over 2×2 blocks, any strides
    cuda    octave_split.cu           the same source, two rows of 16 bytes a thread where addresses allow
    triton  kernels/octave_split.py   tiles of blocks, any strides

Averages use activations before their rounding to bfloat16 or float16; eager PyTorch averages rounded ones.
Source: the high and low branch before an octave convolution (arXiv 1904.05049, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from fastiqa.ops.octave_merge import half
from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_not_empty, check_same_shape, memory_format
from fastiqa.runtime.op import Map, Op


def reference(x: Tensor, negative_slope: float = 1.0) -> tuple[Tensor, Tensor]:
    """Leaky ReLU of feature maps and its average over 2×2 blocks, in one pass.

    Equivalent to ``act = leaky_relu(x, negative_slope)`` and
    ``avg_pool2d(act, 2, ceil_mode=True, count_include_pad=False)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        negative_slope: factor for values that are not positive, at least zero; 1 leaves `x` unchanged.

    Returns:
        act, as `x`, and pooled, (N, C, ⌈H/2⌉, ⌈W/2⌉).

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: `negative_slope` is negative, or there are not four dimensions, no channel or no pixel.

    Example:
        >>> import torch
        >>> from fastiqa.ops import octave_split
        >>> act, pooled = octave_split(torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]]), 0.5)
        >>> act.tolist(), pooled.tolist()
        ([[[[1.0, -1.0], [3.0, -2.0]]]], [[[[0.25]]]])
    """
    act = leaky_relu(x, negative_slope)
    return act, avg_pool2d(act, 2, ceil_mode=True, count_include_pad=False)


def adjoint(saved: Any, grad_act: Tensor, grad_pooled: Tensor) -> Tensor:
    # Detached: the gradient depends on the sign of act alone, so its derivative for act is zero.
    act = saved.act.detach()
    return octave_split_backward(act, grad_act, grad_pooled, saved.negative_slope)  # type: ignore[no-any-return]


def _check_slope(negative_slope: float) -> None:
    if not negative_slope >= 0:  # refuses NaN as well
        raise ValueError(f"negative_slope: got {negative_slope}, want at least 0")


def layout(x: Tensor, negative_slope: float = 1.0) -> tuple[Output, Output]:
    check_maps(("x",), x)
    check_not_empty("x", x)
    _check_slope(negative_slope)
    n, c, h, w = x.shape
    form = memory_format(x)
    return Output(x.shape, x.dtype, x.device, form), Output((n, c, half(h), half(w)), x.dtype, x.device, form)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, float]]:
    yield Map((n, c, h, w)), 1.0
    yield Map((n, c, h, w)), 0.2


octave_split = Op(
    "octave_split(Tensor x, float negative_slope=1.0) -> (Tensor act, Tensor pooled)",
    reference,
    adjoint,
    saves=("act",),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x, negative_slope=1.0: 2 * x.nbytes + x.nbytes // 4,
)


def backward_reference(act: Tensor, grad_act: Tensor, grad_pooled: Tensor, negative_slope: float) -> Tensor:
    """Gradient of `octave_split` for `x`. It depends on the sign of `x` alone, which `act` has as well.

    Args:
        act: (N, C, H, W), the first result; dtypes and strides as in `octave_split`.
        grad_act: (N, C, H, W), the gradient of the first result.
        grad_pooled: (N, C, ⌈H/2⌉, ⌈W/2⌉), the gradient of the second.
        negative_slope: as in `octave_split`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `octave_split`.
    """
    pixels = avg_pool2d(torch.ones_like(act[:1, :1]), 2, ceil_mode=True, divisor_override=1)
    grad = grad_act + interpolate(grad_pooled / pixels, size=act.shape[-2:], mode="nearest")
    return torch.ops.aten.leaky_relu_backward(grad, act, negative_slope, False)  # type: ignore[no-any-return]


def backward_adjoint(saved: Any, to_x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    needs_act, needs_grad_act, needs_grad_pooled = saved.needs
    masked = torch.ops.aten.leaky_relu_backward(to_x, saved.act, saved.negative_slope, False)
    return (
        torch.zeros_like(saved.act) if needs_act else None,
        masked if needs_grad_act else None,
        avg_pool2d(masked, 2, ceil_mode=True, count_include_pad=False) if needs_grad_pooled else None,
    )


def backward_layout(act: Tensor, grad_act: Tensor, grad_pooled: Tensor, negative_slope: float) -> tuple[Output]:
    check_same_shape(("act", "grad_act"), act, grad_act)
    check_maps(("act", "grad_pooled"), act, grad_pooled)
    check_not_empty("act", act)
    _check_slope(negative_slope)
    n, c, h, w = act.shape
    want = (n, c, half(h), half(w))
    if grad_pooled.shape != want:
        raise ValueError(f"grad_pooled: got shape {tuple(grad_pooled.shape)}, want {want}")
    return (Output(act.shape, act.dtype, act.device, memory_format(act, grad_act, grad_pooled)),)


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, Map, float]]:
    yield Map((n, c, h, w)), Map((n, c, h, w)), Map((n, c, half(h), half(w))), 0.2


octave_split_backward = Op(
    "octave_split_backward(Tensor act, Tensor grad_act, Tensor grad_pooled, float negative_slope) -> Tensor",
    backward_reference,
    backward_adjoint,
    saves=("act",),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda act, grad_act, grad_pooled, negative_slope: 3 * act.nbytes + grad_pooled.nbytes,
)
