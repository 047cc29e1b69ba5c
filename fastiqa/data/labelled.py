"""LabelledDataset: the base of data sets of labelled image files."""

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

# A few files may be damaged; if the folder vanishes, the epoch must not continue with the same few items.
MOST_UNREADABLE_IN_A_ROW = 16

_log = logging.getLogger("fastiqa")

OnUnreadable = Literal["raise", "skip"]
Record = TypeVar("Record")
Item = TypeVar("Item")


class LabelledDataset(Dataset[Item], Generic[Record, Item]):
    """A data set that turns records of image files and labels into tensors: reproducible, and able to skip damage.

    All random choices of item i in epoch e depend on (seed, e, i) alone, not on the process or on earlier reads.

    Args:
        records: at least one.
        seed: for the random choices, 0 or more.
        on_unreadable: for an unreadable image, "raise" ends the epoch; "skip" names the file once in a warning of the
            logger ``fastiqa`` and takes the record of the next readable image instead, so batches keep their size.

    Attributes:
        noun: the records' name in messages.
        consequence: what the warning says about the records of an unreadable image.
        records_per_image: number of consecutive records of one image.
        unreadable: file -> reason, for the files skipped so far in this process; each worker of a DataLoader has its
            own.

    Raises:
        ValueError: no records, a negative seed, another `on_unreadable`. ``dataset[i]`` raises
            :class:`fastiqa.data.ImageError` for an unreadable image with "raise", and after 16 in a row with "skip".
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
        # in shared memory: set_epoch must reach the copies of this object in a DataLoader's persistent workers
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()

    @abstractmethod
    def item(self, record: Record, generator: np.random.Generator) -> Item:
        """Read a record's images and transform them. Raises ImageError for unreadable ones."""

    def draws(self, index: int) -> int:
        """The number that seeds an item's random choices; items with equal numbers share them."""
        return index

    def set_epoch(self, epoch: int) -> None:
        """Use the random choices of `epoch`, 0 or more, from now on. Call it before iterating over the DataLoader."""
        self._epoch.fill_(arguments.integer("epoch", epoch, minimum=0))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]  # counts negative ones from the end; IndexError beyond both
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
