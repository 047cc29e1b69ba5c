"""Distortions of colour.

    colour_diffusion       blurs a and b of L*a*b* with a Gaussian of 1.5 s + 2 pixels and multiplies them by setting s
    colour_shift           moves green by s pixels in a random direction, where the image has edges
    colour_quantisation    replaces each pixel by the nearest of s colours, chosen by median cut
    saturation_hsv         multiplies the saturation of HSV by s; a negative s inverts hues
    saturation_lab         multiplies a and b of L*a*b* by s

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019), except for saturation_lab at level 1: KADID's 1 changes
nothing. KADID chooses colours by minimum variance, not by median cut.
"""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Codes, Distortion, through_codes, uniform
from fastiqa.data.images import filters
from fastiqa.data.images.colour_spaces import bt601_luma, from_lab, to_lab

EDGE_WIDTH = 4.0  # standard deviation in pixels of the blur on the edge map


def colour_diffusion(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    lightness, colour = to_lab(images).split((1, 2), 1)
    return from_lab(torch.cat([lightness, amount * filters.gaussian_filter(colour, 1.5 * amount + 2)], 1))


def colour_shift(images: Tensor, pixels: float, generator: torch.Generator | None) -> Tensor:
    angles = 2 * math.pi * uniform(images, generator, len(images))
    red, green, blue = images.split(1, 1)
    edges = _edges(images)
    moved = _moved(green, (pixels * angles.sin()).round().long(), (pixels * angles.cos()).round().long())
    return torch.cat([red, torch.lerp(green, moved, edges), blue], 1)


def colour_quantisation(images: Tensor, colours: float, generator: torch.Generator | None) -> Tensor:
    palettes = through_codes(images, lambda codes: _palette(codes, int(colours))).flatten(2).mT
    distances = palettes.square().sum(2)[:, None] - 2 * images.flatten(2).mT @ palettes.mT  # + |pixel|², equal for all
    nearest = distances.argmin(2)[..., None].expand(-1, -1, 3)
    quantised: Tensor = palettes.gather(1, nearest).mT.unflatten(2, images.shape[2:])
    return quantised


def saturation_hsv(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    value = images.amax(1, keepdim=True)
    return torch.lerp(value, images, factor)  # at equal hue and value, saturation is the distance from the value


def saturation_lab(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    lightness, colour = to_lab(images).split((1, 2), 1)
    return from_lab(torch.cat([lightness, factor * colour], 1))


def _palette(codes: Codes, colours: int) -> Codes:
    """The palette of an image (H, W, 3) by median cut, as an image (1, colours, 3), padded with its last colour."""
    # 6 bits a channel: 8 bits take 160 ms instead of 30 for 224×224 pixels in 40,000 colours; 5 bits show in flat areas
    few = PIL.Image.fromarray(codes & 0xFC | 0x02).quantize(colours, PIL.Image.Quantize.MEDIANCUT)
    palette = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[: int(np.asarray(few).max()) + 1]
    return np.pad(palette, ((0, colours - len(palette)), (0, 0)), mode="edge")[None]


def _edges(images: Tensor) -> Tensor:
    """The edge map (N, 1, H, W): blurred gradient magnitude of the luma, divided by its maximum."""
    vertical, horizontal = torch.gradient(bt601_luma(images), dim=(2, 3))
    magnitude = filters.gaussian_filter(torch.hypot(vertical, horizontal), EDGE_WIDTH)
    return magnitude / magnitude.amax((2, 3), keepdim=True).clamp(min=1e-6)


def _moved(channel: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move a channel (N, 1, H, W) by whole pixels, (N,) each way, with replicated borders."""
    count, _, height, width = channel.shape
    rows = (torch.arange(height, device=channel.device) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=channel.device) - right[:, None]).clamp(0, width - 1)
    image = torch.arange(count, device=channel.device)[:, None, None]
    return channel[image, 0, rows[:, :, None], columns[:, None, :]][:, None]


COLOURS = (
    Distortion("colour_diffusion", "colour", colour_diffusion, (1.0, 3.0, 6.0, 8.0, 12.0)),
    Distortion("colour_shift", "colour", colour_shift, (1.0, 3.0, 6.0, 8.0, 12.0)),
    Distortion("colour_quantisation", "colour", colour_quantisation, (64, 48, 32, 16, 8)),
    Distortion("saturation_hsv", "colour", saturation_hsv, (0.4, 0.2, 0.1, 0.0, -0.4)),
    Distortion("saturation_lab", "colour", saturation_lab, (1.5, 2.0, 3.0, 6.0, 9.0)),
)
