"""gMAD: the pairs of images on which two metrics disagree most, for people to decide.

    level(i)  = ⌊L · #{j: d_j < d_i} / N⌋                     d: the defender's scores of N images, L levels
    pair(l)   = (argmax a_i, argmin a_i) over level(i) = l      a: the attacker's scores

The defender rates the two images of a pair about equal; the attacker rates one much better. If people see no difference
the attacker is wrong, else the defender is. Then the metrics exchange roles.

Levels have equal counts, so increasing maps of the scores change neither levels nor pairs: nothing need be fitted to
people's scores first. A pair carries both scores of the defender; the reader judges how far apart they are. Equal
scores share a level.

Source: Ma et al., Group MAD Competition, CVPR 2016; Group Maximum Differentiation Competition, IEEE TPAMI 42 (2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastiqa.common import arguments

LEVELS = 6


@dataclass(frozen=True)
class GmadPair:
    """Two images of one level of the defender, with the scores of both metrics.

    Attributes:
        level: from 1, the worst images, to the number of levels.
        better, worse: indices of the images, in the attacker's judgement.
        defender, attacker: scores (of the better, of the worse) by each metric.
    """

    level: int
    better: int
    worse: int
    defender: tuple[float, float]
    attacker: tuple[float, float]


@dataclass(frozen=True)
class GmadRole:
    """One metric's attack on another: both names, and the pairs by rising level of the defender."""

    defender: str
    attacker: str
    pairs: tuple[GmadPair, ...]


def gmad_competition(scores: Mapping[str, ArrayLike], levels: int = LEVELS) -> tuple[GmadRole, ...]:
    """Let every metric defend against every other.

    Args:
        scores: by name of the metric, each as for `gmad_pairs`.
        levels: as for `gmad_pairs`.

    Returns:
        A role for each ordered pair of metrics: K (K − 1) for K metrics.

    Raises: as `gmad_pairs`; ValueError for fewer than two metrics.

    Example:
        >>> roles = gmad_competition({"psnr": [30, 31, 40, 41], "ssim": [0.8, 0.9, 0.7, 0.95]}, levels=2)
        >>> [(role.defender, role.attacker, len(role.pairs)) for role in roles]
        [('psnr', 'ssim', 2), ('ssim', 'psnr', 2)]
    """
    if len(scores) < 2:
        raise ValueError(f"scores: got {len(scores)} metrics, want two or more")
    return tuple(
        GmadRole(defender, attacker, gmad_pairs(scores[defender], scores[attacker], levels))
        for defender, attacker in itertools.permutations(scores, 2)
    )


def gmad_pairs(defender: ArrayLike, attacker: ArrayLike, levels: int = LEVELS) -> tuple[GmadPair, ...]:
    """Find, in each level of the defender, the two images that the attacker rates most differently; O(N log N).

    Args:
        defender, attacker: (N,), real numbers, for the same images in the same order; higher is better. Infinity,
            PSNR's score for an undistorted image, is a score like others.
        levels: number of levels of the defender's scores, with at least two images each.

    Returns:
        Pairs by rising level. A level has none if the attacker rates all its images equal, or if it has fewer than two
        images, since equal scores of the defender share a level. Of images that the attacker rates equal, the first
        counts.

    Raises:
        TypeError: scores that are no real numbers.
        ValueError: naming the argument: other shapes than one (N,), NaN, a level that is no positive integer, fewer
            than two images for each level.

    Example:
        >>> [(p.level, p.better, p.worse) for p in gmad_pairs([1, 2, 3, 4], [10, 20, 40, 30], levels=2)]
        [(1, 1, 0), (2, 2, 3)]
    """
    held, varied = _scores("defender", defender), _scores("attacker", attacker)
    if varied.shape != held.shape:
        raise ValueError(f"attacker: got {len(varied)} scores, want as many as the defender's, {len(held)}")
    arguments.integer("levels", levels)
    if len(held) < 2 * levels:
        raise ValueError(f"levels: got {levels} for {len(held)} images, want two images or more for each")
    level = levels * np.searchsorted(np.sort(held), held) // len(held)
    better, worse = _smallest_of_each(level, -varied), _smallest_of_each(level, varied)
    return tuple(
        GmadPair(
            int(level[i]) + 1,
            int(i),
            int(j),
            (float(held[i]), float(held[j])),
            (float(varied[i]), float(varied[j])),
        )
        for i, j in zip(better, worse, strict=True)
        if varied[i] > varied[j]
    )


def _smallest_of_each(level: NDArray[np.intp], scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """The index of the first smallest score in each non-empty level, by rising level."""
    order: NDArray[np.intp] = np.lexsort((scores, level))  # stable
    return order[np.unique(level[order], return_index=True)[1]]


def _scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: got an array of {array.dtype}, want real numbers")
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}, want (N,)")
    if (unknown := np.flatnonzero(np.isnan(array))).size:
        raise ValueError(f"{name}: got NaN for image {unknown[0]}, want numbers")
    return array.astype(np.float64)
