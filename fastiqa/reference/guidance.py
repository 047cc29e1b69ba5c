"""Guidance: features of an auxiliary branch join the main branch of a network at one stage."""

from __future__ import annotations

from torch import Tensor, nn

from fastiqa.common import arguments


class Addition(nn.Module):
    """x + y: the fusion without attention."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two tensors of one shape → their sum."""
        return x + y


class Guidance(nn.Module):
    """out = fusion(x, projection(guide)), projection a 1×1 convolution to the channels of the main branch.

    Args:
        guide_channels: channels of the auxiliary branch.
        channels: channels of the main branch.
        fusion: a module that fuses two maps (N, channels, H, W) into one.

    Raises: ValueError naming the argument.
    """

    def __init__(self, guide_channels: int, channels: int, fusion: nn.Module) -> None:
        super().__init__()
        arguments.integer("guide_channels", guide_channels)
        arguments.integer("channels", channels)
        self.projection = nn.Conv2d(guide_channels, channels, 1)
        self.fusion = fusion

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """(N, channels, H, W) and (N, guide_channels, H, W) → (N, channels, H, W)."""
        fused: Tensor = self.fusion(x, self.projection(guide))
        return fused
