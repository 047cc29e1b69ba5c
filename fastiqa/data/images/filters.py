"""Linear filters for images (N, C, H, W), with replicated borders."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter images (N, C, H, W) with a kernel per image, (N, h, w), or one for all, (1, h, w); h and w are odd."""
    count, channels = images.shape[:2]
    height, width = kernels.shape[-2:]
    side, edge = width // 2, height // 2
    padded = functional.pad(images, (side, side, edge, edge), mode="replicate")
    weight = kernels.to(images).expand(count, -1, -1).repeat_interleave(channels, 0)[:, None]
    filtered = functional.conv2d(padded.flatten(0, 1)[None], weight, groups=count * channels)
    separate: Tensor = filtered[0].unflatten(0, (count, channels))
    return separate


def gaussian_filter(images: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """Filter images (N, C, H, W) with a Gaussian of `sigma` pixels, cut off at `radius` pixels, by default 3 sigma."""
    radius = math.ceil(3 * sigma) if radius is None else radius
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    gaussian = torch.exp(-distance.square() / (2 * sigma**2))
    gaussian = gaussian / gaussian.sum()
    return convolve(convolve(images, gaussian.view(1, -1, 1)), gaussian.view(1, 1, -1))
