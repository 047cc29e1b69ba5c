"""Arguments for any operator: its samples at many sizes, in every memory layout, dtype and storage offset.

Coverage is pairwise, not the full product: every dtype meets every layout; sizes, offsets and samples rotate beneath
them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastiqa import ops
from fastiqa.runtime import dispatch, native
from fastiqa.runtime.op import Map, Op
from support import emulation

# `make test-all`. Otherwise tests marked `share`, or that ask here, leave out cases whose faults others are likely to
# find: all of them took three quarters of an hour on two slow cores.
ALL = os.environ.get("FASTIQA_TESTS") == "all"

COLLECTED = pytest.StashKey[list[pytest.Item]]()  # conftest.py's, for test_suite.py

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OFFSETS = (0, 1, 7, 3)

# Empty batches, single pixels, odd sizes, C with and without a rest beside vectors, more work than one block takes.
SHAPES = (
    (2, 8, 8, 8),
    (1, 3, 7, 33),
    (3, 17, 2, 1),
    (1, 1, 1, 1),
    (2, 64, 1, 1),
    (1, 1, 33, 7),
    (3, 8, 1, 2),
    (0, 3, 8, 8),
    (2, 5, 16, 12),
    (1, 64, 9, 8),
)


def _dense(x: Tensor) -> Tensor:
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _some_channels(x: Tensor) -> Tensor:
    return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]


def _some_channels_last(x: Tensor) -> Tensor:
    return _channels_last(torch.cat([x, x, x], 1))[:, x.shape[1] : 2 * x.shape[1]]


def _every_other_column(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1).flatten(-2)[..., ::2]


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def _expanded_batch(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape) if x.shape[0] else x


def _expanded_everywhere(x: Tensor) -> Tensor:
    return x.flatten()[:1].reshape(1, 1, 1, 1).expand(x.shape) if x.numel() else x


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": _dense,
    "nhwc": _channels_last,
    "some_channels": _some_channels,
    "some_channels_nhwc": _some_channels_last,
    "every_other_column": _every_other_column,
    "transposed": _transposed,
    "expanded_batch": _expanded_batch,
    "expanded_everywhere": _expanded_everywhere,
}


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    layouts: tuple[str, ...] = ("nchw",)
    offset: int = 0
    turn: int | None = None  # one of the operator's samples, by turns; None: all of them

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{size}-{str(self.dtype)[6:]}-{'+'.join(self.layouts)}-at{self.offset}"


def grid() -> list[Case]:
    """The minimum grid: dtypes x layouts with rotating sizes and offsets, all sizes in both formats, mixed formats."""
    sizes, offsets = itertools.cycle(SHAPES), itertools.cycle(OFFSETS)
    cases = [Case(next(sizes), d, (name,), next(offsets)) for d in DTYPES for name in LAYOUTS]
    cases += [Case(s, torch.float32, (name,), o) for s in SHAPES for name, o in (("nchw", 0), ("nhwc", 1))]
    cases += [Case((2, 8, 8, 8), d, pair) for d in DTYPES[1:3] for pair in itertools.permutations(("nchw", "nhwc"), 2)]
    cases += [Case((2, 5, 4, 6), torch.float32, ("nhwc", "transposed", "some_channels"))]
    # 3 + len(LAYOUTS) shares no factor with a usual number of samples, so every layout and dtype meets each of them.
    unique = list(dict.fromkeys(cases))
    return [replace(case, turn=k + 3 * (k // len(LAYOUTS))) for k, case in enumerate(unique)]


def arguments(op: Op, case: Case) -> Iterator[tuple[Any, ...]]:
    """The operator's samples at the case's size, or the one whose turn it is, as tensors."""
    layouts = itertools.cycle(case.layouts)
    samples = list(op.samples(*case.shape))
    for sample in samples if case.turn is None else [samples[case.turn % len(samples)]]:
        yield tuple(
            tensor(value.shape, case.dtype, next(layouts), case.offset) if isinstance(value, Map) else value
            for value in sample
        )


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The results of an operator, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str, offset: int = 0) -> Tensor:
    """Standard normal values in that layout, `offset` elements into an allocation.

    Layouts apply to maps; tensors without four dimensions (a bias, weights for each sample) are dense.
    """
    arrange = LAYOUTS[layout] if len(shape) == 4 else _dense
    values = arrange(torch.randn(shape, dtype=torch.float64).to(dtype))
    return moved(values, offset)


def moved(x: Tensor, offset: int) -> Tensor:
    """The same values and strides, `offset` elements into a larger storage, which is NaN elsewhere."""
    storage = x.untyped_storage().nbytes() // x.element_size()
    larger = torch.full((storage + 2 * offset,), float("nan"), dtype=x.dtype)
    larger[offset : offset + storage] = whole_storage(x)
    return larger.as_strided(x.shape, x.stride(), x.storage_offset() + offset)


@functools.cache
def operators() -> dict[str, Op]:
    """Every operator of the library, and the template, built and registered like them."""
    native.kernel("cpu", "cross_difference")  # the library proper comes first: it defines the namespace
    torch.ops.load_library(str(_template_library("cpu")))
    if on_gpu():
        native.kernel("cuda", "cross_difference")
        torch.ops.load_library(str(_template_library("cuda")))

    import fastiqa.kernels

    fastiqa.kernels.__path__.append(str(emulation.TEMPLATE / "kernels"))
    spec = importlib.util.spec_from_file_location(
        "template_op", emulation.TEMPLATE / "fastiqa" / "ops" / "template_op.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["template_op"] = module
    spec.loader.exec_module(module)
    return {**ops.OPERATORS, **{op.name: op for op in vars(module).values() if isinstance(op, Op)}}


def _template_library(kind: str) -> Path:
    """libfastiqa_<kind>_template.so, built for the present GPU; FASTIQA_PREBUILT=1 takes an existing one."""
    work = emulation.ROOT / "build" / "template"
    library = work / f"libfastiqa_{kind}_template.so"
    with emulation.building(work):
        if os.environ.get("FASTIQA_PREBUILT") == "1" and library.exists():
            return library
        if kind == "cpu":
            emulation.build().build_cpu(library, work, sorted((emulation.TEMPLATE / "csrc").glob("ops/*/*.cpp")))
        else:
            arch = "{}{}".format(*torch.cuda.get_device_capability())
            sources = sorted((emulation.TEMPLATE / "csrc").glob("ops/*/*.cu"))
            emulation.build().build_cuda(library, work, sources, (arch,))
    return library


def names() -> list[str]:
    return [*operators()]


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """In the block PyTorch and the CPU kernels have n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- where operators run ----

BACKENDS: tuple[str, ...] = ("torch", "cpu", "triton", "cuda")
DEVICE: str | None = None  # the device of `placed` operators; None: that of their arguments


def run_on_gpu() -> None:
    """`pytest -m gpu`: both GPU backends, on the GPU, for every test file imported from now on."""
    global BACKENDS, DEVICE
    BACKENDS, DEVICE = ("cuda", "triton"), "cuda"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def on_gpu() -> bool:
    return DEVICE is not None


def backend(name: str) -> Any:
    """In the block operators run through that backend: on CPU tensors, with triton interpreted and cuda emulated, or on
    a GPU if they are `placed`."""
    if name == "cuda" and not on_gpu():
        return _Emulated()
    return dispatch.use(name)


class _Emulated:
    def __enter__(self) -> None:
        self._contexts = (emulation.as_cuda_backend(names()), dispatch.use("cuda"))
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *exception: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*exception)


def placed(op: Callable[..., Any]) -> Callable[..., Any]:
    """The operator on CPU tensors, wherever it is tested.

    In a GPU run its arguments and gradients go to the GPU and its results return, with their strides and offsets. So
    the checks, on the CPU, are the same for all.
    """
    if DEVICE is None:
        return op
    device = torch.device(DEVICE)

    def there(*args: Any, out: Sequence[Tensor] | None = None) -> Any:
        moved_args = [_OnDevice.apply(x, device) if isinstance(x, Tensor) else x for x in args]
        if out is None:
            results = tuple(_OnDevice.apply(y, torch.device("cpu")) for y in outputs(op(*moved_args)))
            return results[0] if len(results) == 1 else results
        moved_outs = [to_device(y, device) for y in out]
        op(*moved_args, out=moved_outs)
        for here, moved_out in zip(out, moved_outs, strict=True):
            whole_storage(here).copy_(whole_storage(moved_out))
        return out

    return there


class _OnDevice(torch.autograd.Function):
    """`to_device` for values, and for their gradients on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.device = x.device
        return to_device(x, device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return to_device(grad, ctx.device), None


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor with its strides and surroundings to a device: `x.to(device)` makes slices dense."""
    return whole_storage(x).to(device, copy=True).as_strided(x.shape, x.stride(), x.storage_offset())


def whole_storage(x: Tensor) -> Tensor:
    """All elements of a tensor's storage."""
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
