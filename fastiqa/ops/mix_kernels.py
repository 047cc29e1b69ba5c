"""mix_kernels: sums of convolution kernels, weighted by the rows of a small matrix.

    y[r, s·C + c, t] = Σ_j mix[r, s, j] · weight[j, c, t]     mix: (R, S, K),  weight: (K, C, k, k),  y: (R, S·C, k, k)

A matrix of few rows, M = R·S, times a large matrix, whose elements are read once.

Adjoint: y is a derivative of the trilinear form Σ g·mix·weight, as are its gradients:

    grad_mix[r, s, j]    = Σ_{c,t} g[r, s·C + c, t] · weight[j, c, t]
    grad_weight[j, c, t] = Σ_{r,s} mix[r, s, j] · g[r, s·C + c, t]

mix_kernels_backward computes both; its adjoint is made of mix_kernels and mix_kernels_backward.

Bytes: |weight| forward, 2|weight| backward; tensors of M rows are small beside it.
Memory format of y, and of grad_weight: that of the weight.

    cpu     mix_kernels.cpp          some kernels at a time, in pieces whose sums stay in the first caches
    cuda    mix_kernels.cu           a thread has neighbouring elements of a kernel, sums in two steps
    triton  kernels/mix_kernels.py   the same, in tiles

Source: the gates of PRFNet (arXiv 2401.06992, section 2.2), which average the output channels of a convolution of
another convolution's output: one convolution with a mixture of the inner kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_on_same_device, memory_format
from fastiqa.runtime.op import Map, Op


def reference(mix: Tensor, weight: Tensor) -> Tensor:
    """Sums of convolution kernels, weighted by the rows of a small matrix.

    Equivalent to ``torch.einsum("rsj,jcyx->rscyx", mix, weight).flatten(1, 2)``.

    Args:
        mix: (R, S, K) float64, float32, bfloat16 or float16, any strides; meant for few rows R·S.
        weight: (K, C, k, k), K kernels, of any size.

    Returns:
        (R, S·C, k, k) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, kernels of 2**31 elements.

    Example:
        >>> import torch
        >>> from fastiqa.ops import mix_kernels
        >>> kernels = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
        >>> mix_kernels(torch.tensor([[[2.0, 3.0, 4.0]]]), kernels).item()
        432.0
    """
    rows = mix @ weight.flatten(1)
    return rows.unflatten(2, weight.shape[1:]).flatten(1, 2)  # type: ignore[no-any-return]


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = mix_kernels_backward(grad, saved.mix, saved.weight)
    return tuple(gradient if needed else None for gradient, needed in zip(gradients, saved.needs, strict=True))


def check_mix(first_name: str, first: Tensor, mix: Tensor, weight: Tensor) -> None:
    """Check both arguments, on the device of the first one, of that name."""
    check_on_same_device(first_name, first, "mix", mix)
    check_on_same_device(first_name, first, "weight", weight)
    if mix.dim() != 3:
        raise ValueError(f"mix: got shape {tuple(mix.shape)}, want three dimensions (R, S, K)")
    if weight.dim() != 4:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, want four dimensions (K, C, k, k)")
    if weight.shape[0] != mix.shape[2]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, want {mix.shape[2]} kernels")
    if weight.shape[1] * weight.shape[2] * weight.shape[3] >= 2**31:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, want kernels of fewer than 2**31 elements")


def layout(mix: Tensor, weight: Tensor) -> tuple[Output]:
    check_mix("mix", mix, mix, weight)
    (r, s, _), (_, c, *size) = mix.shape, weight.shape
    return (Output((r, s * c, *size), weight.dtype, weight.device, memory_format(weight)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map]]:
    # As many weights as a map has elements, for the 1x1 and 3x3 gates of PRFNet's head; then other kernels.
    yield Map((1, 2, n * h)), Map((n * h, -(-c * w // 8), 3, 3))
    yield Map((9, 2, n * w)), Map((n * w, c * h, 1, 1))
    yield Map((n, 1, c)), Map((c, h, 1, w))


mix_kernels = Op(
    "mix_kernels(Tensor mix, Tensor weight) -> Tensor",
    reference,
    adjoint,
    saves=("mix", "weight"),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda mix, weight: (
        mix.nbytes + weight.nbytes + mix.shape[0] * mix.shape[1] * weight.nbytes // max(1, weight.shape[0])
    ),
    autocast="lower",
    batched=("mix",),
)


def backward_reference(grad: Tensor, mix: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `mix_kernels` for mix and weight.

    Args:
        grad: (R, S·C, k, k), the gradient of the result; dtypes and strides as in `mix_kernels`.
        mix: (R, S, K).
        weight: (K, C, k, k).

    Returns:
        (R, S, K) and (K, C, k, k) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `mix_kernels`.
    """
    rows = grad.unflatten(1, (mix.shape[1], weight.shape[1])).flatten(2)
    to_weight = mix.flatten(0, 1).t() @ rows.flatten(0, 1)
    return rows @ weight.flatten(1).t(), to_weight.unflatten(1, weight.shape[1:])


def backward_adjoint(saved: Any, to_mix: Tensor, to_weight: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad, needs_mix, needs_weight = saved.needs
    grad, mix, weight = saved.grad, saved.mix, saved.weight
    return (
        mix_kernels(to_mix, weight) + mix_kernels(mix, to_weight) if needs_grad else None,
        mix_kernels_backward(grad, mix, to_weight)[0] if needs_mix else None,
        mix_kernels_backward(grad, to_mix, weight)[1] if needs_weight else None,
    )


def backward_layout(grad: Tensor, mix: Tensor, weight: Tensor) -> tuple[Output, Output]:
    check_on_same_device("grad", grad, "grad", grad)
    check_mix("grad", grad, mix, weight)
    want = layout(mix, weight)[0].shape
    if grad.shape != want:
        raise ValueError(f"grad: got shape {tuple(grad.shape)}, want {tuple(want)}")
    return (
        Output(mix.shape, grad.dtype, grad.device),
        Output(weight.shape, grad.dtype, grad.device, memory_format(weight)),
    )


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, ...]]:
    for mix, weight in samples(n, c, h, w):
        (r, s, _), (_, channels, *size) = mix.shape, weight.shape
        yield Map((r, s * channels, *size)), mix, weight


mix_kernels_backward = Op(
    "mix_kernels_backward(Tensor grad, Tensor mix, Tensor weight) -> (Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    saves=("grad", "mix", "weight"),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad, mix, weight: grad.nbytes + 2 * mix.nbytes + 2 * weight.nbytes,
    autocast="lower",
    batched=(),
)
