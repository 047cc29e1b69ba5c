"""FeatureTriplets: triplets of rows of a feature cache, from which a head is trained without its backbone."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.data import read_synth
from fastiqa.data.labelled import LabelledDataset
from fastiqa.data.triplets.dataset import mean_weight
from fastiqa.evaluation.features import FeatureCache


class RowTriplet(NamedTuple):
    """A triplet in a feature cache.

    Attributes:
        rows: of the reference, of a and of b, for each crop.
        label: probability in [0, 1] that b is closer.
        weight: of the triplet, divided by the mean of all; None where losses are not weighed.
    """

    rows: tuple[tuple[int, int, int], ...]
    label: float
    weight: float | None


class FeatureTriplets(LabelledDataset[RowTriplet, tuple[Tensor, ...]]):
    """The triplets of one split of a feature cache, see `fastiqa.evaluation.features`.

    ``dataset[i]`` is (ref, a, b, label): rows, float16 (numbers,), which share memory with the mapped file, and a
    float32 scalar. With weights a fifth tensor is the triplet's weight divided by the mean of all.

    Args:
        folder: the cache's folder.
        split: "train", "val" or "test".
        rule: as in `fastiqa.data.read_synth`.
        swap: exchange a and b, and label with 1 - label, with probability one half.
        random_crop: take one of the photograph's crops at random, else the first.
        weights: items have a weight.
        seed: for the random choices, 0 or more.

    Raises: ValueError as `FeatureCache` and `read_synth`; for a split or rule without triplets, and for weights that
        the table does not have.
    """

    noun = "triplets"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        *,
        rule: str | None = None,
        swap: bool = True,
        random_crop: bool = True,
        weights: bool = False,
        seed: int = 0,
    ) -> None:
        self.swap = arguments.flag("swap", swap)
        self.cache = FeatureCache(folder, split)
        crops = self.cache.manifest["crops"] if arguments.flag("random_crop", random_crop) else 1
        triplets = read_synth(folder, split, rule=rule)
        mean = mean_weight(triplets) if arguments.flag("weights", weights) else None
        rows = self.cache.rows()
        records = []
        for triplet in triplets:
            of_images = [rows[path.relative_to(self.cache.folder).as_posix()][:crops] for path in triplet[:3]]
            weight = None if mean is None or triplet.weight is None else triplet.weight / mean
            records.append(RowTriplet(tuple(zip(*of_images, strict=True)), triplet.label, weight))
        super().__init__(records, seed, "raise")

    def item(self, record: RowTriplet, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """Read a triplet's rows."""
        exchanged = generator.random() < 0.5
        ref, a, b = record.rows[int(generator.integers(len(record.rows)))]
        label = record.label
        if self.swap and exchanged:
            a, b, label = b, a, 1 - label
        rows = [torch.from_numpy(self.cache.matrix[row]) for row in (ref, a, b)]
        numbers = (label,) if record.weight is None else (label, record.weight)
        return (*rows, *(torch.tensor(number, dtype=torch.float32, device="cpu") for number in numbers))

    def model_error(self, model: nn.Module) -> str | None:
        """Why a network cannot be trained on these features, or None."""
        return self.cache.model_error(model)
