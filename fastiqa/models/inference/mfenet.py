"""MFENet for inference.

Norms that no convolution comes right before fold elsewhere. Both branches of an octave convolution are sums, so that
the norm's scale goes into every convolution and its shift into one; the second norm of a block of VAN goes into the 1×1
convolution behind it, fc1(a · x + b) = (W a) x + W b + bias. The first norm of a block stays: its result is added to
the attention as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastiqa import reference
from fastiqa.models.inference.model import InferenceModel
from fastiqa.models.mfenet import MFENet
from fastiqa.reference import arguments
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
            if isinstance(module, reference.HighFrequencyModule):
                self.folded += _fold_octave(module)
            elif isinstance(module, reference.VANBlock):
                self.folded += _fold_second_norm(module)

    def _compile(self) -> None:
        if self.compiled is not None:
            self.compile()

    @torch.no_grad()
    def _stages(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return super()._stages(image)

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.head.parameters())
        as_given = isinstance(image, Tensor) and image.dtype == self.mean.dtype
        arguments.check_images(self.mean if as_given else weight, self.qen.strides[-1], image=image)
        normalised = (image - self.mean) / self.std
        return (
            normalised.to(weight.dtype, memory_format=self.memory_format),
            image.to(weight.dtype, memory_format=self.memory_format),
        )


def _fold_octave(module: Any) -> int:
    """Folds the norms of both branches into the convolutions before them; returns their number."""
    conv = module.conv
    branches = (("norm_high", "conv_h2h", "conv_l2h"), ("norm_low", "conv_h2l", "conv_l2l"))
    folded = 0
    for norm_name, first, second in branches:
        norm = getattr(module, norm_name)
        if norm is None:
            continue
        added = getattr(conv, second)
        setattr(conv, first, fuse_conv_bn_eval(getattr(conv, first), norm))
        if added is not None:
            added.weight.mul_(_scale(norm)[:, None, None, None])
        has_activation = norm.negative_slope != 1
        setattr(module, norm_name, nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True) if has_activation else nn.Identity())
        folded += 1
    return folded


def _fold_second_norm(block: Any) -> int:
    """Folds the norm before the perceptron of a block of VAN into the 1×1 convolution behind it; returns 1."""
    norm, conv = block.norm2, block.mlp.fc1
    scale = _scale(norm)
    shift = norm.bias - norm.running_mean * scale
    conv.bias.add_(conv.weight[:, :, 0, 0] @ shift)
    conv.weight.mul_(scale[:, None, None])
    block.norm2 = nn.Identity()
    return 1


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)
