"""evaluate_rated: how well predictions follow the scores of rated images, over all and by type of distortion.

A `RatedEvaluation` is one method on one data set with one split. Over several splits the median counts, as in papers. A
method trained on another data set names it in `trained_on`. ``fastiqa.evaluation.tables`` makes tables of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastiqa.common import arguments
from fastiqa.data.rated.dataset import RatedImage
from fastiqa.metrics.correlation import FEWEST, FITS, Fit, Values, finite, krcc, plcc, rmse, srcc


class Correlations(NamedTuple):
    """The measures on a set of images; NaN for undefined ones.

    Attributes:
        images: number of images.
        plcc, srcc, krcc: of the predictions without a fit.
        plcc_fitted, rmse_fitted: after a logistic fit; the error is in the units of the scores.
    """

    images: float
    plcc: float
    srcc: float
    krcc: float
    plcc_fitted: float
    rmse_fitted: float


@dataclass(frozen=True)
class RatedEvaluation:
    """One method on one data set.

    Attributes:
        method: name of the network or metric.
        dataset: the data set of the test.
        overall: measures over all images.
        groups: measures for each type of distortion, if there are types.
        trained_on: the data set of the training; "" if it is `dataset`, or if nothing was trained.
        split: the split: its seed, or "median of 10".
    """

    method: str
    dataset: str
    overall: Correlations
    groups: dict[str, Correlations]
    trained_on: str = ""
    split: str = ""


def evaluate_rated(
    predictions: Values,
    images: Sequence[RatedImage],
    *,
    method: str,
    dataset: str,
    trained_on: str = "",
    split: str = "",
    opposite: bool = False,
    fit: Fit = "logistic4",
) -> RatedEvaluation:
    """Evaluate predictions for rated images.

    Args:
        predictions: (N,), finite, in the order of the images.
        images: N rated images, N at least 3.
        method, dataset, trained_on, split: as in `RatedEvaluation`.
        opposite: predictions and scores have opposite directions, such as quality and LIVE's differences. Predictions
            are then negated first, so that 1 is always the best correlation.
        fit: curve of the fitted measures, "logistic4" or "logistic5", fitted to each group separately.

    Raises:
        ValueError: naming the argument: different numbers of predictions and images, fewer than 3, NaN or infinity, no
            numbers, another fit.

    Example:
        >>> from pathlib import Path
        >>> images = [RatedImage(Path(f"{i}.png"), float(i), f"{i}.png", "blur") for i in range(5)]
        >>> result = evaluate_rated([0.1, 0.2, 0.4, 0.3, 0.5], images, method="mine", dataset="TID2013")
        >>> round(result.groups["blur"].srcc, 6)
        0.9
    """
    arguments.one_of("fit", fit, FITS[1:])
    score = finite("scores of the images", [image.score for image in images])
    prediction = finite("predictions", predictions) * (-1 if opposite else 1)
    if prediction.shape != score.shape or len(score) < FEWEST:
        got = f"shape {prediction.shape} and {len(images)} images"
        raise ValueError(f"predictions, images: got {got}, want (N,) of N images, N at least {FEWEST}")
    members: dict[str, list[int]] = {}
    for i, image in enumerate(images):
        members.setdefault(image.group, []).append(i)
    members.pop("", None)
    groups = {group: _measured(prediction[i], score[i], fit) for group, i in sorted(members.items())}
    return RatedEvaluation(method, dataset, _measured(prediction, score, fit), groups, trained_on, split)


def medians(evaluations: Sequence[RatedEvaluation]) -> list[RatedEvaluation]:
    """Take medians over the splits of each method, training set and test set, in order of first appearance.

    Each measure has its own median, a group's over the splits that have the group. A NaN makes the median NaN.
    """
    alike: dict[tuple[str, str, str], list[RatedEvaluation]] = {}
    for evaluation in evaluations:
        alike.setdefault((evaluation.method, evaluation.trained_on, evaluation.dataset), []).append(evaluation)
    results = []
    for (method, trained_on, dataset), same in alike.items():
        names = sorted(set().union(*(evaluation.groups for evaluation in same)))
        groups = {name: _median([e.groups[name] for e in same if name in e.groups]) for name in names}
        overall = _median([evaluation.overall for evaluation in same])
        results.append(RatedEvaluation(method, dataset, overall, groups, trained_on, f"median of {len(same)}"))
    return results


def _measured(prediction: NDArray[np.float64], score: NDArray[np.float64], fit: Fit) -> Correlations:
    if len(score) < FEWEST:  # only in a group: the caller has checked the whole
        return Correlations(len(score), *[math.nan] * 5)
    plain = plcc(prediction, score), srcc(prediction, score), krcc(prediction, score)
    try:
        return Correlations(len(score), *plain, plcc(prediction, score, fit), rmse(prediction, score, fit))
    except ValueError:  # fewer images than the curve has parameters
        return Correlations(len(score), *plain, math.nan, math.nan)


def _median(measures: Sequence[Correlations]) -> Correlations:
    return Correlations(*np.median(np.array(measures), axis=0).tolist())
