"""Where MFENet's time goes, and whether its octave convolutions are worth theirs: parts of networks, each alone.

    python -m fastiqa.bench.parts mfenet|octave [--items N ...] [--rounds N] [--csv FILE]

mfenet: each part on what reaches it in the whole network at 224x224. Forward, `fastiqa.optimize_for_inference` beside
the network of `fastiqa.reference`, both without gradients; forward and backward, in training, `fastiqa.models.MFENet`,
channels-last, beside the same, with the gradients of parameters and of maps, of batches of more than one.

octave: `fastiqa.nn.HighFrequencyModule`, a quarter of the channels low, beside a plain 3x3 convolution with batch norm
and leaky ReLU, of the same channels and stride; and the chain of them that MFENet has, on 224x224, beside a chain of as
many plain ones of its width and strides. Channels-last; forward, without gradients, norms of both are folded into the
convolutions; forward and backward, both are in training.

Before a part of MFENet is timed, its results are compared with the plain network's, those of modules without norms with
the same module's with them. Float32; CPU. Times are medians over rounds in which the
networks take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from .cases.parts import Call, Case, mfenet, octave, tensors_of
from .runner.rows import Row, append, default_csv, environment

PROVIDERS = ("eager", "cpu")


def seconds(call: Call, mode: str) -> float:
    """Of one call."""
    maps = call.copies()
    if mode == "fwd":
        with torch.no_grad():
            start = time.perf_counter()
            call.function(*maps)
            return time.perf_counter() - start
    start = time.perf_counter()
    results = tensors_of(call.function(*maps))
    inputs = [x for x in (*maps, *call.parameters) if x.requires_grad]
    torch.autograd.grad(results, inputs, [torch.ones_like(y) for y in results], allow_unused=True)
    return time.perf_counter() - start


def measured(case: Case, rounds: int) -> list[list[float]]:
    """Seconds of each round, by provider; the first round, unmeasured, is for what is made once."""
    times: list[list[float]] = [[], []]
    for _ in range(1 + rounds):
        for of_provider, calls in zip(times, case.calls, strict=True):
            of_provider.append(sum(seconds(call, case.mode) for call in calls))
    return [of_provider[1:] for of_provider in times]


def rows_of(name: str, case: Case, rounds: int) -> list[Row]:
    """A row a provider."""
    what: Row = {"op": f"{name}_parts", "arguments": case.arguments, "mode": case.mode, "memory": "fresh"}
    what |= {"dtype": "float32", "layout": "nhwc", "shape": case.shape, "status": "ok", "samples": rounds, "note": ""}
    rows: list[Row] = []
    for provider, times in zip(PROVIDERS, measured(case, rounds), strict=True):
        low, *_, high = statistics.quantiles(times, n=5, method="inclusive")
        columns = {"t_p20_us": low, "t_p50_us": statistics.median(times), "t_p80_us": high}
        rows.append({**environment("cpu"), **what, "provider": provider,
                     **{column: round(value * 1e6, 1) for column, value in columns.items()}})  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("mfenet", "octave"))
    parser.add_argument("--items", type=int, nargs="+", default=[1, 8], help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    cases = {"mfenet": mfenet, "octave": octave}[options.network]
    for items in options.items:
        for case in cases(items):
            rows = rows_of(options.network, case, max(2, options.rounds))
            append(options.csv or default_csv(rows[0]), rows)
            eager, ours = (float(row["t_p50_us"]) / 1e3 for row in rows)
            title = f"{case.shape:<14}{case.arguments:<32}{case.mode:<9}"
            print(f"{title}{eager:9.2f} ms {ours:9.2f} ms {eager / ours:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
