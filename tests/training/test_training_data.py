"""Recipes on data sets in their distributed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastiqa
from fastiqa.training import RecipeError, read_recipe, train
from fastiqa.training.run.setup import build_datasets
from fastiqa.training.tasks import TASKS
from support import labelled_folders as folders
from support.training_runs import log

pytest.importorskip("yaml", reason="recipes need fastiqa-kernels[train]")

TINY = "model.options={layers: [1, 1, 1, 1], width: 8, first_stage_stride: 4, hidden: 16}"
PAIRS = [("ref_1_blur_1.png", "ref_1_blur_2.png", "0.2", "0.3"), ("ref_1_blur_1.png", "ref_1.png", "0.1", "0.1")]


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    """Overrides with the paths of tiny data sets and crops of 32x32."""
    csv = folders.clic(tmp_path / "clic", 40)
    folders.bapps(tmp_path / "bapps", "train", {"traditional": [0.0, 1.0], "cnn": [0.4], "mix": [0.8]}, 64)
    folders.pieapp(tmp_path / "pieapp", "train", {1: PAIRS}, 24)
    paths = {"clic.csv": csv, "bapps.folder": tmp_path / "bapps", "pieapp.folder": tmp_path / "pieapp"}
    sizes = [f"data.{name}.size=32" for name in ("clic", "bapps", "pieapp")]
    return [TINY, "workers=0", *sizes, *(f"data.{name}={path}" for name, path in paths.items())]


def test_the_progressive_recipe_trains(where: list[str], tmp_path: Path) -> None:
    validation = ["data.valid={kind: clic, whole: true}", f"data.valid.csv={tmp_path / 'clic' / 'oracle.csv'}"]
    epochs = ["steps.coarse.epochs=1", "steps.fine.epochs=2", "batch_size=2", "log_every=1", "validation.data=[valid]"]
    recipe = read_recipe("prfnet_progressive", [*where, *validation, *epochs])
    model = fastiqa.load_model(train(recipe, tmp_path / "run", device="cpu"))
    assert torch.isfinite(model(*torch.rand(3, 1, 3, 40, 40))).all()
    lines = log(tmp_path / "run")
    batches = [(line["step"], line["data"]) for line in lines if line["event"] == "batch"]
    assert {data for step, data in batches if step == "coarse"} == {"clic"}
    assert {data for step, data in batches if step == "fine"} == {"bapps", "pieapp"}
    scores = [line["validation"]["valid"]["accuracy"] for line in lines if line["event"] == "epoch"]
    assert len(scores) == 3
    assert all(0 <= score <= 1 for score in scores)


def test_crops_are_those_of_the_seed_and_epoch(where: list[str]) -> None:
    recipe = read_recipe("prfnet_progressive", where)
    one, other = (build_datasets(recipe, {})["clic"] for _ in range(2))
    for image, same in zip(one[0], other[0], strict=True):
        assert torch.equal(image, same)
    one.set_epoch(1)  # type: ignore[attr-defined]
    assert not torch.equal(one[0][0], other[0][0])


def test_whole_images_are_not_cropped(tmp_path: Path) -> None:
    csv = folders.clic(tmp_path, 40)
    ref, a, b, label = TASKS["comparison"].dataset("clic", csv=csv, whole=True, small="native")[0]
    assert ref.shape == a.shape == b.shape == (3, 64, 64)  # padded to a multiple of 32
    assert label == pytest.approx(2 / 3)
    assert TASKS["comparison"].dataset("clic", csv=csv, average_duplicates=False, whole=True)[0][3] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.clic.csv=null", "data.clic: csv: missing, kind 'clic' needs it"),
        ("data.clic.folders=here", "data.clic: folders: unknown option of kind 'clic', want one of csv, folder,"),
        ("data.bapps.subsets=[blur]", "data.bapps: subsets: got 'blur', want one of 'traditional', 'cnn', 'mix'"),
        ("data.pieapp.small=tiny", "data.pieapp: small: got 'tiny', want one of 'upscale', 'native'"),
        ("data.clic.csv=nowhere.csv", "data.clic: nowhere.csv: no such file"),
    ],
)
def test_bad_options_name_the_data_set(where: list[str], override: str, message: str) -> None:
    recipe = read_recipe("prfnet_progressive", [*where, override])
    with pytest.raises(RecipeError) as caught:
        build_datasets(recipe, {})
    assert str(caught.value).startswith(message)
