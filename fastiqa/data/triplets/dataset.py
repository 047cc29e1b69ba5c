"""Triplets: a reference, two distorted versions of it, and which of the two is closer, as files and as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastiqa.data.images.photographs import Photographs
from fastiqa.data.images.reading import Image, ImageError
from fastiqa.data.labelled import LabelledDataset, OnUnreadable

Images = tuple[Image, Image, Image]
Item = tuple[Tensor, Tensor, Tensor, Tensor]
Transform = Callable[[Images, float, np.random.Generator], Item]


class Triplet(NamedTuple):
    """Three image files of one size and a label.

    Attributes:
        ref, a, b: the reference and the two candidates.
        label: probability, from 0 to 1, that b is closer to ref than a.
        group: type of distortion or pair of codecs, for scores by type; "" where it is unknown.
    """

    ref: Path
    a: Path
    b: Path
    label: float
    group: str = ""


def whole_images(images: Images, label: float, generator: np.random.Generator) -> Item:
    """The transform that changes nothing: (ref, a, b, label) as float32."""
    ref, a, b = (image.tensor()[0] for image in images)
    return ref, a, b, torch.tensor(label, dtype=torch.float32, device="cpu")


class TripletDataset(LabelledDataset[Triplet, Item]):
    """Triplets as tensors.

    ``dataset[i]`` is (ref, a, b, label): float32 tensors (3, H, W) in [0, 1], RGB, as :func:`fastiqa.data.read_image`
    reads them, and a float32 scalar, the probability that b is closer to ref. Every random choice of item i in epoch e
    is a function of (seed, e, i) alone, whatever was read before and in whichever process: a resumed run sees the same
    crops.

    Args:
        triplets: what the readers of ``fastiqa.data`` return, at least one.
        transform: of three images, a label and a generator of random numbers into an item; by default
            :func:`whole_images`. See ``fastiqa.data.triplets.transforms``.
        seed: of the random choices, 0 or more.
        keep: hold every image in memory once it is read, 3 bytes a pixel at 8 bits (each worker of a DataLoader its
            own): where few images make many triplets.
        on_unreadable: what happens at an image that cannot be read, or whose size is not its reference's. "raise" ends
            the epoch. With "skip" the file is named once in a warning of the logger ``fastiqa`` and the next readable
            triplet takes the place, so that batches keep their size.

    Attributes:
        unreadable: file -> reason, of the files skipped so far in this process (each worker of a DataLoader has its
            own).

    Raises:
        ValueError: no triplets, a label outside [0, 1], a negative seed, another `on_unreadable`. From ``dataset[i]``:
            :class:`fastiqa.data.ImageError` at an unreadable image with "raise", and with "skip" after 16 in a row.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.png"
        ...     PIL.Image.new("RGB", (6, 4), (128, 128, 128)).save(path)
        ...     ref, a, b, label = TripletDataset([Triplet(path, path, path, 0.5)])[0]
        >>> ref.shape, label
        (torch.Size([3, 4, 6]), tensor(0.5000))
    """

    noun = "triplets"
    consequence = "triplets with this image are skipped"

    def __init__(
        self,
        triplets: Sequence[Triplet],
        transform: Transform = whole_images,
        *,
        seed: int = 0,
        keep: bool = False,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        for i, triplet in enumerate(triplets):
            if not 0 <= triplet.label <= 1:  # false for NaN too
                raise ValueError(f"triplets[{i}].label: got {triplet.label!r}, want a probability from 0 to 1")
        super().__init__(triplets, seed, on_unreadable)
        self.transform = transform
        self.read = Photographs(smallest_side=1, keep=keep)

    def item(self, record: Triplet, generator: np.random.Generator) -> Item:
        """The triplet, read and transformed. Raises ImageError."""
        ref, a, b = (self.read(path) for path in record[:3])
        return self.transform(_of_one_size(ref, a, b), record.label, generator)


def _of_one_size(ref: Image, a: Image, b: Image) -> Images:
    """The three images. Raises ImageError where their sizes differ."""
    height, width = ref.pixels.shape[:2]
    for image in (a, b):
        if image.pixels.shape != ref.pixels.shape:
            other_height, other_width = image.pixels.shape[:2]
            reason = f"is {other_width}x{other_height} pixels, its reference {ref.path} is {width}x{height}"
            raise ImageError(image.path, reason)
    return ref, a, b
