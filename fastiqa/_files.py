"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder; what is written there takes the place of `path`, all or nothing.

    The file is on the disk before the old one goes. If anything fails, the old one stays and the new one is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a write that fails does not say of which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing.

    Raises: OSError as the system says (no space, no permission), with a file name.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left of files that it was writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
