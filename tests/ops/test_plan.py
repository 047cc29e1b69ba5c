"""Plans serve calls with equal metadata (fastiqa/runtime/plan.py), and remember nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastiqa import ops
from fastiqa.runtime import plan
from fastiqa.runtime.plan import Plans


@pytest.fixture
def counted() -> tuple[Plans, list[Any]]:
    op, calls = ops.OPERATORS["cross_difference"], []

    def layout(*args: Any) -> Any:
        calls.append(args)
        return op.layout(*args)

    return Plans(op.signature, layout), calls


def test_metadata_decides_and_values_do_not(counted: tuple[Plans, list[Any]]) -> None:
    plans, calls = counted
    x = torch.rand(2, 3, 4, 5)
    first = plans((x, x, x))
    assert plans((x + 1, x, x.clone())) is first
    assert len(calls) == 1
    last = x.to(memory_format=torch.channels_last)
    for other in (x.double(), last, x[:1], x[..., ::2]):
        plan = plans((other, other, other))
        (made,), (promised,) = [empty() for empty in plan.allocators], plan.outputs
        assert (made.shape, made.dtype) == (promised.shape, promised.dtype)
        assert made.stride() == promised.empty().stride()
    assert len(calls) == 5


def test_promotion_and_emptiness_are_part_of_it(counted: tuple[Plans, list[Any]]) -> None:
    plans, _ = counted
    x = torch.rand(2, 3, 4, 5)
    assert not plans((x, x, x)).promotes
    assert not plans((x, x, x)).empty
    mixed = plans((x, x.bfloat16(), x))
    assert mixed.promotes
    assert mixed.outputs[0].dtype == torch.float32
    assert plans((x[:0], x[:0], x[:0])).empty


def test_errors_are_raised_every_time(counted: tuple[Plans, list[Any]]) -> None:
    plans, calls = counted
    x = torch.rand(2, 3, 4, 5)
    for _ in range(2):
        with pytest.raises(ValueError, match="a: got shape"):
            plans((x, x[:1], x))
    assert len(calls) == 2


def test_sizes_that_never_come_back_do_not_pile_up(
    counted: tuple[Plans, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, calls = counted
    monkeypatch.setattr(plan, "MOST_PLANS", 4)
    for n in range(1, 10):
        x = torch.rand(n, 1, 1, 1)
        plans((x, x, x))
    assert len(plans._plans) <= 4
    assert len(calls) == 9
