"""The comparison of two images: logits of packed triplets, the loss of each triplet, 2AFC accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from fastiqa.evaluation.two_afc import agreement
from fastiqa.models import save_model
from fastiqa.training.tasks.datasets import triplets
from fastiqa.training.tasks.network import registered
from fastiqa.training.tasks.task import ItemLayout, Task


class PackedComparison(nn.Module):
    """Triplets → logits, the three images of all triplets in one batch through the backbone.

    One pass instead of three keeps each feature map once, in the packed form that the head reads without a copy. In
    training, batch normalisation takes its statistics over references and candidates together, whereas
    `PRFNet.forward` normalises each of the three by its own: here an image is seen as the running statistics will see
    it, and a difference between reference and candidate in brightness or contrast is not normalised away.

    Args:
        model: a PRFNet: a module with `encode` and a `head` that takes packed maps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes have no types

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] → logits (N,), float32, of "b is closer to ref than a"."""
        features = self.model.encode(torch.cat((ref, a, b)))
        logits: Tensor = self.model.head(features)
        return logits.float()


def losses_of(name: str, logits: Tensor, label: Tensor) -> Tensor:
    """The loss of each triplet, (N,): "bce", PRFNet's equation (5), or "mse", its equation (6)."""
    if name == "bce":
        return binary_cross_entropy_with_logits(logits, label, reduction="none")
    return mse_loss(torch.sigmoid(logits), label, reduction="none")


def refused(label: Tensor) -> str | None:
    """What is wrong with a label, if anything."""
    value = float(label)
    return None if 0 <= value <= 1 else f"label {value}, want a probability in [0, 1]"  # false for NaN too


def rows(logits: Tensor, label: Tensor) -> Tensor:
    """The share of people who agree with the network, and the binary cross-entropy, of each triplet."""
    return torch.stack((agreement(logits, label), losses_of("bce", logits, label)), 1)


def summary(rows: Tensor) -> dict[str, float]:
    """Means: "accuracy", the two-alternative forced-choice score, and "bce"."""
    return dict(zip(("accuracy", "bce"), rows.mean(0).tolist(), strict=True))


COMPARISON = Task(
    item=ItemLayout(noun="triplet", inputs=("ref", "a", "b"), images=3, refused=refused),
    kinds=triplets.KINDS,
    losses=("bce", "mse"),
    network=registered,
    module=PackedComparison,
    losses_of=losses_of,
    rows=rows,
    summary=summary,
    save=save_model,
)
