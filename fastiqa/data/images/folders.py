"""image_files: the image files below a folder."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from pathlib import Path

import PIL.Image

from fastiqa.common.text import one_line

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".dib"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
# With what a policy that is not strict reads too.
LENIENT_SUFFIXES = (*SUFFIXES, ".gif", ".heic", ".heif", ".hif", ".jxl")
# Image formats that Pillow does not read; `image_files` warns of these files too.
OTHER_SUFFIXES = {
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".exr", ".hdr", ".svg", ".dng", ".raw"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
}

_log = logging.getLogger("fastiqa")


def image_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """List the files below a folder that have the suffix of a readable image format.

    Args:
        folder: where to look. Subfolders are searched, hidden names skipped, links followed. A folder with several
            names is entered once, by a name without links if it has one.
        suffixes: in lower case, with the dot; by default those of the formats that a strict policy reads.

    Returns:
        The files, sorted. The logger ``fastiqa`` warns of skipped ones: other image formats, counted by suffix, and
        broken links.

    Raises:
        NotADirectoryError: a missing folder.
        OSError: a subfolder that cannot be listed.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    entered: set[tuple[int, int]] = set()
    waiting = deque([folder])
    linked: list[Path] = []  # folders behind links: entered last
    while waiting or linked:
        at = waiting.popleft() if waiting else linked.pop(0)
        about = at.stat()
        if (about.st_dev, about.st_ino) in entered:
            continue
        entered.add((about.st_dev, about.st_ino))
        with os.scandir(at) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
        for entry in entries:
            path = at / entry.name
            if path.is_dir():
                (linked if entry.is_symlink() else waiting).append(path)
                continue
            suffix = path.suffix.lower()
            if suffix in suffixes and path.is_file():
                found.append(path)
            elif suffix in suffixes and entry.is_symlink():
                left_out["broken link"] += 1
            elif suffix in OTHER_SUFFIXES or suffix in PIL.Image.registered_extensions():
                left_out[suffix] += 1
    if left_out:
        skipped = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        _log.warning("%s: left out, for they are not read: %s", one_line(str(folder)), skipped)
    return sorted(found)
