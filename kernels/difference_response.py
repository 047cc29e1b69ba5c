"""difference_response: convolutions of [ref - a, ref - b] to a few output channels, and their gradients.

forward           (N,C,H,W) x3, (K,2C,k,k), (K) -> (N,K,H,W)        reads 3 maps
backward          (N,K,H,W), (K,2C,k,k) -> (3N,C,H,W)               writes 3 maps
weight_backward   (N,C,H,W) x3, (N,K,H,W) -> (K,2C,k,k)             reads 3 maps
"""

from __future__ import annotations

from fastiqa.kernels.lib.difference import NARROW as NARROW
from fastiqa.kernels.lib.difference import difference_products, difference_spread, difference_sums, weight_strides
from torch import Tensor

# ---- launchers ----


def difference_response(ref: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    difference_sums((ref, a, b), weight, bias, out)


def difference_response_backward(grad: Tensor, weight: Tensor, channels_last: bool, out: Tensor) -> None:
    difference_spread(grad, weight, out.chunk(3))


def difference_response_weight_backward(
    ref: Tensor, a: Tensor, b: Tensor, grad: Tensor, kernel_size: int, each: bool, out: Tensor
) -> None:
    difference_products((ref, a, b), grad, weight_strides(out), kernel_size, each, out)
