"""The kernels under the address, undefined-behaviour and thread sanitizers, without PyTorch: the CPU's kernels, and the
CUDA sources on the CPU (lane 3)."""

from __future__ import annotations

import functools
import itertools
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ops import assert_within_budget, usual_error, wide
from torch import Tensor

from fastiqa.runtime.op import Op
from support import cases, emulation
from support.cases import Case, outputs

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        emulation.build().find_cxx() is None,
        reason="the kernels are compiled without PyTorch by a C++ compiler, and there is none",
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

# Runs that fill the rows of partial sums of the CPU's kernels exactly, and others.
LONG_RUNS = [
    Case((1, 8, 33, 33), torch.float32, ("nhwc",)),
    Case((1, 16, 33, 33), torch.bfloat16, ("nhwc",)),
    Case((2, 64, 33, 33), torch.float32, ("nhwc",)),
    Case((1, 24, 33, 31), torch.bfloat16, ("nhwc",), 1),
    Case((1, 3, 32, 64), torch.float32, ("nchw",)),
]

# Fewer dtypes compile sooner. float16 differs from bfloat16 in conversions alone, and the thread sanitizer watches the
# order of accesses, which does not depend on the dtype.
DTYPES = {
    ("cuda", "address_undefined"): (torch.float64, torch.float32, torch.bfloat16),
    ("cuda", "thread"): (torch.float32,),
    ("cpu", "address_undefined"): (torch.float32, torch.bfloat16),
}

# The address sanitizer says so once wherever there are fibers, even if it is told of each switch, as here.
FIBERS = "WARNING: ASan doesn't fully support makecontext/swapcontext functions"


def dtypes(device: str, sanitizer: str) -> tuple[torch.dtype, ...]:
    return cases.DTYPES if cases.ALL else DTYPES[device, sanitizer]


def calls(device: str, sanitizer: str) -> list[Case]:
    """The cases; a third of them for the thread sanitizer, which takes several times as long."""
    if device == "cpu":
        return CALLS + LONG_RUNS
    return CALLS[::3] if sanitizer == "thread" and not cases.ALL else CALLS


Made = tuple[Op, tuple[Any, ...], list[Tensor]]  # an operator, its kernel's arguments, tensors for the results


def run(device: str, sanitizer: str, calls: list[Made], folder: Path) -> None:
    """Run a case: no report, and right results."""
    driver = emulation.program(device, sanitizer, dtypes(device, sanitizer))
    done = emulation.run_recorded(driver, [(op.name, (*args, *outs)) for op, args, outs in calls], folder)
    assert done.returncode == 0, done.stderr[:4000]
    assert [line for line in done.stderr.splitlines() if FIBERS not in line] == []
    for op, args, outs in calls:
        eager, exact = outputs(op.reference(*args)), outputs(op.reference(*wide(args)))
        for k, (out, e, x) in enumerate(zip(outs, eager, exact, strict=True)):
            assert_within_budget(out, e, x, op.exact, functools.partial(usual_error(op, args), k))


@pytest.mark.parametrize(("device", "sanitizer"), DTYPES)
def test_kernels_are_clean(device: str, sanitizer: str, tmp_path: Path) -> None:
    """Every operator, its samples by turns."""
    made: list[Made] = []
    for op in cases.operators().values():
        for turn, case in enumerate(calls(device, sanitizer)):
            dtype = case.dtype if case.dtype in dtypes(device, sanitizer) else dtypes(device, sanitizer)[-1]
            for given in cases.arguments(op, replace(case, dtype=dtype, turn=turn)):
                args = op.signature.promote(given)
                made.append((op, args, [promised.empty() for promised in op.layout(*args)]))
    run(device, sanitizer, made, tmp_path)


def random_calls(count: int) -> list[Made]:
    """Operators by turns with random sizes, samples, offsets and layouts, also of the results."""
    draw = random.Random(0)
    dense = [
        name for name in cases.LAYOUTS if not name.startswith("expanded")
    ]  # results: no two elements share an address
    made: list[Made] = []
    for _, op in zip(range(count), itertools.cycle(cases.operators().values()), strict=False):
        shape = (
            draw.randint(1, 3),
            draw.choice((draw.randint(1, 70), 8, 16, 64)),
            draw.randint(1, 40),
            draw.randint(1, 40),
        )
        layouts = tuple(draw.choice([*cases.LAYOUTS]) for _ in range(draw.choice((1, 3))))
        dtype = draw.choice(DTYPES["cpu", "address_undefined"])
        case = Case(shape, dtype, layouts, draw.randint(0, 9), draw.randrange(6))
        (given,) = cases.arguments(op, case)
        args = op.signature.promote(given)
        outs = [cases.tensor(tuple(o.shape), o.dtype, draw.choice(dense), draw.randint(0, 9)) for o in op.layout(*args)]
        made.append((op, args, outs))
    return made


def without(x: Tensor, storage: Tensor) -> Tensor:
    """The bytes of the storage of x, with zeros in the elements of x."""
    rest = storage.clone()
    rest.view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset()).zero_()
    return rest


def test_random_calls_are_clean(tmp_path: Path) -> None:
    """On the CPU; memory between and around the elements of the results stays unchanged."""
    made = random_calls(3000 if cases.ALL else 78)
    for begin in range(0, len(made), 500):
        part = made[begin : begin + 500]
        before = [[without(out, emulation.storage(out)) for out in outs] for _, _, outs in part]
        run("cpu", "address_undefined", part, tmp_path)
        for (_, _, outs), storages in zip(part, before, strict=True):
            for out, storage in zip(outs, storages, strict=True):
                assert torch.equal(without(out, emulation.storage(out)), storage)


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
    driver = emulation.program("cuda", sanitizer, dtypes("cuda", sanitizer))
    x, sums = torch.randn(200), torch.zeros(4)
    done = emulation.run_recorded(driver, [("block_sum", (x, sums, fault))], tmp_path)
    if fault:
        assert done.returncode != 0
        assert message in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(sums, torch.stack([part.sum() for part in x.split(64)]))


def test_a_fault_of_the_cpu_kernels_is_found(tmp_path: Path) -> None:
    """If runs fill the rows of partial sums, kernels once read the element after a row of values on the stack."""
    sources = shutil.copytree(emulation.CSRC, tmp_path / "csrc")
    runs = sources / "passes" / "channelwise" / "cpu.h"
    mended, old = "for (int k = 0; kOne && k < kValues; ++k) one[k]", "for (int k = 0; k < kValues; ++k) one[k]"
    assert runs.read_text().count(mended) == 1
    runs.write_text(runs.read_text().replace(mended, old))
    files = [sources / "ops" / "scale_residual_relu" / "scale_residual_relu.cpp", emulation.ENTRY]
    driver = emulation.program_of(
        files, tmp_path / "work", "cpu", "address_undefined", (torch.float32,), f"-I{sources}"
    )
    for name in ("scale_residual_relu", "scale_residual_relu_backward"):
        op = cases.operators()[name]
        (args,) = cases.arguments(op, LONG_RUNS[0])
        call = (name, (*args, *(promised.empty() for promised in op.layout(*args))))
        done = emulation.run_recorded(driver, [call], tmp_path)
        assert done.returncode != 0
        assert "stack-buffer-overflow" in done.stderr
