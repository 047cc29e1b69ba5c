"""Photographs as raw material for data sets: splits by content, and windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastiqa.common import arguments
from fastiqa.common.hashing import file_sha256, sha256_of
from fastiqa.data.images.reading import Image, ImageError, read_image


def split_contents(contents: Sequence[str], seed: int, val: float, test: float) -> dict[str, str]:
    """Assign contents, given by SHA-256, to "val", "test" or "train".

    The SHA-256 of seed and content orders the contents: the first go to val, the next to test, the others to train. A
    share above 0 gets at least one.

    Raises: ValueError for too few contents for these shares.
    """
    order = sorted(contents, key=lambda sha256: sha256_of(f"{seed} {sha256}".encode()))
    counts = {name: max(1, round(share * len(order))) if share else 0 for name, share in (("val", val), ("test", test))}
    if sum(counts.values()) >= len(order):
        raise ValueError(f"photographs: got {len(order)}, want at least {sum(counts.values()) + 1}")
    names = ["val"] * counts["val"] + ["test"] * counts["test"]
    names += ["train"] * (len(order) - len(names))
    return dict(zip(order, names, strict=True))


def split_photographs(
    files: Sequence[Path], seed: int = 0, val: float = 0.15, test: float = 0.15
) -> dict[str, list[Path]]:
    """Split files into "train", "val" and "test" by :func:`split_contents`; of equal files only the first counts.

    A photograph's split depends on its content, the others' contents and `seed`, never on a name.

    Args:
        files: photographs, whose bytes are hashed.
        seed: 0 or more; other seeds give other splits.
        val, test: shares of the photographs; a share above 0 gets at least one.

    Returns:
        The files of each split, sorted.

    Raises: ValueError for too few photographs for these shares; OSError for an unreadable file.
    """
    unique = {file_sha256(file): file for file in reversed(files)}
    split = split_contents(list(unique), seed, val, test)
    parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for sha256, file in sorted(unique.items(), key=lambda item: item[1]):
        parts[split[sha256]].append(file)
    return parts


class Photographs:
    """Reads photographs, and keeps them in memory if asked to.

    Args:
        smallest_side: minimum of both sides in pixels.
        keep: hold every photograph in memory after the first read, 3 bytes a pixel at 8 bits, in each worker of a
            DataLoader.
        longest_side: shrink larger photographs until the longer side has this many pixels; None never shrinks.
    """

    def __init__(self, smallest_side: int, keep: bool, longest_side: int | None = None) -> None:
        self.smallest_side = smallest_side
        self.keep = arguments.flag("keep", keep)
        if longest_side is not None:
            arguments.integer("longest_side", longest_side, minimum=smallest_side)
        self.longest_side = longest_side
        self._kept: dict[Path, Image] = {}

    def __call__(self, path: Path) -> Image:
        """The photograph. Raises ImageError for an unreadable or too small one."""
        if path in self._kept:
            return self._kept[path]
        image = read_image(path)
        if self.longest_side is not None:
            image = shrunk(image, self.longest_side)
        height, width = image.pixels.shape[:2]
        if min(height, width) < self.smallest_side:
            raise ImageError(path, f"is {width}x{height} pixels, want both sides at least {self.smallest_side}")
        if self.keep:
            self._kept[path] = image
        return image


def shrunk(image: Image, longest_side: int) -> Image:
    """Shrink an image to at most `longest_side` pixels a side, bicubic with anti-aliasing; keep a smaller one."""
    height, width = image.pixels.shape[:2]
    factor = longest_side / max(height, width)
    if factor >= 1:
        return image
    size = [max(1, round(factor * side)) for side in (height, width)]
    smaller = functional.interpolate(image.tensor(), size=size, mode="bicubic", align_corners=False, antialias=True)
    codes = smaller[0].clamp(0, 1).mul(2**image.bit_depth - 1).round().permute(1, 2, 0).numpy()
    pixels = codes.astype(np.uint8) if image.bit_depth == 8 else codes.astype(np.uint16)
    return dataclasses.replace(image, pixels=pixels)


def random_window(image: Image, side: int, generator: np.random.Generator) -> Tensor:
    """A window at a random place of an image: (1, 3, side, side), float32 in [0, 1]."""
    height, width = image.pixels.shape[:2]
    return _window(image, int(generator.integers(height - side + 1)), int(generator.integers(width - side + 1)), side)


def grid_windows(image: Image, side: int, grid: int) -> Tensor:
    """Windows in `grid` evenly spread rows and columns: (grid², 3, side, side), float32; grid 1 is the middle."""
    height, width = image.pixels.shape[:2]
    tops, lefts = ([(2 * k + 1) * free // (2 * grid) for k in range(grid)] for free in (height - side, width - side))
    return torch.cat([_window(image, top, left, side) for top in tops for left in lefts])


def torch_generator(generator: np.random.Generator) -> torch.Generator:
    """A PyTorch generator on the CPU, seeded by a draw from a NumPy generator."""
    return torch.Generator().manual_seed(int(generator.integers(2**63)))


def _window(image: Image, top: int, left: int, side: int) -> Tensor:
    pixels = image.pixels[top : top + side, left : left + side]
    return dataclasses.replace(image, pixels=pixels).tensor()
