"""Beyond 2^31 elements: addresses of every operator on every backend, and whole maps of that size on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastiqa.ops import Map, cross_difference, high_pass, octave_merge_backward
from support import cases, poison
from support.cases import outputs

FAR = 2**31 + 8  # elements; a multiple of 16 bytes, so that vectors are used
APART = 2048  # elements between tensors that share the storage

pytestmark = pytest.mark.kernels


@pytest.mark.share(triton=2, cuda=2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", cases.BACKENDS)
@pytest.mark.parametrize("name", cases.names())
def test_far_addresses(name: str, backend: str, dtype: torch.dtype) -> None:
    """Small maps whose second sample, or channel, lies 2^31 elements after the first, inputs and outputs alike.

    The memory between is never touched, so the system never provides it.
    """
    op = cases.operators()[name]
    with poison.off():
        storage = torch.empty_strided((FAR + 64 * APART,), (1,), dtype=dtype)
    for far in (0, 1):
        for sample in op.samples(2, 2, 6, 8):
            places = iter(range(0, 64 * APART, APART))

            def tensor(shape: tuple[int, ...], far: int = far, places: Any = places) -> Tensor:
                near = torch.empty(shape, device="meta").stride()
                strides = [FAR if d == far and shape[d] == 2 else near[d] for d in range(len(shape))]
                return storage.as_strided(shape, strides, next(places))

            args = [tensor(v.shape).copy_(torch.randn(v.shape)) if isinstance(v, Map) else v for v in sample]
            # Statistics of 16-bit maps are float32, unlike the storage.
            outs = [
                tensor(tuple(o.shape)).fill_(float("nan")) if o.dtype == dtype else o.empty() for o in op.layout(*args)
            ]
            with cases.backend(backend):
                op(*args, out=outs)
                want = outputs(op(*(x.contiguous() if isinstance(x, Tensor) else x for x in args)))
            for got, w in zip(outs, want, strict=True):
                torch.testing.assert_close(got, w)


# One channel more than fits into 2^31 elements, in rows of an odd length.
ROWS, COLUMNS = 4096, 4097
CHANNELS = 2**31 // (ROWS * COLUMNS) + 1


def counted(channels: int) -> Tensor:
    """Maps with different pixels in the memory of one channel: every channel is the first."""
    one = (torch.arange(ROWS * COLUMNS) % 251).to(torch.bfloat16)
    return one.view(1, 1, ROWS, COLUMNS).expand(1, channels, ROWS, COLUMNS)


@pytest.mark.parametrize("name", ["cross_difference", "high_pass"])
def test_results_of_more_than_two_to_the_31_elements(name: str) -> None:
    """Element-wise and in blocks: 4 GiB of bfloat16; the first and the last channel are compared."""
    if name == "high_pass":
        x = counted(CHANNELS)
        with poison.off():  # filling 4 GiB with NaN first would double the time
            y = high_pass(x)
        first = last = high_pass(x[:, :1].contiguous())[:, 0]
    else:
        ref = counted(CHANNELS // 2 + 1)
        with poison.off():
            y = cross_difference(ref, ref, (-ref[:, :1]).expand(ref.shape))
        first, last = 0 * ref[:, 0], 2 * ref[:, 0]
    assert y.numel() > 2**31
    assert torch.equal(y[:, 0], first)
    assert torch.equal(y[:, -1], last)


def test_more_than_two_to_the_31_elements_are_read() -> None:
    with poison.off():
        x = torch.empty(1, CHANNELS, ROWS, COLUMNS, dtype=torch.bfloat16)
    x[:, -1] = counted(1)[:, 0]
    assert torch.equal(octave_merge_backward(x)[:, -1:], octave_merge_backward(counted(1).contiguous()))
