"""--strict, --background and --colour of ``fastiqa compare`` and ``fastiqa score``: values, JSON, lines on stderr."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import torch

from fastiqa.data import read_image
from fastiqa.metrics import ms_ssim, ssim
from fastiqa.models import create_model, save_model
from support.colour_profiles import P3, p3_in_srgb, rgb_profile
from support.oracles import randomise

pytestmark = pytest.mark.usefixtures("published")  # no weights but those that a test publishes

Command = Callable[..., tuple[object, str, str]]
RANDOM = np.random.default_rng(0)
CODES = RANDOM.integers(0, 256, (176, 180, 4), dtype=np.uint8)
NOISE = RANDOM.normal(0, 10, (2, 176, 180, 3))
DISPLAY_P3 = rgb_profile("Display P3", P3)
PRFNET = {"layers": (1, 1, 1, 1), "width": 16, "base_width": 26, "hidden": 16}
MFENET: dict[str, Any] = {
    "depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "mlp_ratios": (1, 1, 1, 1), "hidden": (8,), "hfen_width": 8,
    "dan_layers": (1, 1, 1, 1), "dan_width": 4,
}  # fmt: skip


def saved(folder: Path, *arrays: Any, **options: Any) -> list[Path]:
    paths = [folder / f"{name}.png" for name in ("ref", "a", "b")]
    for path, codes in zip(paths, arrays, strict=True):
        PIL.Image.fromarray(codes).save(path, **options)
    return paths


def noisy(codes: Any, k: int) -> Any:
    return (codes + NOISE[k] * (k + 1)).clip(0, 255).astype(np.uint8)


def psnr_of(x: Any, y: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((x.astype(float) - y.astype(float)) ** 2)))


def error_line(status: object, out: str, err: str) -> str:
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    return err.rstrip("\n")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Tiny networks with random weights, and their files."""
    found = {}
    for name, options in (("prfnet", PRFNET), ("mfenet", MFENET)):
        torch.manual_seed(0)
        model: Any = create_model(name, **options).eval()
        randomise(model)
        found[name] = tmp_path_factory.mktemp("weights") / f"{name}.safetensors", model
        save_model(model, found[name][0])
    return found


# ---- compare ----


def test_grey_images_are_compared_as_grey(fastiqa_command: Command, tmp_path: Path) -> None:
    grey = [CODES[..., 0], noisy(CODES[..., :3], 0)[..., 0], noisy(CODES[..., :3], 1)[..., 0]]
    paths = saved(tmp_path, *(codes.copy() for codes in grey))
    status, out, err = fastiqa_command("compare", *paths, "--metrics-only", "--json")
    content = json.loads(out)
    assert (status, err, content["channels"], content["backgrounds"]) == (0, "", 1, [])
    assert content["decisions"] == {"ref": ["grey"], "a": ["grey"], "b": ["grey"]}
    assert content["notes"] == ["all three images are grey: metrics take one channel, networks three equal ones"]
    ref, *others = (torch.from_numpy(codes / 255.0)[None, None] for codes in grey)
    for key, codes, image in zip("ab", grey[1:], others, strict=True):
        found = {name: scores[key] for name, scores in content["metrics"].items()}
        assert found["psnr"] == pytest.approx(psnr_of(grey[0], codes), abs=1e-9)
        assert found["ssim"] == pytest.approx(float(ssim(ref, image)), abs=1e-12)
        assert found["ms_ssim"] == pytest.approx(float(ms_ssim(ref, image, method="wtd_sum")), abs=1e-12)
    status, out, err = fastiqa_command("compare", paths[0], paths[0], paths[2], "--metrics-only")
    assert (status, err.splitlines()) == (0, [f"note: {path}: grey" for path in (paths[0], paths[2])])
    assert "note: all three images are grey" in out


def test_grey_and_colour(fastiqa_command: Command, tmp_path: Path) -> None:
    paths = saved(tmp_path, CODES[..., 0].copy(), CODES[..., :3].copy(), CODES[..., :3].copy())
    content = json.loads(fastiqa_command("compare", *paths, "--metrics-only", "--json")[1])
    assert content["decisions"] == {"ref": ["grey"], "a": [], "b": []}
    assert (content["channels"], content["notes"]) == (3, ["compared in RGB: REF is grey"])
    assert content["metrics"]["psnr"]["a"] == pytest.approx(psnr_of(CODES[..., :1], CODES[..., :3]), abs=1e-9)


def composited(codes: Any, behind: Any) -> Any:
    if codes.shape[2] == 3:
        return codes
    alpha = codes[..., 3:] / 255
    return np.floor(alpha * codes[..., :3] + (1 - alpha) * np.array(behind) + 0.5).astype(np.uint8)


def test_alpha_is_compared_on_two_backgrounds(
    fastiqa_command: Command, tmp_path: Path, weights: dict[str, tuple[Path, Any]]
) -> None:
    """A has a hole and B is half clear, before a bright reference: each metric is the smaller of its values alone."""
    clear_a = np.dstack([noisy(CODES[..., :3], 0), np.full(CODES.shape[:2], 255, np.uint8)])
    clear_a[:40, :, 3] = 0
    clear_b = np.dstack([noisy(CODES[..., :3], 1), CODES[..., 3:] // 2 + 128])
    ref = (CODES[..., :3] // 4 + 170).astype(np.uint8)  # bright: black is the worse behind a hole
    paths = saved(tmp_path, ref, clear_a, clear_b)
    file = weights["prfnet"][0]
    status, out, err = fastiqa_command("compare", *paths, "--weights", file, "--json")
    content = json.loads(out)
    assert (status, err, content["backgrounds"], content["channels"]) == (0, "", ["white", "black"], 3)
    assert content["decisions"] == {
        "ref": [],
        "a": ["alpha on white", "alpha on black"],
        "b": ["alpha on white", "alpha on black"],
    }
    (note,) = content["notes"]
    assert note == "alpha: compared on white and on black; each metric is the worse value, a probability the mean"
    alone = {}
    for name, behind in (("white", 255), ("black", 0)):
        shown = [composited(codes, [behind] * 3) for codes in (ref, clear_a, clear_b)]
        (tmp_path / name).mkdir()
        opaque = saved(tmp_path / name, *shown)
        alone[name] = json.loads(fastiqa_command("compare", *opaque, "--weights", file, "--json")[1])
        assert alone[name]["backgrounds"] == []
        chosen = json.loads(fastiqa_command("compare", *paths, "--weights", file, "--json", "--background", name)[1])
        assert chosen["metrics"] == alone[name]["metrics"]
        assert chosen["prfnet"] == alone[name]["prfnet"]
        assert (chosen["backgrounds"], chosen["reading"]["background"], chosen["notes"]) == ([name], name, [])
        assert alone[name]["metrics"]["psnr"]["a"] == pytest.approx(psnr_of(shown[0], shown[1]), abs=1e-9)
    for metric in ("psnr", "ssim", "ms_ssim"):
        for key in "ab":
            worse = min(alone[name]["metrics"][metric][key] for name in alone)
            assert content["metrics"][metric][key] == worse
    assert alone["white"]["metrics"]["psnr"]["a"] > alone["black"]["metrics"]["psnr"]["a"]
    probabilities = [alone[name]["prfnet"]["probability_b_closer"] for name in alone]
    assert content["prfnet"]["probability_b_closer"] == pytest.approx(sum(probabilities) / 2, abs=1e-7)
    status, out, err = fastiqa_command("compare", *paths, "--metrics-only")
    assert err.splitlines() == [f"note: {path}: alpha on white; alpha on black" for path in paths[1:]]
    assert f"note: {note}" in out


def test_a_colour_behind_alpha(fastiqa_command: Command, tmp_path: Path) -> None:
    ref = CODES[..., :3].copy()
    paths = saved(tmp_path, ref, CODES, ref)
    content = json.loads(fastiqa_command("compare", *paths, "--metrics-only", "--json", "--background", "#ff8000")[1])
    want = psnr_of(ref, composited(CODES, [255, 128, 0]))
    assert content["metrics"]["psnr"]["a"] == pytest.approx(want, abs=1e-9)
    assert content["decisions"]["a"] == ["alpha on #ff8000"]


def test_profiles(fastiqa_command: Command, tmp_path: Path) -> None:
    """The same code values with a profile are other colours."""
    ref = CODES[..., :3].copy()
    paths = saved(tmp_path, ref, ref, ref)
    PIL.Image.fromarray(ref).save(paths[1], icc_profile=DISPLAY_P3)
    content = json.loads(fastiqa_command("compare", *paths, "--metrics-only", "--json")[1])
    want = psnr_of(ref, (255 * p3_in_srgb(ref / 255)).round())
    assert content["metrics"]["psnr"]["a"] == pytest.approx(want, abs=0.01)
    assert content["decisions"] == {"ref": [], "a": ["ICC 'Display P3' to sRGB"], "b": []}
    content = json.loads(fastiqa_command("compare", *paths, "--metrics-only", "--json", "--colour", "ignore")[1])
    assert content["metrics"]["psnr"]["a"] == "inf"
    assert content["reading"] == {"strict": False, "background": None, "colour": "ignore"}
    assert content["decisions"]["a"] == ["ICC 'Display P3' ignored"]
    line = error_line(*fastiqa_command("compare", *paths, "--metrics-only", "--colour", "refuse"))
    assert line.startswith(f"error: A: {paths[1]}: ICC 'Display P3', want sRGB")
    strict = json.loads(fastiqa_command("compare", *paths, "--metrics-only", "--json", "--strict")[1])
    assert strict["decisions"]["a"] == ["ICC 'Display P3' to sRGB"]


@pytest.mark.parametrize("command", ["compare", "score"])
def test_options_that_cannot_be(fastiqa_command: Command, tmp_path: Path, command: str) -> None:
    paths = saved(tmp_path, *[CODES] * 3)

    def error(*options: str) -> str:
        return error_line(*fastiqa_command(command, *paths, *options))

    assert (
        error("--background", "pink") == "error: --background: got 'pink', want one of white, black, checker or #rrggbb"
    )
    assert error("--colour", "keep") == "error: --colour: got 'keep', want one of 'convert', 'ignore', 'refuse'"
    want = "error: --background: got --strict too, which refuses alpha, want one of them"
    assert error("--strict", "--background", "white") == want


# ---- score ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rgb = CODES[:64, :64, :3].copy()
    PIL.Image.fromarray(rgb).save(tmp_path / "a.png")
    PIL.Image.fromarray(CODES[:64, :64]).save(tmp_path / "b.png")
    PIL.Image.fromarray(rgb).quantize(16).save(
        tmp_path / "c.gif", save_all=True, append_images=[PIL.Image.new("P", (64, 64))]
    )
    (tmp_path / "d.jxl").write_bytes(imagecodecs.jpegxl_encode(rgb[..., 0].copy(), lossless=True))
    return tmp_path


NOTES = {"a.png": [], "b.png": ["alpha on white"], "c.gif": ["frame 1 of 2", "palette"], "d.jxl": ["grey"]}


def test_scores_of_images_as_they_are(
    fastiqa_command: Command, folder: Path, weights: dict[str, tuple[Path, Any]]
) -> None:
    path, model = weights["mfenet"]
    status, out, err = fastiqa_command("score", folder, "--weights", path, "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert content["reading"] == {"strict": False, "background": None, "colour": "convert"}
    rows = {Path(row["image"]).name: row for row in content["scores"]}
    assert {name: row["decisions"] for name, row in rows.items()} == NOTES
    shown = {
        "b.png": composited(CODES[:64, :64], [255] * 3),
        "c.gif": np.asarray(PIL.Image.open(folder / "c.gif").convert("RGB")),
        "d.jxl": np.stack([CODES[:64, :64, 0]] * 3, 2),
    }
    for name, codes in shown.items():
        PIL.Image.fromarray(codes).save(folder / "shown.png")
        with torch.no_grad():
            want = model(read_image(folder / "shown.png").tensor()).item()
        assert rows[name]["score"] == pytest.approx(want, rel=1e-5, abs=1e-5)
    (folder / "shown.png").unlink()

    lines = [f"note: {folder / name}: {'; '.join(notes)}" for name, notes in NOTES.items() if notes]
    status, out, err = fastiqa_command("score", folder, "--weights", path, "--csv")
    assert (status, err.splitlines()) == (0, lines)
    assert [row["image"] for row in csv.DictReader(io.StringIO(out))] == [str(folder / name) for name in NOTES]
    status, out, err = fastiqa_command("score", folder, "--weights", path)
    assert (status, err.splitlines()) == (0, lines)

    black = json.loads(
        fastiqa_command("score", folder / "b.png", "--weights", path, "--json", "--background", "black")[1]
    )
    assert black["scores"][0]["decisions"] == ["alpha on black"]
    assert black["scores"][0]["score"] != rows["b.png"]["score"]


def test_strict_scores(fastiqa_command: Command, folder: Path, weights: dict[str, tuple[Path, Any]]) -> None:
    """Of a folder, the formats that --strict reads."""
    path = weights["mfenet"][0]
    status, out, err = fastiqa_command("score", folder, "--weights", path, "--json", "--strict")
    content = json.loads(out)
    assert (status, [Path(row["image"]).name for row in content["scores"]]) == (1, ["a.png"])
    assert [Path(row["image"]).name for row in content["failed"]] == ["b.png"]
    assert "an image with an alpha channel or transparency" in err
    line = error_line(*fastiqa_command("score", folder / "d.jxl", "--weights", path, "--strict"))
    assert line.startswith(f"error: {folder / 'd.jxl'}: not an image in a format that is read (PNG, ")
