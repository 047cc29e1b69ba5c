"""``fastiqa score``, run as the user runs it: output, exit status, one line on stderr."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from oracles import randomise

from fastiqa.cli.quality import Crops
from fastiqa.data import read_image
from fastiqa.models import create_model, save_model

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
    """Three images of different sizes, one of them in a subfolder, and a file that is none."""
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
    assert list(content) == ["model", "weights", "crops", "scores"]
    assert (content["model"], content["weights"], content["crops"]) == ("mfenet", str(path), None)
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
    """The same crops of an image with the same seed, whatever else is scored; more than a batch of them."""
    path, model = weights
    options = ("--weights", path, "--crops", 11, "--crop-size", 32, "--json", "--seed")
    alone = json.loads(fastiqa_command("score", folder / "b.png", *options, 1)[1])
    assert alone["crops"] == {"number": 11, "size": 32, "seed": 1}
    among = json.loads(fastiqa_command("score", folder, *options, 1)[1])
    assert among["scores"][1] == alone["scores"][0]
    other = json.loads(fastiqa_command("score", folder / "b.png", *options, 2)[1])
    assert other["scores"][0]["score"] != alone["scores"][0]["score"]
    crops = Crops(11, 32, 1).of(read_image(folder / "b.png").tensor())
    assert crops.shape == (11, 3, 32, 32)
    with torch.no_grad():
        want = sum(model(crop[None]).item() for crop in crops) / 11
    assert alone["scores"][0]["score"] == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_crops_lie_anywhere_in_the_image() -> None:
    image = torch.arange(6.0 * 7).view(1, 1, 6, 7).expand(1, 3, 6, 7)
    corners = {int(crop[0, 0, 0]) for crop in Crops(200, 5, 0).of(image)}
    assert corners == {0, 1, 2, 7, 8, 9}
    assert torch.equal(Crops(3, 6, 0).of(image[..., :6]), image[..., :6].expand(3, 3, 6, 6))


def test_errors(fastiqa_command: Command, folder: Path, weights: Any, tmp_path: Path) -> None:
    path, _ = weights
    good, options = folder / "a.png", ("--weights", path)

    def error(*arguments: object) -> str:
        return error_line(*fastiqa_command("score", *arguments))

    assert error(folder / "none.png", *options).endswith("none.png: no such file")
    assert "notes.txt: " in error(folder / "notes.txt", *options)
    (folder / "broken.png").write_bytes(good.read_bytes()[:200])
    assert "broken.png: " in error(folder, *options)
    small = tmp_path / "small.png"
    PIL.Image.new("RGB", (31, 80)).save(small)
    assert error(small, *options).endswith("small.png: image: shape (1, 3, 80, 31), want H and W of at least 32")
    assert error(good, *options, "--crops", 2).endswith("got 64x33 pixels, want at least 224x224 for a crop")
    (tmp_path / "empty").mkdir()
    assert error(tmp_path / "empty", *options).endswith("empty: got a folder without images, want at least one")
    assert error(good, *options, "--json", "--csv") == "error: --csv: got --json too, want one of them"
    assert "--weights" in error(good)
    assert error(good, "--weights", tmp_path / "none.safetensors").endswith("none.safetensors: no such file")
    assert "name: got 'x', want one of lpips, mfenet, prfnet" in error(good, *options, "--model", "x")
    wanted = "want a network that scores single images: mfenet"
    assert error(good, *options, "--model", "prfnet") == f"error: --model: got 'prfnet', {wanted}"
    prfnet = tmp_path / "prfnet.safetensors"
    save_model(create_model("prfnet", layers=(1, 1, 1, 1), width=8), prfnet)
    assert error(good, "--weights", prfnet).endswith("prfnet.safetensors: holds a 'prfnet', want a MFENet")
