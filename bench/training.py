"""A training step and what it keeps for its backward pass: each level of `set_memory`, and a frozen branch.

    python -m fastiqa.bench.training prfnet|mfenet [--items N] [--size PIXELS] [--rounds N] [--csv FILE]

Eager is the network of `fastiqa.reference`, NCHW, as its `forward` runs: PRFNet sends the three images through the
backbone one after the other. fastiqa is channels-last, and PRFNet takes one batch of all images, as `fastiqa train`
does. What is frozen, PRFNet's backbone in the second step of the paper's strategy or MFENet's distortion-aware branch,
is so in both. Before anything is timed, gradients in float64 are compared on small images, where batch normalisation
takes its statistics over the same batch. Float32; CPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa import models, reference
from fastiqa.training.run import rates
from fastiqa.training.tasks.comparison import PackedComparison

from .cases.networks import with_statistics
from .runner import memory as allocator
from .runner.rows import Row, append, default_csv, environment

LEVELS = ("off", "lean", "least")
OPTIONS: dict[str, dict[str, Any]] = {"prfnet": {}, "mfenet": {}}  # of the networks, beside no dropout
LARGEST_DIFFERENCE = 1e-9  # of a parameter's gradient in float64, relative to its norm
NOISE = 1e-6  # of the norm of all gradients: below it lie those of biases before a batch norm, which are rounding alone


class Case(NamedTuple):
    """A kind of step: eager's network, fastiqa's, and eager's for the comparison of gradients. Weights are equal."""

    eager: nn.Module
    fastiqa: nn.Module
    oracle: nn.Module


class Network(NamedTuple):
    """A network whose step is measured: inputs of `size` pixels a side, (items, 3, size, size) each."""

    cases: Callable[[], dict[str, Case]]
    inputs: int
    items: int
    size: int


def _cases(
    kind: type[reference.PRFNet | reference.MFENet],
    fused: type[nn.Module],
    inputs: int,
    packed: Callable[[nn.Module], nn.Module],
    part: str,
) -> dict[str, Case]:
    """Every level of memory, then a step in which one part of the network is frozen."""
    # Without dropout, which would draw other numbers in each network.
    options = {"dropout": 0.0, **OPTIONS[kind.model_name]}
    plain = with_statistics(kind(**options), inputs).train()

    def twin(level: str = "off") -> Any:
        model = fused(memory=level, **options).train()
        model.load_state_dict(plain.state_dict())
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    made = {f"memory={level}": Case(plain, packed(twin(level)), packed(plain)) for level in LEVELS}
    pair = (copy.deepcopy(plain), twin())
    for model in pair:
        rates.freeze(model, {part: 0.0})
        rates.set_training(model, {part: 0.0})
    return made | {f"frozen={part}": Case(pair[0], packed(pair[1]), packed(pair[0]))}


def prfnet() -> dict[str, Case]:
    return _cases(reference.PRFNet, models.PRFNet, 3, PackedComparison, "backbone")


def mfenet() -> dict[str, Case]:
    return _cases(reference.MFENet, models.MFENet, 1, lambda model: model, "dan")


NETWORKS = {"prfnet": Network(prfnet, 3, 2, 448), "mfenet": Network(mfenet, 1, 8, 224)}


def gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(network(*images).square().mean(), _learning(network)))


def _learning(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def difference(case: Case, inputs: int, items: int = 4, size: int = 64) -> float:
    """The largest difference of a parameter's gradient in float64 from the plain network's on the same batch."""
    # Of four items: norms over one value of each of two, in MFENet's global attention, make the gradient unstable.
    images = torch.rand(inputs, items, 3, size, size, dtype=torch.float64)
    networks = [copy.deepcopy(network).double() for network in (case.fastiqa, case.oracle)]  # statistics move
    got, want = (gradients(network, images) for network in networks)
    noise = NOISE * float(torch.nn.utils.get_total_norm(want))
    return max(float((g - w).norm() / w.norm().clamp_min(noise)) for g, w in zip(got, want, strict=True))


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Live memory between forward and backward pass, beyond what was there before."""
    network(*images)  # what is allocated once
    gc.collect()
    return allocator.live_bytes(lambda: network(*images))


def measure(name: str, items: int, size: int, rounds: int) -> list[Row]:
    torch.manual_seed(0)
    wanted = NETWORKS[name]
    made = wanted.cases()
    wrong = {kind: d for kind, case in made.items() if not (d := difference(case, wanted.inputs)) <= LARGEST_DIFFERENCE}
    if wrong:
        raise ValueError(f"gradients differ from the plain network's in float64: {wrong}")
    images = torch.rand(wanted.inputs, items, 3, size, size)
    networks = list(dict.fromkeys(network for case in made.values() for network in (case.eager, case.fastiqa)))
    kept = {network: kept_bytes(network, images) for network in networks}
    seconds: dict[nn.Module, list[float]] = {network: [] for network in networks}
    for network in networks * rounds:
        start = time.perf_counter()
        gradients(network, images)
        seconds[network].append(time.perf_counter() - start)
    about = environment("cpu")
    rows: list[Row] = []
    for kind, case in made.items():
        what = {"op": f"{name}_step", "arguments": kind, "mode": "fwd_bwd", "memory": "fresh"}
        what |= {"dtype": "float32", "layout": "nhwc", "shape": f"{items}x3x{size}x{size}"}
        for provider, network in (("eager", case.eager), ("cpu", case.fastiqa)):
            low, *_, high = statistics.quantiles(seconds[network], n=5, method="inclusive")
            times = {"t_p20_us": low, "t_p50_us": statistics.median(seconds[network]), "t_p80_us": high}
            measured = {"provider": provider, "status": "ok", "samples": rounds}
            measured |= {"saved_mb": round(kept[network] / 1e6, 1), "note": ""}
            rows.append({**about, **what, **measured, **{k: round(v * 1e6, 1) for k, v in times.items()}})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--items", type=int, help="triplets or images in a batch")
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    usual = NETWORKS[options.network]
    rows = measure(options.network, options.items or usual.items, options.size or usual.size, max(2, options.rounds))
    append(options.csv or default_csv(rows[0]), rows)
    for row in rows:
        print(
            f"{row['arguments']:<16}{row['provider']:<7}{row['t_p50_us'] / 1e6:8.2f} s {row['saved_mb']:9.1f} MB kept"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
