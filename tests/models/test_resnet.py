"""ResNet-50 against timm's, with the same weights, and its weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastiqa
from fastiqa import nn as fast_nn
from fastiqa import reference
from fastiqa.models import LoadReport, load_backbone
from fastiqa.models.backbones import resnet50
from support.oracles import import_oracle, randomise, timm_features

PARAMETERS_WITH_CLASSIFIER = 25_557_032
CLASSIFIER = 2048 * 1000 + 1000
SMALL: dict[str, Any] = {"layers": (1, 2, 1, 1), "width": 8}
KINDS = pytest.mark.parametrize("kind", [reference.ResNet, fast_nn.ResNet], ids=["plain", "fused"])


def timm_resnet(layers: tuple[int, ...] = (3, 4, 6, 3)) -> Any:
    """timm's ResNet, with torchvision's names and results."""
    resnet = import_oracle("timm.models.resnet")
    network = resnet.ResNet(resnet.Bottleneck, list(layers)).double()
    randomise(network)
    return network


def with_weights_of(network: Any, kind: type[reference.ResNet], layers: tuple[int, ...] = (3, 4, 6, 3)) -> Any:
    ours = kind(layers).double().train(network.training)
    ours.load_state_dict({key: x.clone() for key, x in network.state_dict().items() if not key.startswith("fc.")})
    return ours


def tiny(seed: int) -> reference.ResNet:
    network = reference.ResNet(**SMALL)
    randomise(network, seed)
    return network


@torch.no_grad()
def test_features_equal_timm() -> None:
    image = torch.randn(2, 3, 65, 47, dtype=torch.float64)
    network = timm_resnet().eval()
    want = timm_features(network, image)
    ours = with_weights_of(network, reference.ResNet)
    for _ in ("plain", "fused"):
        got = ours(image)
        assert [tuple(x.shape) for x in got] == [(2, 256, 17, 12), (2, 512, 9, 6), (2, 1024, 5, 3), (2, 2048, 3, 2)]
        for x, y in zip(got, want, strict=True):
            assert y.abs().max() > 0.1
            assert (x - y).abs().max() <= 1e-12 * y.abs().max()
        fastiqa.accelerate(ours)
    assert type(ours) is fast_nn.ResNet


@KINDS
def test_training_equals_timm(kind: type[reference.ResNet]) -> None:
    """Batch statistics, running statistics and every gradient."""
    network = timm_resnet((1, 2, 1, 1))
    ours = with_weights_of(network, kind, (1, 2, 1, 1))
    image = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    for features in (ours(image), timm_features(network, image)):
        torch.stack([x.square().mean() for x in features]).sum().backward()
    theirs = dict(network.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-8, atol=1e-11, msg=name)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, network.state_dict()[name], rtol=1e-11, atol=1e-13, msg=name)


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = resnet50()
    assert type(network) is fast_nn.ResNet
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS_WITH_CLASSIFIER - CLASSIFIER
    assert (network.channels, network.strides) == ((256, 512, 1024, 2048), (4, 8, 16, 32))


@pytest.mark.parametrize("counted", [True, False], ids=["new", "2017"])
def test_torchvision_s_file(counted: bool, tmp_path: Path) -> None:
    """Files of 2017 have no counts of batches."""
    trained, network = tiny(1), tiny(2)
    weights = {**trained.state_dict(), "fc.weight": torch.ones(10, 256), "fc.bias": torch.ones(10)}
    if not counted:
        weights = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "resnet50.pth")
    report = load_backbone(network, tmp_path / "resnet50.pth")
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert len(report.missing) == (0 if counted else sum("num_batches" in key for key in trained.state_dict()))
    assert "gates" not in str(report)
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


def contrique(key: str) -> str:
    """The name in CONTRIQUE's files, which number the children of torchvision's network."""
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    child, rest = key.split(".", 1)
    return f"encoder.{children.index(child)}.{rest}"


def test_contrique_s_file(tmp_path: Path) -> None:
    trained, network = tiny(1), fast_nn.ResNet(**SMALL)
    weights = {contrique(key): value for key, value in trained.state_dict().items()}
    projector = {f"projector.{name}": torch.ones(4) for name in ("0.weight", "1.weight", "3.weight", "4.bias")}
    torch.save({**weights, **projector}, tmp_path / "CONTRIQUE_checkpoint25.tar")
    report = load_backbone(network, tmp_path / "CONTRIQUE_checkpoint25.tar")
    assert report == LoadReport((), tuple(projector))
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_a_file_that_does_not_fit(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = tiny(1).state_dict()
    del weights["layer3.0.downsample.1.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    network = tiny(2)
    with pytest.raises(ValueError, match=r"missing 1 of \d+ keys of the backbone: layer3\.0\.downsample\.1\.bias$"):
        load_backbone(network, tmp_path / "a.safetensors")
    torch.testing.assert_close(network.state_dict(), tiny(2).state_dict(), rtol=0, atol=0)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"^layers: got \(3, 4, 6\), want 4 positive integers$"):
        reference.ResNet((3, 4, 6))
    with pytest.raises(ValueError, match=r"^width: got 0, want an integer of at least 1$"):
        reference.ResNet(width=0)
