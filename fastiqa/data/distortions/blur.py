"""Blurs.

    gaussian_blur    Gaussian; standard deviation in pixels
    lens_blur        disc, as a lens out of focus; radius in pixels
    motion_blur      straight line in a random direction; length in pixels

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019), except where its level 1 changes nothing: for the Gaussian 0.5,
0.75, 1 replace 0.1, 0.5, 1, and for the motion 2, 3 replace 1, 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, uniform
from fastiqa.data.images import filters

SAMPLES = 16  # per pixel and axis, to rasterise a disc or a line


def gaussian_blur(images: Tensor, sigma: float, generator: torch.Generator | None) -> Tensor:
    return filters.gaussian_filter(images, sigma)


def lens_blur(images: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    return filters.convolve(images, disc_kernel(radius)[None])


def motion_blur(images: Tensor, length: float, generator: torch.Generator | None) -> Tensor:
    angles = math.pi * uniform(images, generator, len(images))
    return filters.convolve(images, line_kernels(length, angles))


def disc_kernel(radius: float) -> Tensor:
    """A disc of `radius` pixels as a kernel (k, k), float64: each pixel's covered share, normalised to sum 1."""
    edge = math.ceil(radius - 0.5)
    side = 2 * edge + 1
    position = (torch.arange(side * SAMPLES, dtype=torch.float64, device="cpu") + 0.5) / SAMPLES - side / 2
    inside = position.square()[:, None] + position.square() <= radius**2
    covered = inside.double().view(side, SAMPLES, side, SAMPLES).mean((1, 3))
    return covered / covered.sum()


def line_kernels(length: float, angles: Tensor) -> Tensor:
    """Centred lines of `length` pixels at N angles in radians as kernels (N, k, k), each with sum 1."""
    edge = math.ceil(length / 2)
    pixel = torch.arange(-edge, edge + 1, dtype=angles.dtype, device=angles.device)
    along = length * (
        (torch.arange(SAMPLES * math.ceil(length), device="cpu").to(angles) + 0.5) / (SAMPLES * math.ceil(length)) - 0.5
    )
    # the four pixels around a point of the line share it bilinearly
    columns = (1 - (angles.cos()[:, None] * along)[..., None].sub(pixel).abs()).clamp(min=0)
    rows = (1 - (angles.sin()[:, None] * along)[..., None].sub(pixel).abs()).clamp(min=0)
    kernels = rows.mT @ columns
    return kernels / kernels.sum((1, 2), keepdim=True)


BLURS = (
    Distortion("gaussian_blur", "blur", gaussian_blur, (0.5, 0.75, 1.0, 2.0, 5.0)),
    Distortion("lens_blur", "blur", lens_blur, (1.0, 2.0, 4.0, 6.0, 8.0)),
    Distortion("motion_blur", "blur", motion_blur, (2.0, 3.0, 4.0, 6.0, 10.0)),
)
