"""The bottleneck of ResNet for inference: its last convolution adds to the shortcut and rectifies."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastiqa.models.inference.onednn import with_activation
from fastiqa.nn import Bottleneck


class InferenceBottleneck(Bottleneck):
    """A bottleneck whose norms are folded. It overwrites its shortcut, be it its own argument.

    Within a stage nobody else reads that, and the first block of a stage has a convolution in the shortcut.
    """

    conv3: Any

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.conv3.add_to_(shortcut, self.conv2(self.conv1(x)))
        return y


def make_inference_bottleneck(block: Any) -> None:
    """Makes a bottleneck without norms, in place, one for inference."""
    with_activation(block.conv3, "relu")
    block.__class__ = InferenceBottleneck
