"""Rated images, as files and as tensors: an image and the score that people gave it."""

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
        score: in the units of its data set, which also decides whether higher is better.
        reference: the content: the name of the reference image, or of the image itself if there is none. Training and
            test must not share a content.
        group: type of distortion, for scores by type; "" if unknown.
    """

    image: Path
    score: float
    reference: str
    group: str = ""


def whole_image(image: Image, generator: np.random.Generator) -> Tensor:
    """The identity transform: float32 (3, H, W) in [0, 1]."""
    return image.tensor()[0]


class RatedDataset(LabelledDataset[RatedImage, RatedItem]):
    """Rated images as tensors.

    ``dataset[i]`` is (image, score): float32 (3, H, W) in [0, 1], RGB, after `transform`, and a float32 scalar. All
    random choices of item i in epoch e depend on (seed, e, i) alone, so a resumed run sees the same crops.

    Args:
        images: from `fastiqa.data.read_rated`, at least one.
        transform: (image, random generator) -> tensor; by default :func:`whole_image`. See
            ``fastiqa.data.rated.transforms``.
        seed: for the random choices, 0 or more.
        on_unreadable: for an unreadable image, "raise" ends the epoch; "skip" names the file once in a warning of the
            logger ``fastiqa`` and takes the next readable image instead, so batches keep their size.

    Attributes:
        unreadable: file -> reason, for the files skipped so far in this process; each worker of a DataLoader has its
            own.

    Raises:
        ValueError: no images, a score that is not finite, a negative seed, another `on_unreadable`. ``dataset[i]``
            raises :class:`fastiqa.data.ImageError` for an unreadable image with "raise", and after 16 in a row with
            "skip".

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
        """Read and transform the image; return it with its score. Raises ImageError."""
        image = self.transform(read_image(record.image), generator)
        return image, torch.tensor(record.score, dtype=torch.float32, device="cpu")
