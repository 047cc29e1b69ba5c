"""Reads members of .tar and .zip archives by a path through the archive, ``shards/0.tar/0abc.png``.

Data sets with many small files come as archives; reading in place needs no second copy on the disk. A process reads the
headers of a .tar once, and processes forked later inherit them. Reading a member then takes one seek and one read.
"""

from __future__ import annotations

import functools
import os
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import PIL.Image

from fastiqa.data.images.stored_depth import Refused

SUFFIXES = (".tar", ".zip")


BYTES_PER_PIXEL = 8  # 16-bit RGB, the deepest format read, needs 6; the rest is slack
METADATA = 1 << 24  # bytes for profiles, previews and text
PIECE = 1 << 20  # bytes inflated at a time


class _Span(NamedTuple):
    """The bytes of a .tar member: offset in the file, and size."""

    offset: int
    size: int


def split_path(path: Path) -> tuple[Path, str] | None:
    """The archive that ``path`` leads through and the member's name in it; None if it leads through no archive."""
    for parent in path.parents:
        if parent.suffix.lower() in SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def check_size(size: int) -> None:
    """Raise Refused if a file is too large for an image with at most ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.

    Args:
        size: of the file in bytes.
    """
    most = PIL.Image.MAX_IMAGE_PIXELS
    if most is not None and size > BYTES_PER_PIXEL * most + METADATA:
        limit = f"{BYTES_PER_PIXEL} bytes a pixel of PIL.Image.MAX_IMAGE_PIXELS"
        raise Refused(f"got {size} bytes or more, want at most {BYTES_PER_PIXEL * most + METADATA}: {limit}")


def members(archive: Path) -> Collection[str]:
    """The names of the files in an archive, without a leading "./".

    Raises: OSError; ValueError naming a damaged archive.
    """
    stamp = archive.stat().st_mtime_ns
    try:
        if archive.suffix.lower() == ".tar":
            return _spans(archive, stamp)
        return _zip(archive, stamp, os.getpid())[1]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{archive}: damaged, or not a {archive.suffix} archive: {error}") from error


def read_member(path: Path) -> bytes | None:
    """The content of the member that ``path`` leads to; None if there is no such member.

    Raises: OSError; ValueError naming a damaged archive; Refused for a member larger than `check_size` allows:
        inflating stops at that size, whatever the archive says.
    """
    found = split_path(path)
    if found is None or found[1] not in members(found[0]):
        return None
    archive, name = found
    stamp = archive.stat().st_mtime_ns
    if archive.suffix.lower() == ".tar":
        offset, size = _spans(archive, stamp)[name]
        check_size(size)
        with archive.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise ValueError(f"{path}: damaged: the archive ends before the member does")
        return content
    opened, names = _zip(archive, stamp, os.getpid())
    check_size(names[name].file_size)
    pieces, size = [], 0
    try:
        with opened.open(names[name]) as member:
            while piece := member.read(PIECE):
                size += len(piece)
                check_size(size)
                pieces.append(piece)
        return b"".join(pieces)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted or unknown
        raise ValueError(f"{path}: damaged, or compressed in a way that is not read: {error}") from error


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file or leads to a member of an archive. Raises as :func:`members`."""
    if path.is_file():
        return True
    found = split_path(path)
    return found is not None and found[1] in members(found[0])


@functools.lru_cache(maxsize=64)
def _spans(archive: Path, stamp: int) -> dict[str, _Span]:
    """The files of a .tar; ``stamp``, its time of modification, keeps the cache fresh."""
    with tarfile.open(archive, "r:") as opened:
        files = [member for member in opened if member.isreg() and not member.issparse()]
    return {PurePosixPath(member.name).as_posix(): _Span(member.offset_data, member.size) for member in files}


@functools.lru_cache(maxsize=64)
def _zip(archive: Path, stamp: int, process: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """An open .zip and its files, one per process: forked processes would share the position in the file."""
    opened = zipfile.ZipFile(archive)
    files = [member for member in opened.infolist() if not member.is_dir()]
    return opened, {PurePosixPath(member.filename).as_posix(): member for member in files}
