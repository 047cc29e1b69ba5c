"""VAN against its equations, against Hugging Face's with the same weights, and its weight files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu

from fastiqa import nn as fast_nn
from fastiqa import reference
from fastiqa.models import load_backbone
from fastiqa.models.backbones import van_b0, van_b1, van_b2, van_b3, van_b4, van_b5, van_b6
from fastiqa.reference.van import StochasticDepth
from support.oracles import import_oracle, randomise

SMALL: dict[str, Any] = {"depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20), "mlp_ratios": (2, 3, 2, 1)}


def network(seed: int = 0, kind: type[reference.VAN] = reference.VAN, **options: Any) -> Any:
    made = kind(**{**SMALL, **options})
    randomise(made, seed)
    return made.double().eval()


def image(n: int = 2, h: int = 61, w: int = 45) -> Tensor:
    return torch.randn(n, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- the equations ----


def by_the_book(w: dict[str, Tensor], image: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
    """The maps in eval mode from a state dict, by elementary functions."""

    def conv(x: Tensor, name: str, padding: int = 0, **options: int) -> Tensor:
        groups = 1 if w[f"{name}.weight"].shape[1] > 1 else x.shape[1]
        return conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding, groups=groups, **options)

    def column(name: str) -> Tensor:
        return w[name][:, None, None]

    def batch_norm(x: Tensor, name: str) -> Tensor:
        z = (x - column(f"{name}.running_mean")) / (column(f"{name}.running_var") + 1e-5).sqrt()
        return z * column(f"{name}.weight") + column(f"{name}.bias")

    x, maps = image, []
    for stage, depth in enumerate(depths, 1):
        x = conv(
            x, f"patch_embed{stage}.proj", **({"stride": 2, "padding": 1} if stage > 1 else {"stride": 4, "padding": 3})
        )
        x = batch_norm(x, f"patch_embed{stage}.norm")
        for block in (f"block{stage}.{j}" for j in range(depth)):
            y = batch_norm(x, f"{block}.norm1")
            u = gelu(conv(y, f"{block}.attn.proj_1"))
            gate = f"{block}.attn.spatial_gating_unit"
            far = conv(conv(u, f"{gate}.conv0", 2), f"{gate}.conv_spatial", 9, dilation=3)
            y = conv(u * conv(far, f"{gate}.conv1"), f"{block}.attn.proj_2") + y
            x = x + column(f"{block}.layer_scale_1") * y
            y = conv(batch_norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            y = conv(gelu(conv(y, f"{block}.mlp.dwconv.dwconv", 1)), f"{block}.mlp.fc2")
            x = x + column(f"{block}.layer_scale_2") * y
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        x = x * column(f"norm{stage}.weight") + column(f"norm{stage}.bias")
        maps.append(x)
    return maps


@pytest.mark.parametrize("kind", [reference.VAN, fast_nn.VAN], ids=["plain", "fused"])
def test_it_is_its_equations(kind: type[reference.VAN]) -> None:
    van = network(kind=kind)
    want = by_the_book(van.state_dict(), image(), SMALL["depths"])
    torch.testing.assert_close(van(image()), want, rtol=1e-11, atol=1e-11)
    assert all(x.std() > 0.1 for x in want)


def test_the_published_sizes() -> None:
    """Parameters of the published networks without their classifiers."""
    published = (
        (van_b0, 4_105_800, 256),
        (van_b1, 13_861_800, 512),
        (van_b2, 26_578_472, 512),
        (van_b3, 44_765_608, 512),
        (van_b4, 60_283_176, 512),
        (van_b5, 89_967_688, 768),
        (van_b6, 199_829_416, 768),
    )
    with torch.device("meta"):
        for build, parameters, width in published:
            van = build()
            assert sum(p.numel() for p in van.parameters()) == parameters - 1000 * (width + 1)
            assert type(van) is fast_nn.VAN
            assert van.channels[-1] == width


def test_initial_values() -> None:
    """Normal weights of variance 2 / fan out, for depthwise convolutions too; no bias; scales of 0.01."""
    state = reference.VAN((1, 1, 1, 1), (32, 64, 160, 256)).state_dict()
    for name, fan_out in (
        ("patch_embed2.proj", 9 * 64),
        ("block4.0.attn.spatial_gating_unit.conv_spatial", 49),
        ("block4.0.mlp.dwconv.dwconv", 9),
        ("block3.0.mlp.fc1", 4 * 160),
    ):
        assert float(state[f"{name}.weight"].std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert not state[f"{name}.bias"].any()
    assert torch.equal(state["block2.0.layer_scale_1"], torch.full((64,), 0.01))


# ---- stochastic depth ----


def test_stochastic_depth_drops_samples() -> None:
    drop = StochasticDepth(0.25)
    y = drop(torch.ones(4000, 2, 1, 2))
    assert torch.equal(y, y[:, :1, :, :1].expand_as(y))
    values, counts = y[:, 0, 0, 0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.75]))
    assert 900 < counts[0] < 1100
    assert torch.equal(drop.eval()(y), y)


def test_stochastic_depth_grows_with_depth_and_is_the_twin_s() -> None:
    plain, fused = (network(kind=kind, drop_path=0.4).train() for kind in (reference.VAN, fast_nn.VAN))
    rates = [module.probability for module in plain.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    results = []
    for van in (plain, fused):
        torch.manual_seed(3)
        results.append(van(image()))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
    again = plain(image())
    assert torch.equal(again[0], results[0][0])  # nothing is dropped of the first block
    assert not torch.allclose(again[3], results[0][3])


# ---- files ----

PARTS = (
    (r"patch_embed\d\.proj", "embeddings.convolution"),
    (r"patch_embed\d\.norm", "embeddings.normalization"),
    (r"^norm\d", "normalization"),
    (r"block\d\.", "layers."),
    (r"norm1", "pre_normomalization"),
    (r"attn\.proj_1", "attention.pre_projection.conv"),
    (r"attn\.spatial_gating_unit", "attention.attention_layer.attention"),
    (r"conv0", "depth_wise"),
    (r"conv_spatial", "depth_wise_dilated"),
    (r"attention\.conv1", "attention.point_wise"),
    (r"attn\.proj_2", "attention.post_projection"),
    (r"norm2", "post_normalization"),
    (r"mlp\.fc1", "mlp.in_dense"),
    (r"mlp\.dwconv\.dwconv", "mlp.depth_wise"),
    (r"mlp\.fc2", "mlp.out_dense"),
    (r"layer_scale_1", "attention_scaling.weight"),
    (r"layer_scale_2", "mlp_scaling.weight"),
)


def hugging_face(key: str) -> str:
    """Hugging Face's name of one of the authors' layers."""
    stage = int(re.search(r"\d", key)[0]) - 1  # type: ignore[index]
    for official, theirs in PARTS:
        key = re.sub(official, theirs, key)
    return f"encoder.stages.{stage}.{key}"


def assert_same(van: Any, trained: Any) -> None:
    torch.testing.assert_close(van.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "van."])
def test_hugging_face_s_names(prefix: str, tmp_path: Path) -> None:
    trained, van = network(1), network(2)
    weights = {prefix + hugging_face(key): value for key, value in trained.state_dict().items()}
    left_over = {"van.layernorm.weight": torch.ones(20), "classifier.bias": torch.ones(10)}
    save_file({**weights, **left_over}, tmp_path / "model.safetensors")
    report = load_backbone(van, tmp_path / "model.safetensors")
    assert (report.missing, set(report.unexpected)) == ((), set(left_over))
    assert_same(van, trained)
    images = image()
    torch.testing.assert_close(van(images), trained(images), rtol=0, atol=0)


def test_the_authors_file(tmp_path: Path) -> None:
    trained, van = network(1), network(2, fast_nn.VAN)
    torch.save({"state_dict": {**trained.state_dict(), "head.weight": torch.ones(10, 20)}}, tmp_path / "van.pth.tar")
    report = load_backbone(van, tmp_path / "van.pth.tar")
    assert str(report) == "missing: none; unexpected: head.weight"
    assert_same(van, trained)


def van_tiny() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the authors' file of VAN-Tiny, here VAN-B0, by their models/van.py."""
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (1000, 256), "head.bias": (1000,)}

    def norm(name: str, c: int) -> dict[str, tuple[int, ...]]:
        each = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (c,))
        return {f"{name}.{key}": shape for key, shape in {**each, "num_batches_tracked": ()}.items()}

    inputs = 3
    for i, (depth, c, ratio) in enumerate(zip((3, 3, 5, 2), (32, 64, 160, 256), (8, 8, 4, 4), strict=True), 1):
        k, h = (7 if i == 1 else 3), c * ratio
        shapes |= {f"patch_embed{i}.proj.weight": (c, inputs, k, k), f"patch_embed{i}.proj.bias": (c,)}
        shapes |= norm(f"patch_embed{i}.norm", c)
        for j in range(depth):
            shapes |= norm(f"block{i}.{j}.norm1", c) | norm(f"block{i}.{j}.norm2", c)
            shapes |= {
                f"block{i}.{j}.layer_scale_1": (c,),
                f"block{i}.{j}.layer_scale_2": (c,),
                f"block{i}.{j}.attn.proj_1.weight": (c, c, 1, 1),
                f"block{i}.{j}.attn.proj_1.bias": (c,),
                f"block{i}.{j}.attn.spatial_gating_unit.conv0.weight": (c, 1, 5, 5),
                f"block{i}.{j}.attn.spatial_gating_unit.conv0.bias": (c,),
                f"block{i}.{j}.attn.spatial_gating_unit.conv_spatial.weight": (c, 1, 7, 7),
                f"block{i}.{j}.attn.spatial_gating_unit.conv_spatial.bias": (c,),
                f"block{i}.{j}.attn.spatial_gating_unit.conv1.weight": (c, c, 1, 1),
                f"block{i}.{j}.attn.spatial_gating_unit.conv1.bias": (c,),
                f"block{i}.{j}.attn.proj_2.weight": (c, c, 1, 1),
                f"block{i}.{j}.attn.proj_2.bias": (c,),
                f"block{i}.{j}.mlp.fc1.weight": (h, c, 1, 1),
                f"block{i}.{j}.mlp.fc1.bias": (h,),
                f"block{i}.{j}.mlp.dwconv.dwconv.weight": (h, 1, 3, 3),
                f"block{i}.{j}.mlp.dwconv.dwconv.bias": (h,),
                f"block{i}.{j}.mlp.fc2.weight": (c, h, 1, 1),
                f"block{i}.{j}.mlp.fc2.bias": (c,),
            }
        shapes |= {f"norm{i}.weight": (c,), f"norm{i}.bias": (c,)}
        inputs = c
    return shapes


def test_names_and_shapes_of_the_authors_file(tmp_path: Path) -> None:
    """The published number of parameters, each where the equations use it."""
    shapes, generator = van_tiny(), torch.Generator().manual_seed(4)
    parameters = [shape for name, shape in shapes.items() if not re.search("running|tracked", name)]
    assert sum(map(math.prod, parameters)) == 4_105_800
    weights = {  # rows of length 1 or so, and numbers from 0.5 to 1.5
        name: torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
        if len(shape) > 1
        else torch.rand(shape, generator=generator) + 0.5
        for name, shape in shapes.items()
    }
    weights |= {name: torch.tensor(7) for name in weights if name.endswith("tracked")}
    torch.save({"state_dict": weights}, tmp_path / "van_tiny.pth.tar")
    van = van_b0()
    report = load_backbone(van, tmp_path / "van_tiny.pth.tar")
    assert (report.missing, set(report.unexpected)) == ((), {"head.weight", "head.bias"})
    wide = {name: weight.double() for name, weight in weights.items()}
    want = by_the_book(wide, image(1), (3, 3, 5, 2))
    torch.testing.assert_close(van.double().eval()(image(1)), want, rtol=1e-11, atol=1e-11)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    weights, path = network(1).state_dict(), tmp_path / "a.safetensors"
    for damage, message in (
        ({"block2.1.mlp.fc1.bias": None}, r"missing 1 of \d+ keys of the backbone: block2\.1\.mlp\.fc1\.bias$"),
        ({"norm4.bias": torch.ones(2)}, r"shapes differ for 1 of \d+ keys: norm4\.bias \(2,\), want \(20,\)$"),
        ({"norm1.bias": None, "encoder.stages.4.normalization.bias": torch.ones(8)}, r"missing 1 of .*: norm1\.bias$"),
    ):
        save_file({key: value for key, value in {**weights, **damage}.items() if value is not None}, path)
        with pytest.raises(ValueError, match=message):
            load_backbone(network(2), path)


@pytest.mark.parametrize(
    "options",
    [SMALL, {"depths": (3, 3, 5, 2), "widths": (32, 64, 160, 256), "mlp_ratios": (8, 8, 4, 4)}],
    ids=["small", "van_b0"],
)
@torch.no_grad()
def test_features_equal_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    oracle = import_oracle("transformers.models.deprecated.van.modeling_van")  # up to 4.57, the last that has VAN
    sizes = {"hidden_sizes": options["widths"], "depths": options["depths"], "mlp_ratios": options["mlp_ratios"]}
    config = oracle.VanConfig(**{name: list(numbers) for name, numbers in sizes.items()}, drop_path_rate=0.0)
    theirs = oracle.VanForImageClassification(config).double().eval()
    randomise(theirs)
    want = list(theirs(image(), output_hidden_states=True).hidden_states)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    for kind in (reference.VAN, fast_nn.VAN):
        van = kind(**options).double().eval()
        report = load_backbone(van, tmp_path / "model.safetensors")
        unexpected = {"classifier.bias", "classifier.weight", "van.layernorm.bias", "van.layernorm.weight"}
        assert (report.missing, set(report.unexpected)) == ((), unexpected)
        torch.testing.assert_close(van(image()), want, rtol=1e-11, atol=1e-11)


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 2, 3)}, "depths: got (1, 2, 3), want 4 positive integers"),
        ({"widths": (8, 8, 0, 8)}, "widths[2]: got 0, want an integer of at least 1"),
        ({"mlp_ratios": 4}, "mlp_ratios: got 4, want 4 positive integers"),
        ({"drop_path": 1.0}, "drop_path: got 1.0, want a number in [0, 1)"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        reference.VAN(**{**SMALL, **options})
    assert str(error.value) == message
