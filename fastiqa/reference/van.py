"""Visual Attention Network in plain PyTorch: the feature extractor of MFENet's quality branch.

    stage:      x = patch_embed(x), x = block_j(x) for every j, x = norm(x)         norm: LayerNorm over the channels
    block:      x = x + s_1 · attn(norm1(x)),  x = x + s_2 · mlp(norm2(x))          batch norms; s: a scale a channel
    attn(y) = proj_2(LKA(gelu(proj_1(y)))) + y                                      proj: 1×1
    mlp(y)  = fc2(gelu(dwconv(fc1(y))))                                             fc: 1×1, dwconv: depthwise 3×3

Patch embeddings are convolutions (7×7 of stride 4, then 3×3 of stride 2) with a batch norm. Training drops branches of
a block for whole samples, deeper ones more often (stochastic depth). Parameters have the authors' names.

Sources: Guo et al., arXiv 2202.09741 (VAN); Huang et al., arXiv 1603.09382 (stochastic depth).
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from fastiqa.common import arguments
from fastiqa.common.tracing import Leaf, Scriptable
from fastiqa.reference.batch_norm_act import BatchNormAct2d
from fastiqa.reference.large_kernel_attention import LargeKernelAttention

LAYER_SCALE = 1e-2  # s_1 and s_2 before training

# Depths, widths and MLP ratios of the published networks: table 2 of the paper.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "b0": {"depths": (3, 3, 5, 2), "widths": (32, 64, 160, 256), "mlp_ratios": (8, 8, 4, 4)},
    "b1": {"depths": (2, 2, 4, 2), "widths": (64, 128, 320, 512), "mlp_ratios": (8, 8, 4, 4)},
    "b2": {"depths": (3, 3, 12, 3), "widths": (64, 128, 320, 512), "mlp_ratios": (8, 8, 4, 4)},
    "b3": {"depths": (3, 5, 27, 3), "widths": (64, 128, 320, 512), "mlp_ratios": (8, 8, 4, 4)},
    "b4": {"depths": (3, 6, 40, 3), "widths": (64, 128, 320, 512), "mlp_ratios": (8, 8, 4, 4)},
    "b5": {"depths": (3, 3, 24, 3), "widths": (96, 192, 480, 768), "mlp_ratios": (8, 8, 4, 4)},
    "b6": {"depths": (6, 6, 90, 6), "widths": (96, 192, 384, 768), "mlp_ratios": (8, 8, 4, 4)},
}


class StochasticDepth(nn.Module):
    """Zero whole samples with this probability in training, and enlarge the others to the same expectation."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        share = 1 - self.probability
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(share)
        return x * (kept / share)

    def extra_repr(self) -> str:
        return f"{self.probability:.3g}"


class LayerNorm2d(Leaf, nn.LayerNorm):
    """`torch.nn.LayerNorm` over the channels of a map (N, C, H, W); keeps the memory format."""

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        last = x.permute(0, 2, 3, 1)
        normalised = layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        return normalised.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class SpatialAttention(nn.Module):
    """attn in the formulas above, (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, dim: int, attention_block: type[LargeKernelAttention]) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = attention_block(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, y: Tensor) -> Tensor:
        attended: Tensor = self.proj_2(self.spatial_gating_unit(gelu(self.proj_1(y))))
        return attended + y


class ConvMLP(nn.Module):
    """mlp in the formulas above, (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)))
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, y: Tensor) -> Tensor:
        result: Tensor = self.fc2(gelu(self.dwconv(self.fc1(y))))
        return result


class VANBlock(nn.Module):
    """Attention and perceptron, each behind a batch norm and beside a shortcut: (N, C, H, W) → (N, C, H, W).

    Args:
        dim: C, channels of the maps.
        mlp_ratio: hidden channels of the perceptron, as a multiple of `dim`.
        drop_path: probability of stochastic depth, at least 0 and below 1.
    """

    attention_block: ClassVar[type[LargeKernelAttention]] = LargeKernelAttention
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = self.norm_block(dim, negative_slope=1.0)
        self.attn = SpatialAttention(dim, self.attention_block)
        self.drop_path = StochasticDepth(drop_path)
        self.norm2 = self.norm_block(dim, negative_slope=1.0)
        self.mlp = ConvMLP(dim, dim * mlp_ratio)
        self.layer_scale_1 = nn.Parameter(torch.empty(dim))
        self.layer_scale_2 = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the layer scales before training, also for networks that get their memory later."""
        for scale in (self.layer_scale_1, self.layer_scale_2):
            nn.init.constant_(scale, LAYER_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return self.perceptron(self.attention(x))

    def attention(self, x: Tensor) -> Tensor:
        """The first half of `forward`."""
        return self._sum(x, self.layer_scale_1, self.attn(self.norm1(x)))

    def perceptron(self, x: Tensor) -> Tensor:
        """The second half of `forward`."""
        return self._sum(x, self.layer_scale_2, self.mlp(self.norm2(x)))

    def _sum(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        dropped: Tensor = self.drop_path(scale[:, None, None] * branch)
        return x + dropped


class VAN(Scriptable):
    """Visual Attention Network without a classifier.

    Args:
        depths: blocks per stage, four numbers.
        widths: channels of the four maps.
        mlp_ratios: hidden channels of the blocks' perceptrons, as multiples of the stage's width.
        drop_path: probability of stochastic depth in the last block; 0 in the first, linear in between.

    Attributes:
        channels: `widths`.
        strides: pixels per element of the four maps, (4, 8, 16, 32).

    Raises: ValueError naming the argument.
    """

    block: ClassVar[type[VANBlock]] = VANBlock
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d
    __jit_unused_properties__: ClassVar[list[str]] = ["stages"]

    if TYPE_CHECKING:  # TorchScript cannot read these
        patch_embed1: nn.Module
        block1: nn.Module
        norm1: nn.Module
        patch_embed2: nn.Module
        block2: nn.Module
        norm2: nn.Module
        patch_embed3: nn.Module
        block3: nn.Module
        norm3: nn.Module
        patch_embed4: nn.Module
        block4: nn.Module
        norm4: nn.Module

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        depths = arguments.integers("depths", depths, 4)
        mlp_ratios = arguments.integers("mlp_ratios", mlp_ratios, 4)
        arguments.fraction("drop_path", drop_path)
        self.channels = arguments.integers("widths", widths, 4)
        self.strides: tuple[int, ...] = (4, 8, 16, 32)
        inputs = 3
        last = max(sum(depths) - 1, 1)
        drops = (drop_path * i / last for i in range(sum(depths)))
        for stage, (depth, width, ratio) in enumerate(zip(depths, self.channels, mlp_ratios, strict=True), 1):
            proj = nn.Conv2d(inputs, width, 3, 2, 1) if stage > 1 else nn.Conv2d(inputs, width, 7, 4, 3)
            embed = OrderedDict(proj=proj, norm=self.norm_block(width, negative_slope=1.0))
            blocks = (self.block(width, ratio, next(drops)) for _ in range(depth))
            self.add_module(f"patch_embed{stage}", nn.Sequential(embed))
            self.add_module(f"block{stage}", nn.Sequential(*blocks))
            self.add_module(f"norm{stage}", LayerNorm2d(width, eps=1e-6))
            inputs = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    @property
    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """The four stages: each takes the map of the stage before, the first the image."""
        return tuple(functools.partial(self._stage, number) for number in (1, 2, 3, 4))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) → four maps (N, channels[i], ⌈H/strides[i]⌉, ⌈W/strides[i]⌉)."""
        first: Tensor = self.norm1(self.block1(self.patch_embed1(image)))
        second: Tensor = self.norm2(self.block2(self.patch_embed2(first)))
        third: Tensor = self.norm3(self.block3(self.patch_embed3(second)))
        return [first, second, third, self.norm4(self.block4(self.patch_embed4(third)))]

    @torch.jit.unused
    def _stage(self, number: int, x: Tensor) -> Tensor:
        for part in ("patch_embed", "block", "norm"):
            x = getattr(self, f"{part}{number}")(x)
        return x


def _initialise(conv: nn.Conv2d) -> None:
    """Draw normal weights of variance 2 / (outputs that one input reaches); zero the bias."""
    fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
