"""ResNet-50 and its checkpoint files: torchvision's, which timm shares, and CONTRIQUE's.

CONTRIQUE (Madhusudana et al., arXiv 2110.13266) is a ResNet-50 trained to tell distortions apart, on images in [0, 1]
that are not normalised. Its files number the layers of the encoder, and hold a projector that nothing here has a place
for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fastiqa.nn import ResNet

_ENCODER = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_KEY = re.compile(r"^encoder\.(?P<layer>[014567])\.")


def resnet50() -> ResNet:
    """ResNet-50 with random weights, 23.5 million of them."""
    return ResNet()


def adapt_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of CONTRIQUE's encoder to torchvision's; other keys stay as they are."""
    return {_KEY.sub(lambda match: _ENCODER[match["layer"]] + ".", key): tensor for key, tensor in weights.items()}
