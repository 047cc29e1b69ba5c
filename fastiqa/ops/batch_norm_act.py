"""batch_norm_act: batch normalisation by the statistics of the batch, then leaky ReLU.

    d = x − mean(x),   z = weight · rstd · d + bias,   out = z where z > 0, else slope · z

x, out: (N, C, H, W); weight, bias, mean and rstd = (var(x) + eps)^-½: (C,), statistics over N, H and W. Slope 0 is
ReLU, 1 no activation.

Adjoint, with g = grad where z > 0, else slope · grad, M = N H W, S = Σ g and P = Σ g d over N, H and W:

    grad_x = weight · rstd · (g − S / M − d · rstd² · P / M),   grad_weight = rstd · P,   grad_bias = S

The statistics are results without a gradient, as in PyTorch; second derivatives pass through them nevertheless.
Saved: x and numbers of a channel; the backward pass recomputes z. PyTorch saves x for the normalisation and the result
for the activation. The next layer saves the result too: `fastiqa.nn.BatchNormAct2d.followed_by` drops that copy.

Bytes: at least 2|x| forward and 3|x| backward; 3|x| and 5|x| unless a cache holds what the pass with sums has read.
Eager PyTorch moves 6|x| and 8|x|, in two kernels each.
Memory format of the result: that of x.

    cpu     batch_norm_act.cpp          a pass with sums and a pass that writes, forward and backward, any strides
    cuda    batch_norm_act.cu           the same functions; sums in two steps, without atomics
    triton  kernels/batch_norm_act.py   likewise

Source: Ioffe and Szegedy, Batch Normalization (arXiv 1502.03167), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import (
    ACCUMULATION,
    Output,
    check_maps,
    check_on_same_device,
    check_same_shape,
    memory_format,
)
from fastiqa.runtime.op import Map, Op

STATISTICS = (0, 2, 3)  # the dimensions of the statistics


def _spread(*values: Tensor) -> tuple[Tensor, ...]:
    """Shape numbers of a channel to combine with maps."""
    return tuple(value[:, None, None] for value in values)


def _total(x: Tensor) -> Tensor:
    return x.sum(STATISTICS)


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, negative_slope: float = 0.0, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every channel by its mean and variance in this batch, and rectify.

    Equivalent to ``leaky_relu(batch_norm(x, None, None, weight, bias, training=True, eps=eps), negative_slope)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        weight, bias: (C,); computed in float32, or float64 with such an `x`.
        negative_slope: of the activation: 0 is ReLU, 1 none.
        eps: added to the variance, at least 0.

    Returns:
        The activation (N, C, H, W) in `x`'s dtype; mean and 1/√(variance + eps) (C,) in float32, or float64. Only the
        activation has a gradient. An empty `x` has mean 0 and 1/√eps.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, a negative eps.

    Example:
        >>> import torch
        >>> from fastiqa.ops import batch_norm_act
        >>> x, weight, bias = torch.randn(2, 8, 4, 4), torch.ones(8), torch.zeros(8)
        >>> out, mean, rstd = batch_norm_act(x, weight, bias)
        >>> torch.allclose(out, torch.relu((x - mean[:, None, None]) * rstd[:, None, None]), atol=1e-6)
        True
    """
    if x.numel() == 0:
        none = weight.new_zeros(weight.shape, dtype=ACCUMULATION[x.dtype])
        scale, shift = _spread(weight.to(x.dtype), bias.to(x.dtype))
        return F.leaky_relu(x * scale + shift, negative_slope), none, (none + eps).rsqrt()
    weight, bias = (column.to(ACCUMULATION[x.dtype]) for column in (weight, bias))
    out, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    return F.leaky_relu(out, negative_slope), mean, rstd


def adjoint(saved: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, mean, rstd = saved.x, saved.mean, saved.rstd
    if torch.is_grad_enabled():  # a second derivative passes through the statistics too
        wide = x.to(mean.dtype)
        mean = wide.mean(STATISTICS)
        rstd = (wide.var(STATISTICS, correction=0) + saved.eps).rsqrt()
    gradients = batch_norm_act_backward(grad, x, saved.weight, saved.bias, mean, rstd, saved.negative_slope)
    return tuple(gradient if needed else None for gradient, needed in zip(gradients, saved.needs, strict=True))


def _check_columns(x: Tensor, **columns: Tensor) -> None:
    want = x.shape[1:2]
    for name, column in columns.items():
        check_on_same_device("x", x, name, column)
        if column.shape != want:
            raise ValueError(f"{name}: got shape {tuple(column.shape)}, want one number a channel, {tuple(want)}")


def layout(x: Tensor, weight: Tensor, bias: Tensor, negative_slope: float, eps: float) -> tuple[Output, Output, Output]:
    check_maps(("x",), x)
    _check_columns(x, weight=weight, bias=bias)
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, want at least 0")
    statistic = Output(x.shape[1:2], ACCUMULATION[x.dtype], x.device)
    return Output(x.shape, x.dtype, x.device, memory_format(x)), statistic, statistic


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Any, ...]]:
    for slope in (0.0, 1.0, 0.25):
        yield Map((n, c, h, w)), Map((c,)), Map((c,)), slope, 1e-5


batch_norm_act = Op(
    "batch_norm_act(Tensor x, Tensor weight, Tensor bias, float negative_slope=0.0, float eps=1e-5)"
    " -> (Tensor out, Tensor mean, Tensor rstd)",
    reference,
    adjoint,
    layout=layout,
    saves=("x", "weight", "bias", "mean", "rstd"),
    statistics=("mean", "rstd"),
    wide=("weight", "bias"),
    batched=(),
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x, weight, bias, negative_slope, eps: 2 * x.nbytes + 4 * weight.nbytes,
)


def _distance(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """d and z."""
    scale, bias, mean = _spread(weight * rstd, bias, mean)
    d = x - mean
    return d, d * scale + bias


def _passed(grad: Tensor, z: Tensor, slope: float) -> Tensor:
    """`grad`, times the slope where z is not positive. No gradient flows to z."""
    return torch.ops.aten.leaky_relu_backward(grad, z, slope, False)  # type: ignore[no-any-return]


def backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, negative_slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `batch_norm_act` for x, weight and bias.

    Equivalent to what autograd computes from PyTorch's batch normalisation and leaky ReLU, given the statistics.

    Args:
        grad, x: (N, C, H, W).
        weight, bias, mean, rstd: (C,); computed in float32, or float64 with such an `x`.
        negative_slope: as in `batch_norm_act`.

    Returns:
        (N, C, H, W), (C,) and (C,). The last two in float32, or float64.

    Raises:
        TypeError, ValueError: as `batch_norm_act`.
    """
    wide = ACCUMULATION[x.dtype]
    weight, bias, mean, rstd = (column.to(wide) for column in (weight, bias, mean, rstd))
    d, z = _distance(x.to(wide), weight, bias, mean, rstd)
    g = _passed(grad.to(wide), z, negative_slope)
    count = max(x.numel() // max(x.shape[1], 1), 1)
    s, p = _total(g), _total(g * d)
    scale, s_mean, p_mean = _spread(weight * rstd, s / count, rstd.square() * p / count)
    return (scale * (g - s_mean - d * p_mean)).to(x.dtype), rstd * p, s


def backward_adjoint(saved: Any, to_x: Tensor, to_weight: Tensor, to_bias: Tensor) -> tuple[Tensor | None, ...]:
    # With L the sum of the three results times their gradients, and A = Σ to_x, B = Σ to_x d, Q = Σ to_x g:
    # L = weight rstd Q − weight rstd³ P B / M − weight rstd S A / M + rstd P to_weight + S to_bias
    dtype = ACCUMULATION[saved.x.dtype]
    grad, x, to_x = (tensor.to(dtype) for tensor in (saved.grad, saved.x, to_x))
    weight, bias, mean, rstd = (column.to(dtype) for column in (saved.weight, saved.bias, saved.mean, saved.rstd))
    slope = saved.negative_slope
    d, z = _distance(x, weight, bias, mean, rstd)
    g = _passed(grad, z, slope)
    count = max(x.numel() // max(x.shape[1], 1), 1)
    s, p, a, b, q = _total(g), _total(g * d), _total(to_x), _total(to_x * d), _total(to_x * g)
    scale = weight * rstd
    of_p = to_weight * rstd - scale * rstd.square() * b / count  # derivatives of L by P, S and B
    of_s = to_bias - scale * a / count
    of_b = -scale * rstd.square() * p / count

    def of_grad() -> Tensor:
        scale_, of_p_, of_s_ = _spread(scale, of_p, of_s)
        return _passed(scale_ * to_x + of_p_ * d + of_s_, z, slope)

    def of_x() -> Tensor:
        of_p_, of_b_ = _spread(of_p, of_b)
        return of_p_ * g + of_b_ * to_x

    results = (
        lambda: of_grad().to(saved.x.dtype),
        lambda: of_x().to(saved.x.dtype),
        lambda: rstd * (q - rstd.square() * p * b / count - s * a / count),
        lambda: torch.zeros_like(weight),
        lambda: -of_p * s - of_b * a,
        lambda: weight * (q - 3 * rstd.square() * p * b / count - s * a / count) + p * to_weight,
    )
    return tuple(result() if needed else None for needed, result in zip(saved.needs, results, strict=True))


def backward_layout(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, negative_slope: float
) -> tuple[Output, Output, Output]:
    check_same_shape(("grad", "x"), grad, x)
    _check_columns(x, weight=weight, bias=bias, mean=mean, rstd=rstd)
    column = Output(x.shape[1:2], ACCUMULATION[x.dtype], x.device)
    return Output(x.shape, x.dtype, x.device, memory_format(x, grad)), column, column


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Any, ...]]:
    for slope in (0.0, 1.0, 0.25):
        yield Map((n, c, h, w)), Map((n, c, h, w)), *(Map((c,)) for _ in range(4)), slope


batch_norm_act_backward = Op(
    "batch_norm_act_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd,"
    " float negative_slope) -> (Tensor, Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    layout=backward_layout,
    saves=("grad", "x", "weight", "bias", "mean", "rstd"),
    wide=("weight", "bias", "mean", "rstd"),
    batched=(),
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad, x, weight, bias, mean, rstd, negative_slope: 3 * x.nbytes + 6 * weight.nbytes,
)
