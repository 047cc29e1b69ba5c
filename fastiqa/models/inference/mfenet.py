"""MFENet for inference.

Norms that no convolution comes right before fold elsewhere. Both branches of an octave convolution are sums, so that
the norm's scale goes into every convolution and its shift into one; those of VAN go into the 1×1 convolutions behind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.models.inference.layers import fold_norms, is_plain, scale_and_shift
from fastiqa.models.inference.model import InferenceModel
from fastiqa.models.inference.onednn import with_rectifier
from fastiqa.models.inference.resnet import make_inference_bottleneck
from fastiqa.models.inference.van import fold_van_block
from fastiqa.models.mfenet import MFENet
from fastiqa.nn.octave_conv import with_average
from fastiqa.reference.high_frequency import NEGATIVE_SLOPE

PARTS = (
    "qen",
    "hfen",
    "dan",
    "hfen_guidance",
    "dan_guidance",
    "head",
    "high_frequency_head",
    "distortion_head",
)


class InferenceMFENet(InferenceModel, MFENet):
    """An MFENet that `fastiqa.optimize_for_inference` made: the methods and errors of MFENet, constant weights.

    Images have the dtype of the model that was given or that of the weights, and are normalised in their own.

    Source: arXiv 2411.07556.
    """

    def __init__(
        self, model: reference.MFENet, dtype: torch.dtype, memory_format: torch.memory_format, compile: bool
    ) -> None:
        """Takes the parts of `model`, which is lost."""
        nn.Module.__init__(self)  # not MFENet's, which builds parts of its own
        for name in PARTS:
            setattr(self, name, getattr(model, name))
        self.register_buffer("mean", model.mean, persistent=False)
        self.register_buffer("std", model.std, persistent=False)
        self._settle(dtype, memory_format, "everything" if compile else None)

    def _fold_rest(self) -> None:
        for module in self.modules():
            if isinstance(module, reference.HighFrequencyNet):
                self.folded += fold_high_frequency(module)
            elif isinstance(module, reference.VANBlock):
                self.folded += fold_van_block(module)
            elif isinstance(module, reference.Bottleneck):
                make_inference_bottleneck(module)

    def _compile(self) -> None:
        if self.compiled is not None:
            self.compile()

    @torch.no_grad()
    def _stages(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return super()._stages(image)

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        weight = arguments.parameter_of(self.head)
        as_given = isinstance(image, Tensor) and image.dtype == self.mean.dtype
        arguments.check_images(self.mean if as_given else weight, self.qen.strides[-1], image=image)
        return (
            self._normalised(image).to(weight.dtype, memory_format=self.memory_format),
            image.to(weight.dtype, memory_format=self.memory_format),
        )


class _WithAverage(nn.Module):
    """What remains of an `OctaveSplit` whose activation is that of the convolution before it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return with_average(x)


def fold_high_frequency(network: Any) -> int:
    """Folds the norms left in a `HighFrequencyNet`, and activations, into convolutions; returns the number of norms."""
    folded = fold_norms(network.stem)
    if isinstance(network.stem[3], nn.Identity) and is_plain(network.stem[2], network.split):
        with_rectifier(network.stem[2], NEGATIVE_SLOPE)
        network.split = _WithAverage()
    return folded + sum(fold_octave(module) for module in network.octaves)


def fold_octave(module: Any) -> int:
    """Folds both norms of a `HighFrequencyModule`, and what activations it can, into the convolutions before them.

    Convolutions that `fastiqa.nn.OctaveConv2d` adds as one become one. Returns the number of norms, none where a layer
    is not plain.
    """
    conv = module.conv
    if not is_plain(module):
        return 0
    branches = (("norm_high", "conv_h2h", "conv_l2h"), ("norm_low", "conv_h2l", "conv_l2l"))
    folded = 0
    for norm_name, first, second in branches:
        norm = getattr(module, norm_name)
        if norm is None:
            continue
        added = getattr(conv, second)
        setattr(conv, first, fuse_conv_bn_eval(getattr(conv, first), norm))
        is_one = added is None or conv.stride == 2 or first == "conv_h2l"
        if added is not None:
            added.weight.mul_(scale_and_shift(norm)[0][:, None, None, None])
            if is_one:
                setattr(conv, first, _joined(getattr(conv, first), added))
                setattr(conv, second, None)
        setattr(module, norm_name, nn.Identity())
        if is_one:
            with_rectifier(getattr(conv, first), NEGATIVE_SLOPE)
            if norm_name == "norm_high" and module.split is not None:
                module.split = _WithAverage()
        elif module.split is None:
            setattr(module, norm_name, nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
        folded += 1
    return folded


def _joined(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """The sum of two convolutions, of the channels of both; the second has no bias."""
    weight = torch.cat([first.weight, second.weight], 1)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], first.kernel_size, padding=first.padding, dtype=weight.dtype)  # type: ignore[arg-type]
    conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), first.bias
    return conv
