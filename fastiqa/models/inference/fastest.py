"""Several ways to the same result: which is the fastest depends on sizes, caches and threads, so it is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

T = TypeVar("T")
ROUNDS = 3
MOST_KEYS = 256  # sizes may never come back


def clock(device: torch.device) -> float:
    """Seconds, read when `device` has done what was asked of it."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class Fastest:
    """Runs the fastest of several ways, once it has timed them for this key.

    The first call for a key runs every way once unmeasured and `ROUNDS` times measured, in turns; medians decide. Of
    more than `MOST_KEYS` keys the one measured first is forgotten.

    Args:
        clock: the time in seconds on a device.

    Attributes:
        times: for every key the median time of each way, in seconds.
    """

    def __init__(self, clock: Callable[[torch.device], float] = clock) -> None:
        self.clock = clock
        self.times: dict[Hashable, dict[str, float]] = {}

    def __call__(self, key: Hashable, device: torch.device, ways: Mapping[str, Callable[[], T]]) -> T:
        """The result of the fastest way."""
        times = self.times.get(key)
        if times is None:
            times = self._measured(device, ways)
            # Another dictionary, as threads may be reading this one; of two that measure at once one is measured again.
            self.times = dict([*self.times.items(), (key, times)][-MOST_KEYS:])
        return ways[min(times, key=times.__getitem__)]()

    def _measured(self, device: torch.device, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for way in ways.values():
            way()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = self.clock(device)
                way()
                seconds[name].append(self.clock(device) - start)
        return {name: statistics.median(values) for name, values in seconds.items()}
