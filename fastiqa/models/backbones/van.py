"""Visual Attention Networks (VAN) and their weight files: the authors' layout, and Hugging Face's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fastiqa.nn import VAN
from fastiqa.reference.van import SIZES

# Hugging Face's layer names -> the authors': a block's layers, then a stage's other layers, where {} is its number.
_BLOCK = {
    "pre_normomalization.": "norm1.",  # sic
    "attention.pre_projection.conv.": "attn.proj_1.",
    "attention.attention_layer.attention.depth_wise.": "attn.spatial_gating_unit.conv0.",
    "attention.attention_layer.attention.depth_wise_dilated.": "attn.spatial_gating_unit.conv_spatial.",
    "attention.attention_layer.attention.point_wise.": "attn.spatial_gating_unit.conv1.",
    "attention.post_projection.": "attn.proj_2.",
    "attention_scaling.weight": "layer_scale_1",
    "post_normalization.": "norm2.",
    "mlp.in_dense.": "mlp.fc1.",
    "mlp.depth_wise.": "mlp.dwconv.dwconv.",
    "mlp.out_dense.": "mlp.fc2.",
    "mlp_scaling.weight": "layer_scale_2",
}
_STAGE = {
    "embeddings.convolution.": "patch_embed{}.proj.",
    "embeddings.normalization.": "patch_embed{}.norm.",
    "normalization.": "norm{}.",
}
_KEY = re.compile(r"^(?:van\.)?encoder\.stages\.(?P<stage>[0-3])\.(?:layers\.(?P<block>\d+)\.)?(?P<name>.+)$")


def van_b0(drop_path: float = 0.0) -> VAN:
    """VAN-B0 with random weights; 3.8 million. `drop_path` as in `VAN`."""
    return _van("b0", drop_path)


def van_b1(drop_path: float = 0.0) -> VAN:
    """VAN-B1, as `van_b0`; 13.3 million weights."""
    return _van("b1", drop_path)


def van_b2(drop_path: float = 0.0) -> VAN:
    """VAN-B2, as `van_b0`; 26.1 million weights."""
    return _van("b2", drop_path)


def van_b3(drop_path: float = 0.0) -> VAN:
    """VAN-B3, as `van_b0`; 44.3 million weights."""
    return _van("b3", drop_path)


def van_b4(drop_path: float = 0.0) -> VAN:
    """VAN-B4, as `van_b0`; 59.8 million weights."""
    return _van("b4", drop_path)


def van_b5(drop_path: float = 0.0) -> VAN:
    """VAN-B5, as `van_b0`; 89.2 million weights."""
    return _van("b5", drop_path)


def van_b6(drop_path: float = 0.0) -> VAN:
    """VAN-B6, as `van_b0`; 199.1 million weights."""
    return _van("b6", drop_path)


def _van(size: str, drop_path: float) -> VAN:
    return VAN(**SIZES[size], drop_path=drop_path)


def van_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of `VanModel` and `VanForImageClassification` to the authors'; other keys stay."""
    return {_official(key): tensor for key, tensor in weights.items()}


def _official(key: str) -> str:
    if (match := _KEY.match(key)) is None:
        return key
    stage, block, name = int(match["stage"]) + 1, match["block"], match["name"]
    for theirs, official in (_STAGE if block is None else _BLOCK).items():
        if name.startswith(theirs):
            prefix = "" if block is None else f"block{stage}.{block}."
            return prefix + official.format(stage) + name.removeprefix(theirs)
    return key
