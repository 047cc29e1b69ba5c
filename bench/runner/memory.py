"""Memory: the blocks of new tensors, the bytes that a call allocates, and those that a graph keeps.

On a CPU glibc gives every new block of more than 32 MiB fresh pages from the system and hands them back when it is
freed. A large new output then costs page faults, which can outweigh all arithmetic ("fresh"). Other allocators keep
blocks, as PyTorch's does on CUDA ("reused"). glibc can do both, and change at any time.
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
    """Make large blocks reused or fresh from now on, in the whole process; False where the C library is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    if memory == "reused":
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    else:  # the values at which glibc's own thresholds stop to grow
        libc.mallopt(M_MMAP_MAX, 65536)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(M_TRIM_THRESHOLD, 64 * MIB)
        libc.malloc_trim(0)
    return True


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes that a call holds at once beyond those that existed before; its results count.

    On CUDA the caching allocator's statistics tell, on a CPU the profiler's record of PyTorch's allocator. It includes
    the tensors of compiled kernels and C++ operators.
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
    """CPU bytes that live after a call beyond those that existed before: its results and their graph."""
    return sum(_changes(call))


def _changes(call: Callable[[], Any]) -> list[int]:
    """Bytes that PyTorch's CPU allocator gives, and takes back (negative), during the call; its result stays alive."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes two lines to stderr each time
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]


def saved_bytes(f: Callable[..., Any], leaves: Sequence[Any]) -> int:
    """Bytes of the distinct storages that the graph of f(*leaves) keeps, the leaves' included."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = f(*leaves)
    del kept  # alive until here: a freed storage's address could be another's
    return sum(storages.values())
