"""MFENet: the fused model against the plain one, both against their equations; batches, ablations, heads, files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastiqa.bench.runner.memory import live_bytes
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa.models import create_model, load_model, save_model
from fastiqa.models.backbones import resnet50
from fastiqa.models.inference import InferenceMFENet
from fastiqa.models.inference.layers import norms_left
from fastiqa.nn.recomputation import MEMORY, CheckpointedBlock
from fastiqa.reference.guidance import Addition
from support.oracles import randomise

SMALL: dict[str, Any] = {
    "depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20), "mlp_ratios": (2, 2, 2, 2), "hidden": (10, 6),
    "hfen_width": 8, "dan_layers": (1, 1, 1, 1), "dan_width": 4,
}  # fmt: skip
HEADS = {"predict_high_frequency": True, "distortion_types": 5}
LITE: dict[str, Any] = {"backbone": "efficientnet_lite0", "depths": None, "widths": None, "mlp_ratios": None}
ABLATIONS: dict[str, dict[str, Any]] = {
    "whole": HEADS,
    "without hfen": {"hfen": False},
    "without dan": {"dan": False},
    "sums": {"fusion": "add"},
    "main branch": {"hfen": False, "dan": False},
    "on EfficientNet-Lite0": {**LITE, **HEADS},
    "EfficientNet-Lite0 alone": {**LITE, "hfen": False, "dan": False, "distortion_types": 5},
}
every_ablation = pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS)
both_packages = pytest.mark.parametrize("package", [reference, models], ids=["plain", "fused"])


def network(package: Any = models, seed: int = 0, **options: Any) -> Any:
    """A small network in float64 and eval mode; the seed decides its weights."""
    model = package.MFENet(**{**SMALL, **options})
    randomise(model, seed)
    return model.double().eval()


def images(n: int = 3, h: int = 65, w: int = 47, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise with a colour and contrast of its own in every image."""
    generator = torch.Generator().manual_seed(1)
    noise, colour = (torch.rand(n, 3, *size, generator=generator, dtype=dtype) for size in ((h, w), (1, 1)))
    return noise * colour


def step(model: Any, image: Tensor) -> dict[str, Any]:
    """Every output, gradient and running statistic of a training step."""
    torch.manual_seed(2)  # the same units drop out
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = {name: y for name, y in model.train().outputs(image)._asdict().items() if y is not None}
    generator = torch.Generator().manual_seed(3)
    torch.autograd.backward(
        list(outputs.values()), [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs.values()]
    )
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters()} | {"grad image": image.grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {name: y.detach() for name, y in outputs.items()} | gradients | buffers


# ---- twins ----


@every_ablation
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_fused_equals_plain(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    plain, fused = (network(package, **options).to(memory_format=memory_format) for package in (reference, models))
    assert list(plain.state_dict()) == list(fused.state_dict())
    assert plain.options == fused.options
    image = images().to(memory_format=memory_format)
    with torch.no_grad():
        want = plain(image)
        assert want.std() > 1e-3, "a thousand times the tolerance: the quality must depend on the image"
        torch.testing.assert_close(fused(image), want, rtol=1e-6, atol=1e-6)
    # Qualities are float32; all that comes before them is float64.
    torch.testing.assert_close(step(fused, image), step(plain, image), rtol=2e-7, atol=1e-7)


def test_accelerate_makes_it_the_fused_one() -> None:
    model, image = network(reference, **HEADS), images()
    want = model(image)
    report = fastiqa.accelerate(model)
    assert report.swapped[0][1:] == (reference.MFENet, models.MFENet)
    assert report.left == ()
    assert [type(m) for m in model.modules()] == [type(m) for m in network(models, **HEADS).modules()]
    torch.testing.assert_close(model(image), want, rtol=1e-6, atol=1e-6)
    model.set_memory("lean")


# ---- equations ----


@both_packages
@torch.no_grad()
def test_what_is_fused_feeds_the_next_stage(package: Any) -> None:
    """FFM first, then AFF, then the next stage; VAN and HFEN see normalised images, the DAN plain ones."""
    model, image = network(package), images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image - mean) / std
    high, distorted = model.hfen(x), model.dan.stem(image)
    means = []
    for i in range(4):
        x, distorted = model.qen.stages[i](x), model.dan.stages[i](distorted)
        ffm, aff = model.hfen_guidance[i], model.dan_guidance[i]
        x = ffm.fusion(x, ffm.projection(high[i]))
        x = aff.fusion(x, aff.projection(distorted))
        means.append(x.mean((2, 3)))
    want = model.head(torch.cat(means, 1)).squeeze(1).float()
    torch.testing.assert_close(model(image), want, rtol=1e-6, atol=1e-6)


# ---- batches, layouts, dtypes ----


@both_packages
@torch.no_grad()
def test_the_head_reads_the_means_of_any_backbone(package: Any) -> None:
    """EfficientNet-Lite0 sees images normalised by its own numbers, (x · 255 − 127) / 128."""
    model, image = network(package, **ABLATIONS["EfficientNet-Lite0 alone"]), images()
    maps = model.backbone((image * 255 - 127) / 128)
    means = torch.cat([y.mean((2, 3)) for y in maps], 1)
    assert means.shape == (3, 24 + 40 + 112 + 320)
    torch.testing.assert_close(model(image), model.head(means).squeeze(1).float(), rtol=2e-7, atol=1e-7)
    torch.testing.assert_close(model.encode(image), means)
    logits = model.distortion_head(model.head[:-1](means))
    for outputs in (model.outputs(image), model.outputs_of(means)):
        torch.testing.assert_close(outputs.quality, model(image), rtol=2e-7, atol=1e-7)
        torch.testing.assert_close(outputs.distortion_logits, logits)


@both_packages
@torch.no_grad()
def test_alone_as_in_any_batch(package: Any) -> None:
    model, image = network(package), images(4)
    want = model(image)
    assert want.dtype == torch.float32
    alone = torch.cat([model(image[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model(image[[2, 0]]), want[[2, 0]], rtol=1e-6, atol=1e-6)
    assert model(image[:0]).shape == (0,)
    last = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, want, rtol=1e-6, atol=1e-6)
    assert torch.equal(model(image), model(image))
    single = model.float()(image.float())
    torch.testing.assert_close(single, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_compile_and_autocast() -> None:
    model, image = network(depths=(1, 1, 1, 1)).float(), images(2, dtype=torch.float32)
    want = model(image)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image), want, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(image)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.1 * float(want.abs().max()))


@every_ablation
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_inference_is_the_same(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    """Every norm has folded."""
    model, image = network(reference, **options), images()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = fastiqa.optimize_for_inference(model, memory_format=memory_format)
    assert type(fast) is InferenceMFENet
    assert norms_left(fast) == []
    with torch.no_grad():
        torch.testing.assert_close(fast.outputs(image), model.outputs(image), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fast(image[:1]), fast(image)[:1], rtol=1e-6, atol=1e-6)  # not a batch of one to train on
    assert not fast(image).requires_grad
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    single = fastiqa.optimize_for_inference(model, torch.float32, memory_format)
    for given in (image, image.float()):
        torch.testing.assert_close(single(given), fast(image), rtol=1e-4, atol=1e-4)


# ---- single precision ----


@torch.no_grad()
def scores(model: Any, image: Tensor) -> dict[str, Tensor]:
    """For a batch, for two of its images alone, and with model and images channels-last."""
    found = {"batch": model(image), "alone": torch.cat([model(one) for one in image[:2].split(1)])}
    assert type(model) is reference.MFENet or torch.equal(model(image), found["batch"]), "from run to run"
    if not isinstance(model, InferenceMFENet):  # whose weights have a layout of their own
        model = model.to(memory_format=torch.channels_last)
    return {**found, "channels-last": model(image.contiguous(memory_format=torch.channels_last))}


def assert_as_exact_as_plain(plain: Any, fast: dict[str, Any], image: Tensor) -> None:
    """Errors from float64, in norm: in every case at most twice the plain network's, or a few roundings."""
    with torch.no_grad():
        exact = copy.deepcopy(plain).double()(image.double())

    def errors(model: Any) -> dict[str, float]:
        ways = {way: (got, exact[: len(got)]) for way, got in scores(model, image).items()}
        return {way: float((got - want).norm() / want.norm()) for way, (got, want) in ways.items()}

    own = errors(plain)
    for name, model in fast.items():
        for way, error in errors(model).items():
            assert error <= 2 * own[way] + 4 * 2**-24, f"{name}, {way}: {error}, plain's is {own[way]}"


def with_64_scores(plain: Any) -> tuple[Any, Any]:
    """The network and its fused twin in float32; 64 scores an image, since one may be right by luck."""
    plain.head[-1] = nn.Linear(plain.head[-1].in_features, 64)
    fused = copy.deepcopy(plain)
    fastiqa.accelerate(fused)
    return plain.float().eval(), fused.float().eval()


@every_ablation
def test_single_precision_is_as_exact_as_plain(options: dict[str, Any]) -> None:
    plain, fused = with_64_scores(network(reference, hidden=(256,), **options))
    last, first = (
        fastiqa.optimize_for_inference(fused, memory_format=layout)
        for layout in (torch.channels_last, torch.contiguous_format)
    )
    fast = {"fused": fused, "inference": last, "inference, nchw": first}
    assert_as_exact_as_plain(plain, fast, images(4, dtype=torch.float32))


@pytest.mark.slow
def test_single_precision_of_a_network_in_use() -> None:
    """MFENet with VAN-B0 at 224 pixels, with initial weights."""
    made = create_model("mfenet", qen="b0")
    plain = reference.MFENet(**made.options)
    plain.load_state_dict(made.state_dict())
    plain, fused = with_64_scores(plain)
    fast = {"fused": fused, "inference": fastiqa.optimize_for_inference(fused)}
    assert_as_exact_as_plain(plain, fast, images(4, 224, 224, torch.float32))


def test_inference_of_what_it_cannot_take() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"^passes: got 'batch', want it for a PRFNet alone$"):
        fastiqa.optimize_for_inference(model, passes="batch")
    with pytest.raises(TypeError, match=r"^model: got InferenceMFENet, want a PRFNet or MFENet"):
        fastiqa.optimize_for_inference(fastiqa.optimize_for_inference(model))
    with pytest.raises(ValueError, match=r"image: got shape \(1, 3, 16, 40\), want H and W of at least 32"):
        fastiqa.optimize_for_inference(model)(torch.zeros(1, 3, 16, 40, dtype=torch.float64))


# ---- parts that are there only on request ----


@every_ablation
def test_branches_are_there_or_not(options: dict[str, Any]) -> None:
    model = network(**options)
    for name, guidance in (("hfen", model.hfen_guidance), ("dan", model.dan_guidance)):
        wanted = options.get(name, True)
        assert (getattr(model, name) is not None) == wanted
        assert len(guidance) == (4 if wanted else 0)
        assert not any(key.startswith(name) for key in model.state_dict()) or wanted
    sums = [isinstance(join.fusion, Addition) for join in (*model.hfen_guidance, *model.dan_guidance)]
    assert all(sums) if options.get("fusion") == "add" else not any(sums)


@both_packages
@torch.no_grad()
def test_heads(package: Any) -> None:
    model, image = network(package, **HEADS), images(2, 65, 47)
    outputs = model.outputs(image)
    torch.testing.assert_close(outputs.quality, model(image), rtol=0, atol=0)
    assert outputs.high_frequency.shape == model.high_frequency_target(image).shape == (2, 1, 65, 47)
    assert outputs.distortion_logits.shape == (2, 5)
    # A value of the finest map stands for the four by four pixels around it.
    estimate = model.high_frequency_head(model.hfen((image - model.mean) / model.std)[0])
    torch.testing.assert_close(outputs.high_frequency[:, 0, 5, 42], estimate[:, (5 % 4) * 4 + 42 % 4, 1, 10])
    without = network(package).outputs(image)
    assert (without.high_frequency, without.distortion_logits) == (None, None)


def test_levels_of_memory() -> None:
    """The same step at each level with less memory; running statistics are updated once."""
    image, steps, kept = images(), {}, {}
    for level in MEMORY:
        model = network(**HEADS, memory=level)
        assert {m.memory for m in model.modules() if isinstance(m, CheckpointedBlock)} == {level}
        steps[level] = step(model, image)
        kept[level] = live_bytes(lambda model=model: model(image))
    for level in ("lean", "least"):
        torch.testing.assert_close(steps[level], steps["off"], rtol=2e-7, atol=1e-7)
    counts = {int(value) for key, value in steps["least"].items() if key.endswith("num_batches_tracked")}
    assert counts == {1}
    assert kept["least"] < 0.7 * kept["off"]
    assert kept["lean"] < 0.85 * kept["off"]


def test_sizes() -> None:
    """The default network, and the small one that the documentation names."""
    model = models.MFENet().to("meta")
    assert model.qen.channels == (64, 128, 320, 512)
    assert model.eval()(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1,)
    small = {"depths": (1, 1, 2, 1), "widths": (16, 32, 64, 96), "mlp_ratios": (4, 4, 4, 4), "hidden": (64,)}
    model = models.MFENet(**small, hfen_width=16, dan_layers=(1, 1, 1, 1), dan_width=16)
    assert sum(p.numel() for p in model.parameters()) < 2e6


# ---- files ----


def test_save_load_and_create(tmp_path: Path) -> None:
    model, image = network(**HEADS, fusion="add", drop_path=0.1), images(1)
    path = tmp_path / "mfenet.safetensors"
    save_model(model, path)
    for again in (load_model(path), create_model("mfenet", path).double().eval()):
        assert type(again) is models.MFENet
        assert again.options == model.options == json.loads(json.dumps(model.options))
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(again(image), model(image), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"saved with dan_width=4, asked for 8$"):
        create_model("mfenet", path, dan_width=8)
    with pytest.raises(ValueError, match=r"mfenet\.safetensors: holds a 'mfenet', want a PRFNet$"):
        create_model("prfnet", path)


def test_files_of_backbones(tmp_path: Path) -> None:
    model = network(**SMALL)
    torch.save(model.qen.state_dict(), tmp_path / "van.pth")
    torch.save(model.dan.state_dict(), tmp_path / "resnet.pth")
    files = {"pretrained_backbone": tmp_path / "van.pth", "pretrained_dan": tmp_path / "resnet.pth"}
    other: Any = create_model("mfenet", **files, **SMALL).double()
    for branch in ("qen", "dan"):
        want, got = (getattr(m, branch).state_dict() for m in (model.float(), other.float()))
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    for options, name in (({"dan": False}, "mfenet"), ({}, "prfnet")):
        with pytest.raises(
            TypeError, match=rf"^pretrained_dan: got a file, want None for a {name} without this branch$"
        ):
            create_model(name, pretrained_dan=files["pretrained_dan"], **options)
    with pytest.raises(ValueError, match=r"van\.pth: missing"):
        create_model("mfenet", pretrained_dan=files["pretrained_backbone"], **SMALL)


def test_the_dan_has_the_keys_of_resnet50() -> None:
    with torch.device("meta"):
        assert list(models.MFENet(qen="b0").dan.state_dict()) == list(resnet50().state_dict())


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qen": "b9"}, "qen: got 'b9', want one of 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6'"),
        ({"widths": (8, 8)}, "widths: got (8, 8), want 4 positive integers"),
        ({"backbone": "vgg"}, "backbone: got 'vgg', want one of 'van', 'efficientnet_lite0'"),
        ({"backbone": "efficientnet_lite0"}, "depths: got (1, 2, 1, 1), want None: the backbone is not van"),
        ({**LITE, "qen": "b0"}, "qen: got 'b0', want 'b2': the backbone is not van"),
        ({**LITE, "drop_path": 0.1}, "drop_path: got 0.1, want 0.0: the backbone is not van"),
        ({"hfen": 1}, "hfen: got 1, want True or False"),
        ({"dan": None}, "dan: got None, want True or False"),
        ({"hfen_width": 3}, "width: got 3, want an integer of at least 4"),
        ({"fusion": "cat"}, "fusion: got 'cat', want one of 'attention', 'add'"),
        ({"hidden": ()}, "hidden: got (), want one or more positive integers"),
        ({"dropout": 1}, "dropout: got 1, want a number in [0, 1)"),
        ({"drop_path": -1}, "drop_path: got -1, want a number in [0, 1)"),
        ({"distortion_types": -1}, "distortion_types: got -1, want an integer of at least 0"),
        ({"hfen": False, "predict_high_frequency": True}, "predict_high_frequency: got True, want False without hfen"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        models.MFENet(**{**SMALL, **options})
    assert str(error.value) == message


GOOD = torch.full((2, 3, 40, 40), 0.5)


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (GOOD[..., :31], ValueError, "image: got shape (2, 3, 40, 31), want H and W of at least 32"),
        (GOOD[0], ValueError, "image: got shape (3, 40, 40), want (N, 3, H, W)"),
        (GOOD * 255, ValueError, "image: got values from 127.5 to 127.5, want finite ones in [0, 1]"),
        (GOOD.double(), TypeError, "image: got dtype torch.float64, want that of the model, torch.float32"),
        (GOOD.numpy(), TypeError, "image: got ndarray, want a torch.Tensor"),
    ],
    ids=["small", "dimensions", "range", "dtype", "type"],
)
def test_bad_images(bad: Any, kind: type[Exception], message: str) -> None:
    model = network().float()
    for method in (model, model.outputs):
        with pytest.raises(kind) as error:
            method(bad)
        assert str(error.value) == message
    with pytest.raises(ValueError, match="want a batch of at least 2 in training mode"):
        model.train()(GOOD[:1])
