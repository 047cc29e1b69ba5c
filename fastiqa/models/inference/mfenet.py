"""MFENet for inference: norms without a convolution right before them fold elsewhere.

Each branch of an octave convolution is a sum, so the norm's scale goes into every convolution and its shift into one.

VAN's norms and layer scales go into the 1×1 convolutions behind them. With norm1(x) = a x + b, layer scales s and 1×1
convolutions P = proj and F = fc of matrices and biases, a block is

    x' = x + s_1 (P_2(u) + norm1(x)) = k x + P_2'(u)        k = 1 + s_1 a,   P_2' = s_1 P_2 + s_1 b
    u = g · LKA(g),   g = gelu(P_1'(x))                     P_1' = P_1 ∘ norm1
    out = x' + F_2'(gelu(dwconv(F_1'(x'))))                 F_1' = F_1 ∘ norm2,   F_2' = s_2 F_2

where the sums and the product with g are part of the convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.models.inference.layers import (
    OverwritesItsShortcut,
    fold_norms,
    is_plain,
    scale_and_shift,
    with_activation,
    with_rectifier,
)
from fastiqa.models.inference.model import InferenceModel
from fastiqa.models.mfenet import MFENet
from fastiqa.nn import Bottleneck, VANBlock
from fastiqa.nn.octave_conv import with_average
from fastiqa.ops import large_kernel_conv
from fastiqa.reference.high_frequency import NEGATIVE_SLOPE
from fastiqa.reference.plain_layers import has_hooks
from fastiqa.runtime.memory import LARGE

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
    """An MFENet made by `fastiqa.optimize_for_inference`: MFENet's methods and errors, constant weights.

    Images have the given model's dtype or the weights' dtype, and are normalised in their own.

    Source: arXiv 2411.07556.
    """

    def __init__(
        self, model: reference.MFENet, dtype: torch.dtype, memory_format: torch.memory_format, compile: bool
    ) -> None:
        """Takes over the parts of `model`, which is then unusable."""
        nn.Module.__init__(self)  # not MFENet's, which builds parts of its own
        for name in PARTS:
            setattr(self, name, getattr(model, name))
        self.image_mean, self.image_std = model.image_mean, model.image_std
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

    @torch.no_grad()
    def _rate(self, means: Tensor) -> Tensor:
        return super()._rate(means)

    @torch.no_grad()
    def _rate_and_name(self, means: Tensor) -> tuple[Tensor, Tensor | None]:
        return super()._rate_and_name(means)

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        weight = arguments.parameter_of(self.head)
        as_given = isinstance(image, Tensor) and image.dtype == self.mean.dtype
        arguments.check_images(self.mean if as_given else weight, self.qen.strides[-1], image=image)
        return (
            self._normalised(image).to(weight.dtype, memory_format=self.memory_format),
            image.to(weight.dtype, memory_format=self.memory_format),
        )


class _WithAverage(nn.Module):
    """An `OctaveSplit` without its activation, which the convolution before it applies."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return with_average(x)


def fold_high_frequency(network: Any) -> int:
    """Fold a `HighFrequencyNet`'s remaining norms and activations into convolutions; returns the number of norms."""
    folded = fold_norms(network.stem)
    if isinstance(network.stem[3], nn.Identity) and is_plain(network.stem[2], network.split):
        with_rectifier(network.stem[2], NEGATIVE_SLOPE)
        network.split = _WithAverage()
    return folded + sum(fold_octave(module) for module in network.octaves)


def fold_octave(module: Any) -> int:
    """Fold both norms of a `HighFrequencyModule`, and the activations that can be, into the convolutions before them.

    Two convolutions that `fastiqa.nn.OctaveConv2d` adds in one call become one.

    Returns: the number of norms folded, 0 if a layer is not plain.
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
    """One convolution that sums two, over the channels of both; the second has no bias."""
    weight = torch.cat([first.weight, second.weight], 1)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], first.kernel_size, padding=first.padding, dtype=weight.dtype)  # type: ignore[arg-type]
    conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), first.bias
    return conv


class InferenceBottleneck(OverwritesItsShortcut, Bottleneck):
    """A ResNet bottleneck with folded norms; its last convolution adds to the shortcut and rectifies.

    It overwrites its shortcut, which may be its own argument. Within a stage only hooks read that besides, and for them
    it is copied, see `OverwritesItsShortcut`. The first block of a stage has a convolution in the shortcut.
    """

    conv3: Any

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        shortcut = self._own(x if self.downsample is None else self.downsample(x))
        y: Tensor = self.conv3.add_to_(shortcut, self.conv2(self.conv1(x)))
        return y


def make_inference_bottleneck(block: Any) -> None:
    """Turn a bottleneck of plain layers without norms, in place, into an `InferenceBottleneck`."""
    norms = (block.bn1, block.bn2, block.bn3)
    if not all(type(norm) is nn.Identity for norm in norms) or not is_plain(block.conv3, *norms):
        return
    with_activation(block.conv3, "relu")
    block.__class__ = InferenceBottleneck


class InferenceVANBlock(VANBlock):
    """A VAN block made by `fold_van_block`.

    Attributes:
        shortcut_scale: k in this file's formulas, (C, 1, 1).
    """

    attn: Any
    mlp: Any
    shortcut_scale: Tensor

    def attention(self, x: Tensor) -> Tensor:
        """x → x' in this file's formulas, (N, C, H, W) each."""
        gate: Any = self.attn.spatial_gating_unit
        near, far = gate.conv0, gate.conv_spatial
        g = self.attn.proj_1(x)
        u = gate.conv1.times(large_kernel_conv(g, near.weight, near.bias, far.weight, far.bias), g)
        attended: Tensor = self.attn.proj_2.add_to_(x * self.shortcut_scale, u)
        return attended

    def perceptron(self, x: Tensor) -> Tensor:
        """x' → the block's result, written onto x'."""
        parts: tuple[Tensor, ...] = (x,)
        if arguments.is_eager(x):
            hidden = x.nbytes * self.mlp.fc1.out_channels // x.shape[1]
            parts = x.chunk(1 + hidden // LARGE)  # so that hidden maps reuse memory
        for part in parts:
            self.mlp.fc2.add_to_(part, self.mlp.dwconv(self.mlp.fc1(part)))
        return x


def fold_van_block(block: Any) -> int:
    """Turn a VAN block of plain layers, in place, into an `InferenceVANBlock`; returns the number of norms folded."""
    if not is_plain(block.norm1, block.attn, block.norm2, block.mlp) or has_hooks(block.drop_path):
        return 0
    attn, mlp = block.attn, block.mlp
    scale, shift = scale_and_shift(block.norm1)
    block.register_buffer("shortcut_scale", (1 + block.layer_scale_1 * scale)[:, None, None])
    attn.proj_2.bias.add_(shift)
    for conv, norm in ((attn.proj_1, block.norm1), (mlp.fc1, block.norm2)):
        scale, shift = scale_and_shift(norm)
        conv.bias.add_(conv.weight[:, :, 0, 0] @ shift)
        conv.weight.mul_(scale[:, None, None])
    for conv, scale in ((attn.proj_2, block.layer_scale_1), (mlp.fc2, block.layer_scale_2)):
        conv.bias.mul_(scale)
        conv.weight.mul_(scale[:, None, None, None])
    for conv in (attn.proj_1, mlp.dwconv.dwconv):
        with_activation(conv, "gelu")
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    del block.layer_scale_1, block.layer_scale_2
    block.__class__ = InferenceVANBlock
    return 2
