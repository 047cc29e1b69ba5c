"""Memory: which blocks a new tensor gets, how much a call allocates, and what a graph keeps.

On a CPU glibc gives every new block of more than 32 MiB fresh pages from the system and hands them back when it is
freed, so a large new output costs page faults, which can outweigh all arithmetic ("fresh"). Other allocators keep
blocks, as PyTorch's on CUDA does ("reused"). Both can be had from glibc, at any time.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MEMORY = ("reused", "fresh")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt
MIB = 1 << 20


def choose(memory: str) -> bool:
    """Large blocks are reused or fresh from now on, in the whole process; False where the C library cannot be told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    if memory == "reused":
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    else:  # where glibc's own, growing thresholds end
        libc.mallopt(M_MMAP_MAX, 65536)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(M_TRIM_THRESHOLD, 64 * MIB)
        libc.malloc_trim(0)
    return True


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """Most bytes that a call holds at once beyond what existed before; its results count.

    On CUDA from the caching allocator's statistics, on a CPU from the profiler's record of PyTorch's allocator, which
    also sees what compiled kernels and C++ operators allocate as tensors.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    live = most = 0
    for change in _changes(call):
        live += change
        most = max(most, live)
    return most


def live_bytes(call: Callable[[], Any]) -> int:
    """Bytes on the CPU that live when a call has ended, beyond what existed before: its results and their graph."""
    return sum(_changes(call))


def _changes(call: Callable[[], Any]) -> list[int]:
    """Bytes that PyTorch's CPU allocator gives, and takes back (negative), while the call runs; its result lives on."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes two lines to stderr each time
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]


def saved_bytes(f: Callable[..., Any], leaves: Sequence[Any]) -> int:
    """Bytes of the distinct storages that the graph of f(*leaves) keeps, those of the leaves among them."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = f(*leaves)
    del kept  # alive until here: a freed storage's address could be another's
    return sum(storages.values())
