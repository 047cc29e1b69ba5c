"""Batches: which items, in which order, to which process.

The order of an epoch depends on (seed, epoch) alone, so a run that resumes in the middle of an epoch sees the batches
that it would have seen. A batch is cut into `processes · accumulate` equal parts. Process r computes `accumulate` parts
from number r · accumulate on, one by one. So two processes see the same parts as one that accumulates two.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastiqa.training.tasks import ItemLayout, Items

Key = tuple[str, int]  # a data set and an index in it


class DataError(RuntimeError):
    """Items that cannot be trained on. The message is one line: data set, index, "got X, want Y"."""


class Batch(NamedTuple):
    """Items of one data set.

    Attributes:
        source: the data set's name in the recipe.
        indices: the items' indices in it.
        inputs, targets: tensors (N, ...), as the task's `ItemLayout` has them.
    """

    source: str
    indices: list[int]
    inputs: Sequence[Tensor]
    targets: Sequence[Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        inputs, targets = ([t.to(device, non_blocking=True) for t in part] for part in (self.inputs, self.targets))
        return Batch(self.source, self.indices, inputs, targets)


def seed_of(*key: int) -> int:
    """A 64-bit seed for torch that depends on every number of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def epoch_order(
    blocks: Mapping[str, Sequence[Sequence[int]]], batch_size: int, seed: int, epoch: int
) -> list[list[Key]]:
    """The batches of an epoch, each from one data set, shuffled together.

    Each data set's blocks, see `blocks_of`, are shuffled and then cut into batches; a batch may end within a block. The
    rest of a data set, less than a batch, is left out of this epoch. Every epoch has its own order.
    """
    random = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    batches: list[list[Key]] = []
    for name, of_dataset in blocks.items():
        order = [index for block in random.permutation(len(of_dataset)).tolist() for index in of_dataset[block]]
        starts = range(0, len(order) - batch_size + 1, batch_size)
        batches += [[(name, index) for index in order[i : i + batch_size]] for i in starts]
    return [batches[i] for i in random.permutation(len(batches))]


def parts_of(batch: Sequence[Key], process: int, processes: int, accumulate: int) -> list[list[Key]]:
    """The parts of a batch that process number `process` computes."""
    size = len(batch) // (processes * accumulate)
    first = process * accumulate
    return [list(batch[k * size : (k + 1) * size]) for k in range(first, first + accumulate)]


class _Joined(Dataset[tuple[Key, tuple[Tensor, ...]]]):
    """Several data sets behind one index; an item comes with its key."""

    def __init__(self, layout: ItemLayout, datasets: Mapping[str, Items]) -> None:
        self._noun, self._datasets = layout.noun, dict(datasets)

    def __getitem__(self, key: Key) -> tuple[Key, tuple[Tensor, ...]]:
        name, index = key
        try:
            return key, self._datasets[name][index]
        except Exception as error:
            raise DataError(f"data.{name}: {self._noun} {index}: {' '.join(str(error).split())}") from error


def load(
    layout: ItemLayout,
    datasets: Mapping[str, Items],
    parts: Sequence[list[Key]],
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Read the parts, one batch each.

    Args:
        layout: the layout of the items.
        datasets: the data sets by name.
        parts: the keys of each part.
        workers: processes that read; 0 reads in this one.
        pin_memory: for copies to a CUDA device.

    Raises: DataError naming data set and index if an item cannot be read, images of an item or part differ in size, or
        targets are refused.
    """
    loader: DataLoader[Batch] = DataLoader(
        _Joined(layout, datasets),  # type: ignore[arg-type]  # batches, not items
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=functools.partial(collate, layout),
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except DataError as error:  # a worker's brings its traceback along
        message = str(error).strip().splitlines()[-1].removeprefix(f"{__name__}.DataError: ")
        raise DataError(message) from error


def collate(layout: ItemLayout, items: Sequence[tuple[Key, tuple[Tensor, ...]]]) -> Batch:
    """A batch of items from one data set. Raises DataError if sizes differ or a target is refused."""
    (_, first), (like, *_) = items[0]
    count = len(layout.inputs)
    for (name, index), tensors in items:
        where = f"data.{name}: {layout.noun} {index}"
        for image, pixels in zip(layout.inputs, tensors[:count], strict=True):
            if pixels.shape != like.shape:
                got, want = _size(pixels), f"{_size(like)} as the {layout.inputs[0]} of {layout.noun} {first}"
                advice = "crop the images of a batch to one size, or train with batches of one"
                raise DataError(f"{where}: {image} is {got}, want {want}: {advice}")
        if reason := layout.target_error(*tensors[count:]):
            raise DataError(f"{where}: {reason}")
    keys, tuples = zip(*items, strict=True)
    joined = [torch.stack(of_one_kind) for of_one_kind in zip(*tuples, strict=True)]
    return Batch(keys[0][0], [index for _, index in keys], joined[:count], joined[count:])


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape))
