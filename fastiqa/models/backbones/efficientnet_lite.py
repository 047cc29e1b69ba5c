"""EfficientNet-Lite0 and its weight files: timm's layout, and that of PyTorch ports of Google's weights.

The ports number the blocks through all stages. The extra `weights` brings such a file, trained on ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fastiqa.nn import EfficientNetLite

# Stage and place in it of the ports' blocks: Lite0 has 1, 2, 2, 3, 3, 4 and 1 in its stages.
_PLACES = [f"{stage}.{i}" for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(depth)]
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_KEY = re.compile(r"^(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_\w+)\.(?P<kind>\w+)$")


def efficientnet_lite0(first_stage_stride: int = 4) -> EfficientNetLite:
    """EfficientNet-Lite0 with random weights; 3.0 million. `first_stage_stride` as in `EfficientNetLite`."""
    return EfficientNetLite(first_stage_stride)


def efficientnet_lite_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the ports' keys to timm's; other keys stay."""
    return {_timm(key): tensor for key, tensor in weights.items()}


def _timm(key: str) -> str:
    if (match := _KEY.match(key)) is None:
        return key
    block = match["block"]
    names = _OUTSIDE if block is None else _FIRST if int(block) == 0 else _BLOCK
    if match["layer"] not in names or (block is not None and int(block) >= len(_PLACES)):
        return key
    place = "" if block is None else f"blocks.{_PLACES[int(block)]}."
    return f"{place}{names[match['layer']]}.{match['kind']}"
