"""Runs on rated images: trained on one part of a split, evaluated on the other, by hand and by ``fastiqa eval``."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr

from fastiqa.data import TestCrops, read_image, read_rated
from fastiqa.models import load_model
from fastiqa.training import RecipeError, read_recipe, train
from fastiqa.training.finished_runs import evaluate_run
from fastiqa.training.tasks import TASKS
from support import rated_folders

pytest.importorskip("yaml", reason="recipes need fastiqa-kernels[train]")

TINY = {"depths": [1] * 4, "widths": [8] * 4, "mlp_ratios": [2] * 4, "hidden": [8], "hfen_width": 8}
TINY |= {"dan_layers": [1] * 4, "dan_width": 4, "dropout": 0.0}


def noise(path: Path, level: float) -> None:
    """An image of 40x36 pixels, noisier at a higher level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = np.linspace(60, 190, 40)[None, :, None] + np.zeros((36, 40, 3))
    pixels = pattern + level * np.random.default_rng(len(path.name)).standard_normal(pattern.shape)
    PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def tid2013(tmp_path: Path) -> Path:
    """Five references, two types, four levels."""
    folder, lines = tmp_path / "tid2013", []
    for reference, kind, level in itertools.product(range(1, 6), (1, 9), range(1, 5)):
        name = f"I0{reference}_{kind:02}_{level}.bmp"
        noise(folder / "distorted_images" / name, 12 * level + kind + reference)
        lines.append(f"{7 - level + 0.1 * reference} {name}")
    rated_folders.text(folder / "mos_with_names.txt", *lines)
    return folder


def trained(folder: Path, out: Path, *changes: str) -> Path:
    """A finished run of the recipe `mfenet` with a tiny network."""
    options = [f"model.options.{name}={value}" for name, value in TINY.items()]
    data = [f"data.{part}.{item}" for part in ("train", "test") for item in (f"folder={folder}", "crops=2", "size=32")]
    small = ["workers=0", "batch_size=8", "steps.quality.epochs=1", "optimizer.lr=0.003"]
    train(read_recipe("mfenet", [*options, *data, *small, *changes]), out)
    return out


def seed(value: int) -> list[str]:
    return [f"data.{part}.split_seed={value}" for part in ("train", "test")]


def by_hand(run: Path, folder: Path, part: str, **split: int) -> tuple[list[float], list[float], list[str]]:
    """The network's scores, the ratings and the types of the images."""
    model = load_model(run / "model.safetensors").eval()
    images = read_rated("tid2013", folder, part, **split)
    view = TestCrops(2, 32)
    with torch.no_grad():
        scores = [float(model(view(read_image(image.image))).mean()) for image in images]
    return scores, [image.score for image in images], [image.group for image in images]


def test_the_median_of_two_splits(tid2013: Path, fastiqa_command: Any, tmp_path: Path) -> None:
    runs = [trained(tid2013, tmp_path / f"run{k}", *seed(k)) for k in range(2)]
    table = tmp_path / "table.csv"
    given = ("eval", "tid2013", tid2013, "--run", runs[0], "--run", runs[1], "--csv", table)
    status, out, err = fastiqa_command(*given)
    assert (status, err) == (0, "")
    with table.open() as file:
        rows = {(row["split"], row["group"]): row for row in csv.DictReader(file)}
    of_runs = []
    for k, run in enumerate(runs):
        mine, theirs, types = by_hand(run, tid2013, "test", split_seed=k)
        assert len(mine) == 8  # one of five references
        row = rows[str(k), ""]
        assert float(row["srcc"]) == pytest.approx(spearmanr(mine, theirs)[0], abs=1e-5)
        assert float(row["krcc"]) == pytest.approx(kendalltau(mine, theirs)[0], abs=1e-5)
        assert float(row["plcc"]) == pytest.approx(pearsonr(mine, theirs)[0], abs=1e-4)
        of_type = [i for i, name in enumerate(types) if name == types[0]]
        ranks = spearmanr([mine[i] for i in of_type], [theirs[i] for i in of_type])[0]
        assert float(rows[str(k), types[0]]["srcc"]) == pytest.approx(ranks, abs=1e-5)
        of_runs.append(float(row["srcc"]))
    median = float(rows["median of 2", ""]["srcc"])
    assert median == pytest.approx(np.median(of_runs), abs=1e-5)
    assert f"{median:.3f} |" in out
    assert "PLCC fitted" in out
    as_json = json.loads(fastiqa_command(*given[:-2], "--json")[1])
    assert [of["split"] for of in as_json] == ["0", "1", "median of 2"]
    assert as_json[2]["overall"]["srcc"] == pytest.approx(median, abs=1e-5)
    assert {of["method"] for of in as_json} == {"MFENet"}

    weights = runs[0] / "model.safetensors"
    (bare,) = json.loads(fastiqa_command("eval", "tid2013", tid2013, "--weights", weights, "--json")[1])
    images, model = read_rated("tid2013", tid2013), load_model(weights).eval()
    with torch.no_grad():
        mine = [float(model(read_image(image.image).tensor())) for image in images]
    assert (bare["method"], bare["trained_on"], bare["split"]) == ("model.safetensors", "unknown", "all images")
    assert (bare["overall"]["images"], len(images)) == (40, 40)
    assert bare["overall"]["srcc"] == pytest.approx(spearmanr(mine, [image.score for image in images])[0], abs=1e-5)
    status, out, err = fastiqa_command("eval", "tid2013", tid2013, "--weights", weights, "--device", "tpu")
    assert (status, out, err) == (2, "", "error: --device: got 'tpu', want one of auto, cpu, cuda\n")


def test_another_set_is_tested_whole_and_with_its_own_sign(tid2013: Path, tmp_path: Path) -> None:
    """Trained on scores where higher is better, tested on CSIQ, where lower is."""
    run = trained(tid2013, tmp_path / "run")
    csiq = rated_folders.csiq(tmp_path / "csiq")
    for k, name in enumerate(rated_folders.CSIQ_FILES):
        noise(csiq / "dst_imgs" / name, 9 * k)
    result = evaluate_run(run, "csiq", csiq)
    assert (result.dataset, result.trained_on, result.overall.images) == ("CSIQ", "TID2013", 6)
    images = read_rated("csiq", csiq)
    model, view = load_model(run / "model.safetensors").eval(), TestCrops(2, 32)
    with torch.no_grad():
        mine = [float(model(view(read_image(image.image))).mean()) for image in images]
    assert result.overall.srcc == pytest.approx(-spearmanr(mine, [image.score for image in images])[0], abs=1e-9)


def test_training_images_are_not_tested_on(tid2013: Path, tmp_path: Path) -> None:
    run = trained(tid2013, tmp_path / "run", "data.train.part=all", "validation=null")
    with pytest.raises(ValueError, match=r"run: trained on part 'all' of tid2013, want 'train'$"):
        evaluate_run(run, "tid2013", tid2013)


def test_a_seed_on_one_side_alone_is_refused(tid2013: Path, tmp_path: Path) -> None:
    message = r"^data\.test: got 1 references that data\.train has too, such as I0\d, want other ones: one split_seed"
    with pytest.raises(RecipeError, match=message):
        trained(tid2013, tmp_path / "run", "data.train.split_seed=1")
    trained(tid2013, tmp_path / "same", "data.test.part=train")  # on purpose


def test_types_have_a_number_each_and_one_meaning(tid2013: Path, tmp_path: Path) -> None:
    loss = "steps.quality.losses.{}=l1 + 0.1*distortion_type"
    typed = ["data.train.types=true", "data.test.types=true", loss.format("train")]
    message = (
        r"^data\.train: got 2 types of distortion, \w+, \w+, want at most the 1 of model\.options\.distortion_types$"
    )
    with pytest.raises(RecipeError, match=message):
        trained(tid2013, tmp_path / "run", *typed, "model.options.distortion_types=1")
    csiq = rated_folders.csiq(tmp_path / "csiq")
    more = [f"data.more.{item}" for item in ("kind=csiq", f"folder={csiq}", "crops=2", "size=32", "types=true")]
    message = (
        r"^data\.more: got \d types of .*, want those of data\.train, which steps\.quality trains the same head on$"
    )
    with pytest.raises(RecipeError, match=message):
        trained(tid2013, tmp_path / "run", *typed, *more, loss.format("more"), "model.options.distortion_types=9")
    trained(tid2013, tmp_path / "run", *typed, "model.options.distortion_types=2")


def test_what_a_network_learns_is_better_when_higher(tid2013: Path, tmp_path: Path) -> None:
    """In LIVE and CSIQ lower scores are better."""
    csiq = rated_folders.csiq(tmp_path / "csiq")
    own = [image.score for image in read_rated("csiq", csiq)]
    learned = [float(score) for _, score in TASKS["quality"].dataset("csiq", folder=csiq, view="whole")]
    assert learned == pytest.approx([1 - score for score in own])
    scores = {
        name: [image.score for image in read_rated("tid2013", tid2013, scores=name)] for name in ("own", "quality")
    }
    assert scores["own"] == scores["quality"]


def test_an_official_split_can_be_left_alone(tmp_path: Path) -> None:
    koniq = rated_folders.koniq10k(tmp_path)
    official = {seed: read_rated("koniq10k", koniq, "test", split_seed=seed) for seed in range(8)}
    assert len({image.image for images in official.values() for image in images}) == 1
    at_random = {seed: read_rated("koniq10k", koniq, "test", split_seed=seed, official=False) for seed in range(8)}
    assert len({image.image for images in at_random.values() for image in images}) > 1
