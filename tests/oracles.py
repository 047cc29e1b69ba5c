"""Other people's implementations, as oracles; tests that need one are skipped, with the reason, where it is absent."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

_KEPT_ALIVE: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Make torchvision importable beside CPU torch, where its compiled extension cannot load.

    Its Python side registers fakes for two operators and fails where the extension has not declared them. The
    declarations last as long as the library object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or hasattr(torch.ops.torchvision, "nms"):
        return
    for extension in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)


def import_oracle(name: str) -> ModuleType:
    """Import an oracle that needs torchvision, or skip the test and say why."""
    declare_torchvision_operators()
    try:
        return importlib.import_module(name)
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
    """Values in which a mistake shows: no bias of 0, no scale of 1, no statistics of 0 and 1, signals of order 1."""
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
