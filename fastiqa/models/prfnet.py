"""PRFNet on the fused operators."""

from __future__ import annotations

from typing import ClassVar

from fastiqa import nn, reference


class PRFNet(reference.PRFNet):
    """Equivalent to `fastiqa.reference.PRFNet`, whose constructor, methods and state dict it shares.

    The blocks are those of `fastiqa.nn`. Source: arXiv 2401.06992.

    Example:
        >>> import torch
        >>> model = PRFNet(layers=(1, 1, 1, 1), width=8).eval()
        >>> ref, a, b = torch.rand(3, 2, 3, 64, 64)
        >>> features = model.encode(ref)  # once, however many candidates follow
        >>> model.compare(features, model.encode(a), model.encode(b)).shape
        torch.Size([2])
    """

    backbone_block: ClassVar[type[reference.SERes2Net]] = nn.SERes2Net
    head_block: ClassVar[type[reference.PRFHead]] = nn.PRFHead
