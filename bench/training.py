"""Time and memory of a training step: each level of `set_memory`, and a step with a frozen branch.

    python -m fastiqa.bench.training prfnet|mfenet [--items N] [--size PIXELS] [--rounds N] [--csv FILE]

Eager is the network of `fastiqa.reference` in NCHW with its own `forward`, in which PRFNet sends the three images
through the backbone one after the other. fastiqa is channels-last, and its PRFNet takes one batch of all images, as
`fastiqa train` does. Both freeze the same part: PRFNet's backbone, as in the second step of the paper's strategy, or
MFENet's distortion-aware branch. Before anything is timed, float64 gradients are compared on small images, where batch
normalisation takes its statistics over the same batch. Float32, CPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa import models, reference
from fastiqa.training.run import optimizer
from fastiqa.training.tasks.comparison import PackedComparison

from .cases.networks import with_statistics
from .runner import memory as allocator
from .runner.rows import Row, append, default_csv, environment
from .runner.timing import quantiles

LEVELS = ("off", "lean", "least")
OPTIONS: dict[str, dict[str, Any]] = {"prfnet": {}, "mfenet": {}}  # of the networks; dropout is off
LARGEST_DIFFERENCE = 1e-9  # of a parameter's gradient in float64, relative to its norm
NOISE = 1e-6  # of the norm of all gradients: smaller ones, of biases before a batch norm, are rounding alone


class Case(NamedTuple):
    """Networks of equal weights for one kind of step: eager's, fastiqa's, and the one that judges gradients."""

    eager: nn.Module
    fastiqa: nn.Module
    oracle: nn.Module


class Network(NamedTuple):
    """A network whose step is measured, and its usual `inputs` tensors (items, 3, size, size)."""

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
    """A step at every level of memory, then one in which a part of the network is frozen."""
    # Without dropout: each network would draw other numbers.
    options = {"dropout": 0.0, **OPTIONS[kind.model_name]}
    plain = with_statistics(kind(**options), inputs).train()

    def twin(level: str = "off") -> Any:
        model = fused(memory=level, **options).train()
        model.load_state_dict(plain.state_dict())
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    made = {f"memory={level}": Case(plain, packed(twin(level)), packed(plain)) for level in LEVELS}
    pair = (copy.deepcopy(plain), twin())
    for model in pair:
        optimizer.freeze(model, {part: 0.0})
        optimizer.set_training(model, {part: 0.0})
    return made | {f"frozen={part}": Case(pair[0], packed(pair[1]), packed(pair[0]))}


def prfnet_cases() -> dict[str, Case]:
    return _cases(reference.PRFNet, models.PRFNet, 3, PackedComparison, "backbone")


def mfenet_cases() -> dict[str, Case]:
    return _cases(reference.MFENet, models.MFENet, 1, lambda model: model, "dan")


NETWORKS = {"prfnet": Network(prfnet_cases, 3, 2, 448), "mfenet": Network(mfenet_cases, 1, 8, 224)}


def parameter_gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(network(*images).square().mean(), _learning(network)))


def _learning(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradient_difference(case: Case, inputs: int, items: int = 4, size: int = 64) -> float:
    """The largest difference of a parameter's gradient in float64 from the plain network's on the same batch."""
    # Four items: with two, MFENet's global attention has norms over two values, and its gradient is unstable.
    images = torch.rand(inputs, items, 3, size, size, dtype=torch.float64)
    networks = [copy.deepcopy(network).double() for network in (case.fastiqa, case.oracle)]  # statistics move
    got, plain = (parameter_gradients(network, images) for network in networks)
    noise = NOISE * float(torch.nn.utils.get_total_norm(plain))
    return max(float((g - p).norm() / p.norm().clamp_min(noise)) for g, p in zip(got, plain, strict=True))


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that live between the forward and the backward pass, beyond those that existed before."""
    network(*images)  # some memory is allocated once
    gc.collect()
    return allocator.live_bytes(lambda: network(*images))


def measure_steps(name: str, items: int, size: int, rounds: int) -> list[Row]:
    """Two rows, eager's and fastiqa's, for each kind of step.

    Raises:
        ValueError: a gradient in float64 differs from the plain network's.
    """
    torch.manual_seed(0)
    chosen = NETWORKS[name]
    cases = chosen.cases()
    differences = {kind: gradient_difference(case, chosen.inputs) for kind, case in cases.items()}
    if wrong := {kind: found for kind, found in differences.items() if not found <= LARGEST_DIFFERENCE}:
        raise ValueError(f"gradients differ from the plain network's in float64: {wrong}")
    images = torch.rand(chosen.inputs, items, 3, size, size)
    networks = list(dict.fromkeys(network for case in cases.values() for network in (case.eager, case.fastiqa)))
    kept = {network: kept_bytes(network, images) for network in networks}
    seconds: dict[nn.Module, list[float]] = {network: [] for network in networks}
    for network in networks * rounds:
        start = time.perf_counter()
        parameter_gradients(network, images)
        seconds[network].append(time.perf_counter() - start)
    about = environment("cpu")
    rows: list[Row] = []
    for kind, case in cases.items():
        what = {"op": f"{name}_step", "arguments": kind, "mode": "fwd_bwd", "memory": "fresh"}
        what |= {"dtype": "float32", "layout": "nhwc", "shape": f"{items}x3x{size}x{size}"}
        for provider, network in (("eager", case.eager), ("cpu", case.fastiqa)):
            measured = {"provider": provider, "status": "ok", "samples": rounds}
            measured |= {"saved_mb": round(kept[network] / 1e6, 1), "note": ""}
            rows.append({**about, **what, **measured, **quantiles(seconds[network])})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastiqa.bench.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--items", type=int, help="triplets or images in a batch")
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    usual = NETWORKS[options.network]
    items, size = options.items or usual.items, options.size or usual.size
    rows = measure_steps(options.network, items, size, max(2, options.rounds))
    append(options.csv or default_csv(rows[0]), rows)
    for row in rows:
        print(
            f"{row['arguments']:<16}{row['provider']:<7}{row['t_p50_us'] / 1e6:8.2f} s {row['saved_mb']:9.1f} MB kept"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
