"""Fresh memory is NaN in tests, so an unwritten element is not the right answer of an earlier call.

Every function of PyTorch that returns memory without values is replaced, once and before an operator runs:
`runtime/plan.py` keeps such a function, so a replacement for one test would miss earlier plans. Memory that C++ kernels
allocate is filled by csrc/core/scratch.h under emulation, by `host_memory` below for the CPU library, and by PyTorch
(`conftest.py`) on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._device import _device_constructors

FUNCTIONS = ("empty", "empty_strided", "empty_like", "empty_permuted")
METHODS = ("new_empty", "new_empty_strided")

_on = True


def install() -> None:
    """Replace the functions for good."""
    _device_constructors()  # PyTorch's own list of them, cached on first use
    for owner, names in ((torch, FUNCTIONS), (Tensor, METHODS)):
        for name in names:
            setattr(owner, name, _poisoning(getattr(owner, name)))


def _poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(allocate)
    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        result = allocate(*args, **kwargs)
        if _on and result.is_floating_point() and result.device.type != "meta" and result.layout is torch.strided:
            (result.detach() if result.requires_grad else result).fill_(float("nan"))
        return result

    return poisoned


@contextlib.contextmanager
def off() -> Iterator[None]:
    """In the block memory stays as the system returns it: for gigabytes that are not touched everywhere."""
    global _on
    before, _on = _on, False
    try:
        yield
    finally:
        _on = before


@contextlib.contextmanager
def host_memory() -> Iterator[None]:
    """In the block glibc fills memory with 0x7f7f..., which is 3.4e38 in float32 and NaN in float16.

    Blocks of less than a kilobyte may be reused as they are. Other C libraries lack such a setting.
    """
    perturb, number = -6, 0x80  # M_PERTURB; new memory is filled with the complement, freed memory with the number
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(perturb, number)
    try:
        yield
    finally:
        if choose is not None:
            choose(perturb, 0)
