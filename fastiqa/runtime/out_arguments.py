"""Checks of `out=`, the caller's tensors for results: those that PyTorch makes, and overlaps.

Kernels read and write in any order and on many threads, so an output may not share memory with an input, with another
output or within itself. PyTorch checks dense tensors only and accepts all others. Here slices of one buffer are told
apart, since `out=` serves to write beside an input.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastiqa.runtime.layout import Output

# Steps for NumPy to tell two strided tensors apart; beyond these they count as overlapping. Slices of one buffer take
# fewer than a hundred.
MOST_STEPS = 100_000


def check_outputs(
    name: str, named: Sequence[tuple[str, Tensor]], outs: tuple[Any, ...], promised: Sequence[Output]
) -> None:
    """Refuse outputs into which the operator cannot write, or only with harm to another tensor.

    Args:
        name: of the operator.
        named: its tensor arguments, by name.
        outs: the caller's tensors.
        promised: the outputs of the layout rule.

    Raises:
        TypeError: no tensor, or one that is not strided.
        ValueError: a wrong count, shape, dtype or device; a tensor that requires a gradient, or an input that does; an
            overlap; an inference tensor outside of inference mode; a view of zeros that have no memory.
        NotImplementedError: forward-mode differentiation.
    """
    for out in outs:
        if not isinstance(out, Tensor):
            raise TypeError(f"out: got {type(out).__name__}, want a tensor for each result")
    if len(outs) != len(promised):
        raise ValueError(f"out: got {len(outs)} tensors, want {len(promised)}")
    if torch.is_grad_enabled():
        if any(x.requires_grad for _, x in named):
            raise ValueError(f"out: {name} with out= has no gradient, but an input requires one")
        if any(out.requires_grad for out in outs):
            raise ValueError("out: got a tensor that requires a gradient, want one that does not, or torch.no_grad()")
    if forward_ad._current_level >= 0:
        both = itertools.chain((x for _, x in named), outs)
        if any(forward_ad.unpack_dual(x).tangent is not None for x in both):
            raise NotImplementedError(f"out: {name} with out= has no derivative in forward mode")
    for out, output in zip(outs, promised, strict=True):
        if out.is_nested or out.layout is not torch.strided:
            kind = "nested" if out.is_nested else str(out.layout).removeprefix("torch.").lstrip("_")
            raise TypeError(f"out: got a tensor of layout {kind}, want strided")
        output.check(out)
        if torch.compiler.is_compiling():
            continue
        if out.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError("out: got an inference tensor, want one made outside of torch.inference_mode()")
        if out._is_zerotensor():
            raise ValueError("out: got zeros without memory, want a tensor that can be written")


def check_overlap(named: Sequence[tuple[str, Tensor]], outs: Sequence[Tensor]) -> None:
    """Raise ValueError if an output shares memory with an input, another output or itself."""
    for out in outs:
        if _overlaps_itself(out):
            got = f"shape {tuple(out.shape)} and strides {out.stride()}"
            raise ValueError(f"out: got {got}, of which elements share memory, want each in a place of its own")
    # Outputs first: asking a copy-on-write tensor for its address makes it a copy.
    places = [_byte_range(out) for out in outs]
    for first, second in itertools.combinations(range(len(outs)), 2):
        if _overlap(outs[first], places[first], outs[second], places[second]):
            raise ValueError(f"out: got tensors {first} and {second} with memory in common, want one for each result")
    for name, x in named:
        # An input that is still copy-on-write shares no memory with these copies.
        if torch._C._is_cow_tensor(x):  # type: ignore[attr-defined]
            continue
        place = _byte_range(x)
        for out, other in zip(outs, places, strict=True):
            if _overlap(x, place, out, other):
                raise ValueError(f"out: got a tensor that shares memory with {name}, want memory of its own")


def _byte_range(x: Tensor) -> tuple[int, int]:
    """The first byte of a tensor and the one after its last."""
    if x.numel() == 0 or (begin := x.data_ptr()) == 0:  # a meta tensor has none
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return begin, begin + (last + 1) * x.element_size()


def _overlap(x: Tensor, at: tuple[int, int], y: Tensor, other: tuple[int, int]) -> bool:
    if at[0] >= other[1] or other[0] >= at[1]:
        return False
    try:
        a, b = np.asarray(_Strided(x, at[0])), np.asarray(_Strided(y, other[0]))
        return np.shares_memory(a, b, MOST_STEPS)  # type: ignore[arg-type]  # numpy's stubs know two numbers alone
    except np.exceptions.TooHardError:
        return True


class _Strided:
    """A tensor on any device as an array to NumPy, to compare addresses; its memory is never read."""

    def __init__(self, x: Tensor, address: int) -> None:
        size = x.element_size()
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": tuple(x.shape),
            "strides": tuple(size * stride for stride in x.stride()),
            "typestr": f"|V{size}",
        }


def _overlaps_itself(x: Tensor) -> bool:
    """Whether two elements of a tensor share their memory."""
    if x.numel() < 2:
        return False
    reach = 0
    for stride, size in _by_stride(x):
        if stride <= reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    if any(stride == 0 for stride, _ in _by_stride(x)):
        return True
    # Only `as_strided` makes strides that do not nest; their addresses are counted.
    places = torch.zeros((), dtype=torch.int64, device="cpu")
    for stride, size in _by_stride(x):
        places = places[..., None] + stride * torch.arange(size, device="cpu")
    return bool(places.unique().numel() < x.numel())


def _by_stride(x: Tensor) -> Iterator[tuple[int, int]]:
    pairs = zip(x.stride(), x.shape, strict=True)
    return iter(sorted((stride, size) for stride, size in pairs if size > 1))
