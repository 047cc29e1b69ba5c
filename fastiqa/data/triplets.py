"""Triplets: a reference, two distorted versions of it, and which of the two is closer, as files and as tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastiqa.data.images import Image, ImageError, read_image
from fastiqa.reference import arguments

# A few files may be damaged; a folder that vanished must not go on as an epoch of the same few triplets.
MOST_UNREADABLE_IN_A_ROW = 16

_log = logging.getLogger("fastiqa")

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
    return ref, a, b, torch.tensor(label, dtype=torch.float32)


class TripletDataset(Dataset[Item]):
    """Triplets as tensors.

    ``dataset[i]`` is (ref, a, b, label): float32 tensors (3, H, W) in [0, 1], RGB, as :func:`fastiqa.data.read_image`
    reads them, and a float32 scalar, the probability that b is closer to ref. Every random choice of item i in epoch e
    is a function of (seed, e, i) alone, whatever was read before and in whichever process: a resumed run sees the same
    crops.

    Args:
        triplets: what the readers of ``fastiqa.data`` return, at least one.
        transform: of three images, a label and a generator of random numbers into an item; by default
            :func:`whole_images`. See ``fastiqa.data.transforms``.
        seed: of the random choices, 0 or more.
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

    def __init__(
        self,
        triplets: Sequence[Triplet],
        transform: Transform = whole_images,
        *,
        seed: int = 0,
        on_unreadable: Literal["raise", "skip"] = "raise",
    ) -> None:
        if len(triplets) == 0:
            raise ValueError("triplets: got none, want at least one")
        for i, triplet in enumerate(triplets):
            if not 0 <= triplet.label <= 1:  # false for NaN too
                raise ValueError(f"triplets[{i}].label: got {triplet.label!r}, want a probability from 0 to 1")
        arguments.one_of("on_unreadable", on_unreadable, ("raise", "skip"))
        self.triplets = triplets
        self.transform = transform
        self.seed = arguments.integer("seed", seed, minimum=0)
        self.on_unreadable = on_unreadable
        self.unreadable: dict[str, str] = {}
        # in shared memory: persistent workers of a DataLoader hold copies of this object, which set_epoch must reach
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the random choices of `epoch`, 0 or more, from here on; before the DataLoader is iterated over."""
        self._epoch.fill_(arguments.integer("epoch", epoch, minimum=0))

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]  # negative ones from the end, IndexError beyond both
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        for following in range(index, index + min(MOST_UNREADABLE_IN_A_ROW, len(self))):
            triplet = self.triplets[following % len(self)]
            try:
                images = _read(triplet)
            except ImageError as error:
                last = error
                if self.on_unreadable == "raise":
                    raise
                self._skip(error)
            else:
                return self.transform(images, triplet.label, generator)
        raise ImageError(last.path, f"{last.reason}; nor could the triplets before it be read, from number {index} on")

    def _skip(self, error: ImageError) -> None:
        if error.path not in self.unreadable:
            self.unreadable[error.path] = error.reason
            _log.warning("%s; triplets with this image are skipped", error)


def _read(triplet: Triplet) -> Images:
    """The three images. Raises ImageError, also where their sizes differ."""
    ref, a, b = (read_image(path) for path in triplet[:3])
    height, width = ref.pixels.shape[:2]
    for image in (a, b):
        if image.pixels.shape != ref.pixels.shape:
            other_height, other_width = image.pixels.shape[:2]
            reason = f"is {other_width}x{other_height} pixels, its reference {ref.path} is {width}x{height}"
            raise ImageError(image.path, reason)
    return ref, a, b
