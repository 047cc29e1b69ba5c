"""What a training step computes: logits of packed triplets, and the loss of each triplet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss


class PackedComparison(nn.Module):
    """Triplets → logits, the three images of all triplets in one batch through the backbone.

    One pass instead of three keeps each feature map once, in the packed form that the head reads without a copy. In
    training, batch normalisation takes its statistics over references and candidates together, whereas
    `PRFNet.forward` normalises each of the three by its own: here an image is seen as the running statistics will see
    it, and a difference between reference and candidate in brightness or contrast is not normalised away.

    Args:
        model: a PRFNet: a module with `backbone`, `encode` and a `head` that takes packed maps.
        freeze_backbone: the backbone stays in eval mode, gets no gradients and keeps nothing for the backward pass.
    """

    def __init__(self, model: nn.Module, freeze_backbone: bool = False) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes have no types
        self.freeze_backbone = freeze_backbone

    def train(self, mode: bool = True) -> PackedComparison:
        """As of every module; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.model.backbone.eval()
        return self

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] → logits (N,), float32, of "b is closer to ref than a"."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.model.encode(torch.cat((ref, a, b)))
        logits: Tensor = self.model.head(features)
        return logits.float()


def losses_of(name: str, logits: Tensor, label: Tensor) -> Tensor:
    """The loss of each triplet, (N,): "bce", PRFNet's equation (5), or "mse", its equation (6)."""
    if name == "bce":
        return binary_cross_entropy_with_logits(logits, label, reduction="none")
    return mse_loss(torch.sigmoid(logits), label, reduction="none")
