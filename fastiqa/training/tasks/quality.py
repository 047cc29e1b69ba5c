"""The task "quality": how good is an image, without a reference?

Items are rated images (image, score), an image (3, H, W) or crops (K, 3, H, W), and the number of the distortion's type
where the recipe asks for it. A validation reports correlations with the scores.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
    softplus,
)

from fastiqa.common import arguments
from fastiqa.data import SETS, RandomFlippedCrop, RatedDataset, RatedImage, TestCrops, read_rated
from fastiqa.data.labelled import LabelledDataset, OnUnreadable
from fastiqa.data.rated.dataset import RatedItem, RatedTransform, whole_image
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.data.report import OnProblem
from fastiqa.evaluation.teachers import TEACHERS
from fastiqa.metrics.correlation import FEWEST, plcc, srcc
from fastiqa.models import save_model
from fastiqa.training.tasks.frozen_means import FrozenMeans
from fastiqa.training.tasks.shared_data import Generated, GeneratedOptions, Part, noisy, read_photographs
from fastiqa.training.tasks.task import DataOptions, ItemLayout, Items, Task, blocks_of, registered_network

MOST_CROPS = 10_000
SCORE_LOSSES = {"l1": l1_loss, "mse": mse_loss, "smooth_l1": smooth_l1_loss}
SOFT_RANKING_SCALE = 0.02  # in scores: this much better has odds of e to 1
RANKING_SCALE = 0.1  # in scores: a pair in the right order has a loss of 0.31 at this distance, 0.13 at 0.2, a level


class RandomRated(Generated):
    """Generated ratings of noisy patterns: the score falls from 1 to 0 as the noise grows.

    Example:
        >>> image, score = RandomRated(items=4, height=48, width=32)[0]
        >>> image.shape, 0 <= score.item() <= 1
        (torch.Size([3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        amount = torch.rand((), generator=random, device="cpu")
        return noisy(pattern, self.noise * float(amount), random), 1 - amount


class WithTypes(Items):
    """Rated images with the number of their type of distortion: (image, score, number), the number int64.

    Args:
        dataset: the images with their scores.
        types: names of the types in the order of their numbers. For a part of a set these are the whole set's, so that
            a number means the same in every part. None: the images' own, sorted.

    Attributes:
        records: the `RatedImage` of each item.
        types: names of the types by number.
        blocks: as of the data set.

    Raises: ValueError for a data set that replaces an unreadable image by another, which may have another type.
    """

    def __init__(self, dataset: LabelledDataset[RatedImage, RatedItem], types: Sequence[str] | None = None) -> None:
        if dataset.on_unreadable == "skip":
            raise ValueError("on_unreadable: got 'skip', want 'raise' with types")
        self.records, self.types = dataset.records, [*(_types_of(dataset.records) if types is None else types)]
        self._dataset, self._numbers = dataset, [self.types.index(image.group) for image in dataset.records]
        self.blocks = blocks_of(dataset)

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set the epoch."""
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, score = self._dataset[index]
        return image, score, torch.tensor(self._numbers[index], device="cpu")


def _types_of(images: Sequence[RatedImage]) -> list[str]:
    return sorted({image.group for image in images})


class RandomRatedOptions(GeneratedOptions):
    """The kind "random"."""

    def build(self, kind: str) -> Items:
        return RandomRated(**vars(self))


@dataclass(frozen=True, kw_only=True)
class DistortedOptions(DataOptions):
    """The kind "distorted": photographs with every distortion at every level; level or teacher gives the score.

    Attributes:
        folder, part, split_seed, val, test: the photographs, see `read_photographs`.
        size, random_crop, grid, longest_side, keep, ladders, repeat_after, on_unreadable, seed: see
            `fastiqa.data.DistortedImages`.
        types: give the number of the distortion's type as well, see `WithTypes`.
        target: "level", or one of `fastiqa.evaluation.teachers.TEACHERS`, which scores each crop.
        means: "" gives crops. The name of a frozen backbone gives the means of its maps instead, which the head of an
            MFENet without further branches reads, see `FrozenMeans`: with `repeat_after` each crop passes the backbone
            once.
    """

    folder: str | os.PathLike[str]
    part: Part = "all"
    split_seed: int = 0
    val: float = 0.15
    test: float = 0.15
    target: str = "level"
    means: str = ""
    size: int = 224
    random_crop: bool = True
    grid: int = 1
    longest_side: int | None = None
    keep: bool = False
    ladders: bool = False
    repeat_after: int | None = None
    types: bool = False
    on_unreadable: OnUnreadable = "raise"
    seed: int = 0

    def build(self, kind: str) -> Items:
        arguments.one_of("target", self.target, ("level", *TEACHERS))
        means = FrozenMeans(self.means) if self.means else None
        dataset = DistortedImages(
            read_photographs(self.folder, self.part, self.split_seed, self.val, self.test),
            self.size,
            random_crop=self.random_crop,
            grid=self.grid,
            longest_side=self.longest_side,
            seed=self.seed,
            keep=self.keep,
            ladders=self.ladders,
            repeat_after=self.repeat_after,
            teacher=TEACHERS.get(self.target),
            encode=means,
            on_unreadable=self.on_unreadable,
        )
        items: Items = WithTypes(dataset) if arguments.flag("types", self.types) else dataset
        if means is not None:
            setattr(items, "model_error", means.model_error)  # noqa: B010  # as cached features of triplets have it
        return items


@dataclass(frozen=True, kw_only=True)
class RatedSetOptions(DataOptions):
    """The kinds named after `fastiqa.data.SETS`: images that people have rated.

    Attributes:
        folder, part, split_seed, train, val, official, scores, on_problem: see `fastiqa.data.read_rated`. `scores` is
            "quality" here: higher is better.
        view: "random" crops, mirrored at random if `flip`; "fixed" crops, whose mean score is the image's score;
            "whole" images.
        crops: crops of each image. Random ones are separate items of an epoch.
        size, resize: see `fastiqa.data.RandomFlippedCrop`; `resize` is (height, width).
        flip: mirror random crops.
        types: give the number of the distortion's type as well, among the sorted types of the whole set.
        on_unreadable, seed: see `fastiqa.data.RatedDataset`.
    """

    folder: str | os.PathLike[str]
    part: Part = "all"
    split_seed: int = 0
    train: float = 0.8
    val: float = 0.0
    official: bool = True
    scores: Literal["own", "quality", "unit"] = "quality"
    on_problem: OnProblem = "raise"
    view: Literal["random", "fixed", "whole"] = "random"
    crops: int = 1
    size: int = 224
    resize: Sequence[int] | None = None
    flip: bool = True
    types: bool = False
    on_unreadable: OnUnreadable = "raise"
    seed: int = 0

    def build(self, kind: str) -> Items:
        part = self._images(kind, self.part)
        arguments.one_of("view", self.view, ("random", "fixed", "whole"))
        if arguments.integer("crops", self.crops) > MOST_CROPS:
            raise ValueError(f"crops: got {self.crops}, want at most {MOST_CROPS:,}")
        resize = None
        if self.resize is not None:
            height, width = arguments.integers("resize", self.resize, 2)
            resize = (height, width)
        transforms: dict[str, RatedTransform] = {
            "random": RandomFlippedCrop(self.size, resize, self.flip, self.flip),
            "fixed": TestCrops(self.crops, self.size, self.seed, resize),
            "whole": whole_image,
        }
        images = part * (self.crops if self.view == "random" else 1)
        dataset = RatedDataset(images, transforms[self.view], seed=self.seed, on_unreadable=self.on_unreadable)
        if not arguments.flag("types", self.types):
            return dataset
        return WithTypes(dataset, _types_of(self._images(kind, "all")))

    def _images(self, name: str, part: Part) -> list[RatedImage]:
        return read_rated(
            name,
            self.folder,
            part,
            split_seed=self.split_seed,
            train=self.train,
            val=self.val,
            official=self.official,
            scores=self.scores,
            on_problem=self.on_problem,
        )


class Estimate(NamedTuple):
    """The network's outputs for N images.

    Attributes:
        score: (N,), float32.
        high_frequency: (N,), mean distance of the network's high frequencies from the image's; None in eval mode, and
            if the network has no head for them.
        distortion_logits: (N, types); None likewise.
    """

    score: Tensor
    high_frequency: Tensor | None = None
    distortion_logits: Tensor | None = None


class QualityEstimator(nn.Module):
    """Images → `Estimate`, the mean over the crops of each image.

    Args:
        model: images (M, 3, h, w) → scores (M,). In training mode its method `outputs` is called instead, if it has
            one, see `fastiqa.reference.MFENet`; for means of a frozen backbone its method `outputs_of`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes have no types

    def forward(self, image: Tensor) -> Estimate:
        """Images (N, 3, h, w), crops (N, K, 3, h, w), or means (N, C) or (N, K, C) → outputs for N images."""

        def by_image(values: Tensor) -> Tensor:
            return values.float().view(len(image), -1, *values.shape[1:]).mean(1)

        if image.dim() < 4:
            outputs = self.model.outputs_of(image.flatten(0, -2))
            logits = outputs.distortion_logits
            named = self.training and logits is not None
            return Estimate(by_image(outputs.quality), None, by_image(logits) if named else None)
        crops = image.flatten(0, -4)
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


def _item_losses(name: str, estimate: Estimate, score: Tensor, distortion: Tensor | None = None) -> Tensor:
    """The loss of each image, (N,).

    "l1" (MFENet's), "mse" and "smooth_l1" compare the score; "high_frequency" is L1 of the high frequencies,
    "distortion_type" the cross-entropy of the type; for "ranking" and "soft_ranking" see `ranking_losses`. Raises
    ValueError for the last four if the network has no head for it or the data no types.
    """
    if name in SCORE_LOSSES:
        return SCORE_LOSSES[name](estimate.score, score, reduction="none")
    if name == "high_frequency":
        if estimate.high_frequency is None:
            raise ValueError("loss high_frequency: the network has no head for it, want predict_high_frequency: true")
        return estimate.high_frequency
    if name in ("ranking", "soft_ranking"):
        if distortion is None:
            raise ValueError(f"loss {name}: want types: true of the data set")
        return ranking_losses(estimate.score, score, distortion, soft=name == "soft_ranking")
    if estimate.distortion_logits is None or distortion is None:
        raise ValueError("loss distortion_type: want distortion_types of the network, and types: true of the data set")
    return cross_entropy(estimate.distortion_logits, distortion, reduction="none")


def ranking_losses(mine: Tensor, theirs: Tensor, distortion: Tensor, soft: bool = False) -> Tensor:
    """RankNet's loss (Burges et al., ICML 2005) of each image among those of its batch with its type of distortion.

    The mean over images j with another score of log(1 + exp(∓(s_i − s_j) / 0.1)), with minus if i is the better one; 0
    if there is no such j. Softly, it is the cross-entropy of σ((s_i − s_j) / 0.02) against σ((t_i − t_j) / 0.02): a
    small difference of the data set's scores t asks for a small one, so that types whose levels differ little count.

    Args:
        mine: the network's scores s, (N,).
        theirs: the data set's scores, (N,).
        distortion: numbers of the types, (N,), integers.
        soft: as above.

    Returns: (N,).
    """
    margins = theirs[:, None] - theirs
    pairs = (distortion[:, None] == distortion) & (margins != 0)
    if soft:
        odds, wanted = (mine[:, None] - mine) / SOFT_RANKING_SCALE, torch.sigmoid(margins / SOFT_RANKING_SCALE)
        losses = binary_cross_entropy_with_logits(odds, wanted, reduction="none")
    else:
        losses = softplus(-margins.sign() * (mine[:, None] - mine) / RANKING_SCALE)
    return torch.where(pairs, losses, 0).sum(1) / pairs.sum(1).clamp_min(1)


def _target_error(score: Tensor, distortion: Tensor | None = None) -> str | None:
    """Why a score is refused, or None."""
    value = float(score)
    return None if math.isfinite(value) else f"score {value}, want a finite number"


def _rows(estimate: Estimate, score: Tensor, *distortion: Tensor) -> Tensor:
    """For each image the network's score, the data set's, and the type of distortion if it is known, (N, 2 or 3)."""
    return torch.stack((estimate.score, score, *distortion), 1)


def _summary(rows: Tensor) -> dict[str, float]:
    """Correlations of the network's scores with the data set's, the most telling one first.

    "srcc_of_types", if types are known: the mean of "srcc" within each type; "srcc": of the ranks; "plcc": without a
    fit. For fewer than three images or equal scores they are NaN; such types do not count.
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
    item=ItemLayout(noun="image", inputs=("image",), images=1, target_error=_target_error),
    kinds={
        "random": RandomRatedOptions,
        "distorted": DistortedOptions,
        **dict.fromkeys(SETS, RatedSetOptions),
    },
    losses=(*SCORE_LOSSES, "high_frequency", "distortion_type", "ranking", "soft_ranking"),
    build_network=registered_network,
    module=QualityEstimator,
    item_losses=_item_losses,
    rows=_rows,
    summary=_summary,
    save=save_model,
    unused_parameters=True,
)
