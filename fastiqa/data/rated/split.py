"""split_by_reference: training, validation and test sets with no content in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastiqa.common import arguments
from fastiqa.data.rated.dataset import RatedImage

PARTS = ("train", "val", "test")
ROUNDING = 1e-9  # tolerance for sums of shares, such as 0.8 and 0.2


def split_by_reference(
    images: Sequence[RatedImage], seed: int, train: float = 0.8, val: float = 0.0
) -> dict[str, list[RatedImage]]:
    """Split rated images at random, keeping all images of a reference together.

    Papers split 80 to 20 by reference image with ten seeds, and report the median. Shares count references, rounded:
    "train" gets 23 of LIVE's 29, and 20 of TID2013's 25.

    Args:
        images: in any order; the order does not change the parts.
        seed: 0 or more; other seeds give other parts.
        train: share of the references in "train", above 0 and at most 1.
        val: share of the references in "val"; "test" gets the rest.

    Returns:
        {"train": [...], "val": [...], "test": [...]}, each in the order of `images`.

    Raises:
        ValueError: a share out of range, or too few references: a part with a share above 0 would be empty.

    Example:
        >>> from pathlib import Path
        >>> images = [RatedImage(Path(f"I0{i}_{j}.bmp"), 1.0, f"I0{i}") for i in range(5) for j in range(3)]
        >>> {name: len(part) for name, part in split_by_reference(images, seed=0).items()}
        {'train': 12, 'val': 0, 'test': 3}
    """
    if not 0 < train <= 1:
        raise ValueError(f"train: got {train!r}, want a share above 0 and at most 1")
    if not 0 <= val <= 1 - train + ROUNDING:
        raise ValueError(f"val: got {val!r}, want a share from 0 to {1 - train:g}, what train leaves")
    names = sorted({image.reference for image in images})
    order = np.random.default_rng(arguments.integer("seed", seed, minimum=0)).permutation(len(names))
    ends = (round(train * len(names)), round((train + val) * len(names)))
    part_of = {names[i]: PARTS[sum(place >= end for end in ends)] for place, i in enumerate(order)}
    parts: dict[str, list[RatedImage]] = {name: [] for name in PARTS}
    for image in images:
        parts[part_of[image.reference]].append(image)
    for name, share in zip(PARTS, (train, val, 1 - train - val), strict=True):
        if share > ROUNDING and not parts[name]:
            raise ValueError(f"images: got {len(names)} references, want enough for a share of {share:g} in {name!r}")
    return parts
