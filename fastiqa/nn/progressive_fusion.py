"""Progressive fusion on the fused gating operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastiqa import reference
from fastiqa.nn.fused import Fused
from fastiqa.ops import gated_upsample
from fastiqa.reference.plain_layers import convolution_not_plain


class ProgressiveFusion(Fused, reference.ProgressiveFusion):
    """Equivalent to `fastiqa.reference.ProgressiveFusion`: same constructor, parameters, keys and results.

    The mean over a convolution's output channels is a convolution with the mean of its kernels: one output channel
    instead of C (256 channels of 56×56, one thread: 17 to 1.1 ms for 3×3, 3.8 to 0.06 ms for 1×1). Sigmoid, enlargement
    and product are one pass over the finer map, which saves only that map and the logits. If a gate's convolution is
    not a plain layer, everything runs block by block; `fastiqa.explain` tells why.

    Example:
        >>> import torch
        >>> fusion = ProgressiveFusion(channels=(16, 32, 64), gate_kernel=3)
        >>> maps = [torch.randn(1, c, s, s) for c, s in ((16, 56), (32, 28), (64, 14))]
        >>> fusion(maps).shape
        torch.Size([1, 16, 56, 56])

    Source: PRFNet, arXiv 2401.06992, equations (3) and (4).
    """

    def must_call(self) -> str | None:
        """Return why the convolutions of the gates must be called, or None."""
        for i, gate in enumerate(self.gates):
            reason = convolution_not_plain(f"gates.{i}", gate, bias=True)
            if reason is not None:
                return reason
        return None

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first → (N, channels[0], H_0, W_0)."""
        if self.must_call() is not None:
            return super().with_gates(maps)[0]
        return self._fused(maps)[0]

    def with_gates(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The result, and the gates (N, 1, H_i, W_i) of all stages but the finest, before their enlargement."""
        if self.must_call() is not None:
            return super().with_gates(maps)
        fused, logits = self._fused(maps)
        return fused, [torch.sigmoid(x) for x in logits]

    def _fused(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The result, and the logits of the gates."""
        self._check(maps)
        fused = maps[-1]
        logits: list[Tensor] = []
        gate: Any  # a convolution; a ModuleList knows modules only
        for features, gate in zip(reversed(maps[:-1]), reversed(self.gates), strict=True):
            weight, bias = gate.weight.mean(0, keepdim=True), gate.bias.mean(0, keepdim=True)
            logits.insert(0, conv2d(fused, weight, bias, padding=gate.padding))
            fused = gated_upsample(features, logits[0], self.upsample)
        return fused, logits
