"""backward: the gradients of one batch, part by part and process by process."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastiqa.training.config.settings import Step
from fastiqa.training.run.batches import Batch, seed_of
from fastiqa.training.run.processes import Processes, gradients_stay_here
from fastiqa.training.tasks import Task


def backward(
    task: Task,
    module: nn.Module,
    parts: Iterator[Batch],
    step: Step,
    processes: Processes,
    amp: bool,
    key: tuple[int, ...],
) -> Tensor:
    """Add the gradients of a batch's mean loss to those of the module's parameters.

    Args:
        task: says what the losses are.
        module: `task.module` of a network, `processes.parallel` if there are several.
        parts: from which this process's `step.accumulate` parts of the batch are taken.
        step: the losses by data set, and the size of the batch.
        processes: which share the batch.
        amp: compute in bfloat16 under autocast.
        key: tells the batch from others; the masks of dropout are functions of it and of the part's place.

    Returns:
        The loss of each item of the batch in all processes, (batch_size,), in the order of the batch.
    """
    share = step.batch_size // processes.size
    losses = []
    for k in range(step.accumulate):
        batch = next(parts).to(processes.device)
        torch.manual_seed(seed_of(*key, processes.rank * step.accumulate + k))
        with gradients_stay_here(module, k < step.accumulate - 1):
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=amp):
                output = module(*batch.inputs)
            loss = task.total_loss(step.terms(batch.source), output, batch.targets)
            (loss.sum() / share).backward()
        losses.append(loss.detach())
    return processes.gather(torch.cat(losses))
