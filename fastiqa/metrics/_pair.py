"""What every full-reference metric asks of its two images, its mask and its score, and how it reduces a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

Reduction = Literal["none", "mean"]
CODE_VALUES = 255.0  # data range of uint8 images


def check_pair(x: Tensor, y: Tensor, data_range: float | None) -> float:
    """The data range of two batches (N, C, H, W): 255 for uint8, otherwise 1 unless another is given.

    Raises:
        TypeError: not a tensor, a dtype that is neither floating nor uint8, or two dtypes.
        ValueError: not (N, C, H, W), an empty image, two shapes or devices, a data range that is not positive and
            finite, or not 255 for uint8.
    """
    for name, image in (("x", x), ("y", y)):
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}, want a torch.Tensor")
        if not image.is_floating_point() and image.dtype != torch.uint8:
            raise TypeError(f"{name}: got {image.dtype}, want a floating dtype or uint8")
        if image.ndim != 4:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want (N, C, H, W)")
        if 0 in image.shape[1:]:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want at least one channel, row and column")
    if x.shape != y.shape:
        raise ValueError(f"y: got shape {tuple(y.shape)}, want that of x, {tuple(x.shape)}")
    if x.dtype != y.dtype:
        raise TypeError(f"y: got {y.dtype}, want that of x, {x.dtype}")
    if x.device != y.device:
        raise ValueError(f"y: got a tensor on {y.device}, want the device of x, {x.device}")
    if data_range is None:
        return 1.0 if x.is_floating_point() else CODE_VALUES
    if not (data_range > 0 and math.isfinite(data_range)):
        raise ValueError(f"data_range: got {data_range}, want a positive finite number")
    if x.dtype == torch.uint8 and data_range != CODE_VALUES:
        raise ValueError(f"data_range: got {data_range}, want 255 (or None) for uint8 images")
    return data_range


def check_mask(mask: Tensor, x: Tensor) -> None:
    """TypeError or ValueError unless these are weights of the pixels of x."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: got {type(mask).__name__}, want a torch.Tensor")
    if not mask.is_floating_point() and mask.dtype != torch.bool:
        raise TypeError(f"mask: got {mask.dtype}, want bool or a floating dtype")
    n, _, h, w = x.shape
    if mask.ndim != 4 or mask.shape[0] not in (1, n) or mask.shape[1:] != (1, h, w):
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, want ({n} or 1, 1, {h}, {w})")
    if mask.device != x.device:
        raise ValueError(f"mask: got a tensor on {mask.device}, want the device of x, {x.device}")


def wide(image: Tensor) -> Tensor:
    """In the dtype of the computation: float64 stays, everything else becomes float32."""
    return image.to(torch.float64 if image.dtype == torch.float64 else torch.float32)


def reduced(
    score: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, data_range: float, reduction: Reduction
) -> Tensor:
    """The scores (N,) or their mean, after a look at them in place of the images, of which it costs a thousandth.

    NaN and infinity reach the score, so images are read only where a score is not finite.

    Raises:
        ValueError: another reduction; of CPU tensors run eagerly also NaN or infinity in an image, or a mask without
            weight (elsewhere the check would wait for the device or break the graph, and the score is NaN).
    """
    if reduction not in ("none", "mean"):
        raise ValueError(f"reduction: got {reduction!r}, want 'none' or 'mean'")
    if _readable_now(score) and not torch.isfinite(score).all():
        for name, image in (("x", x), ("y", y)):
            if not torch.isfinite(image).all():
                raise ValueError(f"{name}: got NaN or infinity, want finite values in [0, {data_range}]")
        if mask is not None and torch.isnan(score).any():
            raise ValueError("mask: got no weight at any window of an image, want some")
    return score.mean() if reduction == "mean" else score


def _readable_now(score: Tensor) -> bool:
    """Whether the values of this tensor can steer Python: an ordinary CPU tensor outside tracing and vmap."""
    if torch.compiler.is_compiling() or score.device.type != "cpu":
        return False
    return type(score) in (Tensor, torch.nn.Parameter) and not is_functorch_wrapped_tensor(score)
