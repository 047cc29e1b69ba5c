"""Data sets of triplets by the names that recipes use.

A data set gives `dataset[i] = (ref, a, b, label)`: float32 images (3, H, W) in [0, 1] and a float32 scalar, the
probability that b is closer to ref than a. Where it makes random choices, those of item i in epoch e depend on
(seed, e, i) alone; `set_epoch(e)` tells it the epoch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

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
from fastiqa.reference import arguments

Triplets = Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]


class RandomTriplets(Triplets):
    """Generated triplets: smooth colour patterns with noise, of which the candidate with less noise is the closer one.

    Args:
        items: number of triplets.
        height, width: pixels.
        noise: greatest standard deviation of the noise.
        seed: other seeds give other triplets.

    Example:
        >>> ref, a, b, label = RandomTriplets(items=4, height=48, width=32)[0]
        >>> ref.shape, label.item() in (0.0, 1.0)
        (torch.Size([3, 48, 32]), True)
    """

    def __init__(self, items: int = 64, height: int = 64, width: int = 64, noise: float = 0.2, seed: int = 0) -> None:
        for name, value in (("items", items), ("height", height), ("width", width)):
            arguments.integer(name, value)
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise <= 1:
            raise ValueError(f"noise: got {noise!r}, want a number in (0, 1]")
        self._items, self._size, self._noise, self._seed = items, (height, width), noise, seed

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not 0 <= index < self._items:
            raise IndexError(f"index: got {index}, want one of {self._items} triplets")
        random = torch.Generator().manual_seed(self._seed * self._items + index)
        colours = torch.rand(1, 3, 4, 4, generator=random)
        ref = interpolate(colours, size=self._size, mode="bilinear", align_corners=False)[0]
        amount_a, amount_b = (self._noise * torch.rand(2, generator=random)).tolist()
        a, b = (
            (ref + amount * torch.randn(ref.shape, generator=random)).clamp_(0, 1) for amount in (amount_a, amount_b)
        )
        return ref, a, b, torch.tensor(float(amount_b < amount_a))


def _dataset(
    triplets: Sequence[Triplet],
    size: int = 448,
    small: Literal["upscale", "native"] = "upscale",
    flip: bool = True,
    swap: bool = True,
    whole: bool = False,
    on_unreadable: Literal["raise", "skip"] = "raise",
    seed: int = 0,
) -> TripletDataset:
    """Random crops as of `fastiqa.data.RandomCrop`, or whole images, of which small ones are enlarged likewise."""
    arguments.flag("whole", whole)
    crop = RandomCrop(size, small, flip, swap)
    transform = WholeImage(shorter_side=size if small == "upscale" else None) if whole else crop
    return TripletDataset(triplets, transform, seed=seed, on_unreadable=on_unreadable)


def _from_files(read: Callable[..., list[Triplet]]) -> Callable[..., Triplets]:
    """A kind that takes the options of a reader of `fastiqa.data` and those of `_dataset`."""
    of_reader = inspect.signature(read).parameters
    of_dataset = {name: p for name, p in inspect.signature(_dataset).parameters.items() if name != "triplets"}

    def build(**options: Any) -> Triplets:
        reading = {name: value for name, value in options.items() if name in of_reader}
        return _dataset(read(**reading), **{name: value for name, value in options.items() if name in of_dataset})

    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in (*of_reader.values(), *of_dataset.values())]
    build.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return build


KINDS: dict[str, Callable[..., Triplets]] = {
    "random": RandomTriplets,
    "clic": _from_files(read_clic),
    "bapps": _from_files(read_bapps),
    "pieapp": _from_files(read_pieapp),
    "synth": _from_files(read_synth),
}


def datasets(kind: str, *, seed: int = 0, **options: Any) -> Triplets:
    """Build a data set.

    Args:
        kind: one of `KINDS`.
        seed: of its random choices, for kinds that make any.
        options: of that kind: those of its reader in `fastiqa.data` and of its crops (`size`, `small`, `flip`, `swap`,
            `whole`, `on_unreadable`).

    Raises:
        ValueError: for an unknown kind, an unknown or missing option, and for whatever the kind refuses.

    Example:
        >>> len(datasets("random", items=8))
        8
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, want one of {', '.join(KINDS)}")
    known = inspect.signature(KINDS[kind]).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"{name}: unknown option of kind {kind!r}, want one of {', '.join(known)}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options and name != "seed":
            raise ValueError(f"{name}: missing, kind {kind!r} needs it")
    if "seed" in known:
        options["seed"] = seed
    return KINDS[kind](**options)
