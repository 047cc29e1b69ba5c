"""Triplets, as files and as tensors: a reference, two distorted versions of it, and a label: which one is closer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
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
        label: probability in [0, 1] that b is closer to ref than a.
        group: type of distortion or pair of codecs, for scores by type; "" if unknown.
        weight: how much the label counts, in [0, 1]; None if unknown.
    """

    ref: Path
    a: Path
    b: Path
    label: float
    group: str = ""
    weight: float | None = None


def mean_weight(triplets: Sequence[Triplet]) -> float:
    """The mean of the triplets' weights.

    Raises: ValueError for triplets without a weight, and if all weights are 0.
    """
    weights = [triplet.weight for triplet in triplets if triplet.weight is not None]
    if len(weights) < len(triplets):
        raise ValueError("weights: got true, want false: the triplets have no weights")
    if not any(weights):
        raise ValueError("weights: got true, want false: all weights are 0")
    return fmean(weights)


def whole_images(images: Images, label: float, generator: np.random.Generator) -> Item:
    """The identity transform: (ref, a, b, label) as float32, images (3, H, W) in [0, 1]."""
    ref, a, b = (image.tensor()[0] for image in images)
    return ref, a, b, torch.tensor(label, dtype=torch.float32, device="cpu")


class TripletDataset(LabelledDataset[Triplet, tuple[Tensor, ...]]):
    """Triplets as tensors.

    ``dataset[i]`` is (ref, a, b, label): float32 tensors (3, H, W) in [0, 1], RGB, and a float32 scalar, the
    probability that b is closer to ref. All random choices of item i in epoch e depend on (seed, e, i) alone, so a
    resumed run sees the same crops.

    Args:
        triplets: from the readers of ``fastiqa.data``, at least one.
        transform: (three images, label, random generator) -> item; by default :func:`whole_images`. See
            ``fastiqa.data.triplets.transforms``.
        seed: for the random choices, 0 or more.
        keep: hold every image in memory after the first read, 3 bytes a pixel at 8 bits, in each worker of a
            DataLoader: for many triplets of few images.
        on_unreadable: for an image that is unreadable or differs in size from its reference, "raise" ends the epoch;
            "skip" names the file once in a warning of the logger ``fastiqa`` and takes the next readable triplet
            instead, so batches keep their size.
        weights: items end with a fifth tensor, the triplet's weight divided by the mean of all, float32.

    Attributes:
        unreadable: file -> reason, for the files skipped so far in this process; each worker of a DataLoader has its
            own.

    Raises:
        ValueError: no triplets, a label outside [0, 1], a negative seed, another `on_unreadable`, weights of triplets
            that have none. ``dataset[i]`` raises :class:`fastiqa.data.ImageError` for an unreadable image with "raise",
            and after 16 in a row with "skip".

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
        weights: bool = False,
    ) -> None:
        for i, triplet in enumerate(triplets):
            if not 0 <= triplet.label <= 1:  # false for NaN too
                raise ValueError(f"triplets[{i}].label: got {triplet.label!r}, want a probability from 0 to 1")
        super().__init__(triplets, seed, on_unreadable)
        self.transform = transform
        self.read = Photographs(smallest_side=1, keep=keep)
        self._mean_weight = mean_weight(triplets) if weights else None

    def item(self, record: Triplet, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """Read and transform a triplet. Raises ImageError."""
        ref, a, b = (self.read(path) for path in record[:3])
        item = self.transform(_of_one_size(ref, a, b), record.label, generator)
        if self._mean_weight is None or record.weight is None:
            return item
        return (*item, torch.tensor(record.weight / self._mean_weight, dtype=torch.float32, device="cpu"))


def _of_one_size(ref: Image, a: Image, b: Image) -> Images:
    """Return the three images. Raises ImageError if their sizes differ."""
    height, width = ref.pixels.shape[:2]
    for image in (a, b):
        if image.pixels.shape != ref.pixels.shape:
            other_height, other_width = image.pixels.shape[:2]
            reason = f"is {other_width}x{other_height} pixels, its reference {ref.path} is {width}x{height}"
            raise ImageError(image.path, reason)
    return ref, a, b
