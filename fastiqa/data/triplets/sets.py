"""TRIPLET_SETS: the data sets of labelled triplets, by the names of command lines and recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastiqa.data.synth.table import SPLITS, check_synth, read_synth
from fastiqa.data.triplets.bapps import check_bapps, read_bapps
from fastiqa.data.triplets.clic import check_clic, read_clic
from fastiqa.data.triplets.dataset import Triplet
from fastiqa.data.triplets.pieapp import check_pieapp, read_pieapp
from fastiqa.data.triplets.validation import Report


@dataclass(frozen=True)
class TripletSet:
    """A data set of labelled triplets.

    Attributes:
        read: (folder, split, ...) -> the triplets of a split; CLIC's takes (csv, folder of the images, ...).
        check: the same arguments -> a report.
        split_paths: paths below the folder with {} for "train", "val" or "test"; one of them exists if the folder has
            that split. None if splits are separate files, as CLIC's are.
    """

    read: Callable[..., list[Triplet]]
    check: Callable[..., Report]
    split_paths: tuple[str, ...] | None

    def splits(self, folder: Path) -> list[str]:
        """The splits that a folder has, out of "train", "val" and "test".

        Raises: ValueError for none, naming paths that would show one.
        """
        paths = self.split_paths or ()
        found = [name for name in SPLITS if any((folder / path.format(name)).exists() for path in paths)]
        if not found:
            wanted = " or ".join(path.format("train") for path in paths)
            raise ValueError(f"{folder}: got none of train, val and test, want such as {wanted} in it")
        return found


TRIPLET_SETS: dict[str, TripletSet] = {
    "clic": TripletSet(read_clic, check_clic, None),
    "bapps": TripletSet(read_bapps, check_bapps, ("{}", "2afc/{}")),
    "pieapp": TripletSet(read_pieapp, check_pieapp, ("{}_reference_list.txt",)),
    "synth": TripletSet(read_synth, check_synth, (".",)),  # one table holds all splits
}
