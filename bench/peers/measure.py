"""fastiqa's metrics beside those of other libraries.

    python -m fastiqa.bench.peers [ssim ms_ssim psnr lpips] [--size 1x3x1080x1920] [--dtype float32] [--mode fwd]
                                  [--rounds N] [--memory fresh] [--device cpu] [--csv FILE]

Each case has one preset of fastiqa and the libraries that compute the same score. First each library's score of a small
pair of images in float64 is compared with fastiqa's. Libraries that differ or are not installed are listed without a
time. All others run in interleaved rounds. "fwd_bwd" takes the gradient to the first image, as a loss does. err_vs_fp64
is the difference of the mean score from fastiqa's in float64. peak_mem_mb is beyond the images.
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..report.tables import peers_table
from ..runner import memory as allocator
from ..runner.rows import Row, append, default_csv, environment, make_ready
from ..runner.run import parse_size
from ..runner.settings import DTYPES
from ..runner.timing import Plan, Run, Timer, interleaved, quantiles
from .libraries import PEERS, Call, Peer, fastiqa_call
from .torchvision_shim import import_library

SMALL = (1, 3, 177, 192)  # of the comparison: five scales, one side odd


def images(size: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A smooth image and a noisy copy in [0.05, 1]: kornia's epsilon shows in black."""
    generator = torch.Generator().manual_seed(0)
    x = interpolate(torch.rand(*size[:2], 9, 11, generator=generator), size[2:], mode="bilinear")
    y = x + 0.1 * torch.randn(x.shape, generator=generator)
    first, second = (image.clamp(0.05, 1).to(device, dtype) for image in (x, y))
    return first, second


def step(call: Call, x: Tensor, y: Tensor, mode: str) -> Callable[[], Any]:
    """The call to be timed."""
    if mode == "fwd":

        def forward() -> Tensor:
            with torch.no_grad():
                return call(x, y)

        return forward
    leaf = x.detach().requires_grad_()
    return lambda: torch.autograd.grad(call(leaf, y).mean(), leaf)


def _peak_bytes(call: Callable[[], Any], device: str, numpy: bool) -> int:
    """The most bytes held at once; NumPy reports its arrays to Python's tracer, not to PyTorch's allocator."""
    if not numpy:
        return allocator.peak_bytes(call, device)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _ready(peer: Peer, metric: str, dtype: torch.dtype, device: str, mode: str) -> tuple[Call | None, Row]:
    """A library's call, None if it is absent or wrong, and its columns with the reason."""
    row: Row = {"provider": peer.name, "status": "absent"}
    if peer.device not in ("any", device):
        return None, row | {"note": f"runs on {peer.device} alone"}
    if peer.numpy and (mode != "fwd" or dtype == torch.bfloat16):
        return None, row | {"note": "computes on NumPy's arrays: no gradient, no bfloat16"}
    try:
        library = import_library(peer.library)
    except Exception as error:  # whatever an import may raise
        return None, row | {"note": f"not installed: {error}".splitlines()[0][:200]}
    try:
        # Kernels for a GPU take float32 alone, so they are compared in it.
        exact = torch.float32 if peer.device == "cuda" else torch.float64
        pair = images(SMALL, exact, device)
        difference = _score(peer.make(library, exact, device), *pair) - _score(
            fastiqa_call(metric, peer.preset, exact, device), *pair
        )
        if not abs(difference) <= (1e-5 if peer.device == "cuda" else peer.tolerance):
            return None, row | {"status": "wrong", "note": f"differs from fastiqa by {difference:.3g} in {exact}"}
        return peer.make(library, dtype, device), row | {"status": "ok", "note": ""}
    except Exception as error:  # a peer's failure is a row, whatever it raises
        return None, row | {"status": "failed", "note": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def _score(call: Call, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(call(x, y).double().mean())


def cases(metric: str) -> Iterator[tuple[str, tuple[Peer, ...]]]:
    """Yields each preset and the libraries that compute it."""
    for preset in dict.fromkeys(peer.preset for peer in PEERS[metric]):
        yield preset, tuple(peer for peer in PEERS[metric] if peer.preset == preset)


def measure_case(
    metric: str, preset: str, peers: tuple[Peer, ...], options: argparse.Namespace, timer: Timer
) -> list[Row]:
    """The rows of one case, fastiqa's first."""
    dtype, size = DTYPES[options.dtype], parse_size(options.size)
    x, y = images(size, dtype, options.device)
    wide = tuple(image.double() for image in (x, y))
    exact = _score(fastiqa_call(metric, preset, torch.float64, options.device), *wide)
    del wide
    entries: list[tuple[Call | None, Row, bool]] = [
        (
            fastiqa_call(metric, preset, dtype, options.device),
            {"provider": "fastiqa", "status": "ok", "note": ""},
            False,
        )
    ]
    entries += [(*_ready(peer, metric, dtype, options.device, options.mode), peer.numpy) for peer in peers]
    runs: dict[str, Run] = {}
    for call, row, numpy in entries:
        if call is None:
            continue
        try:
            run = Run(step(call, x, y, options.mode))
            run.call()
            row["err_vs_fp64"] = f"{abs(_score(call, x, y) - exact):.3g}"
            row["peak_mem_mb"] = round(_peak_bytes(run.call, options.device, numpy) / 1e6, 3)
            runs[row["provider"]] = run
        except Exception as error:
            row |= {"status": "failed", "note": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if options.device == "cpu":
        allocator.choose(options.memory)
    plan = Plan(rounds=options.rounds, fewest=min(3, options.rounds), case_seconds=options.seconds)
    times = interleaved(runs, timer, plan)
    case = {"op": f"{metric}_peers", "arguments": f"preset={preset}", "mode": options.mode, "memory": options.memory}
    case |= {"dtype": options.dtype, "layout": "nchw", "shape": options.size}
    rows = []
    machine = environment(options.device)
    for _, row, _ in entries:
        about = {**machine, **case, **row}
        if row["provider"] in times:
            seconds = times[row["provider"]]
            about |= {"samples": len(seconds), **quantiles(seconds)}
        rows.append(about)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastiqa.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metric", nargs="*", choices=[[], *PEERS], help="all but lpips by default")
    parser.add_argument("--size", default="1x3x1080x1920")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--mode", choices=("fwd", "fwd_bwd"), action="append", help="both by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", choices=allocator.MEMORY, default="fresh")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0, help="a case")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    modes = options.mode or ["fwd", "fwd_bwd"]
    try:
        parse_size(options.size)
        file = options.csv or default_csv(environment(options.device))
        make_ready(file)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    timer = Timer(options.device)
    for metric in options.metric or ["ssim", "ms_ssim", "psnr"]:
        measured = []
        for preset, peers in cases(metric):
            for options.mode in modes:
                rows = measure_case(metric, preset, peers, options, timer)
                append(file, rows)
                measured.append({row["provider"]: row for row in rows})
        print(peers_table(f"{metric}_peers", measured))
    print(f"rows are in {file}")
    return 0
