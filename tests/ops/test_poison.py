"""Unwritten memory is NaN: new memory from every source, and the results of a kernel that does nothing."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa.runtime import dispatch
from support import cases, poison
from support.cases import Case, outputs

SIZE = (3, 5, 7)
CALLS = {
    "empty": lambda **how: torch.empty(SIZE, **how),
    "empty_strided": lambda **how: torch.empty_strided(SIZE, (35, 7, 1), **how),
    "empty_permuted": lambda **how: torch.empty_permuted(SIZE, (2, 1, 0), **how),
    "empty_like": lambda **how: torch.empty_like(torch.zeros(SIZE), **how),
    "new_empty": lambda **how: torch.zeros(1).new_empty(SIZE, **how),
    "new_empty_strided": lambda **how: torch.zeros(1).new_empty_strided(SIZE, (35, 7, 1), **how),
}


@pytest.mark.parametrize("name", CALLS)
def test_new_tensors_are_nan(name: str) -> None:
    assert set(CALLS) == {*poison.FUNCTIONS, *poison.METHODS}
    for dtype in cases.DTYPES:
        assert CALLS[name](dtype=dtype).isnan().all()
    assert CALLS[name](dtype=torch.float32, requires_grad=True).isnan().all()
    assert CALLS[name](dtype=torch.int64).shape == SIZE
    assert CALLS[name](dtype=torch.float32, device="meta").is_meta


@pytest.mark.parametrize("name", cases.names())
def test_a_kernel_that_writes_nothing_leaves_nan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of a new plan, and of one that other calls have used."""
    op = cases.operators()[name]
    for shape in ((2, 4, 9, 8), (1, 2, 3, 5)):
        args = next(cases.arguments(op, Case(shape, turn=0)))
        assert not any(y.isnan().any() for y in outputs(op(*args)))
        monkeypatch.setitem(dispatch._kernels, ("cpu", name), lambda *given: None)
        with fastiqa.use("cpu"):
            for x in (args, tuple(x.double() if isinstance(x, Tensor) else x for x in args)):
                assert all(y.isnan().all() for y in outputs(op(*x)))
        monkeypatch.undo()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone fills what it hands out")
def test_memory_of_the_host_is_filled() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    for size in (4096, 1 << 20):
        with poison.host_memory():
            block = libc.malloc(ctypes.c_size_t(size))
            assert ctypes.string_at(block, size)[16:] == b"\x7f" * (size - 16)
            libc.free(block)
