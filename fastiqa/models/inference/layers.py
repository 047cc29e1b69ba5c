"""Batch normalisation in eval mode is a convolution's own scale and bias: it folds into the convolution before it.

    w' = w · γ / √(var + eps)        b' = (b − mean) · γ / √(var + eps) + β

Source: Jacob et al., arXiv 1712.05877, section 3.2; the arithmetic is PyTorch's `fuse_conv_bn_eval`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastiqa import reference
from fastiqa.models.inference.onednn import with_rectifier
from fastiqa.nn import BatchNormAct2d
from fastiqa.reference import Bottleneck, CrossSubtraction
from fastiqa.reference.batch_norm_act import SyncBatchNormAct2d
from fastiqa.reference.fusion import WeightedNode
from fastiqa.reference.plain_layers import not_plain
from fastiqa.reference.residual_network import ResidualNetwork
from fastiqa.reference.se_res2net import SERes2Block

# Attributes of a block that hold convolutions, each with that of the norms behind them: a module, or a list of as many.
PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResidualNetwork: (("conv1", "bn1"),),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    SERes2Block: (("conv1", "bn1"), ("convs", "bns"), ("conv3", "bn3")),
    CrossSubtraction: (("conv", "bn"),),
    WeightedNode: (("pointwise", "bn"),),
}


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.Identity)
# Batch normalisations that do in eval mode what `scale_and_shift` says, and then perhaps rectify.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, reference.BatchNormAct2d, BatchNormAct2d, SyncBatchNormAct2d)


def fold_norms(network: nn.Module) -> int:
    """Folds every norm behind a convolution of the blocks in `PAIRS` and of sequences, in place; returns their number.

    Its activation becomes that of the convolution. The network is in eval mode, and its norms have running statistics.
    Both must be plain layers: what has hooks, an adapter around it or a parametrization stays as it is.
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


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """a and b of norm(x) = a x + b, one of each a channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


def norms_left(network: nn.Module) -> list[str]:
    """Names of the batch normalisations of a network."""
    return [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def is_plain(*layers: nn.Module | None) -> bool:
    """Whether all these convolutions, norms and modules of this package, and what they hold, are plain layers."""
    inner = [module for layer in layers if layer is not None for module in layer.modules()]
    ours = [type(module) for module in inner if type(module).__module__.startswith("fastiqa.")]
    return all(not_plain("", module, nn.Conv2d, *NORMS, *CONTAINERS, *ours) is None for module in inner)


def _pairs(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    """Where a block holds a convolution and where the module behind it: parents and names."""
    if isinstance(block, nn.Sequential):
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
