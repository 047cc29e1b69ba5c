"""Distortions of colour.

    colour_diffusion       a and b of L*a*b* blurred with a Gaussian of 1.5 s + 2 pixels and multiplied by the setting s
    colour_shift           green moved by s pixels in a random direction, where the image has edges
    colour_quantisation    the nearest of the s colours that median cut chooses for the image
    saturation_hsv         saturation of HSV multiplied by s; below 0 hues turn into their opposites
    saturation_lab         a and b of L*a*b* multiplied by s

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019) but for saturation_lab at level 1, 1 there, which changes
nothing. KADID chooses the colours of a quantised image by minimum variance.
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

EDGE_WIDTH = 4.0  # standard deviation, in pixels, of the blur of the map of edges


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
    distances = palettes.square().sum(2)[:, None] - 2 * images.flatten(2).mT @ palettes.mT  # less that of the pixel
    nearest = distances.argmin(2)[..., None].expand(-1, -1, 3)
    quantised: Tensor = palettes.gather(1, nearest).mT.unflatten(2, images.shape[2:])
    return quantised


def saturation_hsv(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    value = images.amax(1, keepdim=True)
    return torch.lerp(value, images, factor)  # of equal hue and value, the distance from the value is the saturation


def saturation_lab(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    lightness, colour = to_lab(images).split((1, 2), 1)
    return from_lab(torch.cat([lightness, factor * colour], 1))


def _palette(codes: Codes, colours: int) -> Codes:
    """The colours of an image (H, W, 3) by median cut, as an image (1, colours, 3); the last may stand repeatedly."""
    # of 6 bits a channel: at 8, 224×224 pixels of 40,000 colours take 160 ms instead of 30; 5 show where it is flat
    few = PIL.Image.fromarray(codes & 0xFC | 0x02).quantize(colours, PIL.Image.Quantize.MEDIANCUT)
    palette = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[: int(np.asarray(few).max()) + 1]
    return np.pad(palette, ((0, colours - len(palette)), (0, 0)), mode="edge")[None]


def _edges(images: Tensor) -> Tensor:
    """Blurred magnitude of the gradient of the luma, 0 to 1 at its largest, (N, 1, H, W)."""
    vertical, horizontal = torch.gradient(bt601_luma(images), dim=(2, 3))
    magnitude = filters.gaussian_filter(torch.hypot(vertical, horizontal), EDGE_WIDTH)
    return magnitude / magnitude.amax((2, 3), keepdim=True).clamp(min=1e-6)


def _moved(channel: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """A channel (N, 1, H, W) moved by whole pixels, (N,) each; from beyond the borders come the outermost pixels."""
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
