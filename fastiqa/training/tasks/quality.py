"""The quality of an image without a reference: scores, their losses, and correlations with the ratings of people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss, smooth_l1_loss, softplus

from fastiqa.metrics.correlation import FEWEST, plcc, srcc
from fastiqa.models import save_model
from fastiqa.training.tasks.datasets import rated
from fastiqa.training.tasks.network import registered
from fastiqa.training.tasks.task import ItemLayout, Task

SCORE_LOSSES = {"l1": l1_loss, "mse": mse_loss, "smooth_l1": smooth_l1_loss}
RANKING_SCALE = 0.1  # of scores: a pair this far apart in the right order has a loss of 0.31, of 0.2 levels apart 0.13


class Estimate(NamedTuple):
    """What is known of N images.

    Attributes:
        score: (N,), float32.
        high_frequency: (N,), mean distance of the network's high frequencies from those of the image; None where it
            has no head for them, and in eval mode.
        distortion_logits: (N, types), likewise.
    """

    score: Tensor
    high_frequency: Tensor | None = None
    distortion_logits: Tensor | None = None


class Quality(nn.Module):
    """Images → `Estimate`; several crops of each image give means over the crops.

    Args:
        model: images (M, 3, h, w) → scores (M,). In training mode its `outputs` where it has such a method, see
            `fastiqa.reference.MFENet`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes have no types

    def forward(self, image: Tensor) -> Estimate:
        """Images (N, 3, h, w), or crops (N, K, 3, h, w), in [0, 1] → what is known of N images."""
        crops = image.flatten(0, -4)

        def by_image(values: Tensor) -> Tensor:
            return values.float().view(len(image), -1, *values.shape[1:]).mean(1)

        if not (self.training and hasattr(self.model, "outputs")):
            return Estimate(by_image(self.model(crops)))
        outputs = self.model.outputs(crops)
        distance = logits = None
        if outputs.high_frequency is not None:
            target = self.model.high_frequency_target(crops)
            distance = by_image((outputs.high_frequency - target).abs().mean((1, 2, 3)))
        if outputs.distortion_logits is not None:
            logits = by_image(outputs.distortion_logits)
        return Estimate(by_image(outputs.quality), distance, logits)


def losses_of(name: str, estimate: Estimate, score: Tensor, distortion: Tensor | None = None) -> Tensor:
    """The loss of each image, (N,).

    "l1" (MFENet's), "mse", "smooth_l1" of the score; "high_frequency", L1 of the high frequencies; "distortion_type",
    cross-entropy of the type; "ranking", see `ranking_losses`. Raises ValueError for the last three where the network
    or the data do not have what it takes.
    """
    if name in SCORE_LOSSES:
        return SCORE_LOSSES[name](estimate.score, score, reduction="none")
    if name == "high_frequency":
        if estimate.high_frequency is None:
            raise ValueError("loss high_frequency: the network has no head for it, want predict_high_frequency: true")
        return estimate.high_frequency
    if name == "ranking":
        if distortion is None:
            raise ValueError("loss ranking: want types: true of the data set")
        return ranking_losses(estimate.score, score, distortion)
    if estimate.distortion_logits is None or distortion is None:
        raise ValueError("loss distortion_type: want distortion_types of the network, and types: true of the data set")
    return cross_entropy(estimate.distortion_logits, distortion, reduction="none")


def ranking_losses(mine: Tensor, theirs: Tensor, distortion: Tensor) -> Tensor:
    """How badly each image is ranked among those of its batch that have the same type of distortion, (N,).

    The mean over images j with another score of log(1 + exp(∓(s_i − s_j) / 0.1)), minus where i is the better one:
    RankNet's loss (Burges et al., ICML 2005); 0 where there is none. Arguments (N,) each.
    """
    margins = theirs[:, None] - theirs
    pairs = (distortion[:, None] == distortion) & (margins != 0)
    losses = softplus(-margins.sign() * (mine[:, None] - mine) / RANKING_SCALE)
    return torch.where(pairs, losses, 0).sum(1) / pairs.sum(1).clamp_min(1)


def refused(score: Tensor, distortion: Tensor | None = None) -> str | None:
    """What is wrong with a score, if anything."""
    value = float(score)
    return None if math.isfinite(value) else f"score {value}, want a finite number"


def rows(estimate: Estimate, score: Tensor, *distortion: Tensor) -> Tensor:
    """The network's score and the data set's, and the type of distortion where it is known."""
    return torch.stack((estimate.score, score, *distortion), 1)


def summary(rows: Tensor) -> dict[str, float]:
    """Correlations of the network's scores with the data set's, the most telling one first.

    Where types of distortion are known "srcc_of_types", the mean of the "srcc" within each; "srcc" of the ranks; "plcc"
    without a fit. Of fewer than three images or of equal scores they are NaN; such types do not count.
    """
    mine, theirs, *types = rows.unbind(1)
    values = {}
    for numbers in types:
        of_each = [_correlation(srcc, mine[numbers == k], theirs[numbers == k]) for k in numbers.unique()]
        defined = [value for value in of_each if not math.isnan(value)]
        values["srcc_of_types"] = statistics.fmean(defined) if defined else math.nan
    return {**values, "srcc": _correlation(srcc, mine, theirs), "plcc": _correlation(plcc, mine, theirs)}


def _correlation(of: Callable[[Tensor, Tensor], float], mine: Tensor, theirs: Tensor) -> float:
    return of(mine, theirs) if len(mine) >= FEWEST and mine.isfinite().all() else math.nan


QUALITY = Task(
    item=ItemLayout(noun="image", inputs=("image",), images=1, refused=refused),
    kinds=rated.KINDS,
    losses=(*SCORE_LOSSES, "high_frequency", "distortion_type", "ranking"),
    network=registered,
    module=Quality,
    losses_of=losses_of,
    rows=rows,
    summary=summary,
    save=save_model,
    partial=True,
)
