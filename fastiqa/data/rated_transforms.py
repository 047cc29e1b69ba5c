"""Transforms of rated images: random crops to train on, many crops to test on.

An image's score is taken for the score of each of its crops. Sources: sister papers of MFENet (arXiv 2411.07556) train
and test on 25 or 50 random crops of 224x224 pixels per image, mirror them left-right and top-down, and resize KonIQ-10k
to 512x384 before they crop; a test score is the mean over the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastiqa.data.images import Image
from fastiqa.data.transforms import enlarged, random_place
from fastiqa.reference import arguments


@dataclass(frozen=True)
class RandomFlippedCrop:
    """A random crop, mirrored at random: what a network trains on.

    Args:
        size: height and width of the crop in pixels. An image with a shorter side is enlarged bicubically, its shorter
            side to `size`, so that every item has one size.
        resize: (height, width) to which the whole image is resized first, bilinearly with anti-aliasing; None leaves it
            as it is. For KonIQ-10k the papers' 512x384 is ``resize=(384, 512)``.
        horizontal: mirror left and right with probability one half.
        vertical: mirror top and bottom with probability one half.

    Raises:
        ValueError: an argument out of its range.

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
        """An image (H, W, 3) to float32 (3, size, size) in [0, 1]."""
        crop = _random_crop(_resized(image, self.size, self.resize), self.size, generator)
        left_right, top_down = generator.random(2) < 0.5
        axes = [axis for axis, flip in ((-1, self.horizontal and left_right), (-2, self.vertical and top_down)) if flip]
        return crop.flip(axes)


@dataclass(frozen=True)
class TestCrops:
    """Random crops whose mean score is the image's: what a network is tested on.

    The crops are a function of the image's size and `seed` alone, the same in every epoch and for whichever network.

    Args:
        n: number of crops; the papers' are 25 and 50.
        size: height and width of the crops in pixels; smaller images are enlarged as `RandomFlippedCrop` does.
        seed: of the crops' places, 0 or more.
        resize: as of `RandomFlippedCrop`.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from pathlib import Path
        >>> image = Image(np.zeros((384, 512, 3), np.uint8), 8, Path("photo.png"))
        >>> TestCrops(n=5, size=64)(image).shape
        torch.Size([5, 3, 64, 64])
    """

    __test__: ClassVar[bool] = False  # by its name pytest would take it for a class of tests

    n: int = 25
    size: int = 224
    seed: int = 0
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        arguments.integer("n", self.n)
        arguments.integer("seed", self.seed, minimum=0)
        _check_sizes(self.size, self.resize)

    def __call__(self, image: Image, generator: np.random.Generator | None = None) -> Tensor:
        """An image (H, W, 3) to float32 (n, 3, size, size) in [0, 1]; the epoch's `generator` is not used."""
        places = np.random.default_rng(self.seed)
        whole = _resized(image, self.size, self.resize)
        return torch.stack([_random_crop(whole, self.size, places) for _ in range(self.n)])


def _check_sizes(size: int, resize: tuple[int, int] | None) -> None:
    arguments.integer("size", size)
    if resize is not None:
        arguments.integers("resize", resize, length=2)


def _resized(image: Image, size: int, resize: tuple[int, int] | None) -> Tensor:
    """The image (3, H, W), resized where that is wanted, no side of it below `size`."""
    whole = image.tensor()
    if resize is not None and whole.shape[-2:] != resize:
        whole = functional.interpolate(whole, size=resize, mode="bilinear", align_corners=False, antialias=True)
    return enlarged(whole, size)[0]


def _random_crop(image: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """A square of (3, H, W)."""
    height, width = image.shape[-2:]
    top, left = random_place((height, width), (size, size), generator)
    return image[:, top : top + size, left : left + size].contiguous()
