"""Blurs.

    gaussian_blur    Gaussian; standard deviation in pixels
    lens_blur        disc, as a lens out of focus; radius in pixels
    motion_blur      straight line in a random direction; length in pixels

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019) but for two at level 1 that change nothing: a Gaussian of 0.1,
for which 0.5, 0.75, 1 stand where KADID has 0.1, 0.5, 1, and a motion of 1, here 2, followed by 3 in place of 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, uniform
from fastiqa.data.images import filters

SAMPLES = 16  # of a disc or a line, per pixel and axis


def gaussian_blur(images: Tensor, sigma: float, generator: torch.Generator | None) -> Tensor:
    return filters.gaussian_filter(images, sigma)


def lens_blur(images: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    return filters.convolve(images, disc_kernel(radius)[None])


def motion_blur(images: Tensor, length: float, generator: torch.Generator | None) -> Tensor:
    angles = math.pi * uniform(images, generator, len(images))
    return filters.convolve(images, line_kernels(length, angles))


def disc_kernel(radius: float) -> Tensor:
    """The share of each pixel that a disc covers, (k, k), with sum 1."""
    edge = math.ceil(radius - 0.5)
    side = 2 * edge + 1
    position = (torch.arange(side * SAMPLES, dtype=torch.float64, device="cpu") + 0.5) / SAMPLES - side / 2
    inside = position.square()[:, None] + position.square() <= radius**2
    covered = inside.double().view(side, SAMPLES, side, SAMPLES).mean((1, 3))
    return covered / covered.sum()


def line_kernels(length: float, angles: Tensor) -> Tensor:
    """A line through the middle for each of N angles in radians, (N, k, k), each with sum 1."""
    edge = math.ceil(length / 2)
    pixel = torch.arange(-edge, edge + 1, dtype=angles.dtype, device=angles.device)
    along = length * (
        (torch.arange(SAMPLES * math.ceil(length), device="cpu").to(angles) + 0.5) / (SAMPLES * math.ceil(length)) - 0.5
    )
    # a point of the line is shared, bilinearly, by the four pixels around it
    columns = (1 - (angles.cos()[:, None] * along)[..., None].sub(pixel).abs()).clamp(min=0)
    rows = (1 - (angles.sin()[:, None] * along)[..., None].sub(pixel).abs()).clamp(min=0)
    kernels = rows.mT @ columns
    return kernels / kernels.sum((1, 2), keepdim=True)


BLURS = (
    Distortion("gaussian_blur", "blur", gaussian_blur, (0.5, 0.75, 1.0, 2.0, 5.0)),
    Distortion("lens_blur", "blur", lens_blur, (1.0, 2.0, 4.0, 6.0, 8.0)),
    Distortion("motion_blur", "blur", motion_blur, (2.0, 3.0, 4.0, 6.0, 10.0)),
)
