"""Triplet: a reference, two distorted images of it, and which of the two is closer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Triplet(NamedTuple):
    """One comparison. ``label`` is the probability in [0, 1] that b is closer to ref than a is; ``group`` the
    distortion type or pair of codecs for scores per type, "" where it is unknown."""

    ref: Path
    a: Path
    b: Path
    label: float
    group: str
