"""Silences native libraries that write to stderr themselves."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discard all writes to file descriptor 2: libtiff reports damaged files there, and the exception already does."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the process was started without a stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
