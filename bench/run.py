"""Times operators against eager PyTorch and torch.compile, side by side in one run, after an equality check.

    python bench/run.py [OP ...] [--sizes NxCxHxW ...] [--memory fresh|reused] [--csv FILE]

Every provider gets the same tensors; rounds are interleaved in changing order, so a change of the machine's speed meets
all of them; the median and the 20th and 80th percentiles of the rounds are reported. Bytes are the least that an ideal
kernel moves (the operator record's model), the same number for every provider, so GB/s is useful bandwidth; beside it
stands the copy bandwidth of the same run at the same number of bytes.

Memory is "fresh" (glibc's default: blocks of more than 32 MiB go back to the system, so every large new output costs
page faults) or "reused" (it keeps them, as other allocators do). Providers: eager, compile, and each backend that takes
the arguments. A provider whose result is wrong gets no row and makes the run fail. Losses are rows like any other. The
last column is the speed-up over the better of eager and compile.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import datetime
import itertools
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastiqa
from fastiqa import _dispatch, ops

SIZES = ((16, 256, 112, 112), (1, 64, 112, 112), (1, 64, 56, 56))
DTYPES = (torch.float32, torch.bfloat16)
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
ROUNDS = 15
SECONDS_A_ROUND = 0.05

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_memory() -> None:
    """Freed blocks stay with the process from now on (glibc)."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)


def tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def forward(f: Callable[..., Any], args: Sequence[Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return f(*args)

    return call


def forward_backward(f: Callable[..., Any], args: Sequence[Any]) -> Callable[[], Any]:
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in args]
    grads = [torch.randn_like(y) for y in tensors(f(*leaves))]
    wanted = [x for x in leaves if isinstance(x, Tensor)]
    return lambda: torch.autograd.grad(tensors(f(*leaves)), wanted, grads)


MODES = {"fwd": forward, "fwd_bwd": forward_backward}


def providers(op: ops.Op, args: Sequence[Any]) -> Iterator[tuple[str, Callable[..., Any], str | None]]:
    """(name, function, backend to force) of everyone who can run these arguments."""
    yield "eager", op.reference, None
    torch.compiler.reset()
    yield "compile", torch.compile(op.reference, fullgraph=True), None
    for name, verdict in _dispatch.decisions(op, args):
        if name != "torch" and verdict in ("runs", "could run"):
            yield name, op, name


def measure(op: ops.Op, args: Sequence[Any], mode: str) -> Iterator[dict[str, Any]]:
    runs: dict[str, tuple[Callable[[], Any], str | None]] = {}
    want: tuple[Tensor, ...] = ()
    for name, function, backend in providers(op, args):
        torch.manual_seed(0)
        run = MODES[mode](function, args)
        with fastiqa.use(backend) if backend else contextlib.nullcontext():
            got = tensors(run())
        want = want or got
        for g, w in zip(got, want, strict=True):
            if op.exact and backend is not None:
                torch.testing.assert_close(g, w, rtol=0, atol=0)
            else:  # eager rounds what lies between its kernels: a unit in the last place of the largest value
                unit = torch.finfo(w.dtype).eps * w.abs().max().item()
                torch.testing.assert_close(g, w, rtol=1.6e-2 if w.dtype.itemsize == 2 else 1.3e-6, atol=max(1e-5, unit))
        runs[name] = (run, backend)

    moved = op.bytes(*args) * (2 if mode == "fwd_bwd" else 1)
    source = torch.empty(moved // 8, dtype=torch.float32)
    target = torch.empty_like(source)
    runs["copy"] = (lambda: target.copy_(source), None)

    times: dict[str, list[float]] = {name: [] for name in runs}
    repeats: dict[str, int] = {}
    shuffled = random.Random(0)
    rounds = (shuffled.sample(list(runs), len(runs)) for _ in range(ROUNDS + 1))
    for name in itertools.chain.from_iterable(rounds):
        run, backend = runs[name]
        with fastiqa.use(backend) if backend else contextlib.nullcontext():
            start = time.perf_counter()
            for _ in range(repeats.get(name, 1)):
                run()
            seconds = (time.perf_counter() - start) / repeats.get(name, 1)
        if name in repeats:
            times[name].append(seconds)
        repeats.setdefault(name, max(1, int(SECONDS_A_ROUND / max(seconds, 1e-7))))

    copied = moved / statistics.median(times.pop("copy")) / 1e9
    for name, seconds in times.items():
        low, *_, high = statistics.quantiles(seconds, n=5)
        median = statistics.median(seconds)
        yield {
            "provider": name,
            "t_p20_us": round(low * 1e6, 1),
            "t_p50_us": round(median * 1e6, 1),
            "t_p80_us": round(high * 1e6, 1),
            "bytes_model": moved,
            "gbps": round(moved / median / 1e9, 2),
            "copy_gbps": round(copied, 2),
        }


def environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def rows(names: Sequence[str], sizes: Sequence[tuple[int, ...]], memory: str) -> Iterator[dict[str, Any]]:
    about = environment()
    if memory == "reused":
        keep_memory()
    for name in names:
        op = ops.OPERATORS[name]
        for size, dtype, layout, mode in itertools.product(sizes, DTYPES, FORMATS, MODES):
            for sample in op.samples(*size):
                args = [
                    torch.randn(x.shape).to(dtype).contiguous(memory_format=FORMATS[layout])
                    if isinstance(x, ops.Map)
                    else x
                    for x in sample
                ]
                case = {"op": name, "mode": mode, "memory": memory, "dtype": str(dtype)[6:], "layout": layout}
                for row in measure(op, args, mode):
                    yield {**case, "shape": "x".join(map(str, size)), **row, **about}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    forward_ops = [name for name in ops.OPERATORS if not name.endswith("_backward")]
    parser.add_argument("ops", nargs="*", default=forward_ops, metavar="OP", help=", ".join(forward_ops))
    parser.add_argument("--sizes", nargs="+", default=["x".join(map(str, size)) for size in SIZES], metavar="NxCxHxW")
    parser.add_argument("--memory", choices=["fresh", "reused"], default="fresh")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    options = parser.parse_args()
    unknown = [name for name in options.ops if name not in ops.OPERATORS]
    if unknown:
        parser.error(f"OP: no operator {unknown[0]!r}, want some of {', '.join(forward_ops)}")
    sizes = [tuple(int(part) for part in size.split("x")) for size in options.sizes]

    print(
        f"{'case':<56} {'provider':<8} {'median us':>11} {'GB/s':>7} {'of copy':>8} {'to best of eager, compile':>26}"
    )
    best = 0.0
    for row in rows(options.ops, sizes, options.memory):
        case = " ".join(str(row[key]) for key in ("op", "mode", "memory", "dtype", "layout", "shape"))
        best = {"eager": row["t_p50_us"], "compile": min(best, row["t_p50_us"])}.get(row["provider"], best)
        ratio = "" if row["provider"] in ("eager", "compile") else f"{best / row['t_p50_us']:.2f}x"
        share = f"{row['gbps'] / row['copy_gbps']:.0%}"
        print(
            f"{case:<56} {row['provider']:<8} {row['t_p50_us']:>11} {row['gbps']:>7} {share:>8} {ratio:>26}", flush=True
        )
        if options.csv:
            append(options.csv, row)
    return 0


def append(file: Path, row: dict[str, Any]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
