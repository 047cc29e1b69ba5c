"""Two-alternative forced choice (2AFC): how often a metric picks the image that people pick.

    agreement = p if the metric picks b, 1 − p if it picks a, 1/2 at a tie;  p: share of people who pick b

The score is the mean agreement. With labels p of 0 and 1 it is the accuracy. With p in between, people disagree among
themselves, and no metric reaches 1.

Source: BAPPS (Zhang et al., arXiv 1801.03924, section 4.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Z = 1.959963984540054  # normal quantile of a 95 % interval


class TwoAfc(NamedTuple):
    """A score in [0, 1], its 95 % confidence interval (Wilson), and the number of triplets."""

    score: float
    low: float
    high: float
    triplets: int


def agreement(preference: Tensor, label: Tensor) -> Tensor:
    """The agreement of each triplet.

    Args:
        preference: (N,), positive if b is judged closer to the reference, negative if a is, 0 at a tie: a logit, or a
            metric's value for b minus its value for a.
        label: (N,), share of people in [0, 1] to whom b is closer.

    Returns:
        (N,) in [0, 1]; NaN for a preference of NaN.
    """
    picked = torch.where(preference > 0, label, 1 - label)
    picked = torch.where(preference == 0, 0.5, picked)
    return torch.where(preference.isnan(), torch.nan, picked)


def two_afc(preference: Tensor, label: Tensor) -> TwoAfc:
    """The score over all triplets; arguments as for `agreement`.

    The interval is Wilson's for one yes-or-no answer per triplet; for labels between 0 and 1 it is rather wide.

    Raises:
        ValueError: no triplets, different shapes, a preference of NaN.

    Example:
        >>> import torch
        >>> two_afc(torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.25, 1.0])).score
        0.6875
    """
    if preference.shape != label.shape or preference.dim() != 1 or len(label) == 0:
        shapes = f"{tuple(preference.shape)} and {tuple(label.shape)}"
        raise ValueError(f"preference, label: got shapes {shapes}, want the same (N,) of both, N at least 1")
    score = float(agreement(preference.double(), label.double()).mean())
    if math.isnan(score):
        raise ValueError("preference: got NaN, want numbers")
    n = len(label)
    centre = (score + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(score * (1 - score) / n + Z**2 / (4 * n**2))
    return TwoAfc(score, max(0.0, centre - half), min(1.0, centre + half), n)
