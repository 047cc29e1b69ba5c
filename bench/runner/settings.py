"""Settings: an operator's arguments at one size, dtype and layout, and the calls of each mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastiqa import ops

from ..cases.blocks import BLOCKS, Block, Weight
from ..cases.networks import NETWORKS, Image, Network

MODES = ("fwd", "bwd", "fwd_bwd")
DTYPES = {str(d)[6:]: d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

CACHE_SIZE = (1, 64, 56, 56)  # 0.8 MB in float32
MEMORY_SIZE = (8, 256, 112, 112)  # 103 MB in float32, beyond any last-level cache together with the results
TINY_SIZE = (1, 8, 16, 16)  # the time of a call is its overhead

Size = tuple[int, int, int, int]
Subject = ops.Op | Block | Network
Function = Callable[..., Any]


@dataclass(frozen=True)
class Setting:
    """Arguments of one operator, block or network: a sample of its record at a size, in a dtype and layout."""

    op: Subject
    sample: int
    size: Size
    dtype: str
    layout: str
    device: str

    @property
    def values(self) -> tuple[Any, ...]:
        return list(self.op.samples(*self.size))[self.sample]

    @property
    def label(self) -> str:
        """The arguments other than maps of the first one's shape, as `name=value`; or the subject's own label."""
        if not isinstance(self.op, ops.Op):
            return self.op.label
        first = next(value.shape for value in self.values if isinstance(value, ops.Map))
        named = zip(self.op.signature.names, self.values, strict=False)
        return " ".join(
            f"{name}={'x'.join(map(str, value.shape)) if isinstance(value, ops.Map) else value}"
            for name, value in named
            if not (isinstance(value, ops.Map) and value.shape == first)
        )

    @property
    def shape(self) -> str:
        return "x".join(map(str, self.size))

    def arguments(self, draw: int = 0) -> tuple[Any, ...]:
        """Normal values, equal at every call with the same `draw`; 4-D maps in the layout, other tensors dense."""
        generator = torch.Generator(self.device).manual_seed(2 * draw)
        return tuple(self._tensor(v, generator) if isinstance(v, ops.Map) else v for v in self.values)

    def _tensor(self, value: ops.Map, generator: torch.Generator) -> Tensor:
        x = torch.randn(value.shape, generator=generator, device=self.device)
        if isinstance(value, (Weight, Image)):
            x = value.drawn(x)
        x = x.to(DTYPES[self.dtype])
        return x.contiguous(memory_format=LAYOUTS[self.layout]) if x.dim() == 4 else x

    def moved(self) -> int:
        """The bytes that forward and backward move; no argument is allocated."""
        args = [
            torch.empty(v.shape, dtype=DTYPES[self.dtype], device="meta") if isinstance(v, ops.Map) else v
            for v in self.values
        ]
        return least_bytes(self.op, args, "fwd_bwd")

    def tiny(self) -> Setting:
        return replace(self, size=self.op.tiny if isinstance(self.op, Network) else TINY_SIZE)


def subject(name: str) -> Subject:
    return BLOCKS.get(name) or NETWORKS.get(name) or ops.OPERATORS[name]


def default_sizes(op: Subject) -> tuple[Size, ...]:
    return (CACHE_SIZE, MEMORY_SIZE) if isinstance(op, ops.Op) else op.sizes


def settings(
    names: Sequence[str],
    sizes: Sequence[Size] | None,
    dtypes: Sequence[str],
    layouts: Sequence[str],
    device: str,
    every: bool,
) -> Iterator[Setting]:
    """Every combination of the choices.

    Args:
        sizes: None: `default_sizes` of each subject.
        every: take all samples of a record, not the first alone.
    """
    for name in names:
        op = subject(name)
        for size in sizes or default_sizes(op):
            for sample in range(len(list(op.samples(*size))) if every else 1):
                for dtype in dtypes:
                    for layout in layouts:
                        yield Setting(op, sample, size, dtype, layout, device)


def tensors(result: Any) -> tuple[Tensor, ...]:
    """An operator's result as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def output_gradients(op: Subject, args: Sequence[Any], draw: int = 0) -> list[Tensor]:
    """Normal gradients in the layout of the operator's results; statistics, which come last, have none."""
    generator = torch.Generator(args[0].device).manual_seed(2 * draw + 1)
    return [
        torch.randn(tuple(output.shape), generator=generator, device=output.device)
        .to(output.dtype)
        .contiguous(memory_format=output.memory_format)
        for output in op.layout(*args)[: len(op.signature.results) - len(op.statistics)]
    ]


def leaves_of(args: Sequence[Any]) -> list[Any]:
    """The arguments with detached tensors that require gradients."""
    return [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in args]


def gradients(outputs: Any, leaves: Sequence[Any], grads: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
    """Gradients of the tensors among `leaves`; `keep` retains the graph."""
    inputs = [x for x in leaves if isinstance(x, Tensor)]
    return torch.autograd.grad([y for y in tensors(outputs) if y.requires_grad], inputs, grads, retain_graph=keep)


def call(f: Function, args: Sequence[Any], grads: Sequence[Tensor], mode: str) -> Callable[[], Any]:
    """The call to be timed. "bwd" builds its graph here, once, and keeps it."""
    if mode == "fwd":

        def forward() -> Any:
            with torch.no_grad():
                return f(*args)

        return forward
    leaves = leaves_of(args)
    if mode == "bwd":
        outputs = f(*leaves)
        return lambda: gradients(outputs, leaves, grads, keep=True)
    return lambda: gradients(f(*leaves), leaves, grads, keep=False)


def results(f: Function, args: Sequence[Any], grads: Sequence[Tensor], mode: str) -> tuple[Tensor, ...]:
    """The tensors to be checked: the results and, unless `mode` is "fwd", the gradients after them."""
    if mode == "fwd":
        with torch.no_grad():
            return tensors(f(*args))
    leaves = leaves_of(args)
    outputs = tensors(f(*leaves))
    return (*(y.detach() for y in outputs), *gradients(outputs, leaves, grads, keep=mode == "bwd"))


def least_bytes(op: Subject, args: Sequence[Any], mode: str) -> int:
    """The least traffic of a mode.

    Forward it is the record's model. The backward pass reads the gradients of results and the saved tensors, and writes
    the gradients of arguments, each once.
    """
    forward = op.bytes(*args)
    if mode == "fwd":
        return forward
    outputs = [torch.Size(output.shape).numel() * output.dtype.itemsize for output in op.layout(*args)]
    sizes = {name: x.nbytes for name, x in zip(op.signature.names, args, strict=False) if isinstance(x, Tensor)}
    known = sizes | dict(zip(op.signature.results, outputs, strict=False))
    backward = sum(outputs) + sum(known.get(name, 0) for name in op.saves) + sum(sizes.values())
    return backward if mode == "bwd" else forward + backward
