"""validate: a task's figures for a network on data sets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastiqa.training.run.batches import load
from fastiqa.training.run.processes import Processes
from fastiqa.training.tasks import Items, Task


@torch.no_grad()
def validate(
    task: Task,
    model: nn.Module,
    datasets: Mapping[str, Items],
    processes: Processes,
    batch_size: int = 1,
    workers: int = 0,
    amp: bool = False,
) -> dict[str, dict[str, float]]:
    """The task's summary of each data set; each process computes its share of the items.

    Args:
        task: makes rows of outputs and sums them up.
        model: the network; left in eval mode.
        datasets: the data sets by name.
        processes: share the items.
        batch_size: items in a batch.
        workers: processes that read, for each process.
        amp: compute in bfloat16 under autocast.

    Returns: for each data set the values of the task's summary, such as "accuracy" and "bce" of triplets.

    Raises: ValueError naming the data set and an item for which the network gives no finite number.
    """
    processes.share_buffers(model)
    module = task.module(model).eval()
    results = {}
    for name, dataset in datasets.items():
        count = len(dataset)  # type: ignore[arg-type]  # a Dataset has a length
        mine = range(processes.rank, count, processes.size)
        parts = [[(name, i) for i in mine[k : k + batch_size]] for k in range(0, len(mine), batch_size)]
        rows = []
        for batch in load(task.item, datasets, parts, workers):
            _, _, inputs, targets = batch.to(processes.device)
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=amp):
                output = module(*inputs)
            rows.append(task.rows(output, *targets).double())
        found = processes.gather_shares(torch.cat(rows), count).cpu()
        if bad := (~found.isfinite()).any(1).nonzero().flatten().tolist():
            raise ValueError(
                f"data.{name}: {task.item.noun} {bad[0]}: got {found[bad[0]].tolist()}, want finite numbers"
            )
        results[name] = task.summary(found)
    return results
