"""``fastiqa data synth``: its files, their reproducibility, and its errors."""

from __future__ import annotations

import functools
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from fastiqa.data import read_image, read_synth
from fastiqa.data.synth import synthesis
from fastiqa.data.synth.options import SMALLEST_SIDE, SynthError, SynthOptions
from fastiqa.data.synth.photo import Outcome
from fastiqa.data.synth.synthesis import splits_of
from fastiqa.data.synth.table import COLUMNS
from fastiqa.evaluation.labellers import LABELLERS
from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL
from support.pictures import picture
from support.shared_data import shared_file
from support.synth_folders import content, table

synthesize = functools.partial(synthesis.synthesize, labellers=LABELLERS)

SMALL = SynthOptions(codecs=("jpeg", "webp"), levels=2, pairs=4, val=0.25, test=0.25)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with four pictures, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more, of them").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "c.png", "more, of them/d.PNG")):
        PIL.Image.fromarray(picture(number)).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    return folder


def error_of(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err.strip()


def test_real_photographs(tmp_path: Path) -> None:
    """Every codec and chain on three photographs: sizes, columns, labels and groups."""
    (tmp_path / "photos").mkdir()
    for name in ("bridge", "dune", "garden"):
        shutil.copy(shared_file(f"photos/{name}.webp"), tmp_path / "photos")
    out = tmp_path / "out"
    extras = ("resize", "blur", "noise")
    summary = synthesize(tmp_path / "photos", out, SynthOptions(extras=extras, max_size=192), workers=1)
    assert summary.triplets == {"train": 40, "val": 40, "test": 40}
    rows = table(out)
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["rule"] for row in rows) == {"quality": 60, "metric": 60}
    for row in rows:
        a, b = (float(row[f"{side}_score"]) for side in "ab")
        label = float(row["label"])
        if row["rule"] == "quality":
            assert label == float(b > a)  # the metric agrees, without having a say
            assert row["group"] == row["a_codec"] == row["b_codec"]
        else:
            assert label == pytest.approx(1 / (1 + math.exp((a - b) / 1.25)), abs=1e-6)
            assert row["group"] == "-".join(sorted((row["a_codec"], row["b_codec"])))
            assert max(int(row["a_bytes"]), int(row["b_bytes"])) <= 2 * min(int(row["a_bytes"]), int(row["b_bytes"]))
    assert 0.3 < sum(row["a"] < row["b"] for row in rows) / len(rows) < 0.7  # neither side is always the first
    assert {word.split("=")[0] for row in rows for word in row["a_settings"].split()} >= {"shrink", "blur", "noise"}
    for folder in out.glob("*/"):
        shapes = {read_image(file).pixels.shape for file in folder.glob("*.png")}
        assert shapes == {(192, 192, 3)}
        assert len(list(folder.glob("*.png"))) == 1 + 4 * (4 + 3)


def test_the_reference_is_a_crop_of_the_photograph(photos: Path, tmp_path: Path) -> None:
    PIL.Image.fromarray(picture(9, 300, 161)).save(photos / "tall.png")
    out = tmp_path / "out"
    synthesize(photos, out, SynthOptions(codecs=("jpeg",), extras=(), max_size=200), workers=1)
    (reference,) = out.glob("tall-*/reference.png")
    crop, whole = read_image(reference).pixels, picture(9, 300, 161)
    assert crop.shape == (200, 161, 3)
    assert any(np.array_equal(crop, whole[top : top + 200]) for top in range(101))


def test_the_same_again_in_any_number_of_processes(photos: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "two", "other")]
    synthesize(photos, runs[0], SMALL, workers=1)
    synthesize(photos, runs[1], SMALL, workers=2)
    synthesize(photos, runs[2], SynthOptions(**{**vars(SMALL), "seed": 1}), workers=1)
    assert content(runs[0]) == content(runs[1])
    assert [row["a_settings"] for row in table(runs[0])] != [row["a_settings"] for row in table(runs[2])]


def test_a_photograph_gets_the_same_images_in_other_company(photos: Path, tmp_path: Path) -> None:
    synthesize(photos, tmp_path / "four", SMALL, workers=1)
    (photos / "a.png").rename(photos / "z.png")
    (photos / "b.png").unlink()
    synthesize(photos, tmp_path / "three", SMALL, workers=1)
    (before,), (after,) = (tmp_path / "four").glob("a-*"), (tmp_path / "three").glob("z-*")
    assert content(before) == content(after)


def test_what_is_whole_is_kept_and_the_rest_made_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(photos, out, SMALL, workers=1)
    first = content(out)
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/*")}
    damaged, deleted, unrecorded = (next(out.glob(pattern)) for pattern in ("a-*", "b-*", "c-*"))
    (damaged / "00_jpeg.png").write_bytes((damaged / "00_jpeg.png").read_bytes()[:-20])
    (deleted / "reference.png").unlink()
    (unrecorded / "photograph.json").write_text("{")
    (unrecorded / ".00_jpeg.png.0123456789abcdef.tmp").mkdir()
    (out / ".synth.json.0123456789abcdef.tmp").write_bytes(b"half")
    (out / "triplets.csv").unlink()
    assert synthesize(photos, out, SMALL, workers=1).kept == 1
    assert content(out) == first
    assert {file.parent.name[0] for file, when in times.items() if file.stat().st_mtime_ns == when} == {"d"}


@pytest.mark.slow
def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL to the parent alone ends its two busy workers too; a second run gives the same bytes."""
    photos, killed, undisturbed = (tmp_path / name for name in ("photos", "killed", "undisturbed"))
    photos.mkdir()
    for number in range(8):
        PIL.Image.fromarray(picture(number)).save(photos / f"{number}.png")
    command = [sys.executable, "-m", "fastiqa", "data", "synth", str(photos), str(killed), "--workers", "2"]
    command += ["--codec", "jpeg", "--codec", "webp", "--levels", "8"]
    options = SynthOptions(codecs=("jpeg", "webp"), levels=8)
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(killed.glob("*/photograph.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=20)  # returns when the last worker, sharing its stderr, ends
    finished = {file: file.stat().st_mtime_ns for file in killed.glob("*/photograph.json")}
    assert 1 <= len(finished) < 8
    assert not (killed / "triplets.csv").exists()
    with pytest.raises(ValueError, match=r"triplets\.csv: no such file: fastiqa data synth writes it"):
        read_synth(killed, "train")
    assert synthesize(photos, killed, options, workers=1).kept == len(finished)
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())
    synthesize(photos, undisturbed, options, workers=1)
    assert content(killed) == content(undisturbed)


def test_splits_share_no_photograph(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.png", photos / "copy of a.png")
    summary = synthesize(photos, tmp_path / "out", SMALL, workers=1)
    assert summary.photographs == 4
    assert [Path(file).name for file in summary.duplicates] == ["copy of a.png"]
    parts = {split: read_synth(tmp_path / "out", split) for split in ("train", "val", "test")}
    assert {split: len(triplets) for split, triplets in parts.items()} == summary.triplets
    folders = [{path.parent for triplet in triplets for path in triplet[:3]} for triplets in parts.values()]
    assert [len(group) for group in folders] == [2, 1, 1]
    assert len(set.union(*folders)) == 4


def test_a_folder_is_checked(photos: Path, tmp_path: Path, fastiqa_command) -> None:
    """`fastiqa data check` names a missing image once, with the row that needs it."""
    out = tmp_path / "out"
    synthesize(photos, out, SMALL, workers=1)
    status, said, err = fastiqa_command("data", "check", "synth", out, "--json", "--decode")
    assert (status, err) == (0, "")
    reports = json.loads(said)
    assert [report["dataset"] for report in reports] == ["synth train", "synth val", "synth test"]
    assert [report["counts"]["triplets"] for report in reports] == [
        len(read_synth(out, s)) for s in ("train", "val", "test")
    ]
    gone = read_synth(out, "val")[0].a
    gone.unlink()
    status, said, err = fastiqa_command("data", "check", "synth", out, "--split", "val")
    assert (status, err) == (1, "")
    assert f"missing file: {gone}" in said
    assert "split: got 'x'" in fastiqa_command("data", "check", "synth", out, "--split", "x")[2]


def test_shares_of_the_splits() -> None:
    contents = [f"{number:064x}" for number in range(40)]
    splits = splits_of(contents, SynthOptions())
    assert Counter(splits.values()) == {"train": 28, "val": 6, "test": 6}
    assert splits_of(contents[::-1], SynthOptions()) == splits
    assert splits_of(contents, SynthOptions(seed=1)) != splits
    assert set(splits_of(contents[:1], SynthOptions(val=0, test=0)).values()) == {"train"}
    with pytest.raises(SynthError, match="photographs: got 2, want at least 3, or --val 0 --test 0"):
        splits_of(contents[:2], SynthOptions())


def test_what_is_read_back(photos: Path, tmp_path: Path, fastiqa_command) -> None:
    out = tmp_path / "out"
    synthesize(photos, out, SMALL, workers=1)
    triplets = read_synth(out, "train")
    assert all(path.is_file() for triplet in triplets for path in triplet[:3])
    hard, soft = (read_synth(out, "train", rule=rule) for rule in ("quality", "metric"))
    assert sorted(hard + soft) == sorted(triplets)
    assert {triplet.label for triplet in hard} <= {0.0, 1.0}
    for rule, asked in (("quality", hard), ("metric", soft)):
        given = ("eval", "synth", out, "--split", "train", "--rule", rule, "--metric", "psnr", "--json")
        assert json.loads(fastiqa_command(*given)[1])[0]["triplets"] == len(asked) > 0
    with pytest.raises(ValueError, match="split: got 'all', want one of 'train', 'val', 'test'"):
        read_synth(out, "all")
    lines = (out / "triplets.csv").read_text().splitlines()
    line = next(number for number, text in enumerate(lines) if ",train," in text)
    cells = lines[line].split(",")
    cells[3] = "1.5"
    (out / "triplets.csv").write_text("\n".join([*lines[:line], ",".join(cells), *lines[line + 1 :]]))
    with pytest.raises(ValueError, match=rf"triplets\.csv:{line + 1}: label: got '1\.5', want a number from 0 to 1"):
        read_synth(out, "train")
    (out / "triplets.csv").write_text("ref,a,b\n")
    with pytest.raises(ValueError, match=r"triplets\.csv:1: got columns"):
        read_synth(out, "train")


def test_ssimulacra2_labels_the_same_pairs(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ssimulacra2", reason="fastiqa-kernels[train] is not installed")
    synthesize(photos, tmp_path / "ms", SMALL, workers=1)
    synthesize(photos, tmp_path / "s2", SynthOptions(**{**vars(SMALL), "metric": "ssimulacra2"}), workers=1)
    ours, theirs = table(tmp_path / "ms"), table(tmp_path / "s2")
    assert [(row["a"], row["b"], row["rule"]) for row in ours] == [(row["a"], row["b"], row["rule"]) for row in theirs]
    for row in theirs:
        if row["rule"] == "metric":
            difference = float(row["b_score"]) - float(row["a_score"])
            assert float(row["label"]) == pytest.approx(1 / (1 + math.exp(-difference / 4.65)), abs=1e-6)
    assert [row["label"] for row in ours] != [row["label"] for row in theirs]


@pytest.mark.parametrize("metric", LABELLERS.values(), ids=LABELLERS.keys())
def test_a_difference_of_scores_becomes_a_probability(metric) -> None:
    assert metric.probability(3.0, 3.0) == 0.5
    assert metric.probability(3.0, 3.0 + metric.scale) == pytest.approx(math.e / (1 + math.e))
    assert metric.probability(1.0, 2.5) == pytest.approx(1 - metric.probability(2.5, 1.0))
    assert [metric.probability(0.0, score) for score in (-1e6, 1e6)] == [0.0, 1.0]


def test_the_smallest_photograph_is_ms_ssims() -> None:
    assert SMALLEST_SIDE == LARGEST_SIDE_TOO_SMALL + 1


def test_more_than_8_bits_are_rounded(photos: Path, tmp_path: Path) -> None:
    codes = picture(5).astype(np.uint16) * 257 + 100
    tifffile.imwrite(photos / "deep.tif", codes, photometric="rgb")
    synthesize(photos, tmp_path / "out", SMALL, workers=1)
    (reference,) = (tmp_path / "out").glob("deep-*/reference.png")
    assert np.array_equal(read_image(reference).pixels, np.rint(codes / 257).clip(0, 255))


def test_command(photos: Path, tmp_path: Path, fastiqa_command) -> None:
    arguments = ("data", "synth", photos, tmp_path / "out", "--codec", "jpeg", "--no-resize", "--workers", "1")
    status, out, err = fastiqa_command(*arguments)
    assert (status, err) == (0, "")
    assert out == f"24 triplets (12 train, 6 val, 6 test) of 4 photographs in {tmp_path / 'out'}\n"
    assert fastiqa_command(*arguments)[1] == f"{out}4 photographs were whole from an earlier run\n"
    settings = json.loads((tmp_path / "out" / "synth.json").read_text())
    options = settings["option"]
    assert list(options) == ["seed", "codecs", "extras", "levels", "pairs", "metric", "max_size", "val", "test"]
    assert list(settings["version of"]) == ["format", "pillow", "numpy", "jpeg"]
    record = json.loads(next((tmp_path / "out").glob("*/photograph.json")).read_text())
    assert list(record) == ["reference_sha256", "images", "pairs"]
    assert list(record["images"][0]) == ["file", "sha256", "codec", "settings", "ladder", "quality", "bytes", "score"]
    assert list(record["pairs"][0]) == ["a", "b", "label", "rule"]
    assert (options["codecs"], options["extras"], options["metric"]) == (["jpeg"], [], "ms-ssim")


def test_a_photograph_that_is_no_use_is_named(photos: Path, tmp_path: Path, fastiqa_command) -> None:
    PIL.Image.fromarray(picture(7, 160, 300)).save(photos / "flat.png")
    (photos / "torn.png").write_bytes((photos / "a.png").read_bytes()[:3000])
    arguments = ("data", "synth", photos, tmp_path / "out", "--workers", "1", "--codec", "jpeg")
    message = error_of(fastiqa_command(*arguments))
    assert "flat.png: is 300x160 pixels, want both sides at least 161; --skip-bad goes on" in message or (
        "torn.png: the file is truncated; --skip-bad goes on" in message
    )
    status, out, err = fastiqa_command(*arguments, "--skip-bad")
    assert status == 0
    assert " of 4 photographs " in out
    assert [line.split(": ")[1:] for line in err.splitlines()] == [
        [f"{photos / 'flat.png'}", "is 300x160 pixels, want both sides at least 161"],
        [f"{photos / 'torn.png'}", "the file is truncated"],
    ]
    assert all("torn" not in row["photograph"] for row in table(tmp_path / "out"))


def test_wrong_arguments(photos: Path, tmp_path: Path, fastiqa_command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, out: Path, *options: str) -> str:
        return error_of(fastiqa_command("data", "synth", source, out, "--workers", "1", *options))

    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    assert "SOURCE_FOLDER: no photographs (.png" in refused(empty, out)
    assert "want a folder with photographs" in refused(tmp_path / "nothing", out)
    assert "want a folder that is not in SOURCE_FOLDER" in refused(photos, photos / "out")
    assert "a folder of other files, want a new or an empty one" in refused(empty.parent / "photos", photos.parent)
    assert "codec: got 'gif', want one of jpeg, webp, avif, jpeg2000" in refused(photos, out, "--codec", "gif")
    assert "metric: got 'psnr', want one of ms-ssim, ssimulacra2" in refused(photos, out, "--metric", "psnr")
    assert "levels: got 1, want 2 or more" in refused(photos, out, "--levels", "1")
    assert "max_size: got 100, want 161 or more" in refused(photos, out, "--max-size", "100")
    assert "shares whose sum is less than 1" in refused(photos, out, "--val", "0.5", "--test", "0.5")
    assert "workers: got 0, want 1 or more" in refused(photos, out, "--workers", "0")
    assert not out.exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "ssimulacra2 needs ssimulacra2: pip install" in refused(photos, out, "--metric", "ssimulacra2")


def test_another_run_does_not_mix_with_the_first(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(photos, out, SMALL, workers=1)
    before = content(out)
    with pytest.raises(SynthError, match=r"synth\.json: option seed: got 3, want 0, with which OUT was made"):
        synthesize(photos, out, SynthOptions(**{**vars(SMALL), "seed": 3}), workers=1)
    PIL.Image.fromarray(picture(8)).save(photos / "new.png")
    with pytest.raises(SynthError, match=r"synth\.json: photograph new\.png: got \w+, want nothing"):
        synthesize(photos, out, SMALL, workers=1)
    assert content(out) == before


def test_two_runs_do_not_write_to_one_folder(photos: Path, tmp_path: Path) -> None:
    """A second run on a folder in use ends at once, in this process or another; the first run completes."""
    out = tmp_path / "out"
    program = "import sys; from fastiqa.cli import main; main(sys.argv[1:])"
    other = [
        sys.executable,
        "-c",
        program,
        "data",
        "synth",
        str(photos),
        str(out),
        "--codec",
        "jpeg",
        "--codec",
        "webp",
    ]
    refused = []

    def meanwhile(outcome: Outcome) -> None:
        if not refused:
            with pytest.raises(SynthError, match=f"OUT: {out}: in use by this process"):
                synthesize(photos, out, SMALL, workers=1)
            refused.append(subprocess.run(other, capture_output=True, text=True, check=False))

    synthesize(photos, out, SMALL, workers=1, finished=meanwhile)
    (result,) = refused
    assert result.returncode == 2
    assert result.stderr == f"error: OUT: {out}: in use by process {os.getpid()} on {socket.gethostname()}\n"
    synthesize(photos, tmp_path / "undisturbed", SMALL, workers=1)
    assert content(out) == content(tmp_path / "undisturbed")


def test_names_that_a_spreadsheet_would_compute(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number, name in enumerate((b"=1+1.png", b"-2.png", b"caf\xe9.png")):
        PIL.Image.fromarray(picture(number)).save(photos / "a.png")
        (photos / "a.png").rename(photos / os.fsdecode(name))
    synthesize(photos, out, SynthOptions(codecs=("jpeg",), extras=(), levels=2, pairs=2, val=0, test=0), workers=1)
    assert {row["photograph"] for row in table(out)} == {"'=1+1.png", "'-2.png", "'caf\\udce9.png"}
    assert not any(cell.startswith(tuple("=+-@")) for row in table(out) for cell in row.values())
    triplets = read_synth(out, "train")
    assert len(triplets) == 3
    assert all(path.is_file() for triplet in triplets for path in triplet[:3])


def test_a_full_disk(photos: Path, tmp_path: Path) -> None:
    """The system limits files to 20 kB: the error names the file, and no partial file is left."""
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SynthError, match="File too large") as error:
            synthesize(photos, out, SMALL, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(error.value).startswith(f"{out}/")
    assert ".png: File too large" in str(error.value)
    assert not list(out.rglob("*.tmp"))
    synthesize(photos, out, SMALL, workers=1)
    synthesize(photos, undisturbed, SMALL, workers=1)
    assert content(out) == content(undisturbed)
