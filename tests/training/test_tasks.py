"""Tasks: each trains, resumes exactly and reports its values; learning rates, losses and data sets."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

import fastiqa
from fastiqa.common.weight_files import read_weights
from fastiqa.data.distortions import CLASSES
from fastiqa.models import create_model
from fastiqa.training import CheckpointError, Recipe, RecipeError, TrainingError, read_recipe, train
from fastiqa.training.config.settings import Optimizer, Schedule, Step
from fastiqa.training.run.batches import epoch_order
from fastiqa.training.run.optimizer import build_optimizer, freeze, learning_rate, parameter_groups, set_training
from fastiqa.training.run.processes import Processes
from fastiqa.training.run.setup import build_datasets, build_model
from fastiqa.training.tasks import TASKS
from fastiqa.training.tasks.quality import Estimate
from support.training_runs import COARSE, Stop, StopAt, assert_same, log, state

pytest.importorskip("yaml", reason="recipes need fastiqa-kernels[train]")

SMALL: dict[str, Any] = {"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "mlp_ratios": [2, 2, 2, 2], "hidden": [8]}
SMALL |= {"hfen_width": 8, "dan_layers": [1, 1, 1, 1], "dan_width": 4, "dropout": 0.2}
IMAGES = "items: 24, height: 32, width: 32"
SHARED = """
workers: 0
checkpoint_every: 2
log_every: 1
validation: {data: [held_out], batch_size: 8}
steps:
  only:
    epochs: 2
    batch_size: 8
"""
RECIPES = {
    "quality": f"""
task: quality
model: {{name: mfenet, options: {json.dumps(SMALL)}}}
data: {{train: {{kind: random, {IMAGES}}}, held_out: {{kind: random, items: 7, height: 32, width: 48, seed: 1}}}}
{SHARED}
    losses: {{train: l1}}
    optimizer: {{name: adam, lr: 0.01, weight_decay: 0.0005}}
    lr_factors: {{dan: 0.1}}
""",
    "contrastive": f"""
task: contrastive
model:
  name: resnet
  options: {{layers: [1, 1, 1, 1], width: 4, memory: lean, projector: {{hidden: 16, outputs: 8}}}}
data: {{train: {{kind: random, {IMAGES}}}, held_out: {{kind: random, items: 12, height: 32, width: 32, seed: 1}}}}
{SHARED}
    losses: {{train: nt_xent}}
    optimizer: {{name: sgd, lr: 0.1}}
    schedule: {{name: cosine, warmup: 0.1}}
""",
}
tasks = pytest.mark.parametrize("task", RECIPES)


def recipe(folder: Path, task: str, *overrides: str) -> Recipe:
    file = folder / f"{task}.yaml"
    file.write_text(RECIPES[task])
    return read_recipe(file, overrides)


def run(folder: Path, task: str, *overrides: str, **arguments: Any) -> dict[str, Tensor]:
    """Train in `folder`/run; returns the tensors of the last checkpoint."""
    train(recipe(folder, task, *overrides), folder / "run", device="cpu", **arguments)
    return state(folder / "run")


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [line for line in log(folder / "run") if line["event"] == "epoch"]


@tasks
def test_a_run_goes_on_where_it_stopped_bit_for_bit(task: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    want = run(whole, task, "ema=0.9")
    for iteration in (1, 5):  # before there is a checkpoint, and between two
        with pytest.raises(Stop):
            run(broken, task, "ema=0.9", observers=[StopAt(iteration)], resume=True)
    assert_same(run(broken, task, "ema=0.9", resume=True), want)
    assert log(broken / "run") == log(whole / "run")


@pytest.mark.parametrize("name", TASKS)
def test_what_an_item_is_can_be_sent_to_processes_that_read(name: str) -> None:
    """As on systems that do not fork."""
    assert pickle.loads(pickle.dumps(TASKS[name].item)) == TASKS[name].item


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "contrastive", "steps.only.epochs=1", "validation=null")
    with pytest.raises(CheckpointError, match=r"of another task: got contrastive, want quality$"):
        run(tmp_path, "quality", resume=True)


def test_a_checkpoint_of_the_time_before_tasks_goes_on(tmp_path: Path) -> None:
    """Its recipe lacks the fields that came with them."""
    smoke = read_recipe("smoke", COARSE)
    train(smoke, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        train(smoke, tmp_path / "old", device="cpu", observers=[StopAt(3)])
    file = tmp_path / "old" / "checkpoint.safetensors"
    tensors, metadata = read_weights(file)
    kept = json.loads(metadata["fastiqa.run"])
    del kept["recipe"]["task"], kept["recipe"]["model"]["pretrained_dan"]
    del kept["recipe"]["steps"]["coarse"]["lr_factors"], kept["recipe"]["steps"]["coarse"]["schedule"]["warmup"]
    save_file(tensors, file, {"fastiqa.run": json.dumps(kept)})
    train(smoke, tmp_path / "old", device="cpu", resume=True)
    assert_same(state(tmp_path / "old"), state(tmp_path / "whole"))
    kept["recipe"]["steps"]["coarse"]["gamma"] = 2
    save_file(tensors, file, {"fastiqa.run": json.dumps(kept)})
    with pytest.raises(CheckpointError, match=r"of another version of fastiqa: steps\.coarse\.gamma: unknown key"):
        train(smoke, tmp_path / "old", device="cpu", resume=True)


def test_a_network_learns_the_quality_of_images(tmp_path: Path) -> None:
    """It memorises the scores, and their order."""
    options = ["steps.only.epochs=6", "data.train.items=80", "validation.data=[train]", "model.options.dropout=0.0"]
    run(tmp_path, "quality", *options, "steps.only.lr_factors=null", "schedule.name=cosine")
    losses = [line["loss"]["train"] for line in epochs(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]
    assert epochs(tmp_path)[-1]["validation"]["train"]["srcc"] > 0.8


def test_a_backbone_learns_to_tell_distortions_and_becomes_that_of_a_network(tmp_path: Path) -> None:
    run(tmp_path, "contrastive", "steps.only.epochs=4", "data.train.items=96")
    losses = [line["loss"]["train"] for line in epochs(tmp_path)]
    assert losses[-1] < losses[0] - 0.2
    assert math.isfinite(epochs(tmp_path)[-1]["validation"]["held_out"]["loss"])
    file = tmp_path / "run" / "model.safetensors"
    dan: Any = create_model("mfenet", pretrained_dan=file, **SMALL).dan
    assert_same(dict(dan.state_dict()), read_weights(file)[0])
    assert torch.equal(dan.conv1.weight, state(tmp_path / "run")["model.backbone.conv1.weight"])
    weights = build_model(recipe(tmp_path, "quality", f"model.pretrained_dan={file}")).state_dict()
    assert torch.equal(weights["dan.conv1.weight"], dan.conv1.weight)


class Crops(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Three fixed crops of each generated image."""

    def __init__(self, items: int) -> None:
        self._images = TASKS["quality"].dataset("random", items=items, height=48, width=48)

    def __len__(self) -> int:
        return len(self._images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, score = self._images[index]
        return torch.stack([image[:, k : k + 32, k : k + 32] for k in (0, 8, 16)]), score


def test_a_validation_is_the_correlation_of_the_mean_over_crops(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats", reason="the oracle of the correlations")
    run(tmp_path, "quality", "steps.only.epochs=1", datasets={"held_out": Crops(7)})
    model = fastiqa.load_model(tmp_path / "run" / "model.safetensors")
    with torch.no_grad():
        scores = torch.stack([model(crops).mean() for crops, _ in map(Crops(7).__getitem__, range(7))])
    ratings = torch.stack([Crops(7)[i][1] for i in range(7)])
    (values,) = [line["validation"]["held_out"] for line in epochs(tmp_path)]
    assert list(values) == ["srcc", "plcc"]
    assert values["srcc"] == pytest.approx(stats.spearmanr(scores, ratings).statistic)
    assert values["plcc"] == pytest.approx(stats.pearsonr(scores, ratings).statistic, rel=1e-4)


def test_the_order_within_types_of_distortion_is_a_value_of_its_own() -> None:
    rows = torch.tensor([[1, 9, 0], [2, 8, 0], [3, 7, 0], [4, 1, 1], [5, 2, 1], [6, 3, 1], [7, 7, 2]]).double()
    assert TASKS["quality"].summary(rows)["srcc_of_types"] == pytest.approx(0.0)  # -1 and 1; one image has no order
    assert "srcc_of_types" not in TASKS["quality"].summary(rows[:, :2])
    assert math.isnan(TASKS["quality"].summary(rows[-1:])["srcc_of_types"])


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_a_branch_learns_at_its_own_rate_or_not_at_all(factor: float, tmp_path: Path) -> None:
    """One update by the plain gradient, compared with one learning rate for all."""
    options = [
        "steps.only.epochs=1",
        "steps.only.batch_size=24",
        "validation=null",
        "steps.only.optimizer.weight_decay=0.0",
    ]
    options += ["steps.only.optimizer.name=sgd", "steps.only.optimizer.momentum=0.0", "model.options.dropout=0.0"]
    before = build_model(recipe(tmp_path, "quality", *options)).state_dict()
    moved = {}
    for name, value in (("same", 1.0), ("own", factor)):
        (tmp_path / name).mkdir()
        after = run(tmp_path / name, "quality", *options, f"steps.only.lr_factors.dan={value}")
        moved[name] = {key: after[f"model.{key}"].double() - before[key].double() for key in before}
    for key, difference in moved["own"].items():
        if key.startswith("dan."):
            if factor == 0:
                assert not difference.any(), key  # statistics of batch normalisation neither
            elif "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(difference, factor * moved["same"][key], rtol=1e-2, atol=1e-7)
        elif factor != 0:
            assert torch.equal(difference, moved["same"][key]), key
    assert moved["own"]["head.0.weight"].any()
    assert moved["own"]["dan_guidance.0.projection.weight"].any()  # not of the branch "dan"


def test_the_longest_beginning_of_a_name_counts() -> None:
    model: Any = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "ab": nn.Linear(2, 2)})
    factors = {"a": 0.0, "a.1": 0.5}
    freeze(model, factors)
    set_training(model, factors)
    groups = {group["factor"]: len(group["params"]) for group in parameter_groups(model, factors)}
    assert groups == {0.5: 2, 1.0: 2}
    assert [model["a"][0].training, model["a"][1].training, model["ab"].training] == [False, True, True]
    optimizer = build_optimizer(Optimizer("adam"), parameter_groups(model, factors))
    assert type(optimizer) is torch.optim.Adam


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps.only.lr_factors.den=0.1", "steps.only.lr_factors: got 'den', want the beginning of a parameter's name"),
        ("steps.only.freeze_backbone=true", "steps.only.lr_factors: got 'backbone', want the beginning of"),
        ("model.options.dan=false", "steps.only.lr_factors: got 'dan', want the beginning of"),
        (
            "model.name=resnet",
            "model: name: got 'resnet', want one of lpips, mfenet, mfenet_lite, mfenet_small, prfnet",
        ),
        ("steps.only.losses.train=bce", "steps.only.losses.train: got 'bce', want one of l1, mse, smooth_l1"),
        ("steps.only.losses.train=l1 + 0.1*bce", "losses.train: got 'bce', want one of l1"),
        ("steps.only.losses.train=0,1*l1", "losses.train: got '0,1*l1', want a name, or a sum such as l1 + 0.1*"),
        ("steps.only.lr_factors.dan=-1", "steps.only.lr_factors.dan: got -1.0, want a number of at least 0"),
        ("steps.only.schedule.warmup=1", "steps.only.schedule.warmup: got 1.0, want a number in [0, 1)"),
        ("task=ranking", "task: got 'ranking', want one of comparison, quality, contrastive"),
        ("data.train.kind=clic", "data.train: kind: got 'clic', want one of random, distorted, live"),
        ("data.held_out.items=0", "data.held_out: items: got 0"),
    ],
)
def test_mistakes_name_the_key(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        run(tmp_path, "quality", override)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_everything_frozen_is_refused(tmp_path: Path) -> None:
    frozen = "steps.only.lr_factors={backbone: 0, projector: 0}"
    with pytest.raises(RecipeError, match="want some parameter that is not frozen"):
        run(tmp_path, "contrastive", frozen)


def test_losses_are_added_with_their_weights(tmp_path: Path) -> None:
    """Losses of score, high frequencies and distortion type, computed from the network's outputs."""
    torch.manual_seed(0)
    model: Any = create_model("mfenet", predict_high_frequency=True, distortion_types=3, **{**SMALL, "dropout": 0.0})
    images, scores, types = torch.rand(4, 3, 32, 32), torch.rand(4), torch.tensor([0, 2, 1, 2])
    step = Step({"train": "smooth_l1 + 0.1 * high_frequency + 2*distortion_type"}, 1)
    quality = TASKS["quality"]
    losses = quality.total_loss(step.terms("train"), quality.module(model).train()(images), (scores, types))
    outputs = model.outputs(images)
    target = model.high_frequency_target(images)
    want = smooth_l1_loss(outputs.quality, scores, reduction="none")
    want = want + 0.1 * (outputs.high_frequency - target).abs().mean((1, 2, 3))
    want = want + 2 * cross_entropy(outputs.distortion_logits, types, reduction="none")
    torch.testing.assert_close(losses, want)
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    alone = Estimate(torch.zeros(2))
    for name in ("high_frequency", "distortion_type", "ranking", "soft_ranking"):
        with pytest.raises(ValueError, match=f"loss {name}: "):
            quality.item_losses(name, alone, torch.ones(2))
    torch.testing.assert_close(quality.item_losses("mse", alone, torch.full((2,), 3.0)), torch.full((2,), 9.0))
    with pytest.raises(TrainingError, match=r"batch 1: data\.train: loss high_frequency: the network has no head"):
        run(tmp_path, "quality", "steps.only.losses.train=l1 + high_frequency")


def test_images_are_ranked_among_those_of_their_type() -> None:
    mine = torch.tensor([0.3, 0.5, 0.1, 0.9, 0.2], requires_grad=True)
    theirs, types = torch.tensor([0.8, 0.4, 0.0, 0.4, 0.4]), torch.tensor([1, 1, 1, 2, 1])
    losses = TASKS["quality"].item_losses("ranking", Estimate(mine), theirs, types)
    scores = mine.tolist()
    pairs = {0: (1, 2, 4), 1: (0, 2), 2: (0, 1, 4), 3: (), 4: (0, 2)}  # of one type, with another score
    for i, others in pairs.items():
        ahead = [(scores[i] - scores[j]) * math.copysign(1, theirs[i] - theirs[j]) for j in others]
        wrong = [math.log1p(math.exp(-by / 0.1)) for by in ahead]
        assert losses[i].item() == pytest.approx(sum(wrong) / max(1, len(wrong)), rel=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), mine)
    assert gradient[0] < 0 < gradient[1]  # the score of the best one should rise, one above it fall
    assert gradient[3] == 0


def test_a_soft_ranking_asks_for_the_differences_of_the_scores() -> None:
    mine = torch.tensor([0.31, 0.30, 0.10, 0.9], requires_grad=True)
    theirs, types = torch.tensor([0.80, 0.81, 0.50, 0.4]), torch.tensor([1, 1, 1, 2])
    losses = TASKS["quality"].item_losses("soft_ranking", Estimate(mine), theirs, types)

    def cross_entropy_of(i: int, j: int) -> float:
        got, want = (1 / (1 + math.exp(-(x[i] - x[j]) / 0.02)) for x in (mine.tolist(), theirs.tolist()))
        return -want * math.log(got) - (1 - want) * math.log(1 - got)

    for i, others in {0: (1, 2), 1: (0, 2), 2: (0, 1)}.items():
        assert losses[i].item() == pytest.approx(sum(cross_entropy_of(i, j) for j in others) / 2, abs=1e-5)
    assert losses[3] == 0
    equal = (theirs - 0.2).requires_grad_()  # all differences are right: another mean does not matter
    total = TASKS["quality"].item_losses("soft_ranking", Estimate(equal), theirs, types).sum()
    (gradient,) = torch.autograd.grad(total, equal)
    torch.testing.assert_close(gradient, torch.zeros(4), rtol=0, atol=1e-5)


def test_accumulated_parts_of_a_contrastive_batch_are_compared_within(tmp_path: Path) -> None:
    """The logged loss is the mean over the parts."""
    options = ("steps.only.epochs=1", "validation=null", "data.train.items=8", "steps.only.accumulate=2")
    run(tmp_path, "contrastive", *options)
    (line,) = [line for line in log(tmp_path / "run") if line["event"] == "batch"]
    whole, contrastive = recipe(tmp_path, "contrastive", *options), TASKS["contrastive"]
    (batch,) = epoch_order({"train": [[index] for index in range(8)]}, 8, whole.seed, 0)
    items = [build_datasets(whole, {})["train"][index] for _, index in batch]
    network = build_model(whole).train()
    losses = []
    for part in (items[:4], items[4:]):
        views, classes = (torch.stack(tensors) for tensors in zip(*part, strict=True))
        losses.append(contrastive.item_losses("nt_xent", network(views), classes).mean().item())
    assert line["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_the_learning_rate_rises_then_falls() -> None:
    step = Step({"x": "nt_xent"}, 20, Optimizer(lr=0.6), Schedule("cosine", warmup=0.1))
    rising = [learning_rate(step, 0, 0.0), learning_rate(step, 0, 0.5), learning_rate(step, 1, 0.5)]
    assert rising == pytest.approx([0.0, 0.15, 0.45])
    falling = [learning_rate(step, epoch, 0.0) for epoch in (2, 11, 20)]
    assert falling == pytest.approx([0.6, 0.3, 0.0])
    stairs = dataclasses.replace(step, schedule=Schedule("step", every=5, factor=0.1, warmup=0.1))
    assert [learning_rate(stairs, e, 0.0) for e in (2, 6, 7, 11, 12)] == pytest.approx([0.6, 0.6, 0.06, 0.06, 0.006])


def test_the_recipes_of_mfenet_say_what_the_papers_say() -> None:
    mfenet, small, dan = (read_recipe(name) for name in ("mfenet", "mfenet_small", "dan_contrastive"))
    (step,) = mfenet.steps.values()
    assert (step.losses, step.epochs, step.batch_size, step.optimizer.name) == ({"train": "l1"}, 5, 64, "adam")
    assert [learning_rate(step, epoch, 0.5) for epoch in range(3)] == pytest.approx([2e-5, 2e-6, 2e-7])
    assert (step.optimizer.weight_decay, step.lr_factors) == (5e-4, {"dan": 0.1})
    assert (mfenet.data["train"]["crops"], mfenet.data["test"]["crops"]) == (50, 50)
    (step,) = dan.steps.values()
    assert (step.optimizer, step.epochs, step.batch_size) == (Optimizer("sgd", 0.6, 0.9, 1e-4), 25, 256)
    assert (step.schedule.name, step.schedule.warmup) == ("cosine", 0.1)
    network: Any = build_model(small)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 2_000_000
    assert small.model.options["distortion_types"] == len({name for name, _ in CLASSES})
    of_small = read_recipe("dan_contrastive_small")
    assert of_small.model.options["layers"] == network.options["dan_layers"]
    assert of_small.model.options["width"] == network.options["dan_width"]
    assert {of_small.data["photographs"]["part"], small.data["train"]["part"]} == {"train"}


def test_values_of_several_processes_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven values in three processes; the last two have one less."""
    padded = [torch.tensor(share)[:, None] for share in ([0, 3, 6], [1, 4, 0], [2, 5, 0])]
    for rank, mine in enumerate(padded):

        def gather(processes: Processes, values: Tensor, mine: Tensor = mine) -> Tensor:
            assert torch.equal(values, mine)
            return torch.cat(padded)

        monkeypatch.setattr(Processes, "gather", gather)
        together = Processes(rank, 3, torch.device("cpu")).gather_shares(mine[: len(range(rank, 7, 3))], 7)
        assert together.tolist() == [[i] for i in range(7)]


def test_what_a_run_of_pre_training_writes_has_no_projector(tmp_path: Path) -> None:
    run(tmp_path, "contrastive", "steps.only.epochs=1", "validation=null")
    with safe_open(tmp_path / "run" / "model.safetensors", framework="pt") as file:
        assert "layer1.0.conv1.weight" in file.keys()  # noqa: SIM118
        assert not [key for key in file.keys() if "projector" in key]  # noqa: SIM118
