"""Squeeze and excitation: a gate for each channel from the mean of the map.

    s = σ(fc2(relu(fc1(mean_hw(x)))))                         fc1, fc2: 1×1 convolutions
    y = x · s,   or at the end of a bottleneck   y = relu(x · s + residual)

Source: Hu et al., Squeeze-and-Excitation Networks, arXiv 1709.01507; parameters are named as in timm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastiqa.common import arguments


class SqueezeExcitation(nn.Module):
    """Channel gate, with the following shortcut and ReLU of a bottleneck.

    The hidden width is `channels / reduction` rounded to a multiple of 8, at least 8: exactly C/16 for Res2Net-50.

    Args:
        channels: C, channels of the feature maps.
        reduction: divisor for the hidden width.

    Raises: ValueError or TypeError naming the argument.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channels = arguments.integer("channels", channels)
        arguments.integer("reduction", reduction)
        hidden = max(8, int(channels / reduction + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → x · s, (N, C, H, W); with a `residual` of that shape → relu(x · s + residual)."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check(x, residual)
        gated = x * torch.sigmoid(self.logits(x))
        return gated if residual is None else torch.relu_(gated + residual)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the gate s: (N, C, H, W) → (N, C, 1, 1)."""
        logits: Tensor = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return logits

    def _check(self, x: Tensor, residual: Tensor | None) -> None:
        arguments.check_map("x", x, None, self.channels, None, None)
        if residual is not None:
            arguments.check_map_like("residual", residual, x)
