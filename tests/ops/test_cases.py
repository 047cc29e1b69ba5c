"""The base of the operators' tests: tensors keep their layout on the way to a device; the files of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import conftest
from fastiqa import ops
from support import cases
from support.cases import Case, outputs

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_a_tensor_keeps_its_layout_on_the_way_to_a_device(layout: str) -> None:
    """`Tensor.to` and `cuda` make slices dense and begin at the first byte of a storage."""
    x = cases.tensor((2, 3, 4, 5), torch.float32, layout, offset=1)
    for device in ("cpu", "meta"):
        there = cases.to_device(x, device)
        assert (there.device.type, there.stride(), there.storage_offset()) == (device, x.stride(), x.storage_offset())
        assert there.untyped_storage().nbytes() == x.untyped_storage().nbytes()
    here = cases.to_device(x, "cpu")
    assert torch.equal(here, x)
    assert here.data_ptr() != x.data_ptr()
    assert cases.whole_storage(here)[:1].isnan().all()


def test_a_placed_operator_is_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, results into `out` and gradients, with the CPU in the place of a GPU."""
    monkeypatch.setattr(cases, "DEVICE", "cpu")
    for name in ("octave_split", "batch_norm_act"):
        op = ops.OPERATORS[name]
        args = next(cases.arguments(op, Case((2, 4, 6, 5), torch.float64, ("some_channels",), offset=1)))
        leaves = [x.requires_grad_() if isinstance(x, Tensor) else x for x in args]
        want, got = outputs(op(*leaves)), outputs(cases.placed(op)(*leaves))
        for results in (want, got):
            assert not any(y.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr() for y in results)
        assert all(torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(want, got, strict=True))
        gradients = (torch.autograd.grad(results[0].square().sum(), args[0]) for results in (want, got))
        assert torch.equal(*(gradient for (gradient,) in gradients))
        into = [torch.zeros(9, *y.shape, dtype=y.dtype)[1] for y in want]
        cases.placed(op)(*(x.detach() if isinstance(x, Tensor) else x for x in args), out=into)
        assert all(torch.equal(x, y) for x, y in zip(want, into, strict=True))


@pytest.mark.parametrize(
    ("expression", "asked"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("", False),
        ("not gpu", False),
        ("slow", False),
        ("slow or gpu", True),
    ],
)
def test_a_run_on_a_gpu_reads_files_with_such_tests_alone(expression: str, asked: bool) -> None:
    config = SimpleNamespace(getoption=lambda name: expression)
    assert conftest.asks_for_gpu(config) == asked
    read = {file.name for file in TESTS.rglob("*.py") if conftest.pytest_ignore_collect(file, config) is None}
    assert {"test_gpu.py", "test_ops.py", "test_sigmoid.py", "test_torch.py", "conftest.py", "cases.py"} <= read
    assert ("test_synth.py" in read) == (not asked)
    assert len([name for name in read if name.startswith("test_")]) < 8 or not asked
