"""Transforms of triplets; each treats O, A and B alike.

Source: PRFNet (arXiv 2401.06992) trains on random crops of 448x448 pixels. It does not say how its second step crops
smaller images, BAPPS (64x64) and PieAPP (256x256): both readings are here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastiqa.common import arguments
from fastiqa.data.triplets.dataset import Images, Item


@dataclass(frozen=True)
class RandomCrop:
    """Takes one random crop of O, A and B, mirrors it and exchanges A and B at random.

    Args:
        size: height and width of the crop in pixels.
        small: for images with a side below `size`: "upscale" enlarges them bicubically until the shorter side is
            `size`, so all items have one size; "native" crops min(size, side) of each side and keeps the pixels, for
            batches from one source, as ``fastiqa train`` makes them.
        flip: mirror left and right with probability one half.
        swap: exchange A and B, and label with 1 - label, with probability one half: the network is not antisymmetric,
            and published labels may prefer a side.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from pathlib import Path
        >>> from fastiqa.data import Image
        >>> image = Image(np.zeros((64, 64, 3), np.uint8), 8, Path("patch.png"))
        >>> ref, a, b, label = RandomCrop(448)((image, image, image), 0.25, np.random.default_rng(0))
        >>> ref.shape, float(label) in (0.25, 0.75)
        (torch.Size([3, 448, 448]), True)
    """

    size: int = 448
    small: Literal["upscale", "native"] = "upscale"
    flip: bool = True
    swap: bool = True

    def __post_init__(self) -> None:
        arguments.integer("size", self.size)
        arguments.one_of("small", self.small, ("upscale", "native"))
        arguments.flag("flip", self.flip)
        arguments.flag("swap", self.swap)

    def __call__(self, images: Images, label: float, generator: np.random.Generator) -> Item:
        """Convert images (H, W, 3) of one size to float32 (3, h, w) in [0, 1], and the label to a float32 scalar."""
        crops = self._crops(images, generator)
        mirrored, exchanged = generator.random(2) < 0.5
        ref, a, b = crops.flip(-1) if self.flip and mirrored else crops
        if self.swap and exchanged:
            a, b, label = b, a, 1 - label
        return ref, a, b, torch.tensor(label, dtype=torch.float32, device="cpu")

    def _crops(self, images: Images, generator: np.random.Generator) -> Tensor:
        """The same window of all three images: (3, 3, h, w)."""
        full_height, full_width = images[0].pixels.shape[:2]
        height, width = min(self.size, full_height), min(self.size, full_width)
        if self.small == "upscale":
            # crop a square of the shorter side before enlarging: a whole 1x1000 image would take gigabytes
            height = width = min(height, width)
        top, left = random_place((full_height, full_width), (height, width), generator)
        window = np.s_[top : top + height, left : left + width]
        # cropped before conversion to float: 6.5 ms instead of 15.2 for three 768x768 images, which take 65 to decode
        crops = torch.cat([dataclasses.replace(image, pixels=image.pixels[window]).tensor() for image in images])
        return enlarged(crops, self.size) if self.small == "upscale" else crops


@dataclass(frozen=True)
class WholeImage:
    """Keeps whole images for evaluation, padded by reflection at the right and the bottom.

    Args:
        multiple: both sides are padded to a multiple of this number of pixels.
        shorter_side: smaller images are first enlarged bicubically until the shorter side has this many pixels, as
            ``RandomCrop(size, small="upscale")`` does in training. None never enlarges.

    Raises:
        ValueError: an argument out of range; an image too small to be reflected that far.
    """

    multiple: int = 32
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        arguments.integer("multiple", self.multiple)
        if self.shorter_side is not None:
            arguments.integer("shorter_side", self.shorter_side)

    def __call__(self, images: Images, label: float, generator: np.random.Generator) -> Item:
        """Convert images (H, W, 3) of one size to float32 (3, h, w) in [0, 1], and the label to a float32 scalar."""
        stack = torch.cat([image.tensor() for image in images])
        if self.shorter_side is not None:
            stack = enlarged(stack, self.shorter_side)
        height, width = stack.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom >= height or right >= width:
            wanted = f"more than half of {self.multiple} on each side"
            raise ValueError(f"{images[0].path}: got {width}x{height} pixels, want {wanted}")
        ref, a, b = functional.pad(stack, (0, right, 0, bottom), mode="reflect")
        return ref, a, b, torch.tensor(label, dtype=torch.float32, device="cpu")


def random_place(image: tuple[int, int], crop: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
    """Draw top and left of a crop uniformly; sizes are (height, width)."""
    return int(generator.integers(image[0] - crop[0] + 1)), int(generator.integers(image[1] - crop[1] + 1))


def enlarged(images: Tensor, shorter_side: int) -> Tensor:
    """Enlarge images (N, 3, H, W) until the shorter side has `shorter_side` pixels, bicubic; keep larger ones."""
    height, width = images.shape[-2:]
    scale = shorter_side / min(height, width)
    if scale <= 1:
        return images
    size = (max(shorter_side, round(height * scale)), max(shorter_side, round(width * scale)))
    larger = functional.interpolate(images, size=size, mode="bicubic", align_corners=False)
    return larger.clamp(0, 1)  # bicubic interpolation overshoots at edges
