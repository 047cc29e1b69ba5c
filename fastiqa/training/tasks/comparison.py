"""The task "comparison": which of two images is closer to a reference?

Items are triplets (ref, a, b, label): images (3, H, W), or rows of a feature cache, and the probability that b is
closer to ref than a. A fifth tensor may weigh the loss. The network gives logits; a validation reports two-alternative
forced-choice accuracy, without weights.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from fastiqa.common import arguments
from fastiqa.data import (
    RandomCrop,
    Triplet,
    TripletDataset,
    WholeImage,
    read_bapps,
    read_clic,
    read_pieapp,
    read_synth,
)
from fastiqa.data.labelled import OnUnreadable
from fastiqa.data.report import OnProblem
from fastiqa.evaluation.features import unpacked
from fastiqa.evaluation.two_afc import agreement
from fastiqa.models import save_model
from fastiqa.training.tasks.cached_features import FeatureTriplets
from fastiqa.training.tasks.shared_data import Generated, GeneratedOptions, noisy
from fastiqa.training.tasks.task import DataOptions, ItemLayout, Items, Task, registered_network


class RandomTriplets(Generated):
    """Generated triplets of a pattern and two noisy copies: the copy with less noise is the closer one.

    Example:
        >>> ref, a, b, label = RandomTriplets(items=4, height=48, width=32)[0]
        >>> ref.shape, label.item() in (0.0, 1.0)
        (torch.Size([3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        amount_a, amount_b = (self.noise * torch.rand(2, generator=random, device="cpu")).tolist()
        a, b = (noisy(pattern, amount, random) for amount in (amount_a, amount_b))
        return pattern, a, b, torch.tensor(float(amount_b < amount_a), device="cpu")


class RandomTripletOptions(GeneratedOptions):
    """The kind "random"."""

    def build(self, kind: str) -> Items:
        return RandomTriplets(**vars(self))


@dataclass(frozen=True, kw_only=True)
class TripletOptions(DataOptions):
    """Options of every kind that reads triplets from files.

    Attributes:
        size, small, flip, swap: the random crop, see `fastiqa.data.RandomCrop`.
        whole: whole images instead of crops. With `small` "upscale", images whose shorter side is below `size` are
            enlarged to it.
        keep, on_unreadable, seed: see `fastiqa.data.TripletDataset`.
    """

    size: int = 448
    small: Literal["upscale", "native"] = "upscale"
    flip: bool = True
    swap: bool = True
    whole: bool = False
    keep: bool = False
    on_unreadable: OnUnreadable = "raise"
    seed: int = 0

    @abstractmethod
    def read(self) -> Sequence[Triplet]:
        """The triplets of the files."""

    def build(self, kind: str) -> Items:
        triplets = self.read()
        arguments.flag("whole", self.whole)
        crop = RandomCrop(self.size, self.small, self.flip, self.swap)
        transform = WholeImage(shorter_side=self.size if self.small == "upscale" else None) if self.whole else crop
        return TripletDataset(
            triplets,
            transform,
            seed=self.seed,
            keep=self.keep,
            on_unreadable=self.on_unreadable,
            weights=self.weighs(),
        )

    def weighs(self) -> bool:
        """Whether items have a weight."""
        return False


@dataclass(frozen=True, kw_only=True)
class ClicOptions(TripletOptions):
    """The kind "clic", see `fastiqa.data.read_clic`."""

    csv: str | os.PathLike[str]
    folder: str | os.PathLike[str] | None = None
    average_duplicates: bool = True
    check_files: bool = True
    on_problem: OnProblem = "raise"

    def read(self) -> Sequence[Triplet]:
        return read_clic(
            self.csv,
            self.folder,
            average_duplicates=self.average_duplicates,
            check_files=self.check_files,
            on_problem=self.on_problem,
        )


@dataclass(frozen=True, kw_only=True)
class BappsOptions(TripletOptions):
    """The kind "bapps", see `fastiqa.data.read_bapps`."""

    folder: str | os.PathLike[str]
    split: str = "train"
    subsets: Sequence[str] | None = None
    on_problem: OnProblem = "raise"

    def read(self) -> Sequence[Triplet]:
        return read_bapps(self.folder, self.split, self.subsets, on_problem=self.on_problem)


@dataclass(frozen=True, kw_only=True)
class PieappOptions(TripletOptions):
    """The kind "pieapp", see `fastiqa.data.read_pieapp`."""

    folder: str | os.PathLike[str]
    split: str = "train"
    on_problem: OnProblem = "raise"

    def read(self) -> Sequence[Triplet]:
        return read_pieapp(self.folder, self.split, on_problem=self.on_problem)


@dataclass(frozen=True, kw_only=True)
class SynthOptions(TripletOptions):
    """The kind "synth", see `fastiqa.data.read_synth`.

    Attributes:
        weights: multiply each triplet's loss by its weight, divided by the mean weight of the data set.
    """

    folder: str | os.PathLike[str]
    split: str
    rule: str | None = None
    weights: bool = False

    def read(self) -> Sequence[Triplet]:
        return read_synth(self.folder, self.split, rule=self.rule)

    def weighs(self) -> bool:
        return arguments.flag("weights", self.weights)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(DataOptions):
    """The kind "features": a cache that ``fastiqa data features`` computed, see `FeatureTriplets`.

    The step freezes the backbone, whose weights are those that the features were computed with.
    """

    folder: str | os.PathLike[str]
    split: str
    rule: str | None = None
    swap: bool = True
    random_crop: bool = True
    weights: bool = False
    seed: int = 0

    def build(self, kind: str) -> Items:
        return FeatureTriplets(**vars(self))


class PackedComparison(nn.Module):
    """Triplets → logits: one backbone pass over the three images of all triplets.

    One pass instead of three keeps each feature map once, in the packed form that the head reads without a copy. In
    training, batch normalisation takes its statistics over references and candidates together; `PRFNet.forward`
    normalises each of the three on its own. So training sees an image as the running statistics will see it, and a
    difference in brightness or contrast between reference and candidate is not normalised away.

    Rows of a feature cache go to the head without the backbone.

    Args:
        model: a PRFNet, or another module with `encode` and a `head` that takes packed maps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes have no types

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], or rows of a feature cache (N, numbers), → logits (N,), float32."""
        if ref.dim() == 2:
            dtype = arguments.parameter_of(self.model.head).dtype
            features = unpacked((ref, a, b), self.model.channels, self.model.strides, dtype)
        else:
            features = self.model.encode(torch.cat((ref, a, b)))
        logits: Tensor = self.model.head(features)
        return logits.float()


def _item_losses(name: str, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """The loss of each triplet, (N,), times its weight: "bce", PRFNet's equation (5), or "mse", its equation (6)."""
    if name == "bce":
        losses = binary_cross_entropy_with_logits(logits, label, reduction="none")
    else:
        losses = mse_loss(torch.sigmoid(logits), label, reduction="none")
    return losses if weight is None else losses * weight


def _target_error(label: Tensor, weight: Tensor | None = None) -> str | None:
    """Why a label or a weight is refused, or None."""
    value = float(label)
    if not 0 <= value <= 1:  # true for NaN too
        return f"label {value}, want a probability in [0, 1]"
    if weight is not None and not 0 <= float(weight) < math.inf:
        return f"weight {float(weight)}, want a number of at least 0"
    return None


def _rows(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """For each triplet the share of people who agree with the network and the binary cross-entropy, (N, 2)."""
    return torch.stack((agreement(logits, label), _item_losses("bce", logits, label)), 1)


def _summary(rows: Tensor) -> dict[str, float]:
    """Means: "accuracy", the two-alternative forced-choice score, and "bce"."""
    return dict(zip(("accuracy", "bce"), rows.mean(0).tolist(), strict=True))


COMPARISON = Task(
    item=ItemLayout(noun="triplet", inputs=("ref", "a", "b"), images=3, target_error=_target_error),
    kinds={
        "random": RandomTripletOptions,
        "clic": ClicOptions,
        "bapps": BappsOptions,
        "pieapp": PieappOptions,
        "synth": SynthOptions,
        "features": FeatureOptions,
    },
    losses=("bce", "mse"),
    build_network=registered_network,
    module=PackedComparison,
    item_losses=_item_losses,
    rows=_rows,
    summary=_summary,
    save=save_model,
)
