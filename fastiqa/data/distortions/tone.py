"""Changes of tone: brightness, contrast and sharpness.

    brighten, darken    the curve x + 2 s x (1 - x) through black, white and 0.5 + s / 2; s < 0 darkens
    mean_shift          adds s to all values, with one random sign an image
    high_sharpen        unsharp masking: adds s times the luma less its Gaussian blur of 1 pixel to R, G and B
    contrast_change     multiplies the distance from the image's mean luma by 1 - s

The tone curves and the sharpening have KADID-10k's settings (Lin, Hosu, Saupe, QoMEX 2019). KADID-10k brightens by a
curve on lightness too, and sharpens lightness. Its mean shift goes from +0.15 over 0 to -0.15, up and down in quality;
here the size grows with the level. Its contrast rises at two levels, falls at two and stays at one; here it falls, at
level 4 by 0.6, as at KADID-10k's last level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, uniform
from fastiqa.data.images import filters
from fastiqa.data.images.colour_spaces import bt601_luma


def tone_curve(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    return images + 2 * amount * images * (1 - images)


def mean_shift(images: Tensor, size: float, generator: torch.Generator | None) -> Tensor:
    signs = torch.where(uniform(images, generator, len(images), 1, 1, 1) < 0.5, -1.0, 1.0)
    return images + size * signs


def high_sharpen(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    grey = bt601_luma(images)
    return images + amount * (grey - filters.gaussian_filter(grey, 1.0))


def contrast_change(images: Tensor, loss: float, generator: torch.Generator | None) -> Tensor:
    return torch.lerp(images, bt601_luma(images).mean((2, 3), keepdim=True), loss)


BRIGHTNESSES = (
    Distortion("brighten", "brightness", tone_curve, (0.1, 0.2, 0.4, 0.7, 1.1)),
    Distortion("darken", "brightness", tone_curve, (-0.05, -0.1, -0.2, -0.4, -0.8)),
    Distortion("mean_shift", "brightness", mean_shift, (0.04, 0.08, 0.12, 0.15, 0.2)),
)
CONTRASTS = (
    Distortion("high_sharpen", "contrast", high_sharpen, (1.0, 2.0, 3.0, 6.0, 12.0)),
    Distortion("contrast_change", "contrast", contrast_change, (0.15, 0.3, 0.45, 0.6, 0.75)),
)
