"""Data that several tasks use: generated patterns, for tests of an installation, and folders of photographs."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.data.images.folders import image_files
from fastiqa.data.images.photographs import split_photographs
from fastiqa.training.tasks.task import DataOptions, Items

MOST_ITEMS, MOST_PIXELS = 10_000_000, 1 << 26

Part = Literal["all", "train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class GeneratedOptions(DataOptions):
    """Options of the kind "random": generated items.

    Attributes:
        items: number of items.
        height, width: size of the images in pixels.
        noise: greatest standard deviation of the noise, in (0, 1].
        seed: other seeds give other items.
    """

    items: int = 64
    height: int = 64
    width: int = 64
    noise: float = 0.2
    seed: int = 0


class Generated(Items):
    """Smooth colour patterns. A subclass makes items of them with noise. Arguments are those of `GeneratedOptions`."""

    def __init__(self, items: int = 64, height: int = 64, width: int = 64, noise: float = 0.2, seed: int = 0) -> None:
        for name, value in (("items", items), ("height", height), ("width", width)):
            arguments.integer(name, value)
        if items > MOST_ITEMS:
            raise ValueError(f"items: got {items}, want at most {MOST_ITEMS:,}")
        if height * width > MOST_PIXELS:
            raise ValueError(f"height, width: got {height} and {width}, want at most {MOST_PIXELS:,} pixels")
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise <= 1:
            raise ValueError(f"noise: got {noise!r}, want a number in (0, 1]")
        self._items, self._size, self.noise, self._seed = items, (height, width), noise, seed

    @abstractmethod
    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, ...]:
        """The item made of a pattern (3, H, W), float32 in [0, 1]."""

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not 0 <= index < self._items:
            raise IndexError(f"index: got {index}, want one of {self._items} items")
        random = torch.Generator().manual_seed(self._seed * self._items + index)
        colours = torch.rand(3, 4, 4, generator=random, device="cpu")
        pattern = _stretched(_stretched(colours, 1, self._size[0]), 2, self._size[1])
        return self.item(pattern, random)


def _stretched(x: Tensor, dim: int, size: int) -> Tensor:
    """Linear interpolation along one side to `size` pixels, as PyTorch's interpolate.

    The result is the same to the last bit with any number of threads. The last bits of PyTorch's depend on where its
    loops are cut, seen on an Intel Xeon.
    """
    n = x.shape[dim]
    at = ((torch.arange(size, device="cpu") + 0.5) * (n / size) - 0.5).clamp(0, n - 1)
    low = at.floor().to(torch.int64)
    share = (at - low).view(*(-1 if k == dim else 1 for k in range(x.dim())))
    first, second = (x.index_select(dim, k) for k in (low, (low + 1).clamp_max(n - 1)))
    return first * (1 - share) + second * share


def noisy(pattern: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """The pattern plus white noise with standard deviation `amount`, clipped to [0, 1]."""
    return (pattern + amount * torch.randn(pattern.shape, generator=random, device="cpu")).clamp_(0, 1)


def read_photographs(
    folder: str | os.PathLike[str], part: Part = "all", split_seed: int = 0, val: float = 0.15, test: float = 0.15
) -> list[Path]:
    """The image files below a folder, or one part of them as `fastiqa.data.split_photographs` divides them.

    Args:
        folder: searched with all its folders.
        part: "all", "train", "val" or "test".
        split_seed, val, test: the split's seed and shares, without effect on "all".

    Raises:
        ValueError: another part, a folder that is no path, or no images.
        OSError: a file that cannot be read.
    """
    if not isinstance(folder, (str, os.PathLike)):  # YAML reads a folder named 2024 as a number
        raise ValueError(f"folder: got {folder!r}, want a path as a string, as './2024'")
    arguments.one_of("part", part, ("all", "train", "val", "test"))
    files = image_files(Path(folder))
    if not files:
        raise ValueError(f"folder: {folder}: no images below it")
    return files if part == "all" else split_photographs(files, split_seed, val, test)[part]
