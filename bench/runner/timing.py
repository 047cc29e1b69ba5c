"""Time: providers run in interleaved rounds, so that a change of the machine's speed meets all of them.

CPU: a round is as many calls back to back as take `round_seconds`. CUDA: each call lies between two events, after a
buffer of three times the L2 cache has been overwritten; the overwriting hides the time to launch. A fixed time of work,
not a number of calls, brings the clocks up.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType

from fastiqa.runtime.dispatch import use

MOST_REPEATS_ON_CUDA = 50  # overwriting the cache before each takes longer than a small kernel
COPY_PEAK_BYTES = 256 << 20  # read and written together: eight times a large last-level cache's 32 MiB
WARM_UP_SECONDS = 0.2
HOST_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """A call to be timed, and the backend that fastiqa must use during it."""

    call: Callable[[], Any]
    backend: str | None = None

    def __call__(self) -> Any:
        with self.chosen():
            return self.call()

    def chosen(self) -> contextlib.AbstractContextManager[None]:
        return use(self.backend) if self.backend else contextlib.nullcontext()


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds, fewest: the most and the fewest rounds of a case.
        round_seconds: of one provider in one round.
        case_seconds: of all rounds of a case, as long as `fewest` rounds fit.
    """

    rounds: int = 15
    fewest: int = 5
    round_seconds: float = 0.03
    case_seconds: float = 8.0


class Timer:
    """Times calls on one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
            self.flush = torch.empty(3 * max(l2, 16 << 20), dtype=torch.int8, device="cuda")
            end = time.perf_counter() + WARM_UP_SECONDS
            while time.perf_counter() < end:
                self.flush.zero_()
                torch.cuda.synchronize()

    def seconds(self, run: Run, repeats: int) -> float:
        """One sample: seconds a call, over `repeats` calls."""
        with run.chosen():
            if self.device == "cuda":
                return self._on_cuda(run.call, repeats)
            call = run.call
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) / repeats

    def _on_cuda(self, call: Callable[[], Any], repeats: int) -> float:
        pairs = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return float(statistics.median(start.elapsed_time(end) for start, end in pairs)) / 1e3

    def host_seconds(self, run: Run) -> float:
        """Seconds that a call costs the host: back to back, without waiting for the device."""
        samples = []
        repeats = 1
        with run.chosen():
            for _ in range(6):
                start = time.perf_counter()
                for _ in range(repeats):
                    run.call()
                samples.append((time.perf_counter() - start) / repeats)
                repeats = min(50, max(1, int(HOST_SECONDS / samples[-1])))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return statistics.median(samples[1:])


def interleaved(runs: dict[str, Run], timer: Timer, plan: Plan) -> dict[str, list[float]]:
    """Seconds a call in each round, by provider; fewer rounds where the case would take longer than planned."""
    repeats: dict[str, int] = {}
    round_seconds = 0.0
    for name, run in runs.items():
        once = min(timer.seconds(run, 1) for _ in range(2))
        repeats[name] = max(1, int(plan.round_seconds / max(once, 1e-7)))
        if timer.device == "cuda":
            repeats[name] = min(repeats[name], MOST_REPEATS_ON_CUDA)
        round_seconds += once * repeats[name]
    rounds = min(plan.rounds, max(plan.fewest, int(plan.case_seconds / round_seconds)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    # The first round is dropped: memory stays where it is only after all have run once.
    for name in itertools.chain.from_iterable(shuffled.sample(list(runs), len(runs)) for _ in range(rounds + 1)):
        times[name].append(timer.seconds(runs[name], repeats[name]))
    return {name: seconds[1:] for name, seconds in times.items()}


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """A row's columns of times, in microseconds, from samples in seconds."""
    low, *_, high = statistics.quantiles(seconds, n=5, method="inclusive")
    columns = {"t_p20_us": low, "t_p50_us": statistics.median(seconds), "t_p80_us": high}
    return {column: round(value * 1e6, 1) for column, value in columns.items()}


def copy_run(total_bytes: int, dtype: torch.dtype, device: str) -> Run:
    """A copy into existing memory that reads and writes `total_bytes` together."""
    elements = max(1, total_bytes // 2 // dtype.itemsize)
    # Not zeros: untouched pages of zeros are one page to a CPU, and a GPU's power and clocks follow the values.
    source = torch.randn(4096, device=device).to(dtype).repeat(-(-elements // 4096))[:elements]
    target = torch.zeros_like(source).copy_(source)  # its pages are there before it is timed
    return Run(lambda: target.copy_(source))


def launches(run: Run) -> int:
    """The number of kernels, copies and fills that a call puts on the CUDA device."""
    run()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profile.events() or ())


def spec_gbps() -> float | None:
    """GB/s of the current CUDA device by its data sheet, None where PyTorch lacks its clock or bus width."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    clock, width = (getattr(properties, name, 0) for name in ("memory_clock_rate", "memory_bus_width"))
    return 2 * clock * 1e3 * width / 8 / 1e9 if clock and width else None
