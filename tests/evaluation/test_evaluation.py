"""fastiqa eval: scores on published layouts, and predictions in CLIC's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa.data import Triplet, read_clic
from fastiqa.data.triplets.predictions import read_predictions, write_decisions, write_predictions
from fastiqa.evaluation.preferences import FULL_REFERENCE, PREFERENCES, Preference
from fastiqa.evaluation.triplets import _Encoded, evaluate_triplets
from fastiqa.evaluation.two_afc import two_afc
from support import labelled_folders as folders
from support.oracles import randomise
from support.shared_data import shared_file

pytest.importorskip("typer", reason="the command needs fastiqa-kernels[cli]")

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8, "hidden": 9, "first_stage_stride": 4}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    model = fastiqa.create_model("prfnet", **SMALL)
    randomise(model)
    fastiqa.save_model(model, path)
    return path


@pytest.fixture
def triplets(tmp_path: Path) -> list[Triplet]:
    """A picture with noise of two strengths: b is closer in the first triplet, a in the second, the third is a tie."""
    random = np.random.default_rng(0)
    picture = np.clip(np.linspace(0, 255, 180)[:, None, None] + np.zeros((180, 170, 3)), 0, 255)
    paths = {}
    for name, noise in (("ref", 0.0), ("weak", 4.0), ("strong", 30.0)):
        pixels = np.clip(picture + noise * random.standard_normal(picture.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        paths[name] = tmp_path / f"{name}.png"
    ref, weak, strong = paths["ref"], paths["weak"], paths["strong"]
    rows = [(strong, weak, 0.9, "noise"), (weak, strong, 0.2, "noise"), (weak, weak, 0.5, "same")]
    return [Triplet(ref, a, b, label, group) for a, b, label, group in rows]


# ---- scores ----


def test_score_and_interval() -> None:
    label = torch.tensor([1.0] * 70 + [0.0] * 30)
    score = two_afc(torch.ones(100), label)
    assert (score.score, score.triplets) == (0.7, 100)
    assert (score.low, score.high) == pytest.approx((0.6042, 0.7811), abs=1e-4)  # Wilson, 70 of 100
    assert two_afc(torch.zeros(3), torch.tensor([0.0, 1.0, 0.3])).score == 0.5
    assert two_afc(torch.tensor([1.0]), torch.tensor([1.0])).high == 1
    with pytest.raises(ValueError, match=r"^preference: got NaN, want numbers$"):
        two_afc(torch.tensor([torch.nan]), torch.ones(1))
    with pytest.raises(ValueError, match=r"^preference, label: got shapes \(2,\) and \(3,\), want the same"):
        two_afc(torch.ones(2), torch.ones(3))


def test_metrics_pick_the_weaker_noise(triplets: list[Triplet]) -> None:
    for result in evaluate_triplets(triplets, PREFERENCES):
        assert result.preferences.sign().tolist() == [1, -1, 0], result.name
        assert result.overall.score == pytest.approx((0.9 + 0.8 + 0.5) / 3)
        assert {name: score.score for name, score in result.groups.items()} == {
            "noise": pytest.approx(0.85),
            "same": 0.5,
        }
        assert result.swap_consistency is None


def test_an_image_is_scored_and_encoded_once(triplets: list[Triplet], weights: Path) -> None:
    """Three triplets of one reference and few images, asked for twice; a small cache gives the same numbers."""
    model: Any = fastiqa.load_model(weights)
    scored, encoded = [], []

    def metric(ref: Tensor, image: Tensor, bit_depth: int) -> Tensor:
        scored.append(bit_depth)
        return FULL_REFERENCE["psnr"](ref, image, bit_depth)

    real = model.encode
    model.encode = lambda image: (encoded.append(1), real(image))[1]
    results = evaluate_triplets(triplets * 2, {"metric": Preference(metric), "net": model})
    images = {(triplet.ref, path) for triplet in triplets for path in triplet[1:3]}
    assert len(scored) == len(images)
    assert len(encoded) == len({path for triplet in triplets for path in triplet[:3]})
    model.encode = real
    for i, triplet in enumerate(triplets):
        alone = evaluate_triplets([triplet], {"psnr": PREFERENCES["psnr"], "net": model})
        for result, single in zip(results, alone, strict=True):
            assert result.preferences[i] == result.preferences[i + len(triplets)] == single.preferences[0]
    few = _Encoded(most=1)
    for _ in range(2):
        maps = few.maps(model, "net", triplets[0].ref, torch.zeros(1, 3, 64, 64))
        few.maps(model, "net", triplets[0].a, torch.ones(1, 3, 64, 64))
        assert torch.equal(maps[0], model.encode(torch.zeros(1, 3, 64, 64))[0])
    assert len(few._kept) == 1


def test_a_network_is_asked_both_ways(triplets: list[Triplet], weights: Path) -> None:
    model: Any = fastiqa.load_model(weights)
    seen: list[tuple[int, int]] = []
    (result,) = evaluate_triplets(triplets, {"net": model}, on_triplet=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    forth, back = result.preferences[:2]  # the second triplet swaps a and b of the first
    assert result.swap_consistency is not None
    assert round(3 * result.swap_consistency) >= 2 * int(forth.sign() == -back.sign())
    with torch.no_grad():
        image = [fastiqa.data.read_image(path).tensor() for path in triplets[0][:3]]
        padded = [torch.nn.functional.pad(x, (0, 22, 0, 12), mode="reflect") for x in image]  # to 192x192
        torch.testing.assert_close(forth, model(*padded)[0].double(), rtol=1e-4, atol=1e-5)


# ---- the command ----


def test_constant_predictions_on_the_real_oracle(fastiqa_command: Any, tmp_path: Path) -> None:
    oracle = shared_file("clic/oracle.csv")
    rows = [line.rsplit(",", 1)[0] for line in oracle.read_text().splitlines()]
    for value, right in ((0, 2692), (1, 2528)):
        file = tmp_path / f"{value}.csv"
        file.write_text("".join(f"{row},{value}\n" for row in rows))
        status, out, _ = fastiqa_command("eval", "clic", oracle, "--predictions", file, "--json")
        (result,) = json.loads(out)
        assert (status, result["triplets"]) == (0, 5220)
        assert result["score"] == pytest.approx(right / 5220, abs=1e-9)
        assert result["low"] < result["score"] < result["high"]


def test_metrics_and_a_network_side_by_side(fastiqa_command: Any, tmp_path: Path, weights: Path) -> None:
    csv = folders.clic(tmp_path / "clic", 192)
    status, out, err = fastiqa_command("eval", "clic", csv, "--weights", weights, "--write", tmp_path / "ours.csv")
    assert (status, err) == (0, "")
    for text in ("psnr", "ssim", "ms-ssim", "net.safetensors", "95 % interval", "consistent when swapped"):
        assert text in out
    network = json.loads(fastiqa_command("eval", "clic", csv, "--weights", weights, "--metric", "none", "--json")[1])[0]
    assert network["triplets"] == len(folders.CLIC_ROWS)  # as often as they stand in the file
    again = fastiqa_command("eval", "clic", csv, "--predictions", tmp_path / "ours.probabilities.csv", "--json")[1]
    assert json.loads(again)[0]["score"] == network["score"]
    decisions = [line.split(",") for line in (tmp_path / "ours.csv").read_text().splitlines()]
    chances = read_predictions(
        tmp_path / "ours.probabilities.csv", read_clic(csv, average_duplicates=False), csv.parent
    )
    assert [decision for *_, decision in decisions] == ["1" if chance > 0.5 else "0" for chance in chances]
    # the dev kit's rule: the share of rows whose fourth column is the same text
    oracle = [line.split(",") for line in csv.read_text().splitlines()]
    assert [row[:3] for row in decisions] == [row[:3] for row in oracle]
    right = sum(ours[3] == theirs[3] for ours, theirs in zip(decisions, oracle, strict=True))
    assert right / len(oracle) == network["score"]


def test_scores_of_each_group(fastiqa_command: Any, tmp_path: Path) -> None:
    folder = folders.bapps(tmp_path, "val", {"traditional": [0.0, 1.0], "cnn": [0.4], "superres": [1.0],
                                             "deblur": [0.0], "color": [0.2], "frameinterp": [0.6]})  # fmt: skip
    status, out, err = fastiqa_command("eval", "bapps", folder, "--json")
    result, ssim = json.loads(out)
    assert (status, result["predictor"], ssim["predictor"]) == (0, "psnr", "ssim")
    assert err.startswith("ms-ssim is left out: ")
    assert err.endswith(" has 64x64 pixels, it needs both sides greater than 160\n")
    assert {group: score["triplets"] for group, score in result["groups"].items()} == {
        "traditional": 2, "cnn": 1, "superres": 1, "deblur": 1, "color": 1, "frameinterp": 1,
    }  # fmt: skip


# ---- predictions ----


def test_predictions_come_back(tmp_path: Path) -> None:
    csv = folders.clic(tmp_path)
    triplets = read_clic(csv)
    values = [0.1 * i for i in range(len(triplets))]
    write_predictions(tmp_path / "p.csv", triplets, values, tmp_path)
    assert read_predictions(tmp_path / "p.csv", triplets[::-1], tmp_path) == pytest.approx(values[::-1])
    write_decisions(tmp_path / "d.csv", triplets, [value > 0.25 for value in values], tmp_path)
    assert {line.rsplit(",", 1)[1] for line in (tmp_path / "d.csv").read_text().splitlines()} == {"0", "1"}
    assert read_predictions(tmp_path / "d.csv", triplets, tmp_path) == [float(value > 0.25) for value in values]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["o,a,b"], r"p\.csv:1: got 3 columns, want O,A,B,P$"),
        (["o,a,b,2"], r"p\.csv:1: got '2', want a number from 0 to 1$"),
        (["/o,a,b,1"], r"p\.csv:1: got '/o', want the relative path of an image$"),
        (["o,a,b,1", "o,a,b,0"], r"p\.csv:2: got 0 for a triplet that has 1 above, want one prediction$"),
        (["o,a,c,1"], r"p\.csv: got no row of triplet 0, o, a, b, want one of each$"),
    ],
)
def test_bad_predictions(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("\n".join(lines))
    triplet = Triplet(tmp_path / "o", tmp_path / "a", tmp_path / "b", 1.0)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.csv", [triplet], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ava", "."), "error: DATASET: got 'ava', want one of 'clic', 'bapps', 'pieapp', 'synth', 'live', "),
        (("clic", "CSV", "--run", "x"), "error: --run: got it with clic, want rated images\n"),
        (("csiq", ".", "--metric", "psnr"), "error: --metric: got it with csiq, want --run, --weights, --csv, "),
        (("csiq", "."), "error: --run: got none, want the folder of a run, whose network is evaluated, or --weights\n"),
        (("clic", "nowhere.csv"), "error: nowhere.csv: no such file\n"),
        (("bapps", ".", "images"), "error: IMAGES: got 'images', want none for bapps: its folder has a fixed layout\n"),
        (("clic", "CSV", "--rule", "metric"), "error: --rule: got 'metric', want it for synth alone, not for clic\n"),
        (("clic", "CSV", "--metric", "mse"), "error: --metric: got 'mse', want one of 'psnr', 'ssim', "),
        (("clic", "CSV", "--metric", "none"), "error: --metric: got none, want a metric, --lpips, --weights or "),
        (("clic", "CSV", "--write", "x"), "error: --write: got a file, want --weights too, whose "),
    ],
)  # fmt: skip
def test_bad_arguments(arguments: tuple[str, ...], message: str, fastiqa_command: Any, tmp_path: Path) -> None:
    csv = folders.clic(tmp_path)
    given = [str(csv) if argument == "CSV" else argument for argument in arguments]
    status, out, err = fastiqa_command("eval", *given)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
