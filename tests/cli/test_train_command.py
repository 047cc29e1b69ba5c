"""``fastiqa train`` as the user runs it, in one process and under torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from fastiqa.models import load_backbone, load_model
from fastiqa.nn import ResNet
from fastiqa.training import RecipeError, read_recipe, train
from fastiqa.training.run.batches import epoch_order, parts_of
from fastiqa.training.run.setup import build_datasets, build_model, check_batches
from support.training_runs import COARSE, assert_same, log, run, state

pytest.importorskip("typer", reason="the command needs fastiqa-kernels[cli]")

# One update by the gradient itself: the weights then differ by as much as the gradients do.
ONE_UPDATE = (
    *COARSE,
    "data.clic.items=8",
    "optimizer.momentum=0.0",
    "optimizer.weight_decay=0.0",
    "steps.coarse.optimizer.lr=1.0",
)


def sets(*overrides):
    return [part for override in overrides for part in ("--set", override)]


def test_it_trains_and_prints_where_the_weights_are(fastiqa_command, tmp_path):
    options = ("--out", tmp_path / "run", "--device", "cpu", *sets(*COARSE))
    status, out, err = fastiqa_command("train", "smoke", *options)
    assert (status, out) == (0, f"{tmp_path / 'run' / 'model.safetensors'}\n")
    assert err.startswith("coarse, epoch 1: loss of clic 0.")
    assert_same(state(tmp_path / "run"), run(tmp_path / "other", *COARSE))
    assert fastiqa_command("train", "smoke", *options) == (
        2,
        "",
        f"error: {tmp_path / 'run'}: holds a run already, want another folder, or resume it (--resume)\n",
    )
    assert fastiqa_command("train", "smoke", *options, "--resume")[0] == 0


def test_the_smoke_recipe_learns_what_can_be_seen(tmp_path):
    """Unchanged: the first run after an installation must not look broken."""
    train(read_recipe("smoke", ["workers=0"]), tmp_path, device="cpu")
    accuracy = [line["validation"]["held_out"]["accuracy"] for line in log(tmp_path) if line["event"] == "epoch"]
    assert len(accuracy) == 5
    assert accuracy[-1] >= 0.95
    assert accuracy[-1] - accuracy[0] > 0.1


def test_resume_reads_the_recipe_of_the_folder(fastiqa_command, tmp_path):
    """Neither --set nor the recipe need be repeated; stderr names what differs from the command."""
    folder = tmp_path / "run"
    options = ("--out", folder, "--device", "cpu")
    assert fastiqa_command("train", "smoke", *options, *sets(*COARSE))[0] == 0
    weights = f"{folder / 'model.safetensors'}\n"
    assert fastiqa_command("train", *options, "--resume") == (0, weights, "")
    assert fastiqa_command("train", "smoke", *options, *sets(*COARSE), "--resume") == (0, weights, "")
    status, out, err = fastiqa_command("train", "smoke", *options, "--resume")
    assert (status, out) == (0, weights)
    assert err.startswith(f"resuming by {folder / 'recipe.yaml'}, which is not smoke: ")
    assert "steps.fine.epochs was 2, is absent" in err
    status, out, err = fastiqa_command("train", *options, "--resume", *sets("steps.coarse.optimizer.lr=0.5"))
    assert (status, out) == (2, "")
    assert "of another recipe: steps.coarse.optimizer.lr was 0.1, is 0.5" in err
    assert fastiqa_command("train", *options)[2] == (
        "error: RECIPE: missing, want a recipe, or --resume and --out of a run\n"
    )
    assert "no such file" in fastiqa_command("train", "--out", tmp_path / "none", "--resume")[2]


def test_a_signal_ends_the_command_with_a_checkpoint(tmp_path):
    """SIGTERM comes after the first epoch, in the middle of one. Ctrl-C differs only in its number."""
    command = [sys.executable, "-m", "fastiqa", "train", "smoke", "--device", "cpu", "--out", tmp_path / "run"]
    overrides = sets(*COARSE, "steps.coarse.epochs=10000", "checkpoint_every=100000")
    with subprocess.Popen([*map(str, command), *overrides], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("coarse, epoch 1: ")
        process.terminate()
        err = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.splitlines()[-1] == f"stopped; --resume goes on from {tmp_path / 'run' / 'checkpoint.safetensors'}"
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_show_prints_a_recipe_that_reads_as_the_same(fastiqa_command, tmp_path):
    status, out, err = fastiqa_command("train", "prfnet_fpn", "--show", *sets("seed=3"))
    assert (status, err) == (0, "")
    (tmp_path / "shown.yaml").write_text(out)
    assert read_recipe(tmp_path / "shown.yaml") == read_recipe("prfnet_fpn", ["seed=3"])


def test_a_file_is_no_folder_of_a_run(fastiqa_command, tmp_path):
    (tmp_path / "file").write_text("mine")
    options = ("--out", tmp_path / "file", "--device", "cpu", *sets(*COARSE))
    want = f"error: out: got {tmp_path / 'file'}, a file, want a folder\n"
    assert fastiqa_command("train", "smoke", *options) == (2, "", want)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smok"], "error: recipe: got 'smok', want a .yaml file or one of dan_contrastive, dan_contrastive_small, "),
        (
            ["smoke", "--set", "steps.coarse.epoch=1"],
            "smoke.yaml: steps.coarse.epoch: unknown key; did you mean epochs?",
        ),
        (["smoke", "--device", "tpu"], "error: device: got 'tpu', want cpu or cuda"),
        (["smoke", "--set", "model.options.width=0"], "error: model: width: got 0"),
        (
            ["smoke", "--set", "data.clik.items=8"],
            "error: --set data.clik: no step and no validation uses 'clik', want",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(arguments, message, fastiqa_command, tmp_path):
    status, out, err = fastiqa_command("train", *arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_pretraining_writes_a_branch(fastiqa_command, tmp_path):
    for name in ("one", "two"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (72, 80, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    tiny = sets(
        f"data.photographs={{folder: {tmp_path}, crop: 32, items: 8}}",
        "model.options={layers: [1, 1, 1, 1], width: 4, projector: {hidden: 8, outputs: 4}}",
        "steps.contrastive.epochs=1",
        "batch_size=4",
        "workers=0",
    )
    status, out, err = fastiqa_command("pretrain", "dan", "--out", tmp_path / "run", "--device", "cpu", *tiny)
    assert (status, out) == (0, f"{tmp_path / 'run' / 'model.safetensors'}\n"), err
    load_backbone(ResNet((1, 1, 1, 1), 4), tmp_path / "run" / "model.safetensors")
    assert fastiqa_command("pretrain", "qen") == (2, "", "error: branch: got 'qen', want one of dan\n")


def torchrun(folder, *overrides, recipe="smoke"):
    """Two processes of one thread on this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastiqa"]
    train = ["train", recipe, "--device", "cpu", "--out", folder, *sets(*overrides)]
    done = subprocess.run([*map(str, launch + train)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return state(folder)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path):
    """With a frozen backbone, so that no statistics depend on the batch, and no dropout, whose masks differ by part."""
    frozen = (*ONE_UPDATE, "steps.coarse.freeze_backbone=true", "model.options.dropout=0.0")
    validated = ("validation.data=[held_out]", "validation.batch_size=3", "data.held_out.items=7")
    one, two = run(tmp_path / "one", *frozen, *validated), torchrun(tmp_path / "two", *frozen, *validated)
    assert_close(one, two)
    for first, second in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert second.pop("loss") == pytest.approx(first.pop("loss"), rel=1e-5)
        assert second.pop("gradient_norm", 0) == pytest.approx(first.pop("gradient_norm", 0), rel=1e-4)
        validation = first.pop("validation", {}).get("held_out"), second.pop("validation", {}).get("held_out")
        assert validation[1] == (validation[0] and pytest.approx(validation[0], rel=1e-4))
        assert second == first


@pytest.mark.slow
def test_a_head_without_a_loss_keeps_nobody_waiting(tmp_path):
    """Its weights have no gradient and stay unchanged."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("""
task: quality
model:
  name: mfenet
  options: {depths: [1, 1, 1, 1], widths: [8, 8, 8, 8], mlp_ratios: [2, 2, 2, 2], hidden: [8], hfen_width: 8,
            dan: false, predict_high_frequency: true}
data: {train: {kind: random, items: 16, height: 32, width: 32}}
workers: 0
steps: {only: {losses: {train: l1}, epochs: 1, batch_size: 4, optimizer: {name: adam, lr: 0.01}}}
""")
    torchrun(tmp_path / "run", recipe=recipe)
    trained, initial = load_model(tmp_path / "run" / "model.safetensors").state_dict(), build_model(read_recipe(recipe))
    same = {name for name, value in initial.named_parameters() if torch.equal(trained[name], value)}
    assert same == {"high_frequency_head.weight", "high_frequency_head.bias"}


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates_where_normalisation_depends_on_the_batch(tmp_path):
    """Trained in 2 x 2 parts and in 4, dropout included. The running statistics are of the first process's parts, so
    they differ; every weight has the same gradient."""
    two = torchrun(tmp_path / "two", *ONE_UPDATE, "steps.coarse.accumulate=2")
    four = run(tmp_path / "four", *ONE_UPDATE, "steps.coarse.accumulate=4")
    weights = {key for key in four if "running" not in key and "num_batches" not in key}
    assert_close({key: four[key] for key in weights}, {key: two[key] for key in weights})
    whole = run(tmp_path / "whole", *ONE_UPDATE)
    assert (whole["model.backbone.conv1.weight"] - two["model.backbone.conv1.weight"]).abs().max() > 1e-4


def assert_close(one, other):
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_processes_share_every_batch_of_an_epoch():
    blocks = {"x": [[index] for index in range(21)], "y": [[index] for index in range(9)]}
    order = epoch_order(blocks, 4, seed=1, epoch=2)
    assert sorted({name for name, _ in batch} == {batch[0][0]} for batch in order) == [True] * 7
    seen = [key for batch in order for key in batch]
    assert len(set(seen)) == len(seen) == 28
    for batch in order:
        shares = [parts_of(batch, process, 2, 2) for process in (0, 1)]
        assert [key for share in shares for part in share for key in part] == batch
        assert [len(part) for share in shares for part in share] == [1] * 4
    assert order == epoch_order(blocks, 4, seed=1, epoch=2)
    assert order != epoch_order(blocks, 4, seed=1, epoch=3)
    assert order != epoch_order(blocks, 4, seed=2, epoch=2)


def test_items_of_a_block_stay_together():
    """Except where a batch ends."""
    blocks = [[0], *(range(first, first + 5) for first in range(1, 51, 5))]
    (batch,) = epoch_order({"x": blocks}, 51, seed=0, epoch=0)
    order = [index for _, index in batch]
    places = [order.index(block[0]) for block in blocks]
    assert all(order[place : place + len(block)] == [*block] for place, block in zip(places, blocks, strict=True))
    assert places != sorted(places)
    batches = [{index for _, index in batch} for batch in epoch_order({"x": blocks}, 17, seed=0, epoch=0)]
    assert sorted(index for batch in batches for index in batch) == list(range(51))
    assert sum(len({*block} & batch) > 0 for block in blocks for batch in batches) <= len(blocks) + 2


def test_a_batch_that_cannot_be_cut_among_the_processes_is_refused():
    recipe = read_recipe("smoke", ["steps.coarse.accumulate=2"])
    with pytest.raises(
        RecipeError, match=r"steps\.coarse\.batch_size: got 16, want a multiple of 3 processes times acc"
    ):
        check_batches(recipe, build_datasets(recipe, {}), 3)
