"""gated_upsample: features times a gate from a deeper, smaller map.

    y = f ⊗ up(σ(l))            f, y: (N, C, H, W),  l: (N, 1, h, w) or (N, C, h, w)

σ is the logistic function, up the interpolation of PyTorch to (H, W): nearest, or bilinear with align_corners=False,
for any two sizes. All channels share a gate of one channel.

Adjoint, with g the gradient of y and s = σ(l):

    grad_f = g ⊗ up(s),   grad_l = s (1 − s) upᵀ(Σ_c g ⊗ f)

(the sum only for a gate of one channel). upᵀ is a gather: if sizes double, each logit takes 4 × 4 elements, with
weights 1/4, 3/4, 3/4, 1/4 along each axis. Saved: f and l; the gate exists in registers or in one row.

Bytes: 2|f| + |l| forward, 3|f| + 2|l| backward; eager PyTorch moves 3|f| and 6|f| and, with a gate of C channels, |f|
and 4|f| more. Memory format of the result: that of the features.

    cpu     gated_upsample.cpp          rows of gates in the first-level cache, any strides, both formats
    cuda    gated_upsample.cu           16 bytes a thread where addresses allow; no atomics
    triton  kernels/gated_upsample.py   the same in tiles

Source: the fusion of PRFNet (arXiv 2401.06992, section 2.2), which has a gate of one channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_not_empty, check_same_shape, memory_format
from fastiqa.runtime.op import Map, Op

MODES = ("nearest", "bilinear")


def _up(x: Tensor, size: torch.Size, mode: str) -> Tensor:
    return interpolate(x, size=tuple(size), mode=mode, align_corners=False if mode == "bilinear" else None)


def _up_adjoint(grad: Tensor, size: torch.Size, mode: str) -> Tensor:
    """The transpose of `_up`, from grad.shape[-2:] to `size`."""
    target, source = grad.shape[-2:], (*grad.shape[:2], *size)
    if mode == "bilinear":
        return torch.ops.aten.upsample_bilinear2d_backward(grad, target, source, False)  # type: ignore[no-any-return]
    return torch.ops.aten.upsample_nearest2d_backward(grad, target, source)  # type: ignore[no-any-return]


def reference(features: Tensor, logits: Tensor, mode: str = "bilinear") -> Tensor:
    """Multiply features by a gate, the sigmoid of a map of logits of any size, interpolated to the features' size.

    Equivalent to ``features * interpolate(logits.sigmoid(), size=features.shape[-2:], mode=mode)`` with
    ``align_corners=False``.

    Args:
        features: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        logits: (N, 1, h, w), one gate for all channels, or (N, C, h, w); dtypes and strides as `features`.
        mode: "bilinear" or "nearest".

    Returns:
        (N, C, H, W) in the wider dtype of the two.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, or an unknown mode.

    Example:
        >>> import torch
        >>> from fastiqa.ops import gated_upsample
        >>> features, logits = torch.rand(2, 8, 14, 14), torch.randn(2, 1, 7, 7)
        >>> gate = torch.nn.functional.interpolate(logits.sigmoid(), size=(14, 14), mode="bilinear")
        >>> torch.allclose(gated_upsample(features, logits), features * gate)
        True
    """
    return features * _up(logits.sigmoid(), features.shape[-2:], mode)


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs_features, needs_logits = saved.needs
    if not needs_logits:
        return gated_upsample(grad, saved.logits, saved.mode), None
    to_features, to_logits = gated_upsample_backward(grad, saved.features, saved.logits, saved.mode)
    return to_features if needs_features else None, to_logits


def layout(features: Tensor, logits: Tensor, mode: str) -> tuple[Output]:
    check_maps(("features", "logits"), features, logits)
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, want one of {', '.join(MODES)}")
    n, c, _, _ = features.shape
    if logits.shape[0] != n or (logits.shape[1] != 1 and logits.shape[1] != c):
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, want ({n}, 1 or {c}, h, w) for these features")
    check_not_empty("logits", logits)
    if 0 in features.shape and 0 in features.shape[2:]:  # features without channels may share a gate too
        raise ValueError(f"features: got shape {tuple(features.shape)}, want at least one pixel")
    return (Output(features.shape, features.dtype, features.device, memory_format(features)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, str]]:
    """Both kinds of gate and both modes, sizes that double and others; the first sample is PRFNet's."""
    rows, columns = (h + 1) // 2, (w + 1) // 2
    doubled = Map((n, c, 2 * rows, 2 * columns))
    yield doubled, Map((n, 1, rows, columns)), "bilinear"
    yield doubled, Map((n, c, rows, columns)), "bilinear"
    yield doubled, Map((n, 1, rows, columns)), "nearest"
    yield Map((n, c, h, w)), Map((n, c, rows, columns)), "nearest"
    yield Map((n, c, h, w)), Map((n, 1, (h + 2) // 3, columns)), "bilinear"
    yield Map((n, c, h, w)), Map((n, c, h + 2, (w + 4) // 5)), "bilinear"


gated_upsample = Op(
    'gated_upsample(Tensor features, Tensor logits, str mode="bilinear") -> Tensor',
    reference,
    adjoint,
    saves=("features", "logits"),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda features, logits, mode: 2 * features.nbytes + logits.nbytes,
)


def backward_reference(grad: Tensor, features: Tensor, logits: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Gradients of `gated_upsample` for features and logits.

    Equivalent to autograd through its reference.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `gated_upsample`.
        features: (N, C, H, W).
        logits: (N, 1, h, w) or (N, C, h, w).
        mode: "bilinear" or "nearest".

    Returns:
        (N, C, H, W), and the shape of `logits`, in the widest dtype given.

    Raises:
        TypeError, ValueError: as `gated_upsample`.
    """
    gate = logits.sigmoid()
    to_gate = grad * features
    if logits.shape[1] == 1:
        to_gate = to_gate.sum(1, keepdim=True)
    to_gate = _up_adjoint(to_gate, logits.shape[-2:], mode)
    return grad * _up(gate, features.shape[-2:], mode), torch.ops.aten.sigmoid_backward(to_gate, gate)


def backward_adjoint(saved: Any, to_features: Tensor, to_logits: Tensor) -> tuple[Tensor | None, ...]:
    # In float32 at least: with 16 bits after each of these steps the result would be worse than eager PyTorch's.
    dtype = torch.promote_types(to_features.dtype, torch.float32)
    tensors = (saved.grad, saved.features, saved.logits, to_features, to_logits)
    grad, features, logits, to_features, to_logits = (x.to(dtype) for x in tensors)
    needs_grad, needs_features, needs_logits = saved.needs
    gate = logits.sigmoid()
    slope = gate * (1 - gate)
    weights = _up(to_logits * slope, features.shape[-2:], saved.mode)
    second = None
    if needs_logits:
        _, second = gated_upsample_backward(grad, to_features, logits, saved.mode)
        # At logits of zero s (1 - s) is 1/4, so four times the result is the transposed interpolation.
        _, quarter = gated_upsample_backward(grad, features, torch.zeros_like(logits), saved.mode)
        second = second + 4 * to_logits * slope * (1 - 2 * gate) * quarter
    results = (
        gated_upsample(to_features, logits, saved.mode) + features * weights if needs_grad else None,
        grad * weights if needs_features else None,
        second,
    )
    return tuple(y if y is None else y.to(x.dtype) for x, y in zip(tensors, results, strict=False))


def backward_layout(grad: Tensor, features: Tensor, logits: Tensor, mode: str) -> tuple[Output, Output]:
    layout(features, logits, mode)
    check_same_shape(("grad", "features"), grad, features)
    return (
        Output(features.shape, features.dtype, features.device, memory_format(grad, features)),
        Output(logits.shape, logits.dtype, logits.device, memory_format(logits)),
    )


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, Map, str]]:
    for features, logits, mode in samples(n, c, h, w):
        yield features, features, logits, mode


gated_upsample_backward = Op(
    "gated_upsample_backward(Tensor grad, Tensor features, Tensor logits, str mode) -> (Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    saves=("grad", "features", "logits"),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad, features, logits, mode: 3 * grad.nbytes + 2 * logits.nbytes,
)
