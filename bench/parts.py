"""Where MFENet's time goes, and whether its octave convolutions are worth theirs: parts of networks, each alone.

    python -m fastiqa.bench.parts mfenet|octave [--items N ...] [--rounds N] [--csv FILE]

mfenet: each part on what reaches it in the whole network at 224x224. Forward, `fastiqa.optimize_for_inference` beside
the network of `fastiqa.reference`, both without gradients; forward and backward, in training, `fastiqa.models.MFENet`,
channels-last, beside the same, with the gradients of parameters and of maps, of batches of more than one.

octave: `fastiqa.nn.HighFrequencyModule`, a quarter of the channels low, beside a plain 3x3 convolution with batch norm
and leaky ReLU, of the same channels and stride. Both are channels-last and in training.

Before a part of MFENet is timed, its results are compared. Float32; CPU. Times are medians over rounds in which the
networks take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa import models, reference
from fastiqa.models.inference import optimize_for_inference
from fastiqa.nn import HighFrequencyModule
from fastiqa.reference.high_frequency import ALPHA, NEGATIVE_SLOPE

from .networks import with_statistics
from .rows import Row, append, default_csv, environment

PROVIDERS = ("eager", "cpu")
OPTIONS: dict[str, Any] = {}  # of MFENet
SIZE = 224
LARGEST_DIFFERENCE = 1e-3  # of a part's results in float32, relative to their norm
MAPS = ((64, 56), (64, 28), (128, 28), (128, 14), (256, 14), (256, 7))  # channels, rows and columns of octave's input


class Call(NamedTuple):
    """A function, the maps that it is called with, and the parameters whose gradients it has."""

    function: Callable[..., Any]
    maps: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]

    def copies(self) -> list[Tensor]:
        """Of the maps, as the function may write onto its own."""
        clones = (x.detach().clone(memory_format=torch.preserve_format) for x in self.maps)
        return [y.requires_grad_(x.requires_grad) for x, y in zip(self.maps, clones, strict=True)]


class Case(NamedTuple):
    """A part by each provider, as calls one after the other."""

    arguments: str
    mode: str
    shape: str
    calls: tuple[list[Call], list[Call]]


# ---- parts of MFENet ----


def parts_of(network: Any) -> dict[str, list[tuple[nn.Module, str]]]:
    """Modules and their methods, by part."""
    blocks = [module for module in network.modules() if isinstance(module, reference.VANBlock)]
    embeddings = [getattr(network.qen, f"{part}{i}") for part in ("patch_embed", "norm") for i in (1, 2, 3, 4)]
    found = {"VAN embeddings and norms": [(module, "forward") for module in embeddings]}
    found |= {f"VAN {method}": [(block, method) for block in blocks] for method in ("attention", "perceptron")}
    whole = {"HFEN": [network.hfen], "FFM": network.hfen_guidance, "DAN": [network.dan], "AFF": network.dan_guidance}
    return found | {
        name: [(m, "forward") for m in modules] for name, modules in {**whole, "head": [network.head]}.items()
    }


def recorded(network: Any, image: Tensor) -> dict[str, list[Call]]:
    """What every part is called with as the network runs on the image."""
    calls: dict[str, list[Call]] = {}
    with contextlib.ExitStack() as stack:
        for name, methods in parts_of(network).items():
            for module, method in methods:
                stack.enter_context(_recording(module, method, calls.setdefault(name, [])))
        network(image)
    return calls


@contextlib.contextmanager
def _recording(module: nn.Module, method: str, calls: list[Call]) -> Iterator[None]:
    original = getattr(module, method)

    def call(*maps: Tensor) -> Any:
        given = Call(original, maps, tuple(module.parameters()))
        calls.append(given._replace(maps=tuple(given.copies())))
        return original(*maps)

    setattr(module, method, call)
    try:
        yield
    finally:
        delattr(module, method)


def mfenet(items: int) -> Iterator[Case]:
    image = torch.rand(items, 3, SIZE, SIZE)
    plain = with_statistics(reference.MFENet(dropout=0.0, **OPTIONS), 1)
    with torch.no_grad():
        pair = [recorded(network, image) for network in (plain, optimize_for_inference(plain))]
    yield from _cases("fwd", image, pair)
    if items == 1:
        return  # the statistics of batch norms want more
    trained = models.MFENet(dropout=0.0, **OPTIONS).train()
    trained.load_state_dict(plain.state_dict())
    trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield from _cases("fwd_bwd", image, [recorded(network, image) for network in (plain.train(), trained)])


def _cases(mode: str, image: Tensor, pair: list[dict[str, list[Call]]]) -> Iterator[Case]:
    for name in pair[0]:
        different = difference(*(calls[name] for calls in pair))
        if not different <= LARGEST_DIFFERENCE:
            raise ValueError(f"{name}: results differ from the plain network's by {different:.1g} of their norm")
        yield Case(f"part={name}", mode, "x".join(map(str, image.shape)), (pair[0][name], pair[1][name]))


@torch.no_grad()
def difference(plain: list[Call], fused: list[Call]) -> float:
    """The largest difference of the results of two networks' calls, relative to their norms."""
    results = [[y for call in calls for y in _tensors(call.function(*call.copies()))] for calls in (plain, fused)]
    return max(float((got - want).norm() / want.norm()) for want, got in zip(*results, strict=True))


# ---- an octave module and a plain convolution ----


def octave(items: int) -> Iterator[Case]:
    for channels, size in MAPS:
        for stride in (1, 2):
            conv = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
            plain = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
            module = HighFrequencyModule(channels, ALPHA, ALPHA, stride)
            high, low = module.conv.in_channels
            shapes = ((channels, size), (high, size), (low, -(-size // 2)), (high, -(-size // 2)))
            x, *branches = (torch.randn(items, c, s, s).to(memory_format=torch.channels_last) for c, s in shapes)
            for mode in ("fwd", "fwd_bwd"):
                calls = [
                    Call(
                        part.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
                        tuple(m.requires_grad_(mode == "fwd_bwd") for m in maps),
                        tuple(part.parameters()),
                    )
                    for part, maps in ((plain, (x,)), (copy.deepcopy(module), branches))
                ]
                shape = f"{items}x{channels}x{size}x{size}"
                yield Case(f"stride={stride}", mode, shape, ([calls[0]], [calls[1]]))


# ---- time ----


def seconds(call: Call, mode: str) -> float:
    """Of one call."""
    maps = call.copies()
    if mode == "fwd":
        with torch.no_grad():
            start = time.perf_counter()
            call.function(*maps)
            return time.perf_counter() - start
    start = time.perf_counter()
    results = _tensors(call.function(*maps))
    inputs = [x for x in (*maps, *call.parameters) if x.requires_grad]
    torch.autograd.grad(results, inputs, [torch.ones_like(y) for y in results], allow_unused=True)
    return time.perf_counter() - start


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [y for y in result if y is not None]


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
