"""write_atomically: a file that is either as it was or whole."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

UNFINISHED = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in the same folder (``.NAME.<random>.tmp``), flush it, and rename it.

    Raises: OSError as the system says (no space, no permission), with a file name; the file is then as it was, the
        temporary one gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)
