"""The processes of a run, one or those of `torchrun --nproc-per-node=N`, and the signals that end it.

After Ctrl-C or SIGTERM the update in progress ends, a checkpoint is written, and the run stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastiqa.training.config.fields import RecipeError

SAME_SIGNAL = 2.0  # seconds within which a signal counts once: torchrun hands the terminal's Ctrl-C on


class Processes(NamedTuple):
    """This process among those of the run.

    Attributes:
        rank: its number, from 0.
        size: the number of processes.
        device: the device that it computes on.
    """

    rank: int
    size: int
    device: torch.device

    def parallel(self, module: nn.Module, unused_parameters: bool = False) -> nn.Module:
        """The module, with gradients averaged over all processes in the backward pass.

        Args:
            module: computes losses or their parts.
            unused_parameters: whether parameters may get no gradient, which other processes would wait for.
        """
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused_parameters)

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, of equal shapes, joined along the first dimension."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def gather_shares(self, values: Tensor, count: int) -> Tensor:
        """All `count` values in order; process r has numbers r, r + size, r + 2 · size, ..."""
        share = -(-count // self.size)
        padded = values.new_zeros(share, *values.shape[1:])
        padded[: len(values)] = values
        together = self.gather(padded).view(self.size, share, *values.shape[1:])
        return together.transpose(0, 1).flatten(0, 1)[:count]

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, the statistics of batch normalisation."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def greatest(self, number: int) -> int:
        """The greatest of the processes' numbers: all learn of a signal to one after the same batch."""
        if self.size == 1:
            return number
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


def gradients_stay_here(module: nn.Module, stay: bool) -> contextlib.AbstractContextManager[None]:
    """A context in which, if `stay`, a parallel module adds up gradients in this process alone."""
    if stay and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[Processes]:
    """Join the other processes of the run, by NCCL on CUDA devices and gloo on CPUs.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None is CUDA if there is any. With several processes, each takes the CUDA
            device with its number on the machine.

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
        processes.wait()  # a process that ended while another still wrote was seen to abort
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


class Stopped(Exception):
    """A signal ended the run after its checkpoint was written. The message is one line.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[type[Stopped], tuple[int, str]]:
        return type(self), (self.number, str(self))


class Interruptions:
    """The first signal that came, if any.

    Attributes:
        number: the signal's number, 0 while there is none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: keep the first; a second Ctrl-C raises KeyboardInterrupt."""
        again = self.number and time.monotonic() - self._since > SAME_SIGNAL
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._since = number, time.monotonic()
            if number == signal.SIGINT:
                print("stopping after this batch with a checkpoint; Ctrl-C again stops at once", file=sys.stderr)


@contextlib.contextmanager
def interruptions() -> Iterator[Interruptions]:
    """Collect SIGINT and SIGTERM instead of ending the process, in the main thread.

    A signal that the process was started to ignore stays ignored, such as Ctrl-C for a shell's background jobs.
    """
    found = Interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield found  # only the main thread may install handlers
        return
    # None: a handler that Python did not install and could not restore.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, found.note) for number in heard}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
