"""Shapes and memory formats: what an operator accepts and what its outputs look like.

The functions here run inside the fake kernel and before every real one, so the promise to the compiler and the
allocation cannot differ. They raise ``ValueError`` or ``TypeError`` that names the argument, its value and the demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ACCUMULATION = {dtype: torch.promote_types(dtype, torch.float32) for dtype in FLOATING}


class Output(NamedTuple):
    """One tensor that an operator returns."""

    shape: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.device, memory_format=self.memory_format)

    def strides(self) -> tuple[int, ...]:
        return torch.empty(self.shape, device="meta", memory_format=self.memory_format).stride()

    def check(self, out: Tensor) -> None:
        """ValueError unless a tensor given as `out` has this shape, dtype and device."""
        got, want = (tuple(out.shape), out.dtype, out.device), (tuple(self.shape), self.dtype, self.device)
        if got != want:
            raise ValueError(f"out: got {got[0]} {got[1]} on {got[2]}, want {want[0]} {want[1]} on {want[2]}")


def _is_channels_last(x: Tensor) -> bool:
    # As PyTorch reads strides: where one channel or one pixel fits both formats, strides decide.
    strides, shape = x.stride(), x.shape
    least = 0
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]):
            return False
        least = strides[d] * (shape[d] if shape[d] > 1 else 1)
    return True


def memory_format(*tensors: Tensor) -> torch.memory_format:
    """The format of an element-wise result. As in PyTorch, the first tensor that is not expanded decides."""
    for x in tensors:
        strides = x.stride()
        if 0 not in strides or all(stride != 0 or size == 1 for stride, size in zip(strides, x.shape, strict=True)):
            if strides[3] == 1 and strides[1] != 1:  # the usual case
                return torch.contiguous_format
            return torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.contiguous_format


def check_maps(names: Sequence[str], *tensors: Tensor) -> None:
    """Check feature maps: four-dimensional, floating, on one device."""
    for name, x in zip(names, tensors, strict=True):
        if x.dtype in FLOATING and x.dim() != 4:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, want four dimensions (N, C, H, W)")
        check_on_same_device(names[0], tensors[0], name, x)


def check_on_same_device(first_name: str, first: Tensor, name: str, x: Tensor) -> None:
    """Check a tensor of any shape: floating, on the device of the first argument."""
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: got dtype {x.dtype}, want float64, float32, bfloat16 or float16")
    if x.device != first.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, want {first.device}, where {first_name} is")


def check_same_shape(names: Sequence[str], *tensors: Tensor) -> None:
    """Check feature maps of equal shapes."""
    first = tensors[0]
    shape, device = first.shape, first.device
    for x in tensors:  # nearly always right: a cheap look before the one that finds the words
        if x.shape != shape or x.device != device or x.dtype not in FLOATING:
            break
    else:
        if len(shape) == 4:
            return
    check_maps(names, *tensors)
    for name, x in zip(names, tensors, strict=True):
        if x.shape != shape:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, want that of {names[0]}, {tuple(shape)}")


def check_channel_values(names: Sequence[str], x: Tensor, *values: Tensor) -> None:
    """Check tensors (N, C, 1, 1), which have one number for each channel of each sample of the maps `x`."""
    check_maps(("x", *names), x, *values)
    n, c, *_ = x.shape
    for name, value in zip(names, values, strict=True):
        if value.shape != (n, c, 1, 1):
            raise ValueError(f"{name}: got shape {tuple(value.shape)}, want one number a channel, {(n, c, 1, 1)}")


def check_not_empty(name: str, x: Tensor) -> None:
    """Check a map for pooling and interpolation: the batch may be empty, but not channels or pixels."""
    if 0 in x.shape and 0 in x.shape[1:]:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, want at least one channel and one pixel")


def check_pixels_fit_32_bits(name: str, x: Tensor) -> None:
    """Check a map for kernels that count its pixels in 32 bits; it has channels and pixels."""
    check_not_empty(name, x)
    if x.shape[2] * x.shape[3] >= 2**31:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, want fewer than 2**31 pixels")


def one_output_like(position: int) -> Callable[..., tuple[Output, ...]]:
    """Layout rule: one output with the shape, dtype and memory format of the argument at `position`."""

    def layout(*args: Tensor) -> tuple[Output, ...]:
        x = args[position]
        check_maps(("x",), x)
        return (Output(x.shape, x.dtype, x.device, memory_format(x)),)

    return layout
