"""Noises.

    white_noise             Gaussian in R, G and B; the setting is its variance, white being 1
    colour_noise            Gaussian in Y, Cb and Cr; the setting is its variance
    impulse_noise           replaces values by 0 or 1; the setting is their share
    multiplicative_noise    Gaussian, multiplied by the image before it is added; the setting is its variance
    denoised                Gaussian in R, G and B, then an adaptive Wiener filter of 5×5 pixels; the noise's variance

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019). KADID denoises with a network, DnCNN. The filter here, Lee's
(IEEE TPAMI 1980) and MATLAB's ``wiener2``, knows the noise variance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, normal, uniform
from fastiqa.data.images import filters
from fastiqa.data.images.colour_spaces import from_ycbcr, to_ycbcr

WIENER_WINDOW = 5


def white_noise(images: Tensor, variance: float, generator: torch.Generator | None) -> Tensor:
    return images + math.sqrt(variance) * normal(images, generator, *images.shape)


def colour_noise(images: Tensor, variance: float, generator: torch.Generator | None) -> Tensor:
    return from_ycbcr(white_noise(to_ycbcr(images), variance, generator))


def impulse_noise(images: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    drawn = uniform(images, generator, *images.shape)
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill(drawn > 1 - share / 2, 1.0)


def multiplicative_noise(images: Tensor, variance: float, generator: torch.Generator | None) -> Tensor:
    return images * (1 + math.sqrt(variance) * normal(images, generator, *images.shape))


def denoised(images: Tensor, variance: float, generator: torch.Generator | None) -> Tensor:
    noisy = white_noise(images, variance, generator).clamp(0, 1)
    window = torch.full((1, WIENER_WINDOW, WIENER_WINDOW), 1 / WIENER_WINDOW**2, device="cpu")
    mean = filters.convolve(noisy, window)
    spread = filters.convolve(noisy.square(), window) - mean.square()
    kept = (1 - variance / spread.clamp(min=variance)).clamp(min=0)
    return torch.lerp(mean, noisy, kept)


NOISES = (
    Distortion("white_noise", "noise", white_noise, (0.001, 0.002, 0.003, 0.005, 0.01)),
    Distortion("colour_noise", "noise", colour_noise, (0.0001, 0.0005, 0.001, 0.002, 0.003)),
    Distortion("impulse_noise", "noise", impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03)),
    Distortion("multiplicative_noise", "noise", multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05)),
    Distortion("denoised", "noise", denoised, (0.01, 0.03, 0.05, 0.1, 0.15)),
)
