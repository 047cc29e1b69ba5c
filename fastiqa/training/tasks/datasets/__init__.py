"""Data sets by the names that recipes use, a file for each kind of item.

Every data set gives `dataset[i]`, a tuple of tensors: images, float32 in [0, 1], then what is known of them. Where it
makes random choices, those of item i in epoch e depend on (seed, e, i) alone; `set_epoch(e)` tells it the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastiqa.training.tasks.datasets import triplets
from fastiqa.training.tasks.datasets.kinds import Items, Kind, blocks_of, build
from fastiqa.training.tasks.datasets.triplets import RandomTriplets

__all__ = ["Items", "Kind", "RandomTriplets", "blocks_of", "datasets"]


def datasets(kind: str, *, kinds: Mapping[str, Kind] = triplets.KINDS, seed: int = 0, **options: Any) -> Items:
    """Build a data set.

    Args:
        kind: one of `kinds`.
        kinds: those of a task, `fastiqa.training.tasks.TASKS[name].kinds`; by default those of triplets.
        seed: of its random choices, for kinds that make any.
        options: of that kind: those of its reader in `fastiqa.data` and of its crops, as `size` and `flip`.

    Raises:
        ValueError: for an unknown kind, an unknown or missing option, and for whatever the kind refuses.

    Example:
        >>> len(datasets("random", items=8))
        8
    """
    return build(kinds, kind, seed, options)
