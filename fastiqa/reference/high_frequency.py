"""High-frequency extraction: the high branches of a chain of octave convolutions.

    high₀ = stem(image),  (high_i, low_i) = act(BN(octave_i(high_{i−1}, low_{i−1})))       i = 1 … 4, low₀ absent

stem: two 3×3 convolutions of stride 2. octave_1 keeps the size, the others halve it by pooling: strides 4, 8, 16, 32.
A quarter of the channels is low, act is leaky ReLU of slope 0.2. The low branch takes the coarse part of the signal
from the high one and continues from module to module; it is never returned, and the last module has none. (A single
module that drops its low branch would be a plain convolution: branches part only in a chain.)

`fastiqa.nn` runs only `octave_split` of the operators for octave convolutions here: `octave_merge` joins the low input
to the high one in modules of stride 1, and the only such module of this chain has no low input.

Sources: arXiv 2411.07556 names octave convolutions with a discarded low branch. The sizes come from HFCG-CNN by the
same group (Yu et al., VCIP 2022), with one octave module a stage. Chen et al., arXiv 1904.05049 (octave convolution).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from fastiqa.common import arguments
from fastiqa.reference.batch_norm_act import BatchNormAct2d, NormHolder, NormSequential
from fastiqa.reference.octave_conv import OctaveConv2d, half_size

STRIDES = (4, 8, 16, 32)
ALPHA = 0.25
NEGATIVE_SLOPE = 0.2


class OctaveSplit(nn.Module):
    """Leaky ReLU of a high branch, and its average over 2×2 blocks, which the next `OctaveConv2d` takes as `pooled`.

    Args:
        negative_slope: of the activation.
    """

    def __init__(self, negative_slope: float = NEGATIVE_SLOPE) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) → (N, C, H, W) and (N, C, ⌈H/2⌉, ⌈W/2⌉)."""
        act = leaky_relu(x, self.negative_slope)
        return act, half_size(act)


class HighFrequencyModule(NormHolder):
    """Octave convolution 3×3, batch normalisation and leaky ReLU of both branches.

    Args:
        channels: C of both branches together, in the input and in the output.
        alpha_in, alpha_out: shares of the low branch, 0 for none: see `OctaveConv2d`.
        stride: 1 or 2.
    """

    conv_block: ClassVar[type[OctaveConv2d]] = OctaveConv2d
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d
    split_block: ClassVar[type[OctaveSplit]] = OctaveSplit

    def __init__(self, channels: int, alpha_in: float, alpha_out: float, stride: int) -> None:
        super().__init__()
        self.conv = self.conv_block(channels, channels, 3, alpha_in, alpha_out, stride)
        high, low = self.conv.out_channels
        # With a low branch the activation also computes the average that the next module needs.
        self.norm_high = self.norm_block(high, negative_slope=1.0 if low else NEGATIVE_SLOPE)
        self.norm_low = self.norm_block(low, NEGATIVE_SLOPE) if low else None
        self.split = self.split_block() if low else None

    def forward(
        self, high: Tensor, low: Tensor | None = None, pooled: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Both branches and the pooled high one, as for `OctaveConv2d` → the same three for the next module.

        The low branch and the pooled one are None if `alpha_out` is 0.
        """
        high, low = self.conv(high, low, pooled)
        high = self.norm_high(high)
        if self.split is None or self.norm_low is None:
            return high, None, None
        high, pooled = self.split(high)
        return high, self.norm_low(low), pooled


class HighFrequencyNet(nn.Module):
    """HFEN: an image → the high branches of four octave modules.

    Args:
        width: channels of the second convolution and of both branches together, at least 4.

    Attributes:
        channels: of the four maps: three quarters of `width`, and all of it in the last, which has no low branch.
        strides: pixels per element of the four maps, (4, 8, 16, 32).

    Raises: ValueError naming the argument.
    """

    module_block: ClassVar[type[HighFrequencyModule]] = HighFrequencyModule
    norm_block: ClassVar[type[BatchNormAct2d]] = BatchNormAct2d
    split_block: ClassVar[type[OctaveSplit]] = OctaveSplit

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        arguments.integer("width", width, minimum=4)
        self.strides = STRIDES
        self.stem = NormSequential(
            nn.Conv2d(3, width // 2, 3, 2, 1, bias=False),
            self.norm_block(width // 2, NEGATIVE_SLOPE),
            nn.Conv2d(width // 2, width, 3, 2, 1, bias=False),
            self.norm_block(width, negative_slope=1.0),
        )
        self.split = self.split_block()
        last = len(STRIDES) - 1
        modules = [
            self.module_block(
                width,
                alpha_in=ALPHA if i > 0 else 0,
                alpha_out=ALPHA if i < last else 0,
                stride=2 if i > 0 else 1,
            )
            for i in range(len(STRIDES))
        ]
        self.octaves = nn.ModuleList(modules)
        self.channels = tuple(module.conv.out_channels[0] for module in modules)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) → four maps (N, channels[i], ⌈H/strides[i]⌉, ⌈W/strides[i]⌉)."""
        high, pooled = self.split(self.stem(image))
        low: Tensor | None = None
        exported: list[Tensor] = []
        for module in self.octaves:
            high, low, pooled = module(high, low, pooled)
            exported.append(high)
        return exported
