"""Training a head on cached features, and losses weighed by the triplets' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa.data import TripletDataset, read_image, read_synth
from fastiqa.evaluation.features import write_features
from fastiqa.training import RecipeError, read_recipe, train
from fastiqa.training.run.setup import build_model
from fastiqa.training.tasks import TASKS, Items
from support.synth_folders import small_folder
from support.training_runs import assert_same, log, state

pytest.importorskip("yaml", reason="recipes need fastiqa-kernels[train]")

CROP = 64
SMALL = [
    "model.pretrained_backbone=null",
    "model.options.hidden=8",
    "model.options.cross_channels=4",
    "batch_size=4",
    "steps.head.epochs=2",
]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides with the path of features of the recipe's own random backbone."""
    synth, features = small_folder(tmp_path_factory.mktemp("synth")), tmp_path_factory.mktemp("features")
    paths = [f"data.{name}.folder={features}" for name in ("triplets", "held_out")]
    overrides = [*SMALL, *paths]
    write_features(build_model(read_recipe("prfnet_lite", overrides)), synth, features, crop=CROP)
    return [*overrides, str(synth)]


def recipe_of(where: list[str], *overrides: str) -> Any:
    return read_recipe("prfnet_lite", [*where[:-1], *overrides])


class FixedCrops(Items):
    """The images whose features a data set of rows has, at the same crops, with the same exchanges."""

    def __init__(self, rows: Any, synth: str) -> None:
        self._rows = rows
        self._crops: list[Tensor] = []
        for group in rows.cache.manifest["groups"]:
            top, left = group["place"]
            for name in group["images"]:
                whole = read_image(Path(synth) / name).tensor()[0]
                self._crops.append(whole[:, top : top + CROP, left : left + CROP])
        matrix = torch.from_numpy(rows.cache.matrix)
        self._known = {bytes(row.numpy()): k for k, row in enumerate(matrix)}

    def set_epoch(self, epoch: int) -> None:
        self._rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        *rows, label = self._rows[index]
        return (*(self._crops[self._known[bytes(row.numpy())]] for row in rows), label)


def test_training_on_the_cache_is_training_with_the_frozen_backbone(where: list[str], tmp_path: Path) -> None:
    """Two epochs of SGD: rounding the features to float16 moves the head's weights by less than 5 % of their way.

    AdamW's first steps have one size, so a gradient near zero that rounds to another sign would count as much as any.
    """
    sgd = ("optimizer.name=sgd", "optimizer.lr=0.05", "optimizer.weight_decay=0")
    recipe = recipe_of(where, "ema=null", "log_every=1", *sgd)
    built = {
        name: TASKS["comparison"].dataset(str(o["kind"]), **{k: v for k, v in o.items() if k != "kind"})
        for name, o in recipe.data.items()
    }
    images: dict[str, Items] = {name: FixedCrops(rows, where[-1]) for name, rows in built.items()}
    train(recipe, tmp_path / "rows", device="cpu")
    train(recipe, tmp_path / "images", device="cpu", datasets=images)
    first, (rows, whole) = build_model(recipe).state_dict(), (state(tmp_path / n) for n in ("rows", "images"))
    moved = 0
    for name, before in first.items():
        one, other = rows[f"model.{name}"], whole[f"model.{name}"]
        if not name.startswith("head."):
            assert torch.equal(one, before)
            assert torch.equal(other, before)
        elif before.is_floating_point():
            moved += int(not torch.equal(one, before))
            torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)
            assert (one - other).norm() <= 0.05 * (one - before).norm() + 1e-6, name
    assert moved > 10
    for line, same in zip(log(tmp_path / "rows"), log(tmp_path / "images"), strict=True):
        if line["event"] == "batch":
            assert line["loss"] == pytest.approx(same["loss"], rel=1e-3)
        else:
            assert line["validation"]["held_out"]["bce"] == pytest.approx(
                same["validation"]["held_out"]["bce"], rel=1e-3
            )


@pytest.mark.parametrize("fusion", ["prf", "fpn", "bifpn"])
def test_the_recipe_trains_every_fusion_and_its_file_loads(fusion: str, where: list[str], tmp_path: Path) -> None:
    recipe = recipe_of(where, f"model.options.fusion={fusion}", "steps.head.epochs=1")
    model: Any = fastiqa.load_model(train(recipe, tmp_path, device="cpu"))
    assert model.symmetric
    assert torch.isfinite(model(*torch.rand(3, 1, 3, CROP, CROP))).all()
    assert not any("backbone" in name for name in state(tmp_path) if name.startswith("optimizer."))


def test_a_run_resumes_bit_identical(where: list[str], tmp_path: Path) -> None:
    recipe = recipe_of(where)
    train(recipe, tmp_path / "whole", device="cpu")
    train(recipe, tmp_path / "half", device="cpu")
    train(recipe, tmp_path / "half", device="cpu", resume=True)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "half"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "data.triplets: {features}: features of a backbone with other weights than the model's"),
        ("model.options.first_stage_stride=2", "data.triplets: {features}: features of channels [24, 40, 112, 320]"),
        (
            "freeze_backbone=false",
            "steps.head.freeze_backbone: got a backbone that is trained, with the cached features of data.triplets",
        ),
        (
            "lr_factors.backbone=0.1",
            "steps.head.freeze_backbone: got a backbone that is trained, with the cached features of data.triplets",
        ),
        ("data.triplets.split=test", "data.triplets: {features}/test.json: no such file"),
        ("data.triplets.rule=quality", "data.triplets: triplets: got none, want at least one"),
        ("data.triplets.weights=3", "data.triplets: weights: got 3, want "),
        ("data.triplets.crop=3", "data.triplets: crop: unknown option of kind 'features', want one of folder, split"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    override: str, message: str, where: list[str], tmp_path: Path
) -> None:
    features = where[-2].partition("=")[2]
    with pytest.raises(RecipeError) as error:
        train(recipe_of(where, override), tmp_path / "run", device="cpu")
    assert str(error.value).startswith(message.replace("{features}", features))
    assert "\n" not in str(error.value)


def test_a_and_b_are_exchanged_at_random_in_every_epoch_and_the_crop_is_drawn(where: list[str], tmp_path: Path) -> None:
    write_features(build_model(recipe_of(where)), where[-1], tmp_path, crop=CROP, crops=3)
    options = {"folder": tmp_path, "split": "train"}
    seen: Any = TASKS["comparison"].dataset("features", **options)
    fixed = TASKS["comparison"].dataset("features", **options, swap=False, random_crop=False)
    matrix = seen.cache.matrix
    number = {bytes(row): k for k, row in enumerate(np.asarray(matrix))}

    def rows(item: tuple[Tensor, ...]) -> tuple[int, ...]:
        return tuple(number[bytes(row.numpy())] for row in item[:3])

    labels, crops, orders = set(), set(), set()
    for epoch in range(12):
        seen.set_epoch(epoch)
        ref, a, b = rows(seen[0])
        crops.add(ref)
        orders.add(a < b)
        labels.add((a < b, round(float(seen[0][3]), 4)))
    assert crops == {0, 4, 8}
    assert orders == {True, False}
    assert labels == {(True, 0.2), (False, 0.8)}
    assert rows(fixed[0]) == (0, 1, 2)
    assert rows(fixed[4]) == (12, 15, 14)
    assert float(fixed[4][3]) == pytest.approx(0.7)


@pytest.mark.parametrize("kind", ["synth", "features"])
def test_weights_multiply_the_losses_and_have_mean_1(kind: str, where: list[str], tmp_path: Path) -> None:
    synth, task = Path(where[-1]), TASKS["comparison"]
    folder = synth if kind == "synth" else where[-2].partition("=")[2]
    plain = task.dataset(kind, folder=folder, split="train")
    weighed = task.dataset(kind, folder=folder, split="train", weights=True)
    weights = torch.stack([weighed[k][4] for k in range(12)])
    assert torch.allclose(weights, torch.tensor([0.5, 0.75, 1.0] * 4) / 0.75)
    for k in range(12):
        assert len(plain[k]) == 4
        assert all(torch.equal(one, other) for one, other in zip(plain[k], weighed[k][:4], strict=True))
    logits, label = torch.randn(12), torch.stack([plain[k][3] for k in range(12)])
    for loss in task.losses:
        got = task.total_loss({loss: 1.0}, logits, (label, weights))
        assert torch.allclose(got, weights * task.total_loss({loss: 1.0}, logits, (label,)))
    assert torch.equal(task.rows(logits, label, weights), task.rows(logits, label))
    assert task.item.target_error(label[0], torch.tensor(-1.0)) == "weight -1.0, want a number of at least 0"


def test_weights_change_a_run_and_are_refused_without_a_column(where: list[str], tmp_path: Path) -> None:
    for name, weights in (("plain", "false"), ("weighed", "true")):
        train(recipe_of(where, f"data.triplets.weights={weights}"), tmp_path / name, device="cpu")
    plain, weighed = (state(tmp_path / name) for name in ("plain", "weighed"))
    assert not torch.equal(plain["model.head.mlp.0.weight"], weighed["model.head.mlp.0.weight"])
    classic = small_folder(tmp_path / "classic", 1, 0, world=False)
    assert read_synth(classic, "train")[0].weight is None
    with pytest.raises(ValueError, match="weights: got true, want false: the triplets have no weights"):
        TripletDataset(read_synth(classic, "train"), weights=True)
    nothing = [triplet._replace(weight=0.0) for triplet in read_synth(classic, "train")]
    with pytest.raises(ValueError, match="weights: got true, want false: all weights are 0"):
        TripletDataset(nothing, weights=True)


def test_the_command_writes_a_cache_and_refuses_in_one_line(
    fastiqa_command: Any, where: list[str], tmp_path: Path
) -> None:
    model = build_model(recipe_of(where))
    fastiqa.save_model(model, tmp_path / "model.safetensors")
    backbone = tmp_path / "backbone.safetensors"
    from safetensors.torch import save_file

    save_file(model.backbone.state_dict(), backbone)
    out = tmp_path / "features"
    arguments = ("data", "features", where[-1], out, "--crop", "64", "--pretrained-backbone", backbone)
    assert fastiqa_command(*arguments) == (0, f"24 rows (16 train, 8 val) in {out}\n", "")
    paths = [f"data.{name}.folder={out}" for name in ("triplets", "held_out")]
    sets = [part for override in (*SMALL, *paths, "steps.head.epochs=1") for part in ("--set", override)]
    assert fastiqa_command("train", "prfnet_lite", "--out", tmp_path / "run", *sets)[0] == 0
    for options, message in (
        (("--crop", "50"), "error: crop: got 50, want a multiple of 32, the backbone's largest stride"),
        (("--split", "all"), "error: splits: got 'all', want one of 'train', 'val', 'test'"),
        (("--model", "mfenet"), "error: "),
        (("--pretrained-backbone", tmp_path / "none.pth"), f"error: {tmp_path / 'none.pth'}: "),
    ):
        status, printed, errors = fastiqa_command(*arguments, *options)
        assert (status, printed, errors.count("\n")) == (2, "", 1)
        assert errors.startswith(message)
