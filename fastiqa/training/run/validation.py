"""validate: how well a network does its task on data sets."""

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
    """The task's summary of all items of each data set, each process computing its share.

    It leaves the network in eval mode.

    Returns: by data set what the task's summary names, such as "accuracy" and "bce" of triplets.

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
