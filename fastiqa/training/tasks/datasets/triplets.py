"""Triplets: (ref, a, b, label), images (3, H, W) and the probability that b is closer to ref than a."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.data import RandomCrop, Triplet, TripletDataset, WholeImage
from fastiqa.data.triplets.sets import TRIPLET_SETS
from fastiqa.training.tasks.datasets.kinds import Kind, from_files
from fastiqa.training.tasks.shared_data import Generated, noisy


class RandomTriplets(Generated):
    """Generated triplets: of the two noisy candidates the one with less noise is the closer one.

    Example:
        >>> ref, a, b, label = RandomTriplets(items=4, height=48, width=32)[0]
        >>> ref.shape, label.item() in (0.0, 1.0)
        (torch.Size([3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        amount_a, amount_b = (self.noise * torch.rand(2, generator=random, device="cpu")).tolist()
        a, b = (noisy(pattern, amount, random) for amount in (amount_a, amount_b))
        return pattern, a, b, torch.tensor(float(amount_b < amount_a), device="cpu")


def _dataset(
    triplets: Sequence[Triplet],
    size: int = 448,
    small: Literal["upscale", "native"] = "upscale",
    flip: bool = True,
    swap: bool = True,
    whole: bool = False,
    keep: bool = False,
    on_unreadable: Literal["raise", "skip"] = "raise",
    seed: int = 0,
) -> TripletDataset:
    """Random crops as of `fastiqa.data.RandomCrop`, or whole images, of which small ones are enlarged likewise."""
    arguments.flag("whole", whole)
    crop = RandomCrop(size, small, flip, swap)
    transform = WholeImage(shorter_side=size if small == "upscale" else None) if whole else crop
    return TripletDataset(triplets, transform, seed=seed, keep=keep, on_unreadable=on_unreadable)


KINDS: dict[str, Kind] = {
    "random": RandomTriplets,
    **{name: from_files(triplets.read, _dataset) for name, triplets in TRIPLET_SETS.items()},
}
