"""LPIPS's distance map of a layer: at each place, the weighted squared distance of two unit-length feature vectors.

    d = x / (|x| + ε) − y / (|y| + ε)       over channels, ε = 1e-10
    distance = Σ_c w_c d_c²                  x, y: (N, C, H, W), w: (C,) → (N, 1, H, W)

    adjoint:    u = 2 ḡ w d,   x̄ = (u − (u·x) x / (|x| (|x| + ε))) / (|x| + ε),   ȳ = the same with y and −u
                w̄ = Σ ḡ d² over places

A zero vector, as ReLUs produce it, has no direction: its gradient is zero. The difference is taken before squaring,
never as w·x̂² + w·ŷ² − 2 w·x̂ŷ: for nearly equal images that sum of channel reductions loses all digits.

Maps are read a few thousand places at a time, which stay in the cache. Nothing of a map's size is stored, neither
forward nor, beyond x and y themselves, for backward. Plain PyTorch (`reference`) keeps six maps for backward.

Source: Zhang et al., arXiv 1801.03924, equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastiqa.common import arguments

EPSILON = 1e-10
ELEMENTS = 1 << 17  # of a map at a time: three float32 blocks of 512 kB


def distance(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The distance map, computed in float64 for float64 maps and in float32 for all others, also inside autocast.

    Args:
        x, y: (N, C, H, W), floating; fastest in `torch.channels_last` memory.
        weight: (C,), floating.

    Returns:
        (N, 1, H, W). Compiled, or under `torch.func` transforms, it runs `reference`.
    """
    weight = weight.to(torch.promote_types(x.dtype, torch.float32))
    if all(map(arguments.is_eager, (x, y, weight))):
        result: Tensor = _Distance.apply(x, y, weight)
        return result
    return reference(x, y, weight)


def reference(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The distance map in plain PyTorch; arguments as for `distance`."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(weight.dtype), y.to(weight.dtype)
        difference = x * _scale(_length(x)) - y * _scale(_length(y))
        return (difference.square() * weight[:, None, None]).sum(1, keepdim=True)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, weight)
        n, _, height, width = x.shape
        result = weight.new_empty(n * height * width)
        with torch.autocast(x.device.type, enabled=False):
            for block, p, q in _blocks(x, y, weight.dtype):
                result[block] = _difference(p, q, _length(p), _length(q)).square_() @ weight
        return result.view(n, 1, height, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        twice = torch.is_grad_enabled()  # the gradient will itself be differentiated
        if twice or not arguments.is_eager(grads[0]):
            inputs = [tensor for tensor, wanted in zip((x, y, weight), needed, strict=True) if wanted]
            with torch.enable_grad():
                result = reference(x, y, weight)
            found = iter(torch.autograd.grad(result, inputs, grads[0], create_graph=twice))
            return tuple(next(found) if wanted else None for wanted in needed)
        with torch.autocast(x.device.type, enabled=False):
            return _gradients(x, y, weight, grads[0].reshape(-1, 1), needed)


def _gradients(
    x: Tensor, y: Tensor, weight: Tensor, grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of x, y and the weights, as far as needed; `grad` has a row per place."""
    of_x, of_y = (torch.empty_like(like, memory_format=torch.channels_last) if wanted else None
                  for like, wanted in zip((x, y), needed, strict=False))  # fmt: skip
    rows_x, rows_y = (None if of is None else _rows(of) for of in (of_x, of_y))
    of_weight = torch.zeros_like(weight) if needed[2] else None
    for block, p, q in _blocks(x, y, weight.dtype):
        length_p, length_q = _length(p), _length(q)
        u = _difference(p, q, length_p, length_q)
        if of_weight is not None:
            of_weight.addmv_(u.square().t(), grad[block, 0])
        u.mul_(weight).mul_(2 * grad[block])
        if rows_x is not None:
            rows_x[block] = _through_length(u, p, length_p)
        if rows_y is not None:
            rows_y[block] = _through_length(u, q, length_q).neg_()
    return of_x, of_y, of_weight


def _blocks(x: Tensor, y: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of places: a slice, and the rows (places, C) of both maps."""
    rows_x, rows_y = _rows(x), _rows(y)
    step = max(1, ELEMENTS // x.shape[1])
    for begin in range(0, len(rows_x), step):
        block = slice(begin, begin + step)
        yield block, rows_x[block].to(dtype), rows_y[block].to(dtype)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N·H·W, C), a view of channels-last maps."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _length(x: Tensor) -> Tensor:
    """The length over the channels, keeping dimension 1; its gradient at a zero vector is zero."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return length


def _scale(length: Tensor) -> Tensor:
    """1 / (length + ε), and 0 for a zero vector, so that its gradient is 0, not 1 / ε."""
    return torch.where(length > 0, 1 / (length + EPSILON), 0)


def _difference(x: Tensor, y: Tensor, length_x: Tensor, length_y: Tensor) -> Tensor:
    # round both products: addcmul_ rounds only one, and equal vectors would differ by 1e-8
    return (x * _scale(length_x)).sub_(y * _scale(length_y))


def _through_length(u: Tensor, x: Tensor, length: Tensor) -> Tensor:
    """The adjoint of x / (|x| + ε)."""
    scale = _scale(length)
    along = (u * x).sum(1, keepdim=True) * scale.square() / length.clamp_min(torch.finfo(length.dtype).tiny)
    return (u * scale).addcmul_(x, along, value=-1)
