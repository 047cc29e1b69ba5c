"""Failures of the machine rather than the program, in one line each: no memory, a backend that cannot run."""

from __future__ import annotations

import re

import torch

from fastiqa.common.text import one_line
from fastiqa.runtime.dispatch import BackendError

# Texts of plain RuntimeErrors by PyTorch's allocators, oneDNN and C++.
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory|could not allocate|bad_alloc", re.I)
_ASKED = re.compile(r"tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ [KMGT]iB)", re.I)


def reason_of(error: BaseException) -> str | None:
    """Return the line to print for a failure of the machine, or None for any other error."""
    text = str(error)
    if isinstance(error, BackendError):
        what, *table = (" ".join(line.split()) for line in text.splitlines())
        return one_line(f"{what.rstrip('.')}: {'; '.join(table)}")
    plain = isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    if not (plain or isinstance(error, (MemoryError, torch.OutOfMemoryError))):
        return None
    if not (asked := _ASKED.search(text)):
        return "out of memory"
    size = asked[2] or f"{int(asked[1]) / 2**30:.1f} GiB"
    return f"out of memory: {size} more were needed"
