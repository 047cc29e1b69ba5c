"""The processes of a run: one, or those that `torchrun --nproc-per-node=N` started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastiqa.training.config.fields import RecipeError


class Processes(NamedTuple):
    """This process among those of the run, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    def parallel(self, module: nn.Module, partial: bool = False) -> nn.Module:
        """The module, its gradients averaged over all processes in the backward pass.

        Args:
            module: computes losses or what they are made of.
            partial: whether parameters may be left without a gradient, for which the others would wait.
        """
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=partial)

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, of equal shapes, one after the other."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def gather_shares(self, values: Tensor, count: int) -> Tensor:
        """All of `count` values in order, of which process r has numbers r, r + size, r + 2 · size, ..."""
        share = -(-count // self.size)
        padded = values.new_zeros(share, *values.shape[1:])
        padded[: len(values)] = values
        together = self.gather(padded).view(self.size, share, *values.shape[1:])
        return together.transpose(0, 1).flatten(0, 1)[:count]

    def share_buffers(self, module: nn.Module) -> None:
        """Statistics of batch normalisation as the first process has them, for all."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def greatest(self, number: int) -> int:
        """The greatest of the processes' numbers, so that all of them know of a signal to one, after the same batch."""
        if self.size == 1:
            return number
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def gradients_stay_here(module: nn.Module, stay: bool) -> contextlib.AbstractContextManager[None]:
    """While it lasts the gradients of a parallel module are added up in this process alone, if `stay`."""
    if stay and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[Processes]:
    """Join the other processes of the run, through NCCL on CUDA devices and gloo on CPUs.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None is CUDA where there is one. Of several processes each takes the CUDA
            device of its number on the machine.

    Raises: RecipeError for a device that PyTorch does not have.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device, size)
    if size == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    processes = Processes(rank, size, chosen)
    try:
        yield processes
        processes.wait()  # one that goes while another still writes has been seen to abort in its last moments
    finally:
        dist.destroy_process_group()


def _device(name: str | None, size: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device: got {name!r}, want cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RecipeError(f"device: got {name!r}, but PyTorch finds no CUDA device")
        if size > 1:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    elif device.type != "cpu":
        raise RecipeError(f"device: got {name!r}, want cpu or cuda")
    return device
