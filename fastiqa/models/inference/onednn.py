"""Convolutions that end in something else, in one call of oneDNN: what Inductor makes of constant weights, now."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastiqa.common import arguments
from fastiqa.reference.plain_layers import not_plain

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu_,
}


class ConstantConv2d(nn.Conv2d):
    """A convolution whose weights stay as they are, and what comes after it, in one call where `one_call` allows it.

    oneDNN multiplies by weights in a layout of its own, which depends on sizes and which PyTorch makes at every call.
    Here the last one is kept, beside the weights: on the maps of one image of 224x224 1.0 to 3.2 times as fast, of
    eight 1.0 to 1.4 times, the more the smaller the map.

    Attributes:
        activation: "none", "relu", "gelu" or "leaky_relu", by which the result is written once: 8 % of PRFNet's time at
            448x448 on two cores.
        scalars: its further arguments: of "leaky_relu" the negative slope.
    """

    same_as = nn.Conv2d  # see fastiqa.reference.plain_layers
    activation: str = "none"
    scalars: tuple[float, ...] = ()

    _made_for: Hashable = None
    _packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """activation(conv(x))."""
        if not one_call(x, self.weight):
            return ACTIVATIONS[self.activation](super().forward(x), *self.scalars)
        algorithm = "none" if self.activation == "gelu" else None  # that of erf, not of tanh
        how: tuple[Any, ...] = (self.activation, list(self.scalars), algorithm)
        return torch.ops.mkldnn._convolution_pointwise(x, *self._prepared(x), *how)  # type: ignore[no-any-return]

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """conv(x) * other."""
        if not one_call(x, self.weight, other):
            return super().forward(x) * other
        how: tuple[Any, ...] = ("mul", None, None, [], None)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(x, other, *self._prepared(x), *how)
        return result

    def add_to_(self, total: Tensor, x: Tensor) -> Tensor:
        """total += conv(x), then the activation, which is none or ReLU."""
        if not one_call(x, self.weight, total):
            return ACTIVATIONS[self.activation](total.add_(super().forward(x)))
        how: tuple[Any, ...] = ("add", 1, None if self.activation == "none" else self.activation, [], None)
        torch.ops.mkldnn._convolution_pointwise_.binary(total, x, *self._prepared(x), *how)
        return total

    def _prepared(self, x: Tensor) -> tuple[Any, ...]:
        """Weights as oneDNN wants them for maps like `x`, and the other arguments of a convolution."""
        sizes = (self.padding, self.stride, self.dilation, self.groups)
        version = None if self.weight.is_inference() else self.weight._version
        wanted = (tuple(x.shape), self.weight.data_ptr(), version, torch.get_num_threads())
        if self._made_for != wanted:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *sizes, list(x.shape))
            self._made_for = wanted
        return self._packed, self.bias, *sizes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_made_for", "_packed")}


def with_activation(conv: Any, activation: str, *scalars: float) -> ConstantConv2d:
    """Makes a convolution, in place, a `ConstantConv2d` with this activation."""
    conv.__class__, conv.activation, conv.scalars = ConstantConv2d, activation, scalars
    return conv  # type: ignore[no-any-return]


def with_rectifier(conv: Any, negative_slope: float) -> ConstantConv2d:
    """`with_activation` for ReLU, which is a slope of zero, and leaky ReLU."""
    return with_activation(conv, *(("relu",) if negative_slope == 0 else ("leaky_relu", negative_slope)))


def make_constant(network: nn.Module) -> None:
    """Makes every convolution of a network that is a plain layer, in place, a `ConstantConv2d`."""
    for module in network.modules():
        if not_plain("", module, nn.Conv2d) is None and getattr(module, "padding_mode", None) == "zeros":
            module.__class__ = ConstantConv2d


def conv_add_relu_(shortcut: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """shortcut = relu(conv(x) + shortcut) of a 1x1 convolution, where `one_call` allows it."""
    pads, ones = (0, 0), (1, 1)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        shortcut, x, weight, bias, pads, ones, ones, 1, "add", 1, "relu", [], None
    )


def one_call(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Whether oneDNN does it: now, in a dtype that this CPU multiplies in, channels last."""
    if not arguments.is_eager(x) or x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    supported = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    laid_out = all(y.is_contiguous(memory_format=torch.channels_last) for y in (weight, *others))
    return supported and laid_out and all(y.dtype == x.dtype for y in (weight, *others))
