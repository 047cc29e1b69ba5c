"""evaluate: how well a network predicts the labels of data sets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastiqa.metrics.two_afc import agreement
from fastiqa.training.batches import load
from fastiqa.training.comparison import PackedComparison, losses_of
from fastiqa.training.datasets import Triplets
from fastiqa.training.processes import Processes


@torch.no_grad()
def evaluate(
    model: nn.Module,
    datasets: Mapping[str, Triplets],
    processes: Processes,
    batch_size: int = 1,
    workers: int = 0,
    amp: bool = False,
) -> dict[str, dict[str, float]]:
    """Mean over all triplets of each data set, each process computing its share; leaves the network in eval mode.

    Returns: by data set "accuracy", the two-alternative forced-choice score, and "bce", the binary cross-entropy.
    """
    processes.share_buffers(model)
    comparison = PackedComparison(model).eval()
    results = {}
    for name, dataset in datasets.items():
        mine = range(processes.rank, len(dataset), processes.size)  # type: ignore[arg-type]  # a Dataset has a length
        parts = [[(name, i) for i in mine[k : k + batch_size]] for k in range(0, len(mine), batch_size)]
        sums = torch.zeros(3, dtype=torch.float64, device=processes.device)
        for batch in load(datasets, parts, workers):
            images = batch.to(processes.device)
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=amp):
                logits = comparison(images.ref, images.a, images.b)
            accuracy, bce = agreement(logits, images.label), losses_of("bce", logits, images.label)
            sums += torch.stack((torch.ones_like(bce).sum(), accuracy.sum(), bce.sum()))
        count, accurate, lost = processes.total(sums).tolist()
        results[name] = {"accuracy": accurate / count, "bce": lost / count}
    return results
