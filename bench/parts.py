"""Where MFENet's time goes, and whether octave convolutions pay: parts of networks, each timed alone.

    python -m fastiqa.bench.parts mfenet|octave [--items N ...] [--rounds N] [--csv FILE]

mfenet: each part on the maps that reach it in the whole network at 224x224. Forward, without gradients: the network of
`fastiqa.optimize_for_inference` beside that of `fastiqa.reference`. Forward and backward, in training, for batches of
more than one: `fastiqa.models.MFENet`, channels-last, beside the reference, with gradients of parameters and maps.

octave: `fastiqa.nn.HighFrequencyModule`, a quarter of its channels low, beside a plain 3x3 convolution with batch norm
and leaky ReLU of the same channels and stride; and MFENet's chain of them on 224x224 beside a chain of as many plain
convolutions of its widths and strides. Channels-last. Forward, without gradients, both have their norms folded into the
convolutions; forward and backward, both train.

Results are compared before anything is timed: a part of MFENet with the plain network's, a module with folded norms
with the same module's before folding. Float32, CPU. Times are medians over rounds in which the networks take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa import models, reference
from fastiqa.models.inference import optimize_for_inference
from fastiqa.models.inference.layers import fold_norms, make_constant
from fastiqa.models.inference.mfenet import fold_high_frequency, fold_octave
from fastiqa.nn import HighFrequencyModule, HighFrequencyNet
from fastiqa.reference.high_frequency import ALPHA, NEGATIVE_SLOPE

from .cases.networks import with_statistics
from .runner.rows import Row, append, default_csv, environment
from .runner.timing import quantiles

PROVIDERS = ("eager", "cpu")
OPTIONS: dict[str, Any] = {}  # of MFENet
SIZE = 224
LARGEST_DIFFERENCE = 1e-3  # of a part's results in float32, relative to their norm
MAPS = ((64, 56), (64, 28), (128, 28), (128, 14), (256, 14), (256, 7))  # channels and side of an octave module's input


class Call(NamedTuple):
    """A function, the maps that it is called with, and the parameters whose gradients it has."""

    function: Callable[..., Any]
    maps: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]

    def copies(self) -> list[Tensor]:
        """Copies of the maps: the function may write onto its own."""
        clones = (x.detach().clone(memory_format=torch.preserve_format) for x in self.maps)
        return [y.requires_grad_(x.requires_grad) for x, y in zip(self.maps, clones, strict=True)]


def tensors_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [y for y in result if y is not None]


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
    """The calls of every part as the network runs on the image."""
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


def mfenet_parts(items: int) -> Iterator[Case]:
    image = torch.rand(items, 3, SIZE, SIZE)
    plain = with_statistics(reference.MFENet(dropout=0.0, **OPTIONS), 1)
    with torch.no_grad():
        pair = [recorded(network, image) for network in (plain, optimize_for_inference(plain))]
    yield from _cases("fwd", image, pair)
    if items == 1:
        return  # the statistics of batch norms need more
    trained = models.MFENet(dropout=0.0, **OPTIONS).train()
    trained.load_state_dict(plain.state_dict())
    trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield from _cases("fwd_bwd", image, [recorded(network, image) for network in (plain.train(), trained)])


def _cases(mode: str, image: Tensor, pair: list[dict[str, list[Call]]]) -> Iterator[Case]:
    for name in pair[0]:
        _check(name, *(calls[name] for calls in pair))
        yield Case(f"part={name}", mode, "x".join(map(str, image.shape)), (pair[0][name], pair[1][name]))


def _check(name: str, plain: list[Call], fused: list[Call]) -> None:
    different = result_difference(plain, fused)
    if not different <= LARGEST_DIFFERENCE:
        raise ValueError(f"{name}: results differ from the plain network's by {different:.1g} of their norm")


@torch.no_grad()
def result_difference(plain: list[Call], fused: list[Call]) -> float:
    """The largest difference between the results of two networks' calls, relative to their norms."""
    results = [[y for call in calls for y in tensors_of(call.function(*call.copies()))] for calls in (plain, fused)]
    return max(float((got - exact).norm() / exact.norm()) for exact, got in zip(*results, strict=True))


# ---- octave modules and plain convolutions ----


def plain_module(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))


class PlainChain(nn.Module):
    """`fastiqa.reference.HighFrequencyNet` with a plain convolution instead of every octave module."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(plain_module(3, width // 2, 2), plain_module(width // 2, width, 2))
        self.stages = nn.ModuleList(plain_module(width, width, stride) for stride in (1, 2, 2, 2))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, results = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            results.append(x)
        return results


@torch.no_grad()
def folded_plain(network: nn.Module) -> nn.Module:
    """The network with its norms folded into the convolutions."""
    fold_norms(network.eval())
    return network


@torch.no_grad()
def folded_octave(module: nn.Module) -> nn.Module:
    """Octave modules with their norms folded, as `fastiqa.optimize_for_inference` does it."""
    module.eval()
    if isinstance(module, HighFrequencyNet):
        fold_high_frequency(module)
    else:
        fold_octave(module)
    make_constant(module)
    return module


def octave_parts(items: int) -> Iterator[Case]:
    image = torch.rand(items, 3, SIZE, SIZE)
    yield from _beside("network=chain", image.shape, (PlainChain(), (image,)), (HighFrequencyNet(), (image,)))
    for channels, size in MAPS:
        for stride in (1, 2):
            module = HighFrequencyModule(channels, ALPHA, ALPHA, stride)
            high, low = module.conv.in_channels
            shapes = ((channels, size), (high, size), (low, -(-size // 2)), (high, -(-size // 2)))
            x, *branches = (torch.randn(items, c, s, s) for c, s in shapes)
            plain = plain_module(channels, channels, stride)
            yield from _beside(f"stride={stride}", x.shape, (plain, (x,)), (module, tuple(branches)))


def _beside(arguments: str, shape: torch.Size, *pair: tuple[nn.Module, tuple[Tensor, ...]]) -> Iterator[Case]:
    """Two modules and their inputs, in inference and in training."""
    for mode in ("fwd", "fwd_bwd"):
        calls = []
        for (module, maps), folded in zip(pair, (folded_plain, folded_octave), strict=True):
            part = copy.deepcopy(module).train()
            part = (folded(part) if mode == "fwd" else part).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            inputs = tuple(m.to(memory_format=torch.channels_last).requires_grad_(mode == "fwd_bwd") for m in maps)
            calls.append(Call(part, inputs, tuple(part.parameters())))
            if mode == "fwd":
                _check(f"{arguments} without norms", [Call(module.eval(), inputs, ())], calls[-1:])
        yield Case(arguments, mode, "x".join(map(str, shape)), ([calls[0]], [calls[1]]))


# ---- the program ----


def seconds(call: Call, mode: str) -> float:
    """Time one call."""
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
    """Seconds of each round, by provider. A first round, which allocates and compiles, is dropped."""
    times: list[list[float]] = [[], []]
    for _ in range(1 + rounds):
        for of_provider, calls in zip(times, case.calls, strict=True):
            of_provider.append(sum(seconds(call, case.mode) for call in calls))
    return [of_provider[1:] for of_provider in times]


def rows_of(name: str, case: Case, rounds: int) -> list[Row]:
    """A row for each provider."""
    about: Row = {"op": f"{name}_parts", "arguments": case.arguments, "mode": case.mode, "memory": "fresh"}
    about |= {"dtype": "float32", "layout": "nhwc", "shape": case.shape, "status": "ok", "samples": rounds, "note": ""}
    about |= environment("cpu")
    times = zip(PROVIDERS, measured(case, rounds), strict=True)
    return [{**about, "provider": provider, **quantiles(of_provider)} for provider, of_provider in times]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastiqa.bench.parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=("mfenet", "octave"))
    parser.add_argument("--items", type=int, nargs="+", default=[1, 8], help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    cases = {"mfenet": mfenet_parts, "octave": octave_parts}[options.network]
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
