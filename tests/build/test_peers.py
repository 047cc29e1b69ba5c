"""`python -m fastiqa.bench.peers`: a row for each library, without a time if it differs, is absent or fails."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from fastiqa.bench.peers import libraries, measure
from fastiqa.bench.peers.libraries import Peer
from fastiqa.bench.report import command
from fastiqa.bench.runner import rows

QUICK = ("--size", "1x3x40x44", "--rounds", "2", "--seconds", "0.02", "--memory", "reused")


def wrong(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).mean()


def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("a planted failure\nof two lines")


def test_only_equal_scores_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted faults beside real libraries: kornia's score equals fastiqa's, scikit-image's has no gradient."""
    planted = [Peer(f.__name__, "torch", "fastiqa", lambda *_, f=f: f) for f in (wrong, broken)]
    planted += [Peer("missing", "no_such_library", "fastiqa", lambda *_: wrong)]
    planted += [Peer("on_a_gpu", "torch", "fastiqa", lambda *_: wrong, device="cuda")]
    real = [peer for peer in libraries.SSIM if peer.name in ("kornia", "skimage") and peer.preset == "fastiqa"]
    monkeypatch.setitem(libraries.PEERS, "ssim", (*real, *planted))
    assert measure.main(["ssim", *QUICK, "--csv", str(tmp_path / "rows.csv")]) == 0
    with (tmp_path / "rows.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert tuple(found[0]) == rows.COLUMNS
    assert {(row["op"], row["arguments"]) for row in found} == {("ssim_peers", "preset=fastiqa")}
    status: dict[str, Any] = {"fastiqa": "ok", "kornia": "ok", "skimage": "ok", "wrong": "wrong", "broken": "failed"}
    status |= {"missing": "absent", "on_a_gpu": "absent"}
    for mode, without_gradient in (("fwd", "ok"), ("fwd_bwd", "absent")):
        case = {row["provider"]: row for row in found if row["mode"] == mode}
        assert {name: row["status"] for name, row in case.items()} == status | {"skimage": without_gradient}
        for row in case.values():
            assert (row["t_p50_us"] != "") == (row["err_vs_fp64"] != "") == (row["status"] == "ok")
        assert float(case["fastiqa"]["err_vs_fp64"]) < 1e-6
        assert float(case["kornia"]["peak_mem_mb"]) > float(case["fastiqa"]["peak_mem_mb"])
    out = capsys.readouterr().out
    assert "| preset=fastiqa | fwd | float32 | 1x3x40x44 | fastiqa |" in out
    assert "broken is failed: RuntimeError: a planted failure.\n" in out
    assert "missing is absent: not installed: No module named 'no_such_library'.\n" in out
    assert command.table("ssim_peers", rows.latest(rows.read(tmp_path / "rows.csv")).values()) in out


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["psnr", "--size", "40x44"]) == 2
    assert "--size: got '40x44', want NxCxHxW" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        measure.main(["niqe"])


def test_every_peer_has_a_preset_of_fastiqa() -> None:
    for metric in ("ssim", "ms_ssim", "psnr"):
        for preset, of_preset in measure.cases(metric):
            assert len({peer.name for peer in of_preset}) == len(of_preset)
            libraries.fastiqa_call(metric, preset, torch.float32, "cpu")
