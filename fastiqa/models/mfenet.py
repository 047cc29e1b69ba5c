"""MFENet of fused operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from fastiqa import nn, reference
from fastiqa.nn.recomputation import CheckpointedNetwork


class MFENet(CheckpointedNetwork, reference.MFENet):
    """Equivalent to `fastiqa.reference.MFENet`, whose constructor, methods and state dict it shares.

    Its blocks are those of `fastiqa.nn`. `memory` is "off", "lean" or "least", see `set_memory`; it does not change the
    network and is not saved with it. Source: arXiv 2411.07556.

    Example:
        >>> small = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32), "hidden": (16,)}
        >>> model = MFENet(**small, hfen_width=8, dan_layers=(1, 1, 1, 1), dan_width=4, memory="lean")
        >>> model.train()(torch.rand(2, 3, 64, 64)).mean().backward()
        >>> model.eval()(torch.rand(1, 3, 64, 80)).shape
        torch.Size([1])
    """

    backbone_blocks: ClassVar[Mapping[str, type[torch.nn.Module]]] = {
        "van": nn.VAN,
        "efficientnet_lite0": nn.EfficientNetLite,
    }
    hfen_block: ClassVar[type[reference.HighFrequencyNet]] = nn.HighFrequencyNet
    dan_block: ClassVar[type[reference.ResNet]] = nn.ResNet
    ffm_block: ClassVar[type[reference.FeatureFusion]] = nn.FeatureFusion
    aff_block: ClassVar[type[reference.AttentionalFeatureFusion]] = nn.AttentionalFeatureFusion
    guidance_block: ClassVar[type[reference.Guidance]] = nn.Guidance

    def __init__(self, *, memory: str = "off", **options: Any) -> None:
        super().__init__(**options)
        if memory != "off":
            self.set_memory(memory)
