"""The bottleneck of ResNet for inference: its last convolution adds to the shortcut and rectifies."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastiqa.models.inference.layers import is_plain
from fastiqa.models.inference.in_place import OverwritesItsShortcut
from fastiqa.models.inference.onednn import with_activation
from fastiqa.nn import Bottleneck


class InferenceBottleneck(OverwritesItsShortcut, Bottleneck):
    """A bottleneck whose norms are folded. It overwrites its shortcut, be it its own argument.

    Within a stage nobody else reads that but hooks, for which it is copied, see `OverwritesItsShortcut`. The first
    block of a stage has a convolution in the shortcut.
    """

    conv3: Any

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        shortcut = self._own(x if self.downsample is None else self.downsample(x))
        y: Tensor = self.conv3.add_to_(shortcut, self.conv2(self.conv1(x)))
        return y


def make_inference_bottleneck(block: Any) -> None:
    """Makes a bottleneck of plain layers without norms, in place, one for inference."""
    norms = (block.bn1, block.bn2, block.bn3)
    if not all(type(norm) is nn.Identity for norm in norms) or not is_plain(block.conv3, *norms):
        return
    with_activation(block.conv3, "relu")
    block.__class__ = InferenceBottleneck
