"""The trainer: exact resume, checkpoints that survive, errors that name the batch, and what each option does."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys

import pytest
import torch
from rich.console import Console

import fastiqa
from fastiqa.common.files import FolderInUseError
from fastiqa.common.weight_files import read_weights
from fastiqa.evaluation.two_afc import agreement
from fastiqa.models import create_model
from fastiqa.training import CheckpointError, DataError, RecipeError, Stopped, TrainingError, read_recipe, train
from fastiqa.training.run import processes
from fastiqa.training.run.folder import RunFolder
from fastiqa.training.run.logs import BatchReport, EpochReport
from fastiqa.training.run.optimizer import freeze, set_training
from fastiqa.training.run.progress import ProgressBar
from fastiqa.training.tasks import TASKS
from fastiqa.training.tasks.comparison import PackedComparison
from support.training_runs import COARSE, TINY, Altered, Stop, StopAt, assert_same, log, run, state

MODEL = {"layers": (1, 1, 1, 1), "width": 8, "first_stage_stride": 4, "hidden": 16}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: 2 epochs of 3 batches, then 2 of 4."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, "ema=0.9")
    return folder


@pytest.mark.parametrize("iteration", [3, 8, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 5, 6, 11, 14))])
def test_a_run_goes_on_where_it_stopped_bit_for_bit(iteration, whole, tmp_path):
    """Before the first checkpoint, right after one, in the middle and at the end of epochs, in both steps."""
    with pytest.raises(Stop):
        run(tmp_path, "ema=0.9", observers=[StopAt(iteration)])
    assert_same(run(tmp_path, "ema=0.9", resume=True), state(whole))
    assert log(tmp_path) == log(whole)


def test_a_run_killed_in_the_middle_of_an_epoch_ends_at_the_same_weights(whole, tmp_path):
    """SIGKILL after five updates, with a process that reads ahead; the last checkpoint was written after four."""
    program = f"""
import os, signal, sys, torch
sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
from support.training_runs import StopAt, run
from pathlib import Path
class Kill(StopAt):
    def batch(self, report):
        if report.iteration == 5:
            os.kill(os.getpid(), signal.SIGKILL)
torch.set_num_threads({torch.get_num_threads()})
run(Path({os.fspath(tmp_path)!r}), "ema=0.9", "workers=1", observers=[Kill(5)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["iteration"] >= 4
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "ba')  # as a kill in the middle of a line leaves it
    (tmp_path / ".checkpoint.safetensors.0123456789abcdef.tmp").mkdir()
    (tmp_path / ".checkpoint.safetensors.0123456789abcdef.tmp" / ".tmp0123ab").write_text("half")
    assert_same(run(tmp_path, "ema=0.9", resume=True), state(whole))
    assert log(tmp_path) == log(whole)
    assert not list(tmp_path.glob(".*"))


class Signal(StopAt):
    """Sends a signal to this process after an update, twice, as torchrun does."""

    def __init__(self, iteration, number):
        super().__init__(iteration)
        self._number = number

    def batch(self, report):
        with contextlib.suppress(Stop):
            super().batch(report)
            return
        os.kill(os.getpid(), self._number)
        os.kill(os.getpid(), self._number)


@pytest.mark.parametrize(("number", "iteration"), [(signal.SIGINT, 5), (signal.SIGTERM, 3), (signal.SIGTERM, 14)])
def test_a_signal_stops_a_run_after_a_checkpoint(number, iteration, whole, tmp_path, capfd):
    """In the middle of an epoch, at the end of one, at the end of all."""
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, "ema=0.9", "checkpoint_every=100", observers=[Signal(iteration, number)])
    assert stopped.value.number == number
    assert str(stopped.value) == f"stopped; --resume goes on from {tmp_path / 'checkpoint.safetensors'}"
    assert ("Ctrl-C again stops at once" in capfd.readouterr().err) == (number == signal.SIGINT)
    assert signal.getsignal(number) == before
    kept = json.loads(read_weights(tmp_path / "checkpoint.safetensors")[1]["fastiqa.run"])["position"]
    assert kept["iteration"] == iteration
    assert_same(run(tmp_path, "ema=0.9", "checkpoint_every=100", resume=True), state(whole))
    assert log(tmp_path) == log(whole)


def test_a_signal_that_a_shell_ignores_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with processes.interruptions() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.number == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stop_is_pickled():
    sent = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "stopped")))
    assert (sent.number, str(sent)) == (signal.SIGTERM, "stopped")


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.setattr(processes, "SAME_SIGNAL", 0.0)
    with processes.interruptions() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("decay", "message"),
    [
        ("1.0e+20", "step coarse, epoch 1: backbone.* is not finite; older files are kept"),
        (
            "0.0",
            "step coarse, epoch 1: data.held_out: triplet 0: got .*, want finite numbers; older files are kept",
        ),
    ],
)
def test_a_run_that_diverges_in_its_last_update_writes_nothing(decay, message, tmp_path):
    """Infinite weights, and weights so large that the network gives NaN."""
    validated = ("validation.data=[held_out]", "data.held_out.items=4")
    optimizer = ("steps.coarse.optimizer.lr=1.0e+30", f"optimizer.weight_decay={decay}")
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, *COARSE, *validated, "data.clic.items=8", *optimizer)
    assert not list(tmp_path.glob("*.safetensors"))
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_nothing_changes_with_workers_and_the_random_numbers_of_the_caller_stay(whole, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert_same(run(tmp_path, "ema=0.9", "workers=2"), state(whole))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_killed_between_the_network_and_the_checkpoint_ends_with_both(whole, tmp_path, monkeypatch):
    original = RunFolder.end_epoch

    def killed(self, model):
        original(self, model)
        if len([line for line in log(self.path) if line["event"] == "epoch"]) == 4:
            raise Stop

    monkeypatch.setattr(RunFolder, "end_epoch", killed)
    with pytest.raises(Stop):
        run(tmp_path, "ema=0.9")
    monkeypatch.undo()
    (tmp_path / "model.safetensors").unlink()
    assert_same(run(tmp_path, "ema=0.9", resume=True), state(whole))
    assert_same(*(read_weights(folder / "model.safetensors")[0] for folder in (tmp_path, whole)))
    assert log(tmp_path) == log(whole)


class ByEpoch(Altered):
    """Triplets that differ from epoch to epoch, like random crops."""

    epochs = ()

    def set_epoch(self, epoch):
        self.epochs = (*self.epochs, epoch)

    def __getitem__(self, index):
        ref, a, b, label = super().__getitem__(index)
        return ref.roll(self.epochs[-1], 1), a, b, label


def test_a_run_that_goes_on_tells_the_data_set_its_epoch(tmp_path):
    options = (*COARSE, "steps.coarse.epochs=3", "workers=1")
    first, second, third = (ByEpoch(24) for _ in range(3))
    unbroken = run(tmp_path / "unbroken", *options, datasets={"clic": first})
    with pytest.raises(Stop):
        run(tmp_path / "broken", *options, datasets={"clic": second}, observers=[StopAt(5)])
    assert_same(run(tmp_path / "broken", *options, datasets={"clic": third}, resume=True), unbroken)
    assert (first.epochs, second.epochs, third.epochs) == ((0, 1, 2), (0, 1), (1, 2))


def test_a_finished_run_has_nothing_left_to_do(whole, tmp_path):
    before = state(whole)
    assert_same(run(whole, "ema=0.9", resume=True), before)
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(whole, "ema=0.9")


def test_the_average_is_what_a_run_ends_with(whole):
    saved, model = state(whole), fastiqa.load_model(whole / "model.safetensors")
    average = {key.removeprefix("ema.module."): t for key, t in saved.items() if key.startswith("ema.module.")}
    assert_same(dict(model.state_dict()), average)
    assert not torch.equal(average["head.mlp.0.weight"], saved["model.head.mlp.0.weight"])


def test_the_folder_holds_recipe_log_and_curve(whole):
    assert read_recipe(whole / "recipe.yaml") == read_recipe("smoke", [*TINY, "ema=0.9"])
    lines = log(whole)
    assert [line["event"] for line in lines].count("epoch") == 4
    assert [line["iteration"] for line in lines if line["event"] == "batch"] == list(range(1, 15))
    pytest.importorskip("matplotlib", reason="the curve is drawn where matplotlib is installed")
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_other_files_stays_as_it_is(tmp_path):
    """Files with our names and others' temporary files stay, with --resume and without."""
    names = ("recipe.yaml", "model.safetensors", "curve.png", ".report.odt.tmp", ".notes.0123456789abcdef.tmp")
    for name in names:
        (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="got a folder of other files than a run's, want a new or an empty"):
            run(tmp_path, *COARSE, resume=resume)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")
    (tmp_path / "log.jsonl").write_text("a line of mine\n")
    with pytest.raises(CheckpointError, match=r"log\.jsonl:1: not a line of the log of a run"):
        run(tmp_path, *COARSE, resume=True)
    assert {name: (tmp_path / name).read_text() for name in names[:3]} == dict.fromkeys(names[:3], "mine")


def test_hidden_files_do_not_make_a_folder_anybodys(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / ".report.odt.tmp").write_text("mine")
    run(tmp_path, *COARSE)
    assert {path.name for path in tmp_path.glob(".*")} == {".DS_Store", ".report.odt.tmp"}


def test_one_run_at_a_time_has_the_folder(tmp_path):
    class Another(StopAt):
        def batch(self, report):
            with pytest.raises(FolderInUseError, match=f"{tmp_path}: in use by this process"):
                run(tmp_path, *COARSE, resume=True)
            super().batch(report)

    with pytest.raises(Stop):
        run(tmp_path, *COARSE, observers=[Another(2)])
    assert not list(tmp_path.glob(".*"))
    assert_same(run(tmp_path, *COARSE, resume=True), run(tmp_path / "whole", *COARSE))


def test_a_checkpoint_of_another_network_is_refused_with_its_keys(whole):
    before = state(whole)
    with pytest.raises(CheckpointError) as error:
        run(whole, "ema=0.9", "model.options.width=16", resume=True)
    assert "checkpoint.safetensors: of another network: " in str(error.value)
    assert "backbone.conv1.weight is (8, 3, 7, 7), want (16, 3, 7, 7)" in str(error.value)
    with pytest.raises(CheckpointError, match=r"head\.fusion\.lateral\.0\.weight is missing; "):
        run(whole, "ema=0.9", "model.options.fusion=fpn", resume=True)
    assert_same(state(whole), before)


def test_a_checkpoint_of_another_recipe_is_refused_with_its_fields(whole):
    with pytest.raises(
        CheckpointError, match=r"another recipe: steps\.fine\.optimizer\.lr was 0\.1, is 0\.02; ema was"
    ):
        run(whole, "steps.fine.optimizer.lr=0.02", resume=True)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"model"])
def test_a_damaged_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: truncated, or not a safetensors file"):
        run(tmp_path, resume=True)
    fastiqa.save_model(create_model("prfnet", **MODEL), tmp_path / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of fastiqa train"):
        run(tmp_path, resume=True)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A limit on file sizes makes a write fail as on a full disk."""

    class Full(StopAt):
        def batch(self, report):
            if report.iteration == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    options = (*COARSE, "data.clic.items=40")  # five batches, checkpoints after the second and the fourth
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r"not written: .*; the older checkpoint is as it was"):
            run(tmp_path, *options, observers=[Full(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob(".*"))
    assert_same(run(tmp_path, *options, resume=True), run(tmp_path / "whole", *options))


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(tmp_path):
    with pytest.raises(TrainingError) as error:
        run(tmp_path, *COARSE, "steps.coarse.optimizer.lr=1e30", "checkpoint_every=1")
    text = str(error.value)
    assert text.startswith("step coarse, epoch 1, batch 2: data.clic: triplets ")
    assert text.endswith("the loss is not finite; the weights were not updated")
    assert len(log(tmp_path)) == 1


def set_losses(monkeypatch, item_losses):
    monkeypatch.setitem(TASKS, "comparison", dataclasses.replace(TASKS["comparison"], item_losses=item_losses))


def test_gradients_that_are_not_finite_stop_before_they_reach_the_weights(tmp_path, monkeypatch):
    """The derivative of a square root at 0, as in a distance between equal features."""
    set_losses(monkeypatch, lambda name, logits, label: (logits * 0).abs().sqrt())
    with pytest.raises(TrainingError, match=r"batch 1: data\.clic: the gradients are not finite; the weights were not"):
        run(tmp_path, *COARSE)


def test_only_the_triplets_that_made_the_loss_infinite_are_named(tmp_path, monkeypatch):
    item_losses = TASKS["comparison"].item_losses

    def poisoned(name, logits, label):
        losses = item_losses(name, logits, label)
        return torch.where(label == 0.25, torch.nan, losses)

    set_losses(monkeypatch, poisoned)
    quarter = lambda ref, a, b, label: (ref, a, b, torch.tensor(0.25))  # noqa: E731
    with pytest.raises(TrainingError, match=r"data\.clic: triplets 13: the loss is not finite"):
        run(tmp_path, *COARSE, "steps.coarse.accumulate=2", datasets={"clic": Altered(24, i13=quarter)})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r, a, b, y: (r[:, 1:], a[:, 1:], b[:, 1:], y),
            r"triplet \d+: ref is 3x\d+x48, want 3x\d+x48 as the ref of",
        ),
        (
            lambda r, a, b, y: (r, a, b[:, :, 2:], y),
            r"triplet \d+: (ref|a|b) is .*: crop the images of a batch to one size",
        ),
        (lambda r, a, b, y: (r, a, b, y + 2), r"triplet 5: label [23]\.0, want a probability in \[0, 1\]"),
        (lambda r, a, b, y: (r, a, b, y * torch.nan), r"triplet 5: label nan, want a probability in \[0, 1\]"),
        (ValueError("x.png: the file is\ntruncated"), r"triplet 5: x\.png: the file is truncated$"),
    ],
)
def test_triplets_that_cannot_be_trained_on_are_named(change, message, workers, tmp_path):
    with pytest.raises(DataError, match=rf"^data\.clic: {message}") as error:
        run(tmp_path, *COARSE, f"workers={workers}", datasets={"clic": Altered(24, i5=change)})
    assert "\n" not in str(error.value)


def test_images_that_the_network_refuses_are_named(tmp_path):
    with pytest.raises(TrainingError, match=r"batch \d: data\.clic: image: got values from 0 to 2, want finite ones"):
        run(tmp_path, *COARSE, datasets={"clic": Altered(24, i5=lambda r, a, b, y: (r * 0 + 2, a, b, y))})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=prf", "model: name: got 'prf'"),
        ("model.options.depth=3", "model: .*unexpected keyword argument 'depth'"),
        ("model.pretrained=nowhere.safetensors", "model: .*nowhere.safetensors"),
        ("data.clic.kind=ava", "data.clic: kind: got 'ava', want one of random"),
        ("data.clic.kind=null", "data.clic.kind: missing"),
        ("data.clic.size=3", "data.clic: size: unknown option of kind 'random', want one of items"),
        ("data.clic.items=0", "data.clic: items: got 0"),
        ("data.clic.items=7", "data.clic: got 7 triplets, want at least the 8 of a batch of steps.coarse"),
    ],
)
def test_what_cannot_be_built_is_said_before_the_folder_is_made(override, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        run(tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_a_frozen_backbone_keeps_nothing_for_the_backward_pass():
    model = create_model("prfnet", **MODEL)
    module = PackedComparison(model).train()
    freeze(model, {"backbone": 0.0})
    set_training(model, {"backbone": 0.0})
    assert (model.head.training, any(m.training for m in model.backbone.modules())) == (True, False)
    before = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
    images = torch.rand(3, 2, 3, 64, 64)
    features = model.encode(images.flatten(0, 1))
    saved: dict[int, int] = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = module(*images)
    logits.sum().backward()
    # the four maps, which the head needs, and little of its own
    assert sum(saved.values()) < 1.2 * sum(maps.nbytes for maps in features)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    assert_same(before, dict(model.backbone.state_dict()))


def test_the_fine_step_leaves_the_backbone_as_it_was(whole, tmp_path):
    coarse = run(tmp_path, "ema=0.9", "steps.fine=null")
    fine = state(whole)
    for key, tensor in coarse.items():
        if key.startswith("model."):
            assert torch.equal(tensor, fine[key]) == key.startswith("model.backbone."), key


def test_packed_logits_are_those_of_the_model():
    model = create_model("prfnet", **MODEL).eval()
    images = torch.rand(3, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(PackedComparison(model).eval()(*images), model(*images))


def test_accumulation_changes_nothing_but_what_normalisation_sees(tmp_path):
    frozen = (*COARSE, "steps.coarse.freeze_backbone=true", "model.options.dropout=0.0")
    whole_batch = run(tmp_path / "whole", *frozen)
    in_parts = run(tmp_path / "parts", *frozen, "steps.coarse.accumulate=4")
    for key, tensor in whole_batch.items():
        torch.testing.assert_close(in_parts[key], tensor, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_and_float32_remembers(tmp_path):
    exact, rounded = run(tmp_path / "exact", *COARSE), run(tmp_path / "rounded", *COARSE, "amp=true")
    key = "model.head.mlp.0.weight"
    assert rounded[key].dtype == torch.float32
    assert 0 < (rounded[key] - exact[key]).abs().max() < 1e-2


def test_adamw_learns_what_there_is_to_learn(tmp_path):
    """It memorises 32 triplets: the loss falls to a fraction of ln 2, the loss of guessing."""
    options = ("steps.coarse.epochs=15", "data.clic.items=32", "optimizer.name=adamw", "steps.coarse.optimizer.lr=0.01")
    run(tmp_path, *COARSE, *options, "schedule.name=cosine", "model.options.dropout=0.0")
    losses = [line["loss"]["clic"] for line in log(tmp_path) if line["event"] == "epoch"]
    assert losses[-1] < 0.35


def test_validation_counts_every_triplet_once(tmp_path):
    options = ("validation.data=[clic]", "validation.batch_size=5", "data.clic.items=13")
    run(tmp_path, *COARSE, *options)
    (epoch,) = [line for line in log(tmp_path) if line["event"] == "epoch"]
    model = fastiqa.load_model(tmp_path / "model.safetensors")
    triplets = [TASKS["comparison"].dataset("random", items=13)[i] for i in range(13)]
    with torch.no_grad():
        logits = torch.cat([model(*(image[None] for image in images)) for *images, _ in triplets])
    label = torch.stack([label for *_, label in triplets])
    accuracy, bce = agreement(logits, label).mean(), TASKS["comparison"].item_losses("bce", logits, label).mean()
    assert epoch["validation"]["clic"] == pytest.approx({"accuracy": accuracy.item(), "bce": bce.item()}, rel=1e-4)


def test_accuracy_is_the_share_of_people_who_agree():
    logits, label = torch.tensor([2.0, -1.0, 0.0, 3.0]), torch.tensor([0.8, 0.8, 0.9, 0.0])
    torch.testing.assert_close(agreement(logits, label), torch.tensor([0.8, 0.2, 0.5, 0.0]))


def test_tensorboard_is_optional_and_its_absence_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"needs tensorboard: pip install 'fastiqa-kernels\[train\]'"):
        train(read_recipe("smoke", [*COARSE, "tensorboard=true"]), tmp_path, device="cpu")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_speed_and_memory_on_a_terminal_and_epochs_everywhere(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    bar = ProgressBar(console)
    bar.batch(BatchReport("coarse", 1, 1, 9, 1, "clic", 0.6931, 1.0, 1e-3, 48.25, 512.0))
    bar.epoch(EpochReport("coarse", 1, 9, {"clic": 0.5}, {"held_out": {"accuracy": 0.75, "bce": 0.4}}))
    bar.close()
    shown = console.file.getvalue()
    assert "coarse, epoch 1: loss of clic 0.5000, accuracy on held_out 0.7500\n" in shown
    assert ("loss 0.6931 · 48.2 images/s · 512 MB" in shown) == terminal
    assert ("\x1b" in shown) == terminal
