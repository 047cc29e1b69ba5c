"""DistortedImages: photographs with every distortion at every level; the level or a metric gives the score.

    score = 1 - level / 5          1 for the undistorted photograph, 0.8 at level 1, 0 at level 5
    score = teacher(undistorted crop, distorted crop)

The level orders images as people do within a type, by construction. Between types it says nothing about what people
see. A network trained on it is therefore judged by its rank correlation within each type. A teacher, a full-reference
metric, scores each crop by what is left to see of the distortion, on one scale for all types.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.data.distortions import CLASSES, DISTORTIONS, LEVELS, SMALLEST_SIDE, distort
from fastiqa.data.images.photographs import Photographs, grid_windows, random_window, torch_generator
from fastiqa.data.images.reading import Image
from fastiqa.data.labelled import LabelledDataset, OnUnreadable
from fastiqa.data.rated.dataset import RatedImage, RatedItem


class DistortedImages(LabelledDataset[RatedImage, RatedItem]):
    """Crops of photographs, undistorted and with 25 distortions at five levels: 126 items per photograph.

    ``dataset[i]`` is (image, score) as in :class:`fastiqa.data.RatedDataset`: float32 (3, size, size) in [0, 1], or
    (grid², 3, size, size) for several crops, and a float32 scalar, higher is better. Item i shows photograph i // 126
    with distortion ``fastiqa.data.distortions.CLASSES[i % 126]``. All random choices of item i in epoch e depend on
    (seed, e, i) alone.

    Args:
        photographs: files for :func:`fastiqa.data.read_image`, undistorted, both sides at least `size` pixels;
            :func:`fastiqa.data.split_photographs` splits them into training and held-out photographs.
        size: height and width of the crop in pixels, at least 32. Cropping comes before distortion.
        random_crop: crop at a random place and mirror with probability one half; False takes unmirrored crops in `grid`
            evenly spread rows and columns.
        grid: 1 for the middle of the photograph, or more; the crops of an item share distortion and level, and each has
            its own random draws.
        longest_side: shrink larger photographs until the longer side has this many pixels; None never shrinks.
            The distortions have KADID-10k's settings, in pixels of images with a longer side of 512.
        seed: for all random choices, including the distortions'; 0 or more.
        keep: hold every photograph in memory after the first read, 3 bytes a pixel, in each worker of a DataLoader.
        ladders: the five levels of a type on a photograph share crop and random draws, and stay together in training,
            for losses that compare the items of a batch.
        repeat_after: number of epochs after which the items repeat. They are kept in memory, rounded to 8 bits, 3 bytes
            a pixel, since distorting a crop of 96 pixels takes 3 ms of one core. None makes new items in every epoch.
        encode: crops (K, 3, size, size) -> features (K, ...), which items have in their place; None: crops.
        teacher: (undistorted crops, distorted crops), both (N, 3, size, size), -> scores (N,), float32, higher is
            better; the score of an item is their mean. None: the level gives the score.
        on_unreadable: "raise" or "skip" a photograph that is unreadable or too small; see
            :class:`fastiqa.data.RatedDataset`. The next photograph takes its place with the same distortion and level.

    Attributes:
        records: the items in order, as :class:`fastiqa.data.RatedImage`: the photograph as `image` and `reference`, the
            level's score, and the type of distortion ("none" for undistorted) as `group`.
        blocks: indices of items that stay together in the order of an epoch: each ladder, or each item alone.

    Raises:
        ValueError: an argument out of range. ``dataset[i]`` raises :class:`fastiqa.data.ImageError`, naming the file.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.png"
        ...     PIL.Image.new("RGB", (80, 70), (128, 128, 128)).save(path)
        ...     dataset = DistortedImages([path], size=64)
        ...     image, score = dataset[2]
        >>> len(dataset), image.shape, dataset.records[2].group, round(float(score), 3)
        (126, torch.Size([3, 64, 64]), 'gaussian_blur', 0.6)
    """

    noun = "photographs"
    records_per_image = len(CLASSES)

    def __init__(
        self,
        photographs: Sequence[Path],
        size: int = 224,
        *,
        random_crop: bool = True,
        grid: int = 1,
        longest_side: int | None = None,
        seed: int = 0,
        keep: bool = False,
        ladders: bool = False,
        repeat_after: int | None = None,
        teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        self.size = arguments.integer("size", size, minimum=SMALLEST_SIDE)
        self.random_crop = arguments.flag("random_crop", random_crop)
        self.grid = arguments.integer("grid", grid)
        if random_crop and grid > 1:
            raise ValueError(f"grid: got {grid}, want 1 with random_crop")
        records = [
            RatedImage(photograph, 1 - level / LEVELS, str(photograph), name)
            for photograph in photographs
            for name, level in CLASSES
        ]
        super().__init__(records, seed, on_unreadable)
        self.read = Photographs(size, keep, longest_side)
        self.repeat_after = None if repeat_after is None else arguments.integer("repeat_after", repeat_after)
        self.teacher, self.encode = teacher, encode
        self._kept: dict[tuple[int, int], RatedItem] = {}
        lengths = [1, *[LEVELS] * len(DISTORTIONS)] if arguments.flag("ladders", ladders) else [1] * len(CLASSES)
        ends = [*itertools.accumulate(lengths * len(photographs))]
        self.blocks = [range(start, end) for start, end in itertools.pairwise([0, *ends])]
        self._draws = [block[0] for block in self.blocks for _ in block]

    def draws(self, index: int) -> int:
        """The number that seeds an item's random choices: equal for all items of a block."""
        return self._draws[index]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; epochs with the same items count as one."""
        super().set_epoch(epoch if self.repeat_after is None else epoch % self.repeat_after)

    def __getitem__(self, index: int) -> RatedItem:
        if self.repeat_after is None:
            return super().__getitem__(index)
        key = int(self._epoch), range(len(self))[index]
        if key not in self._kept:
            image, score = super().__getitem__(index)
            self._kept[key] = image if self.encode else image.mul(255).round().to(torch.uint8), score
        kept, score = self._kept[key]
        return kept if self.encode else kept.to(torch.float32).div(255), score

    def item(self, record: RatedImage, generator: np.random.Generator) -> RatedItem:
        """Crop and distort the photograph as the record says; return the crops and their score. Raises ImageError."""
        crops = self._crops(self.read(record.image), generator)
        level = round(LEVELS * (1 - record.score))
        distorted = distort(crops, record.group, level, torch_generator(generator)) if level > 0 else crops
        if self.teacher is None:
            score = torch.tensor(record.score, dtype=torch.float32, device="cpu")
        else:
            score = self.teacher(crops, distorted).mean()
        result = distorted if self.encode is None else self.encode(distorted)
        return result[0] if self.grid == 1 else result, score

    def _crops(self, photograph: Image, generator: np.random.Generator) -> Tensor:
        """The crops before distortion, (grid², 3, size, size)."""
        if not self.random_crop:
            return grid_windows(photograph, self.size, self.grid)
        crop = random_window(photograph, self.size, generator)
        return crop.flip(-1) if generator.random() < 0.5 else crop
