"""Batches of triplets: which triplets, in which order, to which process.

The order of an epoch depends on (seed, epoch) alone, so a run that goes on in the middle of an epoch sees what it would
have seen. A batch is cut into `processes · accumulate` equal parts; process r computes parts r · accumulate and
following, one by one. So a run on two processes sees the parts of a run on one that accumulates two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastiqa.training.datasets import Triplets

Key = tuple[str, int]  # a data set and an index in it


class DataError(RuntimeError):
    """Triplets that cannot be trained on. The message is one line: data set, index, what came and what was wanted."""


class Batch(NamedTuple):
    """Triplets of one data set: images (N, 3, H, W) and labels (N,), float32."""

    source: str
    indices: list[int]
    ref: Tensor
    a: Tensor
    b: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        moved = [t.to(device, non_blocking=True) for t in (self.ref, self.a, self.b, self.label)]
        return Batch(self.source, self.indices, *moved)


def seed_of(*key: int) -> int:
    """A seed for torch that depends on every number of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def epoch_order(lengths: Mapping[str, int], batch_size: int, seed: int, epoch: int) -> list[list[Key]]:
    """The batches of an epoch: each of one data set, all data sets' shuffled together.

    What is left over when a data set is cut into batches, less than a batch, is left out of this epoch; the order is
    new in each.
    """
    random = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    batches: list[list[Key]] = []
    for name, length in lengths.items():
        order = random.permutation(length).tolist()
        starts = range(0, length - batch_size + 1, batch_size)
        batches += [[(name, index) for index in order[i : i + batch_size]] for i in starts]
    return [batches[i] for i in random.permutation(len(batches))]


def parts_of(batch: Sequence[Key], process: int, processes: int, accumulate: int) -> list[list[Key]]:
    """The parts of a batch that one of the processes computes."""
    size = len(batch) // (processes * accumulate)
    first = process * accumulate
    return [list(batch[k * size : (k + 1) * size]) for k in range(first, first + accumulate)]


class _Joined(Dataset[tuple[Key, tuple[Tensor, ...]]]):
    """Several data sets behind one index, which says where a triplet came from."""

    def __init__(self, datasets: Mapping[str, Triplets]) -> None:
        self._datasets = dict(datasets)

    def __getitem__(self, key: Key) -> tuple[Key, tuple[Tensor, ...]]:
        name, index = key
        try:
            return key, self._datasets[name][index]
        except Exception as error:
            raise DataError(f"data.{name}: triplet {index}: {' '.join(str(error).split())}") from error


def load(
    datasets: Mapping[str, Triplets], parts: Sequence[list[Key]], workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Read the parts one after the other.

    Raises: DataError naming data set and index where a triplet cannot be read, where its images or those of a part
        differ in size, and where a label lies outside [0, 1].
    """
    loader: DataLoader[Batch] = DataLoader(
        _Joined(datasets),  # type: ignore[arg-type]  # batches, not items
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except DataError as error:  # from a worker it brings the worker's traceback along
        message = str(error).strip().splitlines()[-1].removeprefix(f"{__name__}.DataError: ")
        raise DataError(message) from error


def collate(items: Sequence[tuple[Key, tuple[Tensor, ...]]]) -> Batch:
    """Join triplets of one data set. Raises DataError where they do not fit together or a label is not in [0, 1]."""
    first = f"triplet {items[0][0][1]}"
    size = items[0][1][0].shape
    for (name, index), (ref, a, b, label) in items:
        for image, pixels in (("ref", ref), ("a", a), ("b", b)):
            if pixels.shape != size:
                got, want = _size(pixels), f"{_size(items[0][1][0])} as the ref of {first}"
                advice = "crop the images of a batch to one size, or train with batches of one"
                raise DataError(f"data.{name}: triplet {index}: {image} is {got}, want {want}: {advice}")
        if not 0 <= (value := float(label)) <= 1 or math.isnan(value):
            raise DataError(f"data.{name}: triplet {index}: label {value}, want a probability in [0, 1]")
    keys, triplets = zip(*items, strict=True)
    tensors = [torch.stack(of_one_kind) for of_one_kind in zip(*triplets, strict=True)]
    return Batch(keys[0][0], [index for _, index in keys], *tensors)


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape))
