"""SE-Res2Net-50 and its checkpoint files.

No trained SE-Res2Net-50 has been published; Res2Net-50 (26w, 4s) has, in the official layout that timm shares. Such a
file gives every weight but those of the squeeze-and-excitation gates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.nn import SERes2Net
from fastiqa.reference import SqueezeExcitation

# sigmoid(4) = 0.982: the gates of a network that was trained without them start as almost nothing.
IDENTITY_BIAS = 4.0

# The gate's layers: fc1/fc2 (1×1 convolutions) or fc.0/fc.2 (Linear), under the names that public code gives the gate.
_GATE = re.compile(
    r"^(?P<block>.*\.)(?:se|se_module|se_layer)\.fc(?:\.(?P<linear>[02])|(?P<conv>[12]))\.(?P<kind>\w+)$"
)


def se_res2net50(first_stage_stride: int = 4, **options: Any) -> SERes2Net:
    """SE-Res2Net-50, 26w × 4s, with random weights; `options` are those of `SERes2Net`."""
    return SERes2Net(first_stage_stride=first_stage_stride, **options)


def adapt_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the gates' weights to `.se.fc1` and `.se.fc2`; Linear ones become 1×1 convolutions, with zeros for a bias
    that the file's layers do not have. Other keys stay as they are."""
    adapted: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        match = _GATE.match(key)
        if match is None:
            adapted[key] = tensor
            continue
        layer = match["conv"] or ("1" if match["linear"] == "0" else "2")
        name = f"{match['block']}se.fc{layer}."
        is_weight = match["kind"] == "weight"
        adapted[name + match["kind"]] = tensor[:, :, None, None] if is_weight and tensor.dim() == 2 else tensor
        if is_weight and match["linear"]:
            biases[name + "bias"] = torch.zeros_like(tensor[:, 0])
    return biases | adapted


def set_gates_near_identity(backbone: nn.Module) -> None:
    """Make every gate the constant sigmoid(4) = 0.982: last weight 0, last bias 4."""
    for module in backbone.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.zeros_(module.fc2.weight)
            if module.fc2.bias is not None:
                nn.init.constant_(module.fc2.bias, IDENTITY_BIAS)
