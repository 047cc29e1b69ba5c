"""SE-Res2Net against timm's, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa import nn as fast_nn
from fastiqa.models.backbones import se_res2net50
from fastiqa.reference import SERes2Net
from support.oracles import import_oracle, randomise, timm_features, timm_res2net

PARAMETERS_WITH_CLASSIFIER = 28_230_112
CLASSIFIER = 2048 * 1000 + 1000


@pytest.fixture(scope="module")
def timm_se_res2net50() -> Any:
    torch.manual_seed(0)
    network = timm_res2net(se=True).eval()
    randomise(network)
    return network


def same_weights(network: Any, **options: Any) -> SERes2Net:
    """Ours with timm's weights: all keys but the classifier's must agree."""
    ours = SERes2Net(**options).to(next(network.parameters()).dtype)
    weights = {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(weights, strict=True)
    return ours.train(network.training)


def assert_features_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Every stage within `tolerance` of the stage's largest value."""
    assert len(ours) == len(theirs) == 4
    for got, want in zip(ours, theirs, strict=True):
        assert got.shape == want.shape
        assert want.abs().max() > 0.1
        error = (got - want).abs().max() / want.abs().max()
        assert error <= tolerance, f"{error:.3g}"


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
@pytest.mark.parametrize("stride", [4, 2])
@torch.no_grad()
def test_features_equal_timm(timm_se_res2net50: Any, stride: int, size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours = same_weights(timm_se_res2net50, first_stage_stride=stride)
    theirs = timm_features(timm_se_res2net50, image, maxpool=stride == 4)
    assert_features_close(ours(image), theirs, 1e-6)


@torch.no_grad()
def test_features_equal_timm_in_float64(timm_se_res2net50: Any) -> None:
    image = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    network = timm_res2net(se=True).double().eval()
    network.load_state_dict(timm_se_res2net50.state_dict())
    ours = same_weights(network, first_stage_stride=4)
    assert_features_close(ours(image), timm_features(network, image), 1e-13)


@pytest.mark.parametrize(("base_width", "scale"), [(14, 3), (26, 2), (9, 6)])
def test_training_equals_timm(base_width: int, scale: int) -> None:
    """Batch statistics, running statistics and every gradient, in float64, for other splits than 26w 4s."""
    torch.manual_seed(3)
    layers = (1, 2, 1, 1)
    network = timm_res2net(se=True, layers=layers, base_width=base_width, scale=scale).double()
    randomise(network)
    ours = same_weights(network, layers=layers, base_width=base_width, scale=scale, first_stage_stride=4)
    image = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    got, want = ours(image), timm_features(network, image)
    assert_features_close(got, want, 1e-13)
    for features in (got, want):
        torch.stack([x.square().mean() for x in features]).sum().backward()
    theirs = dict(network.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-13, msg=name)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, network.state_dict()[name], rtol=1e-12, atol=1e-14, msg=name)


def test_parameter_count() -> None:
    network = se_res2net50()
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS_WITH_CLASSIFIER - CLASSIFIER
    assert network.channels == (256, 512, 1024, 2048)


def test_builder_is_the_stock_network() -> None:
    assert se_res2net50(width=8).strides == (4, 8, 16, 32)
    assert se_res2net50(width=8, first_stage_stride=2).strides == (2, 4, 8, 16)
    assert se_res2net50(width=8).channels == (32, 64, 128, 256)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("size", [(64, 96), (65, 47), (33, 100)])
def test_strides_round_up(stride: int, size: tuple[int, int]) -> None:
    network = SERes2Net(layers=(1, 1, 1, 1), width=8, first_stage_stride=stride).to("meta")
    features = network(torch.zeros(2, 3, *size, device="meta"))
    for i, x in enumerate(features):
        pixels = stride * 2**i
        assert network.strides[i] == pixels
        assert x.shape == (2, network.channels[i], -(-size[0] // pixels), -(-size[1] // pixels))


def test_strides_share_weights() -> None:
    shapes = [
        {key: value.shape for key, value in SERes2Net(width=8, first_stage_stride=stride).state_dict().items()}
        for stride in (2, 4)
    ]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_channels_last_gives_the_same() -> None:
    torch.manual_seed(4)
    network: Any = SERes2Net(layers=(1, 2, 1, 1), width=8).eval()
    randomise(network)
    image = torch.randn(2, 3, 37, 52)
    want = network(image)
    got = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    assert_features_close(got, want, 1e-6)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in got)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3, 4, 6)}, "layers: got (3, 4, 6), want 4 positive integers"),
        ({"layers": (3, 4, 0, 3)}, "layers[2]: got 0, want an integer of at least 1"),
        ({"layers": 50}, "layers: got 50, want 4 positive integers"),
        ({"width": 0}, "width: got 0, want an integer of at least 1"),
        ({"width": 8.0}, "width: got 8.0, want an integer of at least 1"),
        ({"base_width": True}, "base_width: got True, want an integer of at least 1"),
        ({"base_width": 3, "width": 16}, "base_width: got 3, want at least 4 for width 16"),
        ({"scale": 1}, "scale: got 1, want an integer of at least 2"),
        ({"se_reduction": -1}, "se_reduction: got -1, want an integer of at least 1"),
        ({"first_stage_stride": 1}, "first_stage_stride: got 1, want one of 2, 4"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        SERes2Net(**options)
    assert str(error.value) == message


# ---- torch.fx, TorchScript, and what timm's users ask for ----

BACKBONES: dict[str, dict[str, Any]] = {
    "EfficientNetLite": {"first_stage_stride": 4, "depths": (1,) * 7, "widths": (8,) * 7, "stem": 8},
    "ResNet": {"layers": (2, 1, 1, 1), "width": 8},
    "SERes2Net": {"layers": (2, 1, 1, 1), "width": 8, "first_stage_stride": 4},
    "VAN": {"depths": (1, 1, 1, 1), "widths": (6, 8, 10, 12)},
}
HFEN = {"HighFrequencyNet": {"width": 8}}
packages = pytest.mark.parametrize("package", [reference, fast_nn], ids=["plain", "fused"])


def made(package: Any, name: str, options: dict[str, Any]) -> Any:
    network = getattr(package, name)(**options)
    randomise(network)
    return network.double()


def noise(*size: int) -> Tensor:
    return torch.rand(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@packages
@pytest.mark.parametrize(("name", "options"), [*BACKBONES.items(), *HFEN.items()], ids=lambda x: str(x)[:9])
def test_graphs_of_fx(name: str, options: dict[str, Any], package: Any) -> None:
    """In both modes and at sizes that were not traced; statistics are updated."""
    network = made(package, name, options)
    for training in (True, False):
        graph = torch.fx.symbolic_trace(network.train(training))
        for size in ((3, 3, 64, 64), (2, 3, 70, 49)):
            state = {key: value.clone() for key, value in network.state_dict().items()}
            want = network(noise(*size))
            after = {key: value.clone() for key, value in network.state_dict().items()}
            network.load_state_dict(state)
            torch.testing.assert_close(graph(noise(*size)), want, rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(dict(network.state_dict()), after, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("package", [reference, models], ids=["plain", "fused"])
def test_whole_networks_are_graphs_of_fx(package: Any) -> None:
    mfenet = {"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12), "hidden": (8,), "hfen_width": 8,
              "dan_layers": (1, 1, 1, 1), "dan_width": 4}  # fmt: skip
    for name, options, n in (("PRFNet", {"layers": (1, 1, 1, 1), "width": 8}, 3), ("MFENet", mfenet, 1)):
        network = made(package, name, options).eval()
        graph = torch.fx.symbolic_trace(network)
        for size in ((1, 3, 64, 64), (2, 3, 70, 49)):
            images = noise(n, *size)
            torch.testing.assert_close(graph(*images), network(*images), rtol=1e-6, atol=1e-6)
    with pytest.raises(TypeError, match=r"^x: got NoneType, want a torch\.Tensor$"):
        reference.HighPass()(None)  # checks are left out for stand-ins alone


def test_features_of_inner_modules() -> None:
    create = import_oracle("torchvision.models.feature_extraction").create_feature_extractor
    network = made(fast_nn, "SERes2Net", BACKBONES["SERes2Net"])
    features = create(network, {"layer1.1.conv3": "inner", "layer3": "stage"}).eval()(noise(1, 3, 64, 64))
    assert features["stage"].shape == (1, 128, 4, 4)
    torch.testing.assert_close(features["stage"], network.eval()(noise(1, 3, 64, 64))[2], rtol=1e-11, atol=1e-12)
    assert features["inner"].shape == (1, 32, 16, 16)


@packages
@pytest.mark.parametrize(("name", "options"), BACKBONES.items(), ids=BACKBONES)
def test_backbones_are_compiled_by_torchscript(name: str, options: dict[str, Any], package: Any, tmp_path: Any) -> None:
    """Like their plain twins, on the same parameters; the given network does not change."""
    network = made(package, name, options)
    kinds = [type(module) for module in network.modules()]
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and package is reference:
            norm.momentum = None
    scripted = torch.jit.script(network.train())
    assert list(scripted.state_dict()) == list(network.state_dict())
    for training in (True, False):
        network.train(training)
        scripted.train(training)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        want = network(noise(3, 3, 64, 64))
        after = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(state)
        torch.testing.assert_close(scripted(noise(3, 3, 64, 64)), want, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(dict(network.state_dict()), after, rtol=1e-11, atol=1e-12)
    assert [type(module) for module in network.modules()] == kinds
    torch.jit.save(scripted, tmp_path / "backbone.pt")
    size = (1, 3, 70, 49)
    torch.testing.assert_close(torch.jit.load(tmp_path / "backbone.pt")(noise(*size)), network(noise(*size)))


def test_optimized_parts_are_not_scripted() -> None:
    fast = fastiqa.optimize_for_inference(models.PRFNet(layers=(1, 1, 1, 1), width=8))
    with pytest.raises(TypeError, match=r"^network: got a \w+ inside, want the network that was optimized$"):
        torch.jit.script(fast.backbone)


@pytest.mark.parametrize(("name", "options"), BACKBONES.items(), ids=BACKBONES)
def test_names_of_timm(name: str, options: dict[str, Any]) -> None:
    network = made(fast_nn, name, options).eval()
    image = noise(1, 3, 64, 64)
    maps = network(image)
    info = network.feature_info
    assert info.channels() == [x.shape[1] for x in maps]
    assert info.reduction() == [64 // x.shape[2] for x in maps]
    assert (info.channels(-1), info.reduction([0, 1]), info[1]["num_chs"]) == (
        maps[-1].shape[1],
        [4, 8],
        info.channels(1),
    )
    outputs: dict[str, Tensor] = {}
    for module in info.module_name():
        network.get_submodule(module).register_forward_hook(
            lambda m, a, out, module=module: outputs.update({module: out})
        )
    last, chosen = network.forward_intermediates(image, indices=2)
    assert [*outputs] == info.module_name()
    torch.testing.assert_close([*outputs.values()], maps)
    torch.testing.assert_close((last, chosen), (maps[3], maps[2:]))
    torch.testing.assert_close(
        network.forward_intermediates(image, [0, -1], intermediates_only=True), [maps[0], maps[3]]
    )
    assert len(network.forward_intermediates(image)[1]) == 4
    for bad in ({"indices": [4]}, {"indices": 5}, {"output_fmt": "NLC"}):
        with pytest.raises(ValueError, match=r"^(indices|output_fmt): got "):
            network.forward_intermediates(image, **bad)
    network.set_grad_checkpointing()
    assert {block.memory for block in network.modules() if hasattr(block, "memory")} == {"lean"}
    network.set_grad_checkpointing(enable=False)
    assert {block.memory for block in network.modules() if hasattr(block, "memory")} == {"off"}
