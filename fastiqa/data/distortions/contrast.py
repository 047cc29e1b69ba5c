"""Sharpness and contrast.

    high_sharpen       unsharp masking: s times what a Gaussian of 1 pixel takes from the luma, added to R, G and B
    contrast_change    distances from the image's mean luma, multiplied by 1 - s

Sharpening has KADID-10k's settings (Lin, Hosu, Saupe, QoMEX 2019), which sharpens lightness. Its contrast rises at two
levels, falls at two and stays at one, up and down in quality; here it falls, by the loss 0.6 of its last level at
level 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion
from fastiqa.data.images import filters
from fastiqa.data.images.colour_spaces import bt601_luma


def high_sharpen(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    grey = bt601_luma(images)
    return images + amount * (grey - filters.gaussian_filter(grey, 1.0))


def contrast_change(images: Tensor, loss: float, generator: torch.Generator | None) -> Tensor:
    return torch.lerp(images, bt601_luma(images).mean((2, 3), keepdim=True), loss)


CONTRASTS = (
    Distortion("high_sharpen", "contrast", high_sharpen, (1.0, 2.0, 3.0, 6.0, 12.0)),
    Distortion("contrast_change", "contrast", contrast_change, (0.15, 0.3, 0.45, 0.6, 0.75)),
)
