"""Other people's implementations as oracles; a test whose oracle is absent is skipped, with the reason."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import torch
from fastiqa.bench.peers.torchvision_shim import import_library
from torch import Tensor, nn


def import_oracle(name: str) -> ModuleType:
    """Import an oracle that needs torchvision, or skip the test and say why."""
    try:
        return import_library(name)
    except ImportError as error:
        pytest.skip(f"oracle {name} is not installed: {error}")


def timm_res2net(se: bool, layers: tuple[int, ...] = (3, 4, 6, 3), base_width: int = 26, scale: int = 4) -> Any:
    """timm's Res2Net with random weights; `se` puts its squeeze-and-excitation into every block."""
    resnet = import_oracle("timm.models.resnet")
    res2net = import_oracle("timm.models.res2net")
    layers_module = import_oracle("timm.layers")
    block_args: dict[str, Any] = {"scale": scale}
    if se:
        block_args["attn_layer"] = layers_module.SEModule
    return resnet.ResNet(res2net.Bottle2neck, list(layers), base_width=base_width, block_args=block_args)


def timm_features(network: Any, image: Tensor, maxpool: bool = True) -> list[Tensor]:
    """The four stage outputs of a timm ResNet."""
    x = network.act1(network.bn1(network.conv1(image)))
    x = network.maxpool(x) if maxpool else x
    features = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        features.append(x)
    return features


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Set values that show mistakes: no bias of 0, no scale of 1, no statistics of 0 and 1, signals of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1.2, generator=generator)
            layer.bias.uniform_(-0.3, 0.3, generator=generator)
            if layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
                layer.running_var.uniform_(0.5, 2.0, generator=generator)
        elif isinstance(layer, nn.LayerNorm):
            layer.weight.uniform_(0.5, 1.2, generator=generator)
            layer.bias.uniform_(-0.3, 0.3, generator=generator)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                layer.bias.uniform_(-0.5, 0.5, generator=generator)
    for name, parameter in module.named_parameters():
        if re.search(r"layer_scale|_scaling\.weight", name):
            parameter.uniform_(0.3, 0.8, generator=generator)
