"""Photographs of a folder, or one part of them, for data sets that distort them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from fastiqa.common import arguments
from fastiqa.data.images.folders import image_files
from fastiqa.data.images.photographs import split_photographs


def read_photographs(
    folder: str | os.PathLike[str],
    part: Literal["all", "train", "val", "test"] = "all",
    split_seed: int = 0,
    val: float = 0.15,
    test: float = 0.15,
) -> list[Path]:
    """The image files below a folder; of a part, those that `fastiqa.data.split_photographs` puts there.

    Raises: ValueError for another part, a folder that is no path, and where there are none; OSError for a file that
    cannot be read.
    """
    if not isinstance(folder, (str, os.PathLike)):  # YAML reads a folder named 2024 as a number
        raise ValueError(f"folder: got {folder!r}, want a path as a string, as './2024'")
    arguments.one_of("part", part, ("all", "train", "val", "test"))
    files = image_files(Path(folder))
    if not files:
        raise ValueError(f"folder: {folder}: no images below it")
    return files if part == "all" else split_photographs(files, split_seed, val, test)[part]
