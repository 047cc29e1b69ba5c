"""Transforms of rated images: one random crop for training, many crops for testing.

Every crop takes its image's score. Sources: sister papers of MFENet (arXiv 2411.07556) train and test on 25 or 50
random crops of 224x224 pixels per image, mirror them left-right and top-down, and resize KonIQ-10k to 512x384 before
cropping; a test score is the mean over the crops.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional

from fastiqa.common import arguments
from fastiqa.data.images.reading import Image, ImageError
from fastiqa.data.triplets.transforms import enlarged, random_place


@dataclass(frozen=True)
class RandomFlippedCrop:
    """Takes a random crop and mirrors it at random: for training.

    Args:
        size: height and width of the crop in pixels. Smaller images are enlarged bicubically until the shorter side is
            `size`, so all items have one size; ImageError if that exceeds ``PIL.Image.MAX_IMAGE_PIXELS``.
        resize: (height, width) to resize the whole image to first, bilinear with anti-aliasing; None keeps its size.
            The papers' 512x384 for KonIQ-10k is ``resize=(384, 512)``.
        horizontal: mirror left and right with probability one half.
        vertical: mirror top and bottom with probability one half.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from pathlib import Path
        >>> image = Image(np.zeros((384, 512, 3), np.uint8), 8, Path("photo.png"))
        >>> RandomFlippedCrop()(image, np.random.default_rng(0)).shape
        torch.Size([3, 224, 224])
    """

    size: int = 224
    resize: tuple[int, int] | None = None
    horizontal: bool = True
    vertical: bool = True

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.resize)
        arguments.flag("horizontal", self.horizontal)
        arguments.flag("vertical", self.vertical)

    def __call__(self, image: Image, generator: np.random.Generator) -> Tensor:
        """Convert an image (H, W, 3) to float32 (3, size, size) in [0, 1]."""
        crop = _random_crops(image, 1, self.size, self.resize, generator)[0]
        left_right, top_down = generator.random(2) < 0.5
        axes = [axis for axis, flip in ((-1, self.horizontal and left_right), (-2, self.vertical and top_down)) if flip]
        return crop.flip(axes)


@dataclass(frozen=True)
class TestCrops:
    """Takes random crops, whose mean score is the image's: for testing.

    The crops depend on the image's size and `seed` alone; they are the same in every epoch and for every network.

    Args:
        n: number of crops; papers use 25 and 50.
        size: height and width of the crops in pixels; smaller images are enlarged as in `RandomFlippedCrop`.
        seed: for the places of the crops, 0 or more.
        resize: as for `RandomFlippedCrop`.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from pathlib import Path
        >>> image = Image(np.zeros((384, 512, 3), np.uint8), 8, Path("photo.png"))
        >>> TestCrops(n=5, size=64)(image).shape
        torch.Size([5, 3, 64, 64])
    """

    __test__: ClassVar[bool] = False  # the name would make pytest collect it

    n: int = 25
    size: int = 224
    seed: int = 0
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        arguments.integer("n", self.n)
        arguments.integer("seed", self.seed, minimum=0)
        _check_sizes(self.size, self.resize)

    def __call__(self, image: Image, generator: np.random.Generator | None = None) -> Tensor:
        """Convert an image (H, W, 3) to float32 (n, 3, size, size) in [0, 1]; `generator` is ignored."""
        return _random_crops(image, self.n, self.size, self.resize, np.random.default_rng(self.seed))


def _check_sizes(size: int, resize: tuple[int, int] | None) -> None:
    arguments.integer("size", size)
    if resize is not None:
        arguments.integers("resize", resize, length=2)


def _random_crops(
    image: Image, n: int, size: int, resize: tuple[int, int] | None, generator: np.random.Generator
) -> Tensor:
    """Random squares of an image, (n, 3, size, size)."""
    height, width = image.pixels.shape[:2]
    if resize in (None, (height, width)) and min(height, width) >= size and n * size**2 < height * width:
        # cropped before conversion to float: 1.9 ms instead of 484 for a crop from 3000x4000 pixels
        windows = [_window(height, width, size, generator) for _ in range(n)]
        return torch.cat([dataclasses.replace(image, pixels=image.pixels[window]).tensor() for window in windows])
    whole = _resized(image, size, resize)
    height, width = whole.shape[-2:]
    return torch.stack([whole[(..., *_window(height, width, size, generator))] for _ in range(n)])


def _resized(image: Image, size: int, resize: tuple[int, int] | None) -> Tensor:
    """The image (3, H, W) after `resize`, enlarged if a side is below `size`. Raises ImageError."""
    whole = image.tensor()
    if resize is not None and whole.shape[-2:] != resize:
        whole = functional.interpolate(whole, size=resize, mode="bilinear", align_corners=False, antialias=True)
    height, width = whole.shape[-2:]
    limit = PIL.Image.MAX_IMAGE_PIXELS or math.inf  # as in read_image; enlarging 1x5000 pixels would take 3 GB
    if min(height, width) < size and size**2 * max(height, width) > limit * min(height, width):
        became = f"more than {limit} (PIL.Image.MAX_IMAGE_PIXELS) with the shorter side enlarged to {size}"
        raise ImageError(image.path, f"is {width}x{height} pixels, {became}")
    return enlarged(whole, size)[0]


def _window(height: int, width: int, size: int, generator: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a square at a random place."""
    top, left = random_place((height, width), (size, size), generator)
    return np.s_[top : top + size, left : left + size]
