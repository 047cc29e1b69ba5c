"""evaluate_triplets: 2AFC scores of metrics and networks on labelled triplets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.data import Triplet, TripletDataset, WholeImage
from fastiqa.evaluation.preferences import Preference
from fastiqa.evaluation.two_afc import TwoAfc, two_afc


@dataclass(frozen=True)
class Evaluation:
    """One predictor on one data set.

    Attributes:
        name: of the predictor.
        preferences: (N,), float64, in the order of the triplets, as `two_afc` takes them.
        overall: score over all triplets.
        groups: score of each group of triplets, if there are groups.
        swap_consistency: share of triplets whose preference changes sign when a and b are swapped; None for metrics,
            where it follows from the definition.
    """

    name: str
    preferences: Tensor
    overall: TwoAfc
    groups: dict[str, TwoAfc]
    swap_consistency: float | None


def evaluation_of(
    name: str, preferences: Tensor, triplets: Sequence[Triplet], swap_consistency: float | None = None
) -> Evaluation:
    """Score known preferences (N,), in the order of the triplets. Raises ValueError as `two_afc`."""
    label = torch.tensor([triplet.label for triplet in triplets], dtype=torch.float64, device="cpu")
    members: dict[str, list[int]] = {}
    for i, triplet in enumerate(triplets):
        members.setdefault(triplet.group, []).append(i)
    members.pop("", None)
    groups = {group: two_afc(preferences[i], label[i]) for group, i in sorted(members.items())}
    return Evaluation(name, preferences, two_afc(preferences, label), groups, swap_consistency)


@torch.inference_mode()
def evaluate_triplets(
    triplets: Sequence[Triplet],
    predictors: Mapping[str, Preference | nn.Module],
    *,
    transform: WholeImage | None = None,
    device: torch.device | str = "cpu",
    on_triplet: Callable[[int, int], Any] | None = None,
) -> list[Evaluation]:
    """Score predictors on triplets, one triplet after the other.

    Args:
        triplets: at least one.
        predictors: by name: metrics, such as `fastiqa.evaluation.preferences.PREFERENCES`, or PRFNets in eval mode,
            whose consistency under swapping is measured too.
        transform: of the images for networks, by default padding by reflection to a multiple of 32 pixels; metrics see
            the images unchanged.
        device: for metrics; networks compute on their own.
        on_triplet: called after each triplet with the number done and the total.

    Returns:
        An evaluation for each predictor, in order.

    Raises:
        ValueError: no triplets, or images that a metric refuses; `fastiqa.data.ImageError`, naming an unreadable image.
    """
    metrics = {name: p for name, p in predictors.items() if not isinstance(p, nn.Module)}
    networks: dict[str, Any] = {name: p for name, p in predictors.items() if isinstance(p, nn.Module)}
    plain, padded = TripletDataset(triplets), TripletDataset(triplets, transform or WholeImage())
    values: dict[str, list[float]] = {name: [] for name in predictors}
    swapped: dict[str, list[float]] = {name: [] for name in networks}
    references: dict[str, tuple[Path, Any]] = {}  # encoded once for consecutive triplets that share it
    for i, triplet in enumerate(triplets):
        images = [image[None].to(device) for image in plain[i][:3]] if metrics else []
        for name, metric in metrics.items():
            values[name].append(float(metric(*images)))
        images = [image[None] for image in padded[i][:3]] if networks else []
        for name, network in networks.items():
            ref, a, b = (image.to(network.mean) for image in images)
            if name not in references or references[name][0] != triplet.ref:
                references[name] = (triplet.ref, network.encode(ref))
            maps = references[name][1], network.encode(a), network.encode(b)
            values[name].append(float(network.compare(*maps)))
            swapped[name].append(float(network.compare(maps[0], maps[2], maps[1])))
        if on_triplet is not None:
            on_triplet(i + 1, len(triplets))
    results = []
    for name, numbers in values.items():
        forth = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        consistency = None
        if name in swapped:
            back = torch.tensor(swapped[name], dtype=torch.float64, device="cpu")
            consistency = float((forth.sign() == -back.sign()).double().mean())
        results.append(evaluation_of(name, forth, triplets, consistency))
    return results
