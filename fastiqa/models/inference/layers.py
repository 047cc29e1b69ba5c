"""Layers for inference: folded norms, convolutions in one call of oneDNN, blocks that overwrite their shortcut.

In eval mode, batch normalisation scales and shifts like a convolution, so it folds into the convolution before it:

    w' = w · γ / √(var + eps)        b' = (b − mean) · γ / √(var + eps) + β

Source: Jacob et al., arXiv 1712.05877, section 3.2; the arithmetic is PyTorch's `fuse_conv_bn_eval`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.nn import BatchNormAct2d
from fastiqa.reference import Bottleneck, CrossSubtraction, DepthwiseSeparable, EfficientNetLite, InvertedResidual
from fastiqa.reference.batch_norm_act import SyncBatchNormAct2d
from fastiqa.reference.fusion import WeightedNode
from fastiqa.reference.plain_layers import has_hooks, not_plain
from fastiqa.reference.residual_network import ResidualNetwork
from fastiqa.reference.se_res2net import SERes2Block

# A block's attributes that hold convolutions and the norms behind them: each a module, or a list of modules.
PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResidualNetwork: (("conv1", "bn1"),),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    SERes2Block: (("conv1", "bn1"), ("convs", "bns"), ("conv3", "bn3")),
    EfficientNetLite: (("conv_stem", "bn1"),),
    DepthwiseSeparable: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    CrossSubtraction: (("conv", "bn"),),
    WeightedNode: (("pointwise", "bn"),),
}
# A block's convolutions, the norms behind them, and the ReLU6 behind those.
RELU6: dict[type[nn.Module], tuple[tuple[str, str, str], ...]] = {
    EfficientNetLite: (("conv_stem", "bn1", "act1"),),
    DepthwiseSeparable: (("conv_dw", "bn1", "act1"),),
    InvertedResidual: (("conv_pw", "bn1", "act1"), ("conv_dw", "bn2", "act2")),
}

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.Identity)
# Batch normalisations that in eval mode do what `scale_and_shift` says, and then perhaps rectify.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, reference.BatchNormAct2d, BatchNormAct2d, SyncBatchNormAct2d)
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu_,
    "hardtanh": F.hardtanh_,
}


def fold_norms(network: nn.Module) -> int:
    """Fold, in place, every norm behind a convolution in the blocks of `PAIRS` and in sequences.

    The norm's activation becomes the convolution's. Both must be plain layers: a layer with hooks, an adapter around it
    or a parametrization stays as it is.

    Args:
        network: in eval mode; its norms have running statistics.

    Returns: the number of norms folded.
    """
    folded = 0
    for block in list(network.modules()):
        for convs, conv_name, norms, norm_name in _pairs(block):
            conv, norm = getattr(convs, conv_name), getattr(norms, norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm) and is_plain(conv, norm):
                conv = fuse_conv_bn_eval(conv, norm)
                slope = getattr(norm, "negative_slope", 1)
                setattr(convs, conv_name, conv if slope == 1 else with_rectifier(conv, slope))
                setattr(norms, norm_name, nn.Identity())
                folded += 1
    return folded


def fold_relu6(network: nn.Module) -> None:
    """Make, in place, every ReLU6 behind a folded norm the activation of the convolution, after `fold_norms`."""
    for block in network.modules():
        for kind, layers in RELU6.items():
            for conv_name, norm_name, act_name in layers if isinstance(block, kind) else ():
                conv, act = getattr(block, conv_name), getattr(block, act_name)
                plain = is_plain(conv) and not_plain("", act, nn.ReLU6) is None
                if plain and type(getattr(block, norm_name)) is nn.Identity:
                    setattr(block, conv_name, with_activation(conv, "hardtanh", 0.0, 6.0))
                    setattr(block, act_name, nn.Identity())


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """a and b of norm(x) = a x + b in eval mode, (C,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


def norms_left(network: nn.Module) -> list[str]:
    """Names of a network's batch normalisations."""
    return [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def is_plain(*layers: nn.Module | None) -> bool:
    """Whether all these convolutions, norms and fastiqa modules, and the layers inside them, are plain."""
    inner = [module for layer in layers if layer is not None for module in layer.modules()]
    ours = [type(module) for module in inner if type(module).__module__.startswith("fastiqa.")]
    return all(not_plain("", module, nn.Conv2d, *NORMS, *CONTAINERS, *ours) is None for module in inner)


def _pairs(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    """Every convolution of a block and the module behind it, each as its parent and its name there."""
    if isinstance(block, nn.Sequential) and type(block).forward is nn.Sequential.forward:
        names = [name for name, _ in block.named_children()]
        for first, second in itertools.pairwise(names):
            yield block, first, block, second
    for kind, attributes in PAIRS.items():
        for first, second in attributes if isinstance(block, kind) else ():
            convs, norms = getattr(block, first), getattr(block, second)
            if isinstance(convs, nn.ModuleList):
                for i in range(len(convs)):
                    yield convs, str(i), norms, str(i)
            else:
                yield block, first, block, second


class ConstantConv2d(nn.Conv2d):
    """A convolution with constant weights, and the operation after it, in one call where `one_call` allows it.

    oneDNN multiplies by weights in a layout of its own, which depends on sizes and which PyTorch makes at every call.
    This class keeps the last one beside the weights: 1.0 to 3.2 times as fast on the maps of one image of 224x224, 1.0
    to 1.4 times on those of eight; the smaller the map, the more.

    Attributes:
        activation: "none", "relu", "gelu", "leaky_relu" or "hardtanh". It is applied while the result is
            written, which saves 8 % of PRFNet's time at 448x448 on two cores.
        scalars: the activation's further arguments: the negative slope of "leaky_relu", the bounds of "hardtanh".
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
        algorithm = "none" if self.activation == "gelu" else None  # the one with erf, not with tanh
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
        """The weights in oneDNN's layout for maps like `x`, and the convolution's other arguments."""
        sizes = (self.padding, self.stride, self.dilation, self.groups)
        version = None if self.weight.is_inference() else self.weight._version
        key = (tuple(x.shape), self.weight.data_ptr(), version, torch.get_num_threads())
        if self._made_for != key:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *sizes, list(x.shape))
            self._made_for = key
        return self._packed, self.bias, *sizes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_made_for", "_packed")}


def with_activation(conv: Any, activation: str, *scalars: float) -> ConstantConv2d:
    """Turn a convolution, in place, into a `ConstantConv2d` with this activation."""
    conv.__class__, conv.activation, conv.scalars = ConstantConv2d, activation, scalars
    return conv  # type: ignore[no-any-return]


def with_rectifier(conv: Any, negative_slope: float) -> ConstantConv2d:
    """`with_activation` for leaky ReLU, and for ReLU at slope 0."""
    return with_activation(conv, *(("relu",) if negative_slope == 0 else ("leaky_relu", negative_slope)))


def make_constant(network: nn.Module) -> None:
    """Turn a network's plain convolutions, in place, into `ConstantConv2d`."""
    for module in network.modules():
        if not_plain("", module, nn.Conv2d) is None and getattr(module, "padding_mode", None) == "zeros":
            module.__class__ = ConstantConv2d


def conv_add_relu_(shortcut: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """shortcut = relu(conv(x) + shortcut) for a 1x1 convolution, where `one_call` allows it."""
    pads, ones = (0, 0), (1, 1)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        shortcut, x, weight, bias, pads, ones, ones, 1, "add", 1, "relu", [], None
    )


def one_call(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Whether oneDNN can run it: eagerly, on a CPU, in a dtype that this CPU multiplies in, channels-last."""
    if not arguments.is_eager(x) or x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    supported = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    laid_out = all(y.is_contiguous(memory_format=torch.channels_last) for y in (weight, *others))
    return supported and laid_out and all(y.dtype == x.dtype for y in (weight, *others))


class OverwritesItsShortcut(nn.Module):
    """Mixin before the class of a bottleneck whose result takes its shortcut's memory.

    Hooks keep what they see: if one has seen the shortcut, the block writes onto a copy. It may be a hook of the block
    itself, of its first convolution or its shortcut's, or of the block before it, which made the shortcut.

    Attributes:
        before: the block before this one in its stage. A tuple, so that it is no submodule.
    """

    before: tuple[nn.Module, ...] = ()
    conv1: Any
    downsample: Any

    def _own(self, shortcut: Tensor) -> Tensor:
        """The shortcut, or a copy where a hook may have kept it."""
        witnesses = [self, self.conv1, *self.before]
        if self.downsample is not None:
            witnesses += self.downsample.modules()
        return shortcut.clone() if any(map(has_hooks, witnesses)) else shortcut


def introduce_neighbours(network: nn.Module) -> None:
    """Set `before` of the blocks in a residual network's stages."""
    for module in network.modules():
        for stage in module.stages if isinstance(module, ResidualNetwork) else ():
            blocks = list(stage)
            for before, block in itertools.pairwise(blocks):
                if isinstance(block, OverwritesItsShortcut):
                    block.before = (before,)


def overwriting(network: nn.Module) -> list[str]:
    """Names of the blocks that overwrite their argument where no hook has seen it."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, OverwritesItsShortcut) and module.downsample is None
    ]
