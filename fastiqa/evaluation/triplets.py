"""evaluate_triplets: 2AFC scores of metrics and networks on labelled triplets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa.data import Triplet, TripletDataset, WholeImage
from fastiqa.evaluation.preferences import Preference
from fastiqa.evaluation.two_afc import TwoAfc, two_afc

NEARNESS = (0.1, 0.25, 0.4, 0.5)  # greatest distance of the label from one half in each group of `by_nearness`


class Difference(NamedTuple):
    """The score of a predictor minus another's on the same triplets.

    Attributes:
        score: the difference of the 2AFC scores.
        low, high: its 95 % interval.
        ahead: share of resamplings in which the predictor is ahead; those with equal scores count half.
    """

    score: float
    low: float
    high: float
    ahead: float


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
        differences: by group ("" for all triplets) and name of another predictor, see `fastiqa.evaluation.bootstrap`.
    """

    name: str
    preferences: Tensor
    overall: TwoAfc
    groups: dict[str, TwoAfc]
    swap_consistency: float | None
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)


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


def by_nearness(triplets: Sequence[Triplet]) -> list[Triplet]:
    """The triplets in groups by how near the two images are: by the distance of the label p from one half."""

    def group(label: float) -> str:
        # the least bound that is not below the distance, which 0.6 - 0.5 exceeds by rounding
        k = next(k for k, most in enumerate(NEARNESS) if abs(label - 0.5) <= most + 1e-12)
        return f"p {0.0 if k == 0 else NEARNESS[k - 1]} to {NEARNESS[k]} from 1/2"

    return [triplet._replace(group=group(triplet.label)) for triplet in triplets]


def decided(triplets: Sequence[Triplet]) -> list[Triplet]:
    """The triplets whose label is not one half, each with the label 0 or 1 that is nearer.

    A soft label limits the 2AFC score to the mean of the larger of p and 1 − p. After this the score is the accuracy.

    Raises: ValueError if every label is one half.
    """
    kept = [triplet._replace(label=float(triplet.label > 0.5)) for triplet in triplets if triplet.label != 0.5]
    if not kept:
        raise ValueError(f"triplets: got {len(triplets)} whose label is 1/2, want at least one that is not")
    return kept


def by_names(triplets: Sequence[Triplet], pattern: str) -> list[Triplet]:
    """The triplets in two groups, "same" and "different": whether a regular expression finds the same in both names.

    Args:
        triplets: any.
        pattern: its first group, or without one the whole match, is compared; searched in the names of a and b.

    Returns:
        The triplets with their new groups, in order.

    Raises:
        ValueError: no regular expression, or a name in which it finds nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: got {pattern!r}, want a regular expression: {error}") from None

    def found(path: Path) -> str:
        if (match := compiled.search(path.name)) is None:
            raise ValueError(f"pattern: {pattern!r} finds nothing in {path.name!r}")
        return match[1 if compiled.groups else 0]

    return [
        triplet._replace(group="same" if found(triplet.a) == found(triplet.b) else "different") for triplet in triplets
    ]


class _Encoded:
    """Maps of the images that a network saw last, at most half a gigabyte: many triplets share few images."""

    def __init__(self, most: int = 1 << 29) -> None:
        self._most, self._bytes = most, 0
        self._kept: dict[tuple[str, Path], Any] = {}

    def maps(self, network: Any, name: str, path: Path, image: Tensor) -> Any:
        """The network's maps of an image (1, 3, H, W), which this path names."""
        key = name, path
        found = self._kept.pop(key, None)
        if found is None:
            found = network.encode(image.to(network.mean))
            self._bytes += _size(found)
        self._kept[key] = found  # last
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= _size(self._kept.pop(next(iter(self._kept))))
        return found


def _size(maps: Any) -> int:
    return sum(of_stage.numel() * of_stage.element_size() for of_stage in maps)


@torch.inference_mode()
def evaluate_triplets(
    triplets: Sequence[Triplet],
    predictors: Mapping[str, Preference | nn.Module],
    *,
    transform: WholeImage | None = None,
    device: torch.device | str = "cpu",
    on_triplet: Callable[[int, int], Any] | None = None,
) -> list[Evaluation]:
    """Score predictors on triplets, one triplet after the other. A metric scores an image once for all its triplets.

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
    known: dict[tuple[str, Path, Path], Tensor] = {}  # by metric, reference and image
    encoded = _Encoded()
    values: dict[str, list[float]] = {name: [] for name in predictors}
    swapped: dict[str, list[float]] = {name: [] for name in networks}
    for i, triplet in enumerate(triplets):
        keys = {name: [(name, triplet.ref, path) for path in triplet[1:3]] for name in metrics}
        if any(key not in known for pair in keys.values() for key in pair):
            ref, *candidates = (image[None].to(device) for image in plain[i][:3])
            for name, pair in keys.items():
                for key, image in zip(pair, candidates, strict=True):
                    if key not in known:
                        known[key] = metrics[name].score(ref, image).cpu()
        for name, (a, b) in keys.items():
            values[name].append(float(metrics[name].difference(known[a], known[b])))
        images = [image[None] for image in padded[i][:3]] if networks else []
        for name, network in networks.items():
            maps = [encoded.maps(network, name, path, image) for path, image in zip(triplet[:3], images, strict=True)]
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
