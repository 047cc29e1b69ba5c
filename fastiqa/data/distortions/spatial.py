"""Distortions of the grid.

    jitter                   samples every pixel at a random offset, standard deviation √5 s pixels in each direction
    non_eccentricity_patch   copies s patches of 16×16 pixels to random places less than 8 pixels away
    pixelate                 shrinks both sides to 0.95 - s^0.6 and enlarges them again, by nearest neighbours
    quantisation             rounds each channel to s equidistant values
    colour_block             covers s blocks of 32×32 pixels, each with a random colour

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019). KADID jitters five times by s pixels, and chooses quantisation
values by Otsu's method. Its images have 512×384 pixels: in other images patches and blocks scale with the root of the
area, so they cover the same share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fastiqa.data.distortions.distortion import Distortion, normal, uniform

MOST_PATCHES, MOST_BLOCKS = 100, 10


def jitter(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    count, _, height, width = images.shape
    offsets = math.sqrt(5) * amount * normal(images, generator, count, height, width, 2)
    rows, columns = (torch.arange(side, device="cpu").to(images) for side in (height, width))
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) + offsets
    grid = (2 * places + 1) / images.new_tensor((width, height)) - 1  # -1 and 1 are the outer edges of the pixels
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def non_eccentricity_patch(images: Tensor, patches: float, generator: torch.Generator | None) -> Tensor:
    side = _scaled(16, images)
    height, width = images.shape[-2:]
    drawn = uniform(images, generator, len(images), MOST_PATCHES, 4)[:, : int(patches)].tolist()
    result = images.clone()
    for image, source, places in zip(result, images, drawn, strict=True):
        for down, right, further_down, further_right in places:
            top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
            new_top = _inside(top + round((further_down - 0.5) * side), height - side)
            new_left = _inside(left + round((further_right - 0.5) * side), width - side)
            patch = source[:, top : top + side, left : left + side]
            image[:, new_top : new_top + side, new_left : new_left + side] = patch
    return result


def pixelate(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    height, width = images.shape[-2:]
    scale = 0.95 - amount**0.6
    shrunk = functional.interpolate(images, size=(int(scale * height), int(scale * width)), mode="nearest-exact")
    return functional.interpolate(shrunk, size=(height, width), mode="nearest-exact")


def quantisation(images: Tensor, values: float, generator: torch.Generator | None) -> Tensor:
    return (images * (values - 1)).round() / (values - 1)


def colour_block(images: Tensor, blocks: float, generator: torch.Generator | None) -> Tensor:
    side = _scaled(32, images)
    height, width = images.shape[-2:]
    drawn = uniform(images, generator, len(images), MOST_BLOCKS, 2)[:, : int(blocks)].tolist()
    colours = uniform(images, generator, len(images), MOST_BLOCKS, 3, 1, 1)
    result = images.clone()
    for image, places, of_image in zip(result, drawn, colours, strict=True):
        for (down, right), colour in zip(places, of_image, strict=False):
            top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
            image[:, top : top + side, left : left + side] = colour
    return result


def _scaled(side: int, images: Tensor) -> int:
    """The side that covers the same share as `side` pixels do in KADID-10k's images."""
    height, width = images.shape[-2:]
    scaled = round(side * math.sqrt(height * width / (512 * 384)))
    return min(max(scaled, 2), height, width)


def _inside(position: int, last: int) -> int:
    return min(max(position, 0), last)


SPATIALS = (
    Distortion("jitter", "spatial", jitter, (0.05, 0.1, 0.2, 0.5, 1.0)),
    Distortion("non_eccentricity_patch", "spatial", non_eccentricity_patch, (20, 40, 60, 80, MOST_PATCHES)),
    Distortion("pixelate", "spatial", pixelate, (0.01, 0.05, 0.1, 0.2, 0.5)),
    Distortion("quantisation", "spatial", quantisation, (20, 16, 13, 10, 7)),
    Distortion("colour_block", "spatial", colour_block, (2, 4, 6, 8, MOST_BLOCKS)),
)
