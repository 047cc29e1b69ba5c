"""What every full-reference metric asks of its two images, and the precision it computes in."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def checked_pair(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """The two batches (N, C, H, W) in the dtype of the computation: float64 stays, every other floating dtype becomes
    float32.

    Raises:
        TypeError: not a tensor, not a floating dtype, or two dtypes.
        ValueError: not (N, C, H, W), an empty image, two shapes or devices, a data range that is not positive and
            finite; NaN or infinity in a CPU tensor run eagerly (elsewhere the check would wait for the device or
            break the graph, and the score of that image is NaN).
    """
    for name, image in (("x", x), ("y", y)):
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}, wanted a torch.Tensor")
        if not image.is_floating_point():
            raise TypeError(f"{name}: got {image.dtype}, wanted a floating dtype (divide code values by their maximum)")
        if image.ndim != 4:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, wanted (N, C, H, W)")
        if 0 in image.shape[1:]:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, wanted at least one channel, row and column")
    if x.shape != y.shape:
        raise ValueError(f"y: got shape {tuple(y.shape)}, wanted that of x, {tuple(x.shape)}")
    if x.dtype != y.dtype:
        raise TypeError(f"y: got {y.dtype}, wanted that of x, {x.dtype}")
    if x.device != y.device:
        raise ValueError(f"y: got a tensor on {y.device}, wanted the device of x, {x.device}")
    if not (data_range > 0 and math.isfinite(data_range)):
        raise ValueError(f"data_range: got {data_range}, wanted a positive finite number")
    for name, image in (("x", x), ("y", y)):
        if _readable_now(image) and not torch.isfinite(image).all():
            raise ValueError(f"{name}: got NaN or infinity, wanted finite values in [0, {data_range}]")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(dtype), y.to(dtype)


def _readable_now(image: Tensor) -> bool:
    """Whether the values of this tensor can steer Python: an ordinary CPU tensor outside tracing and vmap."""
    if torch.compiler.is_compiling() or image.device.type != "cpu":
        return False
    return type(image) in (Tensor, torch.nn.Parameter) and not is_functorch_wrapped_tensor(image)
