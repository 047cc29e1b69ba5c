"""high_pass: feature maps less the average of each 2×2 block.

    y = x − up(pool(x))                            x, y: (N, C, H, W)

pool averages 2×2 blocks, up repeats an average over its block. At odd borders a block has one row or column, or both,
and the average covers the existing pixels; so the last pixel of a map of odd height and width becomes zero.

Adjoint: the map is a symmetric projection, hence its own adjoint, at odd sizes too. One kernel serves forward, backward
and derivatives of every order. Saved: nothing.

Bytes: 2|x| forward and 2|x| backward; eager PyTorch moves 5.5 and 8.5, in three and four kernels.
Memory format of the result: that of x.

    cpu     high_pass.cpp          a pass over 2×2 blocks, any strides
    cuda    high_pass.cu           the same source, two rows of 16 bytes a thread where addresses allow
    triton  kernels/high_pass.py   tiles of blocks, any strides

Sums of four are rounded to float32 (float64 for float64) and the result once to its dtype; eager PyTorch also rounds
averages to bfloat16 and float16.

Source: the high branch of an octave convolution (arXiv 1904.05049).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_not_empty, memory_format
from fastiqa.runtime.op import Map, Op


def reference(x: Tensor) -> Tensor:
    """Subtract the average of each 2×2 block from feature maps.

    Equivalent to ``x - interpolate(avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False), x.shape[-2:])``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.

    Returns:
        As `x`.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: not four dimensions, no channel or no pixel.

    Example:
        >>> import torch
        >>> from fastiqa.ops import high_pass
        >>> high_pass(torch.tensor([[[[1.0, 2.0, 5.0], [3.0, 6.0, 7.0]]]])).tolist()
        [[[[-2.0, -1.0, -1.0], [0.0, 3.0, 1.0]]]]
    """
    pooled = avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    return x - interpolate(pooled, x.shape[-2:])


def adjoint(saved: Any, grad: Tensor) -> Tensor:
    return high_pass(grad)  # type: ignore[no-any-return]


def layout(x: Tensor) -> tuple[Output]:
    check_maps(("x",), x)
    check_not_empty("x", x)
    return (Output(x.shape, x.dtype, x.device, memory_format(x)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map]]:
    yield (Map((n, c, h, w)),)


high_pass = Op(
    "high_pass(Tensor x) -> Tensor",
    reference,
    adjoint,
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x: 2 * x.nbytes,
)
