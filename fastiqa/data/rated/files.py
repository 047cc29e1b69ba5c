"""Files: files below a folder by their names, whatever the case of the letters.

Data sets made on file systems that ignore case name files I04_01_1.bmp in the table and i04_01_1.BMP on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


class Files:
    """The files below a folder; every folder on the way is listed once.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, name: str | PurePosixPath) -> Path | None:
        """The file of a relative name, or None: its very name before one that differs in case alone."""
        path = self.root
        for part in PurePosixPath(name).parts:
            listing = self._listing(path)
            actual = listing.get(part) or listing.get(part.casefold())
            if actual is None:
                return None
            path /= actual
        return path if path.is_file() else None

    def table(self, name: str) -> Path:
        """The file of a relative name. Raises FileNotFoundError where there is none."""
        path = self.find(name)
        if path is None:
            raise FileNotFoundError(f"{self.root / name}: no such file")
        return path

    def _listing(self, folder: Path) -> dict[str, str]:
        """Names in a folder by themselves and in lower case."""
        if folder not in self._listings:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            self._listings[folder] = {name.casefold(): name for name in names} | {name: name for name in names}
        return self._listings[folder]
