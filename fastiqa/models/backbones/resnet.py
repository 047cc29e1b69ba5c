"""ResNet-50 and its weight files: torchvision's layout, which timm shares, and CONTRIQUE's.

CONTRIQUE (Madhusudana et al., arXiv 2110.13266) trained a ResNet-50 to tell distortions apart, on images in [0, 1]
without normalisation. Its files number the encoder's layers, and hold a projector that ResNet has no place for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fastiqa.nn import ResNet

_ENCODER = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_KEY = re.compile(r"^encoder\.(?P<layer>[014567])\.")


def resnet50() -> ResNet:
    """ResNet-50 with random weights; 23.5 million."""
    return ResNet()


def resnet_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename CONTRIQUE's encoder keys to torchvision's; other keys stay."""
    return {_KEY.sub(lambda match: _ENCODER[match["layer"]] + ".", key): tensor for key, tensor in weights.items()}
