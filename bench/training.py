"""A training step of PRFNet and what it keeps for its backward pass, level by level of `set_memory`.

    python -m fastiqa.bench.training [--triplets N] [--size PIXELS] [--rounds N] [--csv FILE]

Eager is `fastiqa.reference.PRFNet`, three passes through the backbone, as its `forward` runs; fastiqa is channels-last,
one batch of all images, as `fastiqa train` runs. Before anything is timed, gradients in float64 are compared on small
images, both networks in one batch, since batch normalisation takes its statistics over a batch. Float32; CPU.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fastiqa import models, reference
from fastiqa.training.tasks.comparison import PackedComparison

from . import memory as allocator
from .rows import Row, append, default_csv, environment

LEVELS = ("off", "lean", "least")
OPTIONS: dict[str, Any] = {"dropout": 0.0}  # which would draw other numbers in each network
LARGEST_DIFFERENCE = 1e-9  # of a parameter's gradient in float64, relative to its norm


def networks() -> dict[str, nn.Module]:
    """Eager's and each level's, of equal weights."""
    torch.manual_seed(0)
    plain = reference.PRFNet(**OPTIONS).train()
    made: dict[str, nn.Module] = {"eager": plain}
    for level in LEVELS:
        model = models.PRFNet(memory=level, **OPTIONS).train()
        model.load_state_dict(plain.state_dict())
        made[level] = PackedComparison(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return made


def gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    loss = binary_cross_entropy_with_logits(network(*images), torch.ones(images.shape[1]))
    return list(torch.autograd.grad(loss, list(network.parameters())))


def differences(made: dict[str, nn.Module], size: int = 64) -> dict[str, float]:
    """By level the largest relative difference of a gradient in float64 from the plain network's on the same batch."""
    images = torch.rand(3, 1, 3, size, size, dtype=torch.float64)
    packed: list[nn.Module] = [PackedComparison(made["eager"]), *(made[level] for level in LEVELS)]
    states = [{k: v.clone() for k, v in network.state_dict().items()} for network in packed]
    want, *others = [gradients(network.double(), images) for network in packed]
    for network, state in zip(packed, states, strict=True):
        network.float().load_state_dict(state)
    return {
        level: max(float((g - w).norm() / w.norm().clamp_min(1e-30)) for g, w in zip(got, want, strict=True))
        for level, got in zip(LEVELS, others, strict=True)
    }


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Live memory between forward and backward pass, beyond what was there before."""
    network(*images)  # what is allocated once
    gc.collect()
    return allocator.live_bytes(lambda: network(*images))


def measure(triplets: int, size: int, rounds: int) -> list[Row]:
    made = networks()
    wrong = {level: d for level, d in differences(made).items() if not d <= LARGEST_DIFFERENCE}
    if wrong:
        raise ValueError(f"gradients differ from the plain network's in float64: {wrong}")
    images = torch.rand(3, triplets, 3, size, size)
    kept = {name: kept_bytes(network, images) for name, network in made.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for name in list(made) * rounds:
        start = time.perf_counter()
        gradients(made[name], images)
        seconds[name].append(time.perf_counter() - start)
    about = environment("cpu")
    rows: list[Row] = []
    for level in LEVELS:
        for provider, name in (("eager", "eager"), ("cpu", level)):
            low, *_, high = statistics.quantiles(seconds[name], n=5, method="inclusive")
            case = {"op": "prfnet_step", "arguments": f"memory={level}", "mode": "fwd_bwd", "memory": "fresh"}
            case |= {"dtype": "float32", "layout": "nhwc", "shape": f"{triplets}x3x{size}x{size}"}
            times = {"t_p20_us": low, "t_p50_us": statistics.median(seconds[name]), "t_p80_us": high}
            measured = {"provider": provider, "status": "ok", "samples": rounds, "saved_mb": round(kept[name] / 1e6, 1)}
            rows.append({**about, **case, **measured, **{k: round(v * 1e6, 1) for k, v in times.items()}, "note": ""})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", type=int, default=2)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    rows = measure(options.triplets, options.size, max(2, options.rounds))
    append(options.csv or default_csv(rows[0]), rows)
    for row in rows:
        print(
            f"{row['arguments']:<14}{row['provider']:<7}{row['t_p50_us'] / 1e6:8.2f} s {row['saved_mb']:9.1f} MB kept"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
