"""SE-Res2Net-50 and its weight files.

No trained SE-Res2Net-50 has been published. Res2Net-50 (26w, 4s) has, in the official layout that timm shares; such a
file has every weight except those of the squeeze-and-excitation gates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.nn import SERes2Net
from fastiqa.reference import SqueezeExcitation

# sigmoid(4) = 0.982: gates that the network was trained without start near identity.
IDENTITY_BIAS = 4.0

# The gate's layers, fc1/fc2 (1×1 convolutions) or fc.0/fc.2 (Linear), under the gate's names in public code.
_GATE = re.compile(
    r"^(?P<block>.*\.)(?:se|se_module|se_layer)\.fc(?:\.(?P<linear>[02])|(?P<conv>[12]))\.(?P<kind>\w+)$"
)


def se_res2net50(first_stage_stride: int = 4, **options: Any) -> SERes2Net:
    """SE-Res2Net-50, 26w × 4s, with random weights; `options` are those of `SERes2Net`."""
    return SERes2Net(first_stage_stride=first_stage_stride, **options)


def se_res2net_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the gates' weights to `.se.fc1` and `.se.fc2`; other keys stay.

    Linear weights become 1×1 convolutions, with zeros for a bias that the file lacks.
    """
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
    """Set every gate to the constant sigmoid(4) = 0.982: last weight 0, last bias 4."""
    for module in backbone.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.zeros_(module.fc2.weight)
            if module.fc2.bias is not None:
                nn.init.constant_(module.fc2.bias, IDENTITY_BIAS)
