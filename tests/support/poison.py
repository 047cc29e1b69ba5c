"""Fresh memory is NaN in tests, so that an element that nobody writes is no right answer of an earlier call.

Every function of PyTorch that hands out memory without values is replaced, once and before an operator runs:
`runtime/plan.py` keeps such a function, so one replaced for a test alone would miss plans made before it. Memory that
C++ kernels take for themselves: csrc/core/scratch.h under emulation, `host_memory` below for the CPU library,
PyTorch's own filling (`conftest.py`) on a GPU.
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
    """Replaces the functions for good."""
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
    """Within it memory is as the system hands it out: for tensors of gigabytes that are not touched everywhere."""
    global _on
    before, _on = _on, False
    try:
        yield
    finally:
        _on = before


@contextlib.contextmanager
def host_memory() -> Iterator[None]:
    """Within it what glibc hands out is 0x7f7f..., 3.4e38 in float32 and NaN in float16, in place of what was there.

    Blocks of less than a kilobyte are handed on as they are. Other C libraries know no such thing.
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
