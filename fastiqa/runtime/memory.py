"""Huge pages for large new tensors on the CPU.

Page faults dominate the cost of a new output of many megabytes: the system hands out and clears 4 KiB at a time. With
2 MiB pages it does so a 512th as often. cross_difference of 16x256x112x112 float32 into a new output of 411 MB takes
29 ms with huge pages and 109 ms without (torch.compile 114 ms, eager 240 ms; into an existing output 22 ms).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

from torch import Tensor

# glibc maps each block of more than 32 MiB anew, so nothing else shares its pages; smaller blocks are mostly reused,
# pages included.
LARGE = 32 << 20


def prefer_huge_pages(x: Tensor) -> Tensor:
    """Ask the system for huge pages beneath a large CPU tensor that nobody has written yet."""
    if x.nbytes >= LARGE and x.device.type == "cpu" and (advise := _madvise()) is not None:
        first = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (x.data_ptr() + x.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(first, last - first, mmap.MADV_HUGEPAGE)  # a hint, which systems without huge pages refuse
    return x


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
