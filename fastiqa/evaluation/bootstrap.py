"""Intervals by resampling originals, and paired differences between predictors.

Triplets of one original are not independent: a hard photograph is hard for all of them. So originals are drawn with
replacement, each with all its triplets, and the mean agreement (`fastiqa.evaluation.two_afc`) of every draw is kept.
All predictors see the same draws: differences are paired.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 (clusters) and 13 (percentiles).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastiqa.common import arguments
from fastiqa.data import Triplet
from fastiqa.evaluation.triplets import Difference, Evaluation
from fastiqa.evaluation.two_afc import TwoAfc, agreement

TAILS = (2.5, 97.5)  # percentiles of a 95 % interval


def resampled(
    evaluations: Sequence[Evaluation], triplets: Sequence[Triplet], *, draws: int = 10_000, seed: int = 0
) -> list[Evaluation]:
    """Give evaluations the intervals of resampled originals, and the last one its differences from the others.

    Args:
        evaluations: of these triplets, by `evaluate_triplets`; the last is compared with the others.
        triplets: at least one; those with one `ref` are drawn together.
        draws: number of draws.
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        The evaluations, overall and of each group with an interval from the 2.5th to the 97.5th percentile. With one
        original the interval is its score alone. The last has `differences`.

    Raises: ValueError for draws or a seed out of range.
    """
    arguments.integer("draws", draws)
    label = torch.tensor([triplet.label for triplet in triplets], dtype=torch.float64, device="cpu")
    agreements = np.stack([agreement(e.preferences, label).numpy() for e in evaluations], 1)
    _, originals = np.unique([str(triplet.ref) for triplet in triplets], return_inverse=True)
    groups = {"": np.arange(len(triplets))}
    for name in evaluations[0].groups:
        groups[name] = np.array([i for i, triplet in enumerate(triplets) if triplet.group == name])
    means = {name: _means(agreements[rows], originals[rows], draws, seed) for name, rows in groups.items()}
    results = []
    for k, evaluation in enumerate(evaluations):
        scores = {
            name: _interval(evaluation.groups.get(name, evaluation.overall), of[:, k]) for name, of in means.items()
        }
        results.append(dataclasses.replace(evaluation, overall=scores.pop(""), groups=scores))
    last = len(results) - 1
    differences = {
        name: {
            evaluation.name: _difference(agreements[rows, last] - agreements[rows, k], means[name][:, [last, k]])
            for k, evaluation in enumerate(evaluations[:last])
        }
        for name, rows in groups.items()
    }
    results[last] = dataclasses.replace(results[last], differences=differences)
    return results


def _means(agreements: NDArray[np.float64], originals: NDArray[np.intp], draws: int, seed: int) -> NDArray[np.float64]:
    """Mean agreements (draws, predictors) of agreements (N, predictors) whose originals, (N,), are drawn."""
    _, originals = np.unique(originals, return_inverse=True)
    count = int(originals.max()) + 1
    sums = np.zeros((count, agreements.shape[1]))
    np.add.at(sums, originals, agreements)
    sizes = np.bincount(originals, minlength=count)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means: NDArray[np.float64] = (times @ sums) / (times @ sizes)[:, None]
    return means


def _interval(score: TwoAfc, means: NDArray[np.float64]) -> TwoAfc:
    low, high = np.percentile(means, TAILS)
    return score._replace(low=float(low), high=float(high))


def _difference(values: NDArray[np.float64], means: NDArray[np.float64]) -> Difference:
    differences = means[:, 0] - means[:, 1]
    low, high = np.percentile(differences, TAILS)
    ahead = float((differences > 0).mean() + (differences == 0).mean() / 2)
    return Difference(float(values.mean()), float(low), float(high), ahead)
