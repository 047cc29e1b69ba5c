"""Distortion: one way to make images worse, at five levels; random numbers and 8-bit codes for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 5
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Distortion:
    """One type of distortion.

    Attributes:
        name: in tables and on command lines.
        family: blur, colour, compression, noise, brightness, spatial or contrast.
        apply: (images (N, 3, H, W) in [0, 1], setting, generator) -> images of the same shape, which may leave [0, 1].
            Its random draws do not depend on the setting.
        settings: for levels 1 to 5.
    """

    name: str
    family: str
    apply: Callable[[Tensor, float, torch.Generator | None], Tensor]
    settings: tuple[float, float, float, float, float]


def uniform(images: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
    """Uniform random numbers in [0, 1), with dtype and device of `images`; equal for float32 and float64."""
    return torch.rand(shape, generator=generator, device=_source(images, generator)).to(images)


def normal(images: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
    """Normal random numbers, mean 0 and variance 1, with dtype and device of `images`; equal for both dtypes."""
    return torch.randn(shape, generator=generator, device=_source(images, generator)).to(images)


def _source(images: Tensor, generator: torch.Generator | None) -> torch.device:
    """The device to draw on: the generator's own, so a CPU generator gives equal numbers for any image device."""
    return images.device if generator is None else generator.device


def through_codes(images: Tensor, change: Callable[[Codes], Codes]) -> Tensor:
    """Images (N, 3, H, W) in [0, 1]: each rounded to 8 bits, changed as an array (H, W, 3), and converted back."""
    codes = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([change(np.ascontiguousarray(image)) for image in codes])
    return torch.from_numpy(changed).to(images.device).permute(0, 3, 1, 2).to(images.dtype).div(255).contiguous()
