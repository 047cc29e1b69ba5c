"""The compiled kernels without the checks of fastiqa.ops: wrong arguments, and arguments that share memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fastiqa.runtime import native
from fastiqa.runtime.op import Op
from support import cases, emulation
from support.cases import Case

BASE = Case((2, 6, 5, 7))

pytestmark = pytest.mark.parametrize("name", cases.names())


def kernel(backend: str, name: str) -> Callable[..., Any]:
    return native.kernel("cpu", name) if backend == "cpu" else lambda *args: emulation.call(name, *args)


def sampled(op: Op) -> Iterator[tuple[tuple[Any, ...], list[Tensor]]]:
    """A kernel's arguments, and tensors for its results."""
    for given in cases.arguments(op, BASE):
        args = op.signature.promote(given)
        yield args, [output.empty() for output in op.layout(*args)]


def other_tensors(x: Tensor) -> Iterator[Tensor]:
    """Tensors of other ranks, sizes and dtypes."""
    yield x[None]
    yield x[0]
    for d in range(x.dim()):
        yield torch.cat([x, x.narrow(d, 0, 1)], d)
        yield x.narrow(d, 0, x.shape[d] - 1)  # of one: none
    yield x.double()
    yield x.bfloat16()


def others(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield from other_tensors(value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 0, -1, 10**9)
    elif isinstance(value, str):
        yield "bicubic"


def fits(op: Op, args: list[Any], outs: list[Tensor]) -> bool:
    """Whether the layout rule takes these arguments unchanged for these results."""
    try:
        promised = op.layout(*args)
    except (TypeError, ValueError):
        return False
    same = all((tuple(p.shape), p.dtype) == (tuple(o.shape), o.dtype) for p, o in zip(promised, outs, strict=True))
    return same and all(x is y for x, y in zip(op.signature.promote(tuple(args)), args, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_wrong_arguments_are_refused(name: str, backend: str) -> None:
    """A kernel refuses what the layout rule refuses, one argument or result at a time, by name."""
    op, run = cases.operators()[name], kernel(backend, name)
    refused = 0
    for args, outs in sampled(op):
        given = [*args, *outs]
        for k, value in enumerate(given):
            for other in others(value):
                changed = [*given[:k], other, *given[k + 1 :]]
                if fits(op, changed[: len(args)], changed[len(args) :]):
                    continue
                with pytest.raises(RuntimeError, match=rf"^{name}: \w+: "):
                    run(*changed)
                refused += 1
    assert refused >= 20


def test_what_is_no_floating_tensor_with_memory_is_refused(name: str) -> None:
    op, run = cases.operators()[name], kernel("cpu", name)
    args, outs = next(sampled(op))
    given = [*args, *outs]
    for k, value in enumerate(given):
        if isinstance(value, Tensor):
            freed = value.clone()
            freed.untyped_storage().resize_(0)
            for other in (value.int(), freed, value.to("meta"), *([] if k == 0 else [None])):
                with pytest.raises(RuntimeError):
                    run(*given[:k], other, *given[k + 1 :])


def test_copy_on_write_inputs_stay_uncopied(name: str) -> None:
    """Kernels only read inputs, on one thread and on two; a result that shares their memory becomes a copy first."""
    op, run = cases.operators()[name], kernel("cpu", name)
    for args, outs in sampled(op):
        want = [out.clone() for out in outs]
        run(*args, *want)
        for threads in (1, 2):
            lazy = [torch._lazy_clone(x) if isinstance(x, Tensor) else x for x in args]
            before = [torch.full_like(out, 7) for out in outs]
            results = [torch._lazy_clone(x) for x in before]
            with cases.threads(threads):
                run(*lazy, *results)
            assert all(torch._C._is_cow_tensor(x) for x in lazy if isinstance(x, Tensor))
            assert not any(torch._C._is_cow_tensor(x) for x in results)
            for result, w, x in zip(results, want, before, strict=True):
                assert torch.equal(result, w)
                assert (x == 7).all()
            with cases.backend("cpu"):
                op(*lazy)
            assert all(torch._C._is_cow_tensor(x) for x in lazy if isinstance(x, Tensor))


def test_cuda_launchers_ask_for_inputs_to_be_read(name: str) -> None:
    """Launchers ask the stable ABI for pointers to read; for pointers to write PyTorch makes copies."""
    op = cases.operators()[name]
    for args, outs in sampled(op):
        access = emulation.call(name, *args, *outs)
        tensors = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
        assert {access[k] for k in tensors} == {emulation.READ}
        assert all(a & emulation.WRITTEN for a in access[len(args) :])
