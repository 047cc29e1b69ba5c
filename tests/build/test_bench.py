"""`fastiqa bench` as users run it: rows, reported failures, interruption, resumption, machines without a compiler.

Also the models of bytes and memory, and the report. No test depends on a time.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from fastiqa.bench.report import command, figures, results
from fastiqa.bench.runner import equality, memory, rows, run, settings, timing
from test_package import ROOT, checkout, clean_environment

from fastiqa import ops
from fastiqa.bench import parts, training
from fastiqa.runtime import dispatch
from support import emulation

TINY = ("--size", "1x4x6x6", "--rounds", "2", "--seconds", "0.02", "--no-compile")
ONE = (*TINY, "--dtype", "float32", "--layout", "nchw", "--memory", "reused")


@pytest.fixture
def bench(tmp_path, fastiqa_command):
    """The command in this process, rows into one file: exit status, stdout, stderr."""
    return functools.partial(fastiqa_command, "bench", "--csv", tmp_path / "rows.csv")


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---- the command ----


def test_every_case_has_a_row_a_provider(bench, tmp_path):
    status, out, _ = bench("high_pass", *TINY, "--memory", "reused", "--memory", "fresh")
    assert status == 0
    found = read(tmp_path)
    assert tuple(found[0]) == rows.COLUMNS
    cases = rows.latest(found)
    assert len(cases) == 3 * 2 * 2 * 2  # modes, memory, dtypes, layouts
    for providers in cases.values():
        assert list(providers) == ["eager", "cpu"]
        for row in providers.values():
            assert row["status"] == "ok"
            assert float(row["t_p20_us"]) <= float(row["t_p50_us"]) <= float(row["t_p80_us"])
            assert float(row["gbps"]) > 0
            assert float(row["copy_gbps"]) > 0
            assert float(row["copy_peak_gbps"]) > 0
            assert (row["saved_mb"] == "") == (row["mode"] == "fwd")
    assert "48 rows of 24 cases" in out
    assert "worst" in out


def test_rows_are_appended_and_resumed(bench, tmp_path):
    for runs in (1, 2):
        assert bench("high_pass", *ONE)[0] == 0
        assert len(read(tmp_path)) == runs * 3 * 2
    status, out, _ = bench("high_pass", *ONE, "--resume")
    assert status == 0
    assert "3 of them are measured already" in out
    assert len(read(tmp_path)) == 12
    assert bench("high_pass", *ONE, "--resume", "--layout", "nhwc")[0] == 0
    assert len(read(tmp_path)) == 18
    assert len(rows.latest(read(tmp_path))) == 6


def test_a_budget_is_kept_and_what_it_leaves_out_is_measured_later(bench, tmp_path, monkeypatch):
    """The test has its own clock: a case takes 10 seconds of it, from the third on 40."""
    now, original = [0.0], run.Bench._timed

    def timed(self, *arguments):
        now[0] += 10 if now[0] < 20 else 40
        return original(self, *arguments)

    monkeypatch.setattr(run.Bench, "_timed", timed)
    monkeypatch.setattr(run, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    small = ("high_pass", "octave_merge", *ONE, "--mode", "fwd", "--mode", "bwd")
    status, out, _ = bench(*small, "--budget", 45)
    assert (status, now[0]) == (0, 60.0)  # the third began when 25 seconds were left and none had taken more than 10
    assert "at most 45 s; cases that do not fit are left out" in out
    assert "1 of 4 cases did not fit into 45 s: --resume measures them" in out
    assert len(rows.latest(read(tmp_path))) == 3
    assert bench(*small, "--resume")[0] == 0
    assert len(rows.latest(read(tmp_path))) == 4


def test_quick_measures_every_operator_at_its_smaller_size_first(tmp_path):
    options = run.quick(run.Options(csv=tmp_path / "rows.csv"))
    order = [(setting.size, setting.op.name) for setting in run.Session(options)._settings]
    count = len(options.names)
    assert [size for size, _ in order[: 2 * count]] == [run.QUICK_SIZES[0]] * 2 * count
    assert {name for _, name in order[: 2 * count]} == set(options.names)
    assert options.budget == run.QUICK_SECONDS


@pytest.mark.parametrize(("load", "warned"), [(0.1, False), (0.5, True)])
def test_a_busy_machine_is_warned_of(load, warned, bench, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load * len(os.sched_getaffinity(0)), 0.0, 0.0))
    out = bench("high_pass", *ONE, "--mode", "fwd")[1]
    assert ("warning: the load is " in out) == warned
    line = next(line for line in out.splitlines() if line.strip().startswith("fwd"))
    assert re.search(r" \d+\.\d+ +\d+% ", line)  # the speed-up and the spread


def test_a_cut_last_row_is_measured_again_with_its_case(tmp_path, caplog):
    """Wherever a kill or a full disk cuts it, --resume finds whole cases and adds to them."""
    file = tmp_path / "rows.csv"
    cases = [[row(name, 1.0, shape=shape, note='of "two"\nlines') for name in ("eager", "cpu")] for shape in "abc"]
    for case in cases:
        rows.append(file, case)
    whole = file.read_bytes()
    about = {"device": "D", "threads": "", "torch": "", "commit": "new"}
    for end in range(whole.index(b"\n"), len(whole)):
        if whole[:end].endswith(b'lines",\n') or whole[:end].endswith(b'lines"\n'):
            continue  # a cut between two rows removes nothing
        file.write_bytes(whole[:end])
        rows.make_ready(file)
        kept = rows.read(file)
        assert len(kept) % 2 == 0
        measured = rows.measured_already(kept, about)
        for case in cases:
            if rows.case_of(case[0]) not in measured:
                rows.append(file, case)
        assert {name: len(group) for name, group in rows.latest(rows.read(file)).items()} == {
            rows.case_of(case[0]): 2 for case in cases
        }
    assert "rows.csv: the last row was cut; its case, 2 rows, is removed to be measured again" in caplog.text


def test_fresh_memory_is_measured_where_blocks_are_large(tmp_path):
    """Without --memory: below 32 MiB both kinds are equal."""
    sizes = [settings.CACHE_SIZE, settings.MEMORY_SIZE]
    options = run.Options(names=["high_pass"], sizes=sizes, dtypes=["float32"], csv=tmp_path / "rows.csv")
    assert run.Session(options).cases == 2 * 3 * (1 + 2)


def test_variants(bench, tmp_path):
    assert bench("octave_split", *ONE, "--mode", "fwd", "--all-samples")[0] == 0
    assert {row["arguments"] for row in read(tmp_path)} == {"negative_slope=1.0", "negative_slope=0.2"}


def wrong(x: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(x)


def broken(x: torch.Tensor, out: torch.Tensor) -> None:
    raise RuntimeError("a planted failure\nof two lines")


@pytest.mark.parametrize(("kernel", "status", "note"), [(wrong, "wrong", "allowed"), (broken, "failed", "planted")])
def test_a_bad_kernel_gets_a_row_and_no_time(bench, tmp_path, monkeypatch, kernel, status, note):
    dispatch._kernel(next(b for b in ops.OPERATORS["high_pass"].backends if b.name == "cpu"), "high_pass")
    monkeypatch.setitem(dispatch._kernels, ("cpu", "high_pass"), kernel)
    code, out, _ = bench("high_pass", *ONE)
    assert code == 1
    assert f"cpu {status}: " in out
    found = read(tmp_path)
    assert [row["provider"] for row in found] == ["eager", "cpu"] * 3
    for row in found:
        good = row["provider"] == "eager"
        assert row["status"] == ("ok" if good else status)
        assert (row["t_p50_us"] != "") == good
        assert (note in row["note"]) != good


def test_an_exact_operator_may_not_differ_by_a_bit(bench, tmp_path, monkeypatch):
    def almost(ref, a, b, out):
        out.copy_(torch.cat([ref - a, ref - b], 1) * (1 + torch.finfo(torch.float32).eps))

    dispatch._kernel(ops.OPERATORS["cross_difference"].backends[-1], "cross_difference")
    monkeypatch.setitem(dispatch._kernels, ("cpu", "cross_difference"), almost)
    assert bench("cross_difference", *ONE, "--mode", "fwd")[0] == 1
    assert "want equality" in read(tmp_path)[-1]["note"]


def test_a_lucky_draw_of_eager_does_not_condemn():
    """An error above the limit for these arguments, but within the limit over further draws, passes."""
    setting = settings.Setting(ops.OPERATORS["high_pass"], 0, (1, 1, 8, 8), "float32", "nchw", "cpu")
    args = setting.arguments()
    truth = equality.Truth(setting, args, settings.output_gradients(setting.op, args), gradients=False)
    truth.errors[0] = truth.units[0] = 0.0
    eager = setting.op.reference(*args)
    assert truth.judge([eager], bitwise=True).wrong is None
    assert "allowed" in (truth.judge([eager + 1e-5], bitwise=True).wrong or "")
    assert truth.judge([eager * float("nan")], bitwise=True).wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("high",), "OPS: got 'high', want one of "),
        (("--size", "8x8"), "--size: got '8x8', want NxCxHxW"),
        (("--dtype", "int8"), "--dtype: got 'int8', want one of float64, float32, bfloat16, float16"),
        (("--memory", "old"), "--memory: got 'old', want one of reused, fresh"),
        (("--csv", "/dev/null/rows.csv"), "/dev/null/rows.csv: cannot be written ("),
    ],
)
def test_bad_options_are_one_line(bench, arguments, message):
    status, out, err = bench(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_a_file_of_other_columns_is_left_alone(bench, tmp_path):
    (tmp_path / "rows.csv").write_text("op,mode\n")
    status, _, err = bench("high_pass", *ONE)
    assert status == 2
    assert "columns" in err
    assert (tmp_path / "rows.csv").read_text() == "op,mode\n"


@pytest.mark.slow
def test_an_interruption_keeps_whole_cases(tmp_path):
    file = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "fastiqa", "bench", "--no-compile", "--size", "1x8x32x32", "--csv", str(file)]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and (not file.exists() or len(read(tmp_path)) < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = read(tmp_path)
    assert len(found) >= 4
    assert [row["provider"] for row in found] == ["eager", "cpu"] * (len(found) // 2)
    assert f"interrupted: {len(found)} rows of {len(found) // 2} cases are in {file}" in " ".join(out.split())
    assert "--resume" in out


@pytest.mark.slow
def test_without_compiler_and_library(tmp_path):
    """In a checkout without a library and a compiler, eager and fastiqa's fallback are measured.

    Rows of missing providers give the reason.
    """
    source = checkout(tmp_path / "source")
    (tmp_path / "bin").mkdir()
    command = [sys.executable, "-m", "fastiqa", "bench", "high_pass", *ONE, "--compile", "--csv", "rows.csv"]
    environment = clean_environment(
        PYTHONPATH=str(source), PATH=str(tmp_path / "bin"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache")
    )
    environment.pop("CXX", None)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read(tmp_path)
    assert [row["provider"] for row in found] == ["eager", "compile", "cpu", "torch"] * 3
    assert [row["status"] for row in found] == ["ok", "absent", "absent", "ok"] * 3
    assert "C++ compiler" in found[1]["note"]
    assert "not built" in found[2]["note"]
    assert found[3]["note"].startswith("fastiqa falls back to torch: libfastiqa_cpu.so was not built")
    assert "note: torch: fastiqa falls back to torch" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(emulation.build().find_cxx() is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_is_a_competitor(bench, tmp_path):
    assert bench("octave_split", *ONE, "--compile")[0] == 0
    found = read(tmp_path)
    assert [(row["provider"], row["status"]) for row in found] == [(p, "ok") for p in ("eager", "compile", "cpu")] * 3
    assert float(found[1]["first_call_ms"]) > 0


# ---- models ----


def test_least_bytes_of_both_directions():
    shape = (2, 4, 8, 8)
    one = 2 * 4 * 8 * 8 * 4
    for name, forward, backward in (("cross_difference", 5, 5), ("high_pass", 2, 2), ("octave_split", 2.25, 3.25)):
        op = ops.OPERATORS[name]
        args = settings.Setting(op, 0, shape, "float32", "nchw", "cpu").arguments()
        assert settings.least_bytes(op, args, "fwd") == forward * one
        assert settings.least_bytes(op, args, "bwd") == backward * one
        assert settings.least_bytes(op, args, "fwd_bwd") == (forward + backward) * one


def test_allocated_and_saved_bytes():
    op = ops.OPERATORS["cross_difference"]
    args = settings.Setting(op, 0, (1, 4, 16, 16), "float32", "nchw", "cpu").arguments()
    one = args[0].nbytes
    assert memory.peak_bytes(lambda: op.reference(*args), "cpu") == 4 * one  # two differences and their concatenation
    assert memory.peak_bytes(lambda: op(*args), "cpu") == 2 * one
    leaves = settings.leaves_of(args)
    assert memory.saved_bytes(op, leaves) == 0
    assert memory.saved_bytes(lambda x, y, z: (x * y * z).sin(), leaves) == 5 * one  # x, y, z, x*y, x*y*z


def test_memory_may_be_chosen_again_and_again():
    for kind in ("reused", "fresh", "reused", "fresh"):
        memory.choose(kind)
        assert float(torch.ones(3_000_000).sum()) == 3_000_000


def test_rounds_fit_their_time():
    runs = {name: timing.Run(lambda: time.sleep(0.001)) for name in ("a", "b")}
    plan = timing.Plan(rounds=50, round_seconds=0.0001, case_seconds=0.012)
    times = timing.interleaved(runs, timing.Timer("cpu"), plan)
    assert plan.fewest <= len(times["a"]) == len(times["b"]) <= 6


# ---- report, regression suite, GPU script ----


def row(provider: str, median: float | str, **more: Any) -> dict[str, Any]:
    about = dict.fromkeys(rows.COLUMNS, "") | {"op": "o", "mode": "fwd", "device": "D", "commit": "new"}
    status = "ok" if median != "" else "absent"
    return about | {"provider": provider, "status": status, "t_p50_us": median, "bytes_model": 1000} | more


def test_speed_up_is_over_the_better_rival_and_failures_do_not_count():
    case = {r["provider"]: r for r in (row("eager", 30.0), row("compile", 20.0), row("cpu", 10.0))}
    assert rows.speedup(case) == 2
    assert rows.speedup(case | {"compile": row("compile", "")}) == 3
    assert rows.speedup(case | {"cpu": row("cpu", "")}) is None
    assert rows.speedup(case | {"cuda": row("cuda", "", status="wrong")}) is None


def test_the_last_measurement_counts_whole():
    first = [row("eager", 3.0), row("cpu", 1.0), row("triton", 1.0)]
    assert list(rows.latest([*first, row("eager", 4.0), row("cpu", 2.0)])[rows.case_of(first[0])]) == ["eager", "cpu"]


def test_a_slower_commit_fails_the_comparison(tmp_path, capsys):
    for factor, status in ((1.04, 0), (1.5, 1)):
        file = tmp_path / f"{status}.csv"
        for median, commit in ((100.0, "old"), (100.0 * factor, "new")):
            more = {"t_p20_us": median - 1, "t_p80_us": median + 1, "commit": commit}
            rows.append(file, [row("eager", 200.0, **more), row("cpu", median, **more)])
        assert command.main([str(file), "--base", "old"]) == status
    assert "1.50 slower" in capsys.readouterr().out
    assert command.main([str(file), "--base", "never"]) == 2


def test_a_table_says_what_is_missing(tmp_path):
    file = tmp_path / "d.csv"
    rows.append(file, [row("eager", 2000.0), row("compile", ""), row("cpu", 1000.0, gbps=1.0, copy_gbps=2.0)])
    line = next(line for line in command.measurements_page(file).splitlines() if line.startswith("| fwd |"))
    assert [cell.strip() for cell in line.split("|")][6:12] == ["2", "absent", "1", "2.00", "1.0", "2.0"]
    assert command.main([str(file)]) == 0
    assert (tmp_path / "d.md").read_text() == command.measurements_page(file)


def test_results_have_losses_and_memory(tmp_path):
    """README's table: worst and best case, other libraries as rivals of metrics, memory in percent of the rival's."""
    measured = [row("eager", 8.0, op="high_pass"), row("cpu", 2.0, op="high_pass")]
    measured += [row("eager", 1.0, op="octave_merge"), row("cpu", 2.0, op="octave_merge")]
    step = {"op": "prfnet_step", "mode": "fwd_bwd"}
    measured += [row("eager", 3.0, saved_mb=200.0, **step), row("cpu", 1.0, saved_mb=50.0, **step)]
    peers = {"op": "ssim_peers", "arguments": "preset=fastiqa"}
    measured += [row("fastiqa", 1.0, peak_mem_mb=0.0, **peers), row("piq", 30.0, peak_mem_mb=9.0, **peers)]
    measured += [row("kornia", 20.0, peak_mem_mb=5.0, **peers), row("skimage", "", **peers)]
    rows.append(tmp_path / "d.csv", measured)
    lines = results.results_table([tmp_path / "d.csv"]).splitlines()
    assert lines[0] == "|  | beside | D | memory |"
    found = {line.split(" | ")[0]: line.split(" | ")[2:] for line in lines[2:]}
    assert found["| operators, forward"] == ["1.4 (0.50 – 4.0)", "– |"]
    assert found["| PRFNet, training step"] == ["3.0 (3.0 – 3.0)", "25 % |"]
    assert found["| SSIM, 1080p"] == ["20 (20 – 20)", "< 1 % |"]
    assert found["| PSNR, 1080p"] == ["–", "– |"]


def check_speedups(figure: Any) -> None:
    """Every direction has a colour and a name, no operator has an empty row, and the title fits into the figure."""
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["o", "octave_merge"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"fwd", "bwd"}
    figure.canvas.draw()
    assert figure.bbox.contains(*axes.title.get_window_extent().min)
    assert figure.bbox.contains(*axes.title.get_window_extent().max)


def test_figures_or_a_message(tmp_path, capsys, monkeypatch):
    file = tmp_path / "d.csv"
    more = {"gbps": 1.0, "copy_gbps": 2.0, "dtype": "float32", "layout": "nchw", "memory": "reused"}
    peers = {**more, "op": "ssim_peers", "bytes_model": "", "gbps": "", "copy_gbps": ""}
    measured = [
        row("eager", 2.0, **more),
        row("cpu", 1.0, **more),
        row("eager", 2.0, **more | {"op": "octave_merge", "mode": "bwd"}),  # a direction that the first lacks
        row("cpu", 1.0, **more | {"op": "octave_merge", "mode": "bwd", "commit": " ".join(["0123abc"] * 40)}),
        row("fastiqa", 1.0, **peers),
        row("piq", 9.0, **peers),
    ]
    rows.append(file, measured)
    if importlib.util.find_spec("matplotlib"):
        assert command.main([str(file), "--figures"]) == 0
        assert {path.name for path in tmp_path.glob("*.png")} == {"d-speedup.png", "d-bandwidth.png"}
        check_speedups(figures._speedups(list(rows.latest(rows.read(file)).values())))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command.main([str(file), "--figures"]) == 2
    assert "pip install 'fastiqa-kernels[bench]'" in capsys.readouterr().err


def test_regression_suite_runs_once():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench", "--benchmark-disable"]
    environment = clean_environment(PYTHONPATH=str(ROOT), FASTIQA_STRICT="1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(run.forward_names()) * 2 * 3} passed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="the script runs for eight minutes where there is a GPU")
def test_gpu_script_says_so_where_there_is_no_gpu():
    done = subprocess.run(["bash", ROOT / "bench" / "gpu.sh"], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("bench/gpu.sh: ")
    assert "nothing was run" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("network", training.NETWORKS)
def test_a_training_step_is_measured_after_its_gradients_agree(network, tmp_path, monkeypatch):
    tiny = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32), "hidden": (16,), "hfen_width": 8, "dan_width": 4}
    small = {"prfnet": {"layers": (1, 1, 1, 1), "width": 8}, "mfenet": {**tiny, "dan_layers": (1, 1, 1, 1)}}
    monkeypatch.setattr(training, "OPTIONS", small)
    file = tmp_path / "steps.csv"
    assert training.main([network, "--items", "2", "--size", "64", "--rounds", "2", "--csv", str(file)]) == 0
    read = rows.read(file)
    assert {row["op"] for row in read} == {f"{network}_step"}
    kept = {(*row["arguments"].split("="), row["provider"]): float(row["saved_mb"]) for row in read}
    assert len(kept) == 8
    levels = [kept["memory", level, "cpu"] for level in ("least", "lean")]
    assert levels[0] < levels[1] < 0.7 * kept["memory", "lean", "eager"]
    (frozen,) = (kept[key] for key in kept if key[0] == "frozen" and key[2] == "eager")
    assert frozen < kept["memory", "off", "eager"]
    monkeypatch.setattr(training, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(ValueError, match="gradients differ from the plain network's in float64"):
        training.measure_steps(network, 2, 64, 2)


def test_every_part_of_a_network_is_measured_after_its_results_agree(tmp_path, monkeypatch):
    tiny = {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32), "hidden": (16,), "hfen_width": 8, "dan_width": 4}
    monkeypatch.setattr(parts, "OPTIONS", {**tiny, "dan_layers": (1, 1, 1, 1)})
    monkeypatch.setattr(parts, "SIZE", 64)
    monkeypatch.setattr(parts, "MAPS", ((8, 5),))
    file = tmp_path / "parts.csv"
    for network in ("mfenet", "octave"):
        assert parts.main([network, "--items", "2", "--rounds", "2", "--csv", str(file)]) == 0
    cases = rows.latest(rows.read(file))
    assert all(list(providers) == ["eager", "cpu"] and rows.speedup(providers) for providers in cases.values())
    assert len(cases) == 2 * 8 + 2 * 3  # 8 parts, a chain and 2 strides, in 2 modes
    monkeypatch.setattr(parts, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(ValueError, match="results differ from the plain network's"):
        list(parts.mfenet_parts(2))
