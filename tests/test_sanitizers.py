"""The CUDA sources under the address, undefined-behaviour and thread sanitizers (lane 3), on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cases
import emulation
import pytest
import torch
from cases import Case
from torch import Tensor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        emulation.build().find_cxx() is None,
        reason="the CUDA sources are emulated by a C++ compiler, and there is none",
    ),
]

# Vector and scalar paths, tails, misaligned storage, both formats, strided and expanded operands.
CALLS = [
    Case((2, 8, 8, 8)),
    Case((1, 3, 7, 33), torch.float32, ("nchw",), 1),
    Case((1, 16, 4, 4), torch.float32, ("nchw",), 1),
    Case((1, 16, 5, 5), torch.bfloat16, ("nhwc",)),
    Case((2, 5, 4, 6), torch.float16, ("every_other_column", "transposed")),
    Case((2, 8, 3, 5), torch.float64, ("expanded_everywhere", "nhwc", "some_channels")),
    Case((1, 1, 1, 1), torch.bfloat16, ("nchw",), 3),
    Case((3, 64, 9, 8), torch.bfloat16),
]

# Fewer dtypes compile sooner. float16 differs from bfloat16 in conversions alone, and the order of accesses, which the
# thread sanitizer watches, is not a matter of the dtype.
DTYPES = {"address_undefined": (torch.float64, torch.float32, torch.bfloat16), "thread": (torch.float32,)}

# Said once by the address sanitizer wherever there are fibers, even where it is told of each switch as here.
FIBERS = "WARNING: ASan doesn't fully support makecontext/swapcontext functions"


def dtypes(sanitizer: str) -> tuple[torch.dtype, ...]:
    return cases.DTYPES if cases.ALL else DTYPES[sanitizer]


@pytest.mark.parametrize("sanitizer", emulation.SANITIZERS)
def test_kernels_are_clean(sanitizer: str, tmp_path: Path) -> None:
    """Samples by turns; to the thread sanitizer a third of the cases, which take it several times as long."""
    driver = emulation.program(sanitizer, dtypes(sanitizer))
    calls, expected = [], []
    for op in cases.operators().values():
        for turn, case in enumerate(CALLS[::3] if sanitizer == "thread" and not cases.ALL else CALLS):
            dtype = case.dtype if case.dtype in dtypes(sanitizer) else dtypes(sanitizer)[-1]
            for given in cases.arguments(op, replace(case, dtype=dtype, turn=turn)):
                args = op.signature.promote(given)
                outs = [promised.empty() for promised in op.layout(*args)]
                # In float64: eager's own errors in 16 bits may be far larger than an element.
                results = op.reference(*(x.double() if isinstance(x, Tensor) else x for x in args))
                expected.append((outs, [results] if isinstance(results, Tensor) else results))
                calls.append((op.name, (*args, *outs)))
    done = emulation.run_recorded(driver, calls, tmp_path)
    assert done.returncode == 0, done.stderr[:4000]
    assert [line for line in done.stderr.splitlines() if FIBERS not in line] == []
    for outs, results in expected:
        for out, result in zip(outs, results, strict=True):
            torch.testing.assert_close(out, result.to(out.dtype))


@pytest.mark.parametrize(
    ("sanitizer", "fault", "message"),
    [
        ("thread", 0, ""),
        ("thread", 1, "data race"),
        ("thread", 5, "a barrier is not reached by every thread"),
        ("address_undefined", 0, ""),
        ("address_undefined", 2, "heap-buffer-overflow"),
        ("address_undefined", 3, "misaligned address"),
        ("address_undefined", 4, "signed integer overflow"),
        ("address_undefined", 5, "a barrier is not reached by every thread"),
    ],
)
def test_a_fault_is_found(sanitizer: str, fault: int, message: str, tmp_path: Path) -> None:
    """The lane itself: a reduction with barriers, shared memory and shuffles passes, and each planted fault fails."""
    driver = emulation.program(sanitizer, dtypes(sanitizer))
    x, sums = torch.randn(200), torch.zeros(4)
    done = emulation.run_recorded(driver, [("block_sum", (x, sums, fault))], tmp_path)
    if fault:
        assert done.returncode != 0
        assert message in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(sums, torch.stack([part.sum() for part in x.split(64)]))
