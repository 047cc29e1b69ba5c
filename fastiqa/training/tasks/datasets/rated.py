"""Rated images: (image, score), (3, H, W) or crops (K, 3, H, W), and the number of the distortion where asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.data import SETS, RandomFlippedCrop, RatedDataset, RatedImage, TestCrops, read_rated
from fastiqa.data.labelled import LabelledDataset, OnUnreadable
from fastiqa.data.rated.dataset import RatedItem, RatedTransform, whole_image
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.training.tasks.datasets.kinds import Items, Kind, blocks_of, from_files
from fastiqa.training.tasks.datasets.photographs import read_photographs
from fastiqa.training.tasks.shared_data import Generated, noisy

MOST_CROPS = 10_000


class RandomRated(Generated):
    """Generated ratings: a noisy pattern, whose score falls from 1 to 0 as the noise grows.

    Example:
        >>> image, score = RandomRated(items=4, height=48, width=32)[0]
        >>> image.shape, 0 <= score.item() <= 1
        (torch.Size([3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        amount = torch.rand((), generator=random, device="cpu")
        return noisy(pattern, self.noise * float(amount), random), 1 - amount


class WithTypes(Items):
    """Rated images with the number of their type of distortion, int64.

    Args:
        dataset: of the images.
        types: what is numbered; of a part of a set the types of the whole set, so that a number means the same in every
            part. None: those of the images, sorted.

    Attributes:
        records: what the images are.
        types: their names by number.

    Raises: ValueError for a data set that puts another image, which need not have this type, in the place of an
        unreadable one.
    """

    def __init__(self, dataset: LabelledDataset[RatedImage, RatedItem], types: Sequence[str] | None = None) -> None:
        if dataset.on_unreadable == "skip":
            raise ValueError("on_unreadable: got 'skip', want 'raise' with types")
        self.records, self.types = dataset.records, [*(_types_of(dataset.records) if types is None else types)]
        self._dataset, self._numbers = dataset, [self.types.index(image.group) for image in dataset.records]
        self.blocks = blocks_of(dataset)

    def set_epoch(self, epoch: int) -> None:
        """As of the data set."""
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, score = self._dataset[index]
        return image, score, torch.tensor(self._numbers[index], device="cpu")


class SetPart(NamedTuple):
    """Images of a data set.

    Attributes:
        images: those of one part.
        all_types: reads the types of distortion of the whole set.
    """

    images: Sequence[RatedImage]
    all_types: Callable[[], Sequence[str]]


def _types_of(images: Sequence[RatedImage]) -> list[str]:
    return sorted({image.group for image in images})


def _reader(name: str) -> Callable[..., SetPart]:
    """What reads a part of a data set, with the options of `read_rated`."""
    read = functools.partial(read_rated, name, scores="quality")

    @functools.wraps(read)
    def read_part(**options: Any) -> SetPart:
        return SetPart(read(**options), lambda: _types_of(read(**{**options, "part": "all"})))

    return read_part


def _rated(
    part: SetPart,
    view: Literal["random", "fixed", "whole"] = "random",
    crops: int = 1,
    size: int = 224,
    resize: Sequence[int] | None = None,
    flip: bool = True,
    types: bool = False,
    on_unreadable: OnUnreadable = "raise",
    seed: int = 0,
) -> Items:
    """Files of a data set as tensors.

    Args:
        part: the files and their scores.
        view: "random" crops, mirrored at random if `flip`; "fixed" crops, of which the mean score is the image's;
            "whole" images.
        crops: of each image; random ones are as many items of an epoch.
        size, resize: see `fastiqa.data.RandomFlippedCrop`.
        types: give the number of the distortion type as well, among the sorted types of the whole set.
        on_unreadable, seed: see `fastiqa.data.RatedDataset`.
    """
    arguments.one_of("view", view, ("random", "fixed", "whole"))
    if arguments.integer("crops", crops) > MOST_CROPS:
        raise ValueError(f"crops: got {crops}, want at most {MOST_CROPS:,}")
    if resize is not None:
        height, width = arguments.integers("resize", resize, 2)
        resize = (height, width)
    transforms: dict[str, RatedTransform] = {
        "random": RandomFlippedCrop(size, resize, flip, flip),
        "fixed": TestCrops(crops, size, seed, resize),
        "whole": whole_image,
    }
    images = list(part.images) * (crops if view == "random" else 1)
    dataset = RatedDataset(images, transforms[view], seed=seed, on_unreadable=on_unreadable)
    return WithTypes(dataset, part.all_types()) if arguments.flag("types", types) else dataset


def _distorted(
    photographs: Sequence[Path],
    size: int = 224,
    random_crop: bool = True,
    grid: int = 1,
    longest_side: int | None = None,
    keep: bool = False,
    ladders: bool = False,
    repeat_after: int | None = None,
    types: bool = False,
    on_unreadable: OnUnreadable = "raise",
    seed: int = 0,
) -> Items:
    """Photographs with every distortion at every level, see `fastiqa.data.rated.distorted.DistortedImages`."""
    dataset = DistortedImages(
        photographs,
        size,
        random_crop=random_crop,
        grid=grid,
        longest_side=longest_side,
        seed=seed,
        keep=keep,
        ladders=ladders,
        repeat_after=repeat_after,
        on_unreadable=on_unreadable,
    )
    return WithTypes(dataset) if arguments.flag("types", types) else dataset


KINDS: dict[str, Kind] = {
    "random": RandomRated,
    "distorted": from_files(read_photographs, _distorted),
    **{name: from_files(_reader(name), _rated) for name in SETS},
}
