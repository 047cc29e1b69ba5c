"""PRFNet of fused operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from fastiqa import nn, reference
from fastiqa.nn.fused import FusedNetwork


class PRFNet(FusedNetwork, reference.PRFNet):
    """Equivalent to `fastiqa.reference.PRFNet`, whose constructor, methods and state dict it shares.

    Its blocks are those of `fastiqa.nn`. `memory` is "off", "lean" or "least", see `set_memory`; it does not change the
    network and is not saved with it. Source: arXiv 2401.06992.

    Example:
        >>> import torch
        >>> model = PRFNet(layers=(1, 1, 1, 1), width=8).eval()
        >>> ref, a, b = torch.rand(3, 2, 3, 64, 64)
        >>> features = model.encode(ref)  # once, however many candidates follow
        >>> model.compare(features, model.encode(a), model.encode(b)).shape
        torch.Size([2])
    """

    backbone_blocks: ClassVar[Mapping[str, type[torch.nn.Module]]] = {
        "se_res2net50": nn.SERes2Net,
        "efficientnet_lite0": nn.EfficientNetLite,
    }
    head_block: ClassVar[type[reference.PRFHead]] = nn.PRFHead

    def __init__(self, *, memory: str = "off", **options: Any) -> None:
        super().__init__(**options)
        if memory != "off":
            self.set_memory(memory)

    def set_memory(self, level: str) -> None:
        """Set how much the backbone keeps for the backward pass, see `fastiqa.nn.SERes2Net.set_memory`.

        Raises: TypeError for a backbone of your own that has no `set_memory`.
        """
        if not hasattr(self.backbone, "set_memory"):
            raise TypeError(f"memory: got {level!r}, want 'off': {type(self.backbone).__name__} has no set_memory")
        self.backbone.set_memory(level)
