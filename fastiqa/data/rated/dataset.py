"""Rated images: a distorted image and how good people found it, as files and as tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastiqa.data.images.reading import Image, read_image
from fastiqa.data.labelled import LabelledDataset, OnUnreadable

RatedItem = tuple[Tensor, Tensor]
RatedTransform = Callable[[Image, np.random.Generator], Tensor]


class RatedImage(NamedTuple):
    """An image file and the score that people gave it.

    Attributes:
        image: the file.
        score: in the units of its data set; whether higher is better, too, is the data set's.
        reference: which content the image shows: the name of the reference image, or of the image itself where there is
            none. Images of one content must not be parted between training and test.
        group: type of distortion, for scores by type; "" where it is unknown.
    """

    image: Path
    score: float
    reference: str
    group: str = ""


def whole_image(image: Image, generator: np.random.Generator) -> Tensor:
    """The transform that changes nothing: float32 (3, H, W) in [0, 1]."""
    return image.tensor()[0]


class RatedDataset(LabelledDataset[RatedImage, RatedItem]):
    """Rated images as tensors.

    ``dataset[i]`` is (image, score): float32 (3, H, W) in [0, 1], RGB, as :func:`fastiqa.data.read_image` reads it and
    `transform` leaves it, and a float32 scalar. Every random choice of item i in epoch e is a function of (seed, e, i)
    alone, whatever was read before and in whichever process: a resumed run sees the same crops.

    Args:
        images: what `fastiqa.data.read_rated` returns, at least one.
        transform: of an image and a generator of random numbers into a tensor; by default :func:`whole_image`. See
            ``fastiqa.data.rated.transforms``.
        seed: of the random choices, 0 or more.
        on_unreadable: what happens at an image that cannot be read. "raise" ends the epoch. With "skip" the file is
            named once in a warning of the logger ``fastiqa`` and the next readable image takes the place, so that
            batches keep their size.

    Attributes:
        unreadable: file -> reason, of the files skipped so far in this process (each worker of a DataLoader has its
            own).

    Raises:
        ValueError: no images, a score that is not finite, a negative seed, another `on_unreadable`. From
            ``dataset[i]``: :class:`fastiqa.data.ImageError` at an unreadable image with "raise", and with "skip" after
            16 in a row.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.png"
        ...     PIL.Image.new("RGB", (6, 4), (128, 128, 128)).save(path)
        ...     image, score = RatedDataset([RatedImage(path, 5.5, "grey.png")])[0]
        >>> image.shape, score
        (torch.Size([3, 4, 6]), tensor(5.5000))
    """

    noun = "images"
    consequence = "skipped"

    def __init__(
        self,
        images: Sequence[RatedImage],
        transform: RatedTransform = whole_image,
        *,
        seed: int = 0,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        for i, image in enumerate(images):
            if not math.isfinite(image.score):
                raise ValueError(f"images[{i}].score: got {image.score!r}, want a finite number")
        super().__init__(images, seed, on_unreadable)
        self.transform = transform

    def item(self, record: RatedImage, generator: np.random.Generator) -> RatedItem:
        """The image, read and transformed, and its score. Raises ImageError."""
        image = self.transform(read_image(record.image), generator)
        return image, torch.tensor(record.score, dtype=torch.float32, device="cpu")
