"""LabelledDataset: what data sets of labelled image files have in common, whatever an item is."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from fastiqa.common import arguments
from fastiqa.data.images.reading import ImageError

# A few files may be damaged; a folder that vanished must not go on as an epoch of the same few items.
MOST_UNREADABLE_IN_A_ROW = 16

_log = logging.getLogger("fastiqa")

OnUnreadable = Literal["raise", "skip"]
Record = TypeVar("Record")
Item = TypeVar("Item")


class LabelledDataset(Dataset[Item], Generic[Record, Item]):
    """Records of image files and labels as items of tensors: reproducible, and with a way past damaged files.

    Every random choice of item i in epoch e is a function of (seed, e, i) alone, whatever was read before and in
    whichever process.

    Args:
        records: at least one.
        seed: of the random choices, 0 or more.
        on_unreadable: what happens at an image that cannot be read. "raise" ends the epoch. With "skip" the file is
            named once in a warning of the logger ``fastiqa`` and the record of the next readable image takes the
            place, so that batches keep their size.

    Attributes:
        noun: what messages call the records.
        consequence: what becomes of the records of an unreadable image, for the warning.
        records_per_image: how many records in a row are of one image; so many further is the next image's.
        unreadable: file -> reason, of the files skipped so far in this process (each worker of a DataLoader has its
            own).

    Raises:
        ValueError: no records, a negative seed, another `on_unreadable`. From ``dataset[i]``:
            :class:`fastiqa.data.ImageError` at an unreadable image with "raise", and with "skip" after 16 in a row.
    """

    noun: ClassVar[str]
    consequence: ClassVar[str] = "skipped"
    records_per_image: ClassVar[int] = 1

    def __init__(self, records: Sequence[Record], seed: int, on_unreadable: OnUnreadable) -> None:
        if len(records) == 0:
            raise ValueError(f"{self.noun}: got none, want at least one")
        arguments.one_of("on_unreadable", on_unreadable, ("raise", "skip"))
        self.records = records
        self.seed = arguments.integer("seed", seed, minimum=0)
        self.on_unreadable = on_unreadable
        self.unreadable: dict[str, str] = {}
        # in shared memory: persistent workers of a DataLoader hold copies of this object, which set_epoch must reach
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()

    @abstractmethod
    def item(self, record: Record, generator: np.random.Generator) -> Item:
        """Read a record's images and transform them. Raises ImageError where they cannot be read."""

    def draws(self, index: int) -> int:
        """Number of the random choices of an item; items of one number have the same."""
        return index

    def set_epoch(self, epoch: int) -> None:
        """Draw the random choices of `epoch`, 0 or more, from here on; before the DataLoader is iterated over."""
        self._epoch.fill_(arguments.integer("epoch", epoch, minimum=0))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]  # negative ones from the end, IndexError beyond both
        generator = np.random.default_rng((self.seed, int(self._epoch), self.draws(index)))
        each = self.records_per_image
        for following in range(index, index + len(self), each)[:MOST_UNREADABLE_IN_A_ROW]:
            try:
                return self.item(self.records[following % len(self)], generator)
            except ImageError as error:
                last = error
                if self.on_unreadable == "raise":
                    raise
                self._skip(error)
        reason = f"{last.reason}; nor could the {self.noun} before it be read, from number {index // each} on"
        raise ImageError(last.path, reason)

    def _skip(self, error: ImageError) -> None:
        if error.path not in self.unreadable:
            self.unreadable[error.path] = error.reason
            _log.warning("%s; %s", error, self.consequence)
