"""Batch normalisation with the activation that follows it.

    y = act((x − mean) / √(var + eps) · weight + bias)      act: leaky ReLU; of slope 0, the default, ReLU; of 1 none

Source: Ioffe and Szegedy, arXiv 1502.03167; parameter and buffer names of `torch.nn.BatchNorm2d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from fastiqa.reference import arguments


class BatchNormAct2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` and leaky ReLU; in training by the batch's statistics, else by the running ones.

    Args:
        num_features: C, channels of the feature maps.
        negative_slope: of the activation: 0 is ReLU, 1 none.
        eps: added to the variance.
        momentum: share of the newest batch in the running statistics; None averages all batches.

    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(
        self, num_features: int, negative_slope: float = 0.0, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__(arguments.integer("num_features", num_features), eps, momentum)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        normalised: Tensor = super().forward(x)
        if self.negative_slope == 1:
            return normalised
        if self.negative_slope == 0:
            return torch.relu_(normalised)
        return leaky_relu(normalised, self.negative_slope, inplace=True)
