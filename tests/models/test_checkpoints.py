"""Weight files: published key layouts, our own safetensors, and files that must be refused."""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import io
import json
import os
import pickle
import re
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import fastiqa
from fastiqa import models, reference
from fastiqa.common.weight_files import read_weights
from fastiqa.metrics import LPIPS
from fastiqa.models import create_model, list_models, load_backbone, load_model, save_model
from fastiqa.models.backbones import se_res2net50
from fastiqa.models.registry import MODELS
from fastiqa.reference import SERes2Net, SqueezeExcitation
from support.oracles import randomise, timm_features, timm_res2net

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 4, "hidden": 8}
GATE_KEYS = 16 * 4  # blocks × (two weights and two biases)


def tiny(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = models.PRFNet(**{**SMALL, **options}).eval()
    randomise(model, seed)
    return model


def tiny_backbone(seed: int = 0) -> SERes2Net:
    torch.manual_seed(seed)
    backbone = SERes2Net((1, 1, 1, 1), width=4)
    randomise(backbone, seed)
    return backbone


def without_gates(backbone: SERes2Net) -> dict[str, Tensor]:
    return {key: value for key, value in backbone.state_dict().items() if ".se." not in key}


def save(weights: Any, path: Path) -> Path:
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def assert_same_state(model: torch.nn.Module, other: torch.nn.Module) -> None:
    assert list(model.state_dict()) == list(other.state_dict())
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.fixture(scope="module")
def res2net50() -> Any:
    """timm's Res2Net-50 26w 4s with its classifier: the layout of the published file."""
    torch.manual_seed(0)
    network = timm_res2net(se=False).eval()
    randomise(network)
    return network


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_published_layout(res2net50: Any, suffix: str, tmp_path: Path) -> None:
    path = save(res2net50.state_dict(), tmp_path / f"res2net50_26w_4s{suffix}")
    backbone = se_res2net50().eval()
    report = load_backbone(backbone, path)
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert len(report.missing) == GATE_KEYS
    assert all(".se.fc" in key for key in report.missing)
    assert "near identity" in str(report)
    assert "unexpected: fc." in str(report)

    # Every gate is exactly sigmoid(4), so the network is exactly timm's with bn3 scaled by that.
    gate = torch.sigmoid(torch.tensor(4.0, dtype=torch.float64))
    gates = [module for module in backbone.modules() if isinstance(module, SqueezeExcitation)]
    assert len(gates) == 16
    for module in gates:
        x = torch.randn(1, module.fc2.out_channels, 3, 5)
        torch.testing.assert_close(module(x), x * torch.sigmoid(torch.tensor(4.0)), rtol=0, atol=0)
    scaled = timm_res2net(se=False).double().eval()
    scaled.load_state_dict(res2net50.state_dict())
    for name, parameter in scaled.named_parameters():
        if ".bn3." in name:
            parameter.mul_(gate)
    image = torch.randn(1, 3, 64, 48, dtype=torch.float64)
    for got, want in zip(backbone.double()(image), timm_features(scaled, image), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_prfnet_takes_the_backbone(res2net50: Any, tmp_path: Path) -> None:
    path = save(
        {k: v for k, v in res2net50.state_dict().items() if not k.startswith("fc.")}, tmp_path / "a.safetensors"
    )
    model: Any = create_model("prfnet_fast", pretrained_backbone=path, cross_channels=2)
    want = res2net50.state_dict()
    got = model.backbone.state_dict()
    for key, value in want.items():
        if not key.startswith("fc."):
            torch.testing.assert_close(got[key], value, rtol=0, atol=0)
    assert load_backbone(model, path).unexpected == ()


def as_timm(key: str) -> str:
    return key


def as_se_module(key: str) -> str:
    return key.replace(".se.", ".se_module.")


def as_linear(key: str) -> str:
    return key.replace(".se.fc1.", ".se.fc.0.").replace(".se.fc2.", ".se.fc.2.")


@pytest.mark.parametrize("spell", [as_timm, as_se_module, as_linear])
def test_spellings_of_the_gates(spell: Any, tmp_path: Path) -> None:
    trained = tiny_backbone(1)
    weights = {spell(key): value for key, value in trained.state_dict().items()}
    if spell is as_linear:
        weights = {k: v[:, :, 0, 0].clone() if ".fc." in k and v.dim() == 4 else v for k, v in weights.items()}
    backbone = tiny_backbone(2)
    report = load_backbone(backbone, save(weights, tmp_path / "a.pth"))
    assert report == models.LoadReport(missing=(), unexpected=())
    assert_same_state(backbone, trained)


def test_linear_gates_without_bias(tmp_path: Path) -> None:
    trained = tiny_backbone(1)
    weights = {}
    for key, value in trained.state_dict().items():
        if ".se." not in key:
            weights[key] = value
        elif key.endswith("weight"):
            weights[as_linear(key)] = value[:, :, 0, 0]
    backbone = tiny_backbone(2)
    load_backbone(backbone, save(weights, tmp_path / "a.pth"))
    for key, value in trained.state_dict().items():
        want = torch.zeros_like(value) if ".se." in key and key.endswith("bias") else value
        torch.testing.assert_close(backbone.state_dict()[key], want, rtol=0, atol=0)


NESTING = (
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "ema",
    "model_state_dict",
    "params",
    "net",
    "network",
    "weights",
)


@pytest.mark.parametrize("nest", NESTING)
def test_published_files_nest_weights(nest: str, tmp_path: Path) -> None:
    """Under the names of timm, BasicSR and others; their authors evaluate the averaged weights."""
    trained, backbone = tiny_backbone(1), tiny_backbone(2)
    other = dict(tiny_backbone(3).state_dict()) if "ema" in nest else None
    weights = {"epoch": 40, "state_dict": other, "model": other, "params": other, nest: dict(trained.state_dict())}
    load_backbone(backbone, save(weights, tmp_path / "a.pth"))
    assert_same_state(backbone, trained)


@pytest.mark.parametrize(
    "prefix", ["backbone.", "model.", "net.", "encoder.", "_orig_mod.", "module.backbone.", "_orig_mod.module.model."]
)
def test_published_files_have_prefixes(prefix: str, tmp_path: Path) -> None:
    trained, backbone = tiny_backbone(1), tiny_backbone(2)
    weights = {prefix + key: value for key, value in trained.state_dict().items()}
    root = prefix.replace("backbone.", "").replace("_orig_mod.", "")
    weights[f"{root}neck.weight"] = torch.zeros(1)
    report = load_backbone(backbone, save(weights, tmp_path / "a.pth"))
    assert_same_state(backbone, trained)
    assert report.missing == ()
    assert [key.endswith("neck.weight") for key in report.unexpected] == [True]
    whole = tiny(3)
    model: Any = create_model(
        "prfnet", **SMALL, pretrained=save({prefix + k: v for k, v in whole.state_dict().items()}, tmp_path / "b.pth")
    )
    assert_same_state(model, whole)


def test_a_file_with_two_backbones_is_refused(tmp_path: Path) -> None:
    weights = {f"{name}.{k}": v for name in ("model", "net") for k, v in tiny_backbone(1).state_dict().items()}
    with pytest.raises(ValueError, match=r"a\.pth: holds the backbone more than once, under model\. and under net\.$"):
        load_backbone(tiny_backbone(), save(weights, tmp_path / "a.pth"))
    weights = {f"{name}conv1.weight": torch.zeros(1) for name in ("", "_orig_mod.")}
    with pytest.raises(ValueError, match=r"a\.pth: holds the same weights twice, wrapped and not$"):
        load_backbone(tiny_backbone(), save(weights, tmp_path / "a.pth"))


@pytest.mark.parametrize("wrapping", ["state_dict", "model", "module.", "all"])
def test_wrapped_files(wrapping: str, tmp_path: Path) -> None:
    trained = tiny_backbone(1)
    weights: dict[str, Any] = dict(trained.state_dict())
    if wrapping in ("module.", "all"):
        weights = {f"module.{key}": value for key, value in weights.items()}
    for nest in ("state_dict", "model"):
        if wrapping in (nest, "all"):
            weights = {nest: weights, "epoch": 40, "best": 0.781}
    backbone = tiny_backbone(2)
    load_backbone(backbone, save(weights, tmp_path / "checkpoint.pth.tar"))
    assert_same_state(backbone, trained)


def some_gates_missing(weights: dict[str, Tensor]) -> None:
    del weights["layer1.0.se.fc1.weight"]


def one_key_missing(weights: dict[str, Tensor]) -> None:
    del weights["layer2.0.convs.1.weight"]


def one_shape_differs(weights: dict[str, Tensor]) -> None:
    weights["layer2.0.conv3.weight"] = torch.zeros(1, 2, 1, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (some_gates_missing, "missing 1 of 166 keys of the backbone: layer1.0.se.fc1.weight"),
        (one_key_missing, "missing 1 of 166 keys of the backbone: layer2.0.convs.1.weight"),
        (one_shape_differs, "shapes differ for 1 of 166 keys: layer2.0.conv3.weight (1, 2, 1, 1), want (32, 12, 1, 1)"),
        (dict.clear, "top level of type dict without tensors, want a dictionary of them"),
        (lambda weights: weights.update(epoch=3), "'epoch' is of type int, want tensors under string keys only"),
    ],
)
def test_backbone_errors_leave_the_model_alone(damage: Any, message: str, tmp_path: Path) -> None:
    weights = dict(tiny_backbone(1).state_dict())
    damage(weights)
    path = save(weights, tmp_path / "a.pth")
    backbone = tiny_backbone(2)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_backbone(backbone, path)
    assert str(error.value) == f"{path}: {message}"
    assert_same_state(backbone, tiny_backbone(2))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (Tensor.to_sparse, "sparse_coo"),
        (lambda weight: weight + 0j, "torch.complex64"),
        (Tensor.bool, "torch.bool"),
        (Tensor.int, "torch.int32"),
        (lambda weight: weight.to("meta"), "without values (meta)"),
    ],
)
def test_weights_are_dense_and_real(change: Any, kind: str, tmp_path: Path) -> None:
    weights = dict(tiny_backbone(1).state_dict())
    weights["conv1.weight"] = change(weights["conv1.weight"])
    path = save(weights, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=re.escape(f"{path}: conv1.weight is {kind}, want a dense tensor of real")):
        load_backbone(tiny_backbone(2), path)


def test_backbone_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^model: got Linear, want an SERes2Net"):
        load_backbone(torch.nn.Linear(1, 1), tmp_path / "a.pth")


class Payload:
    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Payload, "ran", True)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = save({"state_dict": tiny_backbone().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_backbone(tiny_backbone(), path)
    assert str(error.value) == f"{path}: holds argparse.Namespace objects, want tensors only"
    torch.save(Payload(), path)
    with pytest.raises(ValueError, match="tensors only"):
        load_backbone(tiny_backbone(), path)
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(ValueError, match="tensors only"):
        load_backbone(tiny_backbone(), path)
    assert not Payload.ran


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar", ".bin", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = save(dict(tiny_backbone().state_dict()), tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for load in (load_model, lambda path: load_backbone(tiny_backbone(), path)):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            load(path)
        assert str(error.value).startswith(f"{path}: truncated, or not a ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_model, lambda path: load_backbone(tiny_backbone(), path)])
def test_paths(load: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file"):
        load(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.onnx: got \.onnx, want one of \.safetensors, \.pth"):
        load(tmp_path / "a.onnx")


@pytest.mark.parametrize("options", [{}, {"first_stage_stride": 4, "cross_channels": (3, 4, 5, 6), "fusion": "bifpn"}])
@torch.no_grad()
def test_save_and_load(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    images = torch.rand(3, 2, 3, 64, 48)
    for model in (tiny(1, **options), tiny(2, **options).to(memory_format=torch.channels_last)):
        save_model(model, str(path))  # the second replaces the first
        again = load_model(path)
        assert type(again) is models.PRFNet
        assert not again.training
        assert again.options == model.options
        assert_same_state(again, model)
        torch.testing.assert_close(again(*images), model(*images), rtol=1e-6, atol=2e-6)
    assert os.listdir(tmp_path) == [path.name]


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def compiled_in_part(model: Any) -> Any:
    model.backbone.layer1 = torch.compile(model.backbone.layer1)
    model.head.mlp = torch.nn.DataParallel(model.head.mlp)
    return model


def checkpointed(model: Any) -> Any:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.backbone.layer2 = checkpoint_wrapper(torch.compile(model.backbone.layer2))
    return model


def sharded(model: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    fully_shard(model.backbone, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "compiled": torch.compile,
    "compiled in part": compiled_in_part,
    "checkpointed": checkpointed,
    "DataParallel": torch.nn.DataParallel,
    "DistributedDataParallel": torch.nn.parallel.DistributedDataParallel,
    "compiled DistributedDataParallel": lambda model: torch.compile(torch.nn.parallel.DistributedDataParallel(model)),
    "FSDP2": sharded,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_wrapped_is_saved_as_the_plain_model(name: str, tmp_path: Path) -> None:
    plain, path = tiny(1), tmp_path / "model.safetensors"
    save_model(plain, tmp_path / "plain.safetensors")
    with one_process():
        save_model(WRAPPED[name](copy.deepcopy(plain)), path)
    (got, metadata), (want, of_plain) = read_weights(path), read_weights(tmp_path / "plain.safetensors")
    assert metadata == of_plain
    assert list(got) == list(want)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_wrapped_state_dicts_load(tmp_path: Path) -> None:
    """As torch.save writes them, and as save_model did before it removed wrappers."""
    plain = tiny(1)
    wrapped = torch.optim.swa_utils.AveragedModel(compiled_in_part(copy.deepcopy(plain)))
    wrapped.module.head.mlp = wrapped.module.head.mlp.module
    again = create_model("prfnet", **SMALL, pretrained=save(wrapped.state_dict(), tmp_path / "a.pth"))
    assert_same_state(again, plain)


@pytest.mark.parametrize("name", ["compiled", "compiled in part", "DataParallel", "DistributedDataParallel"])
def test_backbones_of_wrapped_models_load(name: str, tmp_path: Path) -> None:
    trained, model = tiny_backbone(1), tiny(2)
    with one_process():
        report = load_backbone(WRAPPED[name](model), save(trained.state_dict(), tmp_path / "a.pth"))
    assert report == models.LoadReport((), ())
    got = {key.replace("._orig_mod", ""): value for key, value in model.backbone.state_dict().items()}
    torch.testing.assert_close(got, dict(trained.state_dict()), rtol=0, atol=0)


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = tiny(1)
    torch.nn.utils.parametrizations.weight_norm(model.head.mlp[0])
    with pytest.raises(ValueError, match=r"^model: got 3 weights that are not those of its options, want parametriz"):
        save_model(model, path)
    with pytest.raises(TypeError, match=r"^model: got InferencePRFNet, whose norms are folded, want the network that"):
        save_model(fastiqa.optimize_for_inference(tiny(1)), path)
    assert not path.exists()
    model = tiny(1, hidden=9)
    state = torch.get_rng_state()
    save_model(model, path)
    assert torch.equal(state, torch.get_rng_state())  # building a model to compare with draws nothing


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: pickled_by_torch(m)])
@torch.no_grad()
def test_networks_are_copied_and_pickled(how: Callable[[Any], Any]) -> None:
    images = torch.rand(3, 1, 3, 64, 64)
    model = tiny(1)
    fast = fastiqa.optimize_for_inference(model, passes="batch")
    compiled = fastiqa.optimize_for_inference(model, compile=True)
    for network in (model, fast):
        torch.testing.assert_close(how(network)(*images), network(*images), rtol=0, atol=0)
    again = how(compiled)
    assert (again.memory_format, again.compiled) == (torch.channels_last, "backbone")


def pickled_by_torch(model: Any) -> Any:
    torch.save(model, buffer := io.BytesIO())
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = reference.PRFNet(**SMALL)
    save_model(model, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["fastiqa.model"] == "prfnet"
    assert json.loads(metadata["fastiqa.options"]) == model.options
    assert metadata["fastiqa.version"] == fastiqa.__version__
    assert_same_state(load_model(path), model)


def test_dtype_survives(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for dtype in (torch.bfloat16, torch.float64):
        save_model(tiny().to(dtype), path)
        assert {p.dtype for p in load_model(path).parameters()} == {dtype}


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(tiny(1), path)
    before = path.read_bytes()

    def fail(tensors: Any, temporary: Path, metadata: Any) -> None:
        temporary.write_bytes(b"half a fi")
        raise OSError("disk full")

    monkeypatch.setattr("fastiqa.models.checkpoints.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(tiny(2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_save_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^model: got Linear, want a model of fastiqa\.list_models"):
        save_model(torch.nn.Linear(1, 1), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"^path: got .*a\.pth, want a name that ends in \.safetensors"):
        save_model(tiny(), tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"^path: got .*, want a folder that exists$"):
        save_model(tiny(), tmp_path / "gone" / "a.safetensors")


def test_load_model_refuses_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    good = {"fastiqa.model": "prfnet", "fastiqa.options": json.dumps({**SMALL, "layers": [1, 1, 1, 1]})}
    weights = tiny().state_dict()
    headless = {key: value for key, value in weights.items() if not key.startswith("head.mlp.")}
    cases: list[tuple[dict[str, Tensor], dict[str, str], str]] = [
        (dict(tiny_backbone().state_dict()), {}, "a backbone only, the PRFNet head is missing"),
        ({"weight": torch.zeros(1)}, {}, "not written by fastiqa.save_model"),
        (weights, {**good, "fastiqa.model": "vgg"}, "cannot rebuild 'vgg': name: got 'vgg', want one of lpips, mfenet"),
        (weights, {**good, "fastiqa.options": "{"}, "fastiqa.options in its metadata is not JSON"),
        (
            weights,
            {**good, "fastiqa.options": "[1]"},
            "fastiqa.options in its metadata is of type list, want a JSON object",
        ),
        (
            weights,
            {**good, "fastiqa.options": '{"colour": 1}'},
            "cannot rebuild 'prfnet': .*unexpected keyword .*colour",
        ),
        (weights, {**good, "fastiqa.options": '{"width": 0}'}, "cannot rebuild 'prfnet': width: got 0"),
        (
            weights,
            {**good, "fastiqa.options": '{"layers": [1, 1, 1, 1], "width": 8}'},
            r"shapes differ for \d+ of \d+ keys: backbone",
        ),
        (headless, good, r"missing 4 of \d+ keys of the model: head\.mlp\.0\.weight"),
        ({**weights, "ema": torch.zeros(1)}, good, r"no place in the model for 1 of \d+ keys: ema"),
    ]
    for tensors, metadata, message in cases:
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=message) as error:
            load_model(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"layers": [1, 1, 1, 100000]}', "cannot rebuild 'prfnet': options ask for weights of more than 10,"),
        ('{"layers": [1, 1, 1, 1000000000000000000]}', "cannot rebuild 'prfnet': options ask for weights of more than"),
        (
            '{"layers": [1, 1, 1, 1], "width": 100000}',
            "cannot rebuild 'prfnet': options ask for weights of more than 1",
        ),
        ('{"scale": 1000000000000}', "cannot rebuild 'prfnet': options "),
        ('{"cross_kernel": 1000000001}', "cannot rebuild 'prfnet': options "),
        (f'{{"layers": {nested(100000)}}}', "fastiqa.options in its metadata is nested more than 16 deep"),
        (f'{{"layers": {nested(40)}}}', "fastiqa.options in its metadata is nested more than 16 deep"),
        (f'{{"width": {"1" * 5000}}}', "fastiqa.options in its metadata is not JSON: Exceeds the limit"),
        (f'{{"width": {"1" * 4000}}}', "fastiqa.options in its metadata has an integer of 13,"),
        (f'{{"layers": [{"1," * 200000}1]}}', "fastiqa.options in its metadata has more than 100,000 values"),
        (f'{{"fusion": "{"1" * 2000000}"}}', "fastiqa.options in its metadata has 2,000,014 characters, want at most"),
        ('{"a\\nb": 1}', "fastiqa.options in its metadata has a key that is not printable"),
        ('{"memory": "lean"}', "fastiqa.options in its metadata: got memory, which is none of the weights'"),
    ],
)
def test_a_file_cannot_ask_for_more_than_it_holds(options: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tiny().state_dict(), path, {"fastiqa.model": "prfnet", "fastiqa.options": options})
    for load in (load_model, lambda path: create_model("prfnet", pretrained=path)):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            load(path)
        assert str(error.value).startswith(f"{path}: {message}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["trunk", "heads", "weights"])
def test_a_file_names_no_other_files(option: str, tmp_path: Path) -> None:
    path, options = tmp_path / "a.safetensors", json.dumps({"net": "alex", option: "other.pth"})
    save_file({"weight": torch.zeros(1)}, path, {"fastiqa.model": "lpips", "fastiqa.options": options})
    with pytest.raises(ValueError, match=rf"fastiqa\.options in its metadata: got {option}, which is none of the"):
        load_model(path)


def test_every_option_of_a_model_is_its_weights_or_refused() -> None:
    """A constructor's argument that neither the saved options have nor the registry refuses could name a file."""
    for name, entry in MODELS.items():
        ours = (
            base for base in entry.model.__mro__ if base.__module__.startswith("fastiqa.") and "__init__" in vars(base)
        )
        constructors = [base.__init__ for base in ours if issubclass(base, (reference.PRFNet, reference.MFENet, LPIPS))]
        parameters = [value for init in constructors for value in inspect.signature(init).parameters.values()]
        named = {value.name for value in parameters if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL)}
        assert len(named) > 5, name
        assert named - {"self"} <= set(entry.build().options) | {*entry.not_of_files, *entry.optional}, name


@pytest.mark.parametrize("keys", [("state_dict",), ("model", "state_dict_ema"), ("net", "params", "ema")])
def test_a_file_within_itself_is_refused(keys: tuple[str, ...], tmp_path: Path) -> None:
    cycle: dict[str, Any] = {}
    level = cycle
    for key in keys[:-1]:
        level[key] = {}
        level = level[key]
    level[keys[-1]] = cycle
    with pytest.raises(ValueError, match=r"a\.pth: nested more than 8 deep, or within itself$"):
        load_backbone(tiny_backbone(), save(cycle, tmp_path / "a.pth"))


def test_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # any use of the network fails
    assert {"prfnet", "prfnet_fast"} <= set(list_models())
    assert list_models("prfnet_*") == ["prfnet_fast", "prfnet_lite", "prfnet_small"]
    assert list_models("nothing*") == []
    for name, stride in (("prfnet", 2), ("prfnet_fast", 4)):
        model: Any = create_model(name, **SMALL)
        assert model.options["first_stage_stride"] == stride
    with pytest.raises(ValueError, match=r"^name: got 'prf', want one of .*prfnet, prfnet_fast"):
        create_model("prf")
    with pytest.raises(TypeError, match="colour"):
        create_model("prfnet", colour=1)
    with pytest.raises(ValueError, match=r"^pretrained: got True, want .*: no weights of prfnet are published$"):
        create_model("prfnet", pretrained=True)


def test_create_from_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = tiny(1, first_stage_stride=4, cross_channels=3)
    save_model(model, path)
    for name in ("prfnet", "prfnet_fast"):  # what a name stands for nobody asked for
        assert_same_state(create_model(name, pretrained=path), model)
    assert_same_state(create_model("prfnet_fast", pretrained=str(path), cross_channels=3, layers=(1, 1, 1, 1)), model)
    with pytest.raises(ValueError, match=r"a\.safetensors: saved with first_stage_stride=4, asked for 2$"):
        create_model("prfnet", pretrained=path, first_stage_stride=2)
    with pytest.raises(ValueError, match=r"a\.safetensors: saved with cross_channels=\[3, 3, 3, 3\], asked for \[4, 8"):
        create_model("prfnet_fast", pretrained=path, cross_channels=None)
    plain = save(model.state_dict(), tmp_path / "a.pth")
    options = {**SMALL, "cross_channels": 3}
    assert_same_state(create_model("prfnet_fast", pretrained=plain, **options), model)
    with pytest.raises(
        ValueError,
        match=r"a\.pth: shapes differ for \d+ of \d+ keys: head\.cross\.0\.conv\.weight \(3, 16, 3, 3\), want \(4,",
    ):
        create_model("prfnet_fast", pretrained=plain, **SMALL)
    with pytest.raises(ValueError, match=r"b\.pth: missing \d+ of \d+ keys of the model: backbone\.conv1"):
        create_model("prfnet", pretrained=save(tiny_backbone().state_dict(), tmp_path / "b.pth"), **SMALL)


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    model = tiny(1)
    save_model(model, path)
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_same_state(create_model("prfnet", pretrained="hub:org/name"), model)
    assert asked == [("org/name", "model.safetensors")]
    with pytest.raises(ValueError, match="pretrained: got 'hub:name', want 'hub:org/name'"):
        create_model("prfnet", pretrained="hub:name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"needs huggingface_hub: pip install 'fastiqa-kernels\[hub\]'"):
        create_model("prfnet", pretrained="hub:org/name")
