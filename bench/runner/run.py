"""The runner: measures the chosen cases in turn and appends each to the CSV file at once."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fastiqa import ops
from fastiqa.runtime.memory import LARGE

from ..cases.blocks import BLOCKS
from ..cases.networks import NETWORKS, Network
from .measure import Bench
from .memory import MEMORY
from .rows import Row, append, default_csv, environment, make_ready, measured_already, read
from .settings import CACHE_SIZE, DTYPES, LAYOUTS, MODES, Setting, Size, settings
from .timing import Plan


def forward_names() -> list[str]:
    """The operators and blocks that are measured by default; their backward passes are modes."""
    return [*(name for name in ops.OPERATORS if not name.endswith("_backward")), *BLOCKS]


@dataclass
class Options:
    """The choice of cases. The defaults are the full table of bench/data.

    Attributes:
        names: operators, blocks and networks.
        sizes: (N, C, H, W) of the first map; None: those of `settings.default_sizes`.
        memory: "reused", "fresh"; None: reused, and fresh too where blocks are large enough for a difference.
        all_samples: every sample of an operator's record, not the first alone.
        compiled: torch.compile competes.
        csv: None: `rows.default_csv`.
        resume: leave out cases that the file has for this commit.
        budget: seconds for everything; cases that do not fit are left out.
    """

    names: Sequence[str] = field(default_factory=forward_names)
    sizes: Sequence[Size] | None = None
    dtypes: Sequence[str] = ("float32", "bfloat16")
    layouts: Sequence[str] = tuple(LAYOUTS)
    modes: Sequence[str] = MODES
    memory: Sequence[str] | None = None
    all_samples: bool = False
    compiled: bool = True
    plan: Plan = field(default_factory=Plan)
    device: str = "cpu"
    csv: Path | None = None
    resume: bool = False
    budget: float | None = None
    smallest_first: bool = False

    def check(self) -> None:
        """Refuse unknown names.

        Raises:
            ValueError: the message names the option, the value and the known ones.
        """
        for option, given, known in (
            ("OPS", self.names, [*forward_names(), *NETWORKS]),
            ("--dtype", self.dtypes, DTYPES),
            ("--layout", self.layouts, LAYOUTS),
            ("--mode", self.modes, MODES),
            ("--memory", self.memory or MEMORY, MEMORY),
            ("--device", [self.device], ("cpu", "cuda")),
        ):
            if wrong := [value for value in given if value not in known]:
                raise ValueError(f"{option}: got {wrong[0]!r}, want one of {', '.join(known)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device: got 'cuda', but PyTorch sees no CUDA device")


QUICK_SECONDS = 110.0  # an idle machine of two cores needs about 80
QUICK_SIZES: tuple[Size, ...] = (CACHE_SIZE, (1, 128, 112, 112))


def quick(options: Options) -> Options:
    """Change the options: two small sizes, float32, forward and with backward, in `QUICK_SECONDS` at most.

    The smaller size comes first, so that every operator has a row even if the time runs out.
    """
    options.sizes, options.dtypes, options.memory = QUICK_SIZES, ("float32",), ("reused",)
    options.modes = ("fwd", "fwd_bwd")
    options.plan = Plan(rounds=7, fewest=3, round_seconds=0.008, case_seconds=0.8)
    options.budget, options.smallest_first = QUICK_SECONDS, True
    return options


def parse_size(text: str) -> Size:
    """N, C, H, W of "NxCxHxW".

    Raises:
        ValueError: another text.
    """
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--size: got {text!r}, want NxCxHxW, as 8x256x112x112")
    n, c, h, w = map(int, parts)
    return n, c, h, w


class Session:
    """One run.

    Attributes:
        cases: their number.
        done: the number that the file has already, where the run resumes.
        left_out: the number that did not fit into the budget, known at the end.

    Raises:
        ValueError: unknown names, or a file that rows cannot be appended to.
    """

    def __init__(self, options: Options) -> None:
        options.check()
        self.options = options
        self.about = environment(options.device)
        self.csv = options.csv or default_csv(self.about)
        make_ready(self.csv)
        self._settings = list(
            settings(options.names, options.sizes, options.dtypes, options.layouts, options.device, options.all_samples)
        )
        if options.smallest_first:
            self._settings.sort(key=lambda setting: math.prod(setting.size))
        self._measured = measured_already(read(self.csv), self.about) if options.resume else set()
        self.cases = sum(len(self._chosen(setting)) for setting in self._settings)
        self.done = self.cases - sum(len(self._missing(setting)) for setting in self._settings)
        self.left_out = 0

    def shapes(self) -> list[str]:
        return list(dict.fromkeys(setting.shape for setting in self._settings))

    def _chosen(self, setting: Setting) -> list[tuple[str, str]]:
        memory = self.options.memory or (MEMORY if setting.moved() >= LARGE else ("reused",))
        if self.options.device == "cuda":
            memory = ("reused",)  # as PyTorch's allocator there always does
        known = setting.op.modes if isinstance(setting.op, Network) else MODES
        return list(itertools.product([mode for mode in self.options.modes if mode in known], memory))

    def _missing(self, setting: Setting) -> list[tuple[str, str]]:
        tail = (setting.dtype, setting.layout, setting.shape)
        return [
            (mode, memory)
            for mode, memory in self._chosen(setting)
            if (setting.op.name, setting.label, mode, memory, *tail) not in self._measured
        ]

    def measure(self) -> Iterator[list[Row]]:
        """Yields the rows of each case once they are in the file.

        With a budget the remaining cases share the remaining time, half for timing, half for the checks before it. A
        case does not begin if the longest one so far took more than the remaining time.
        """
        bench = Bench(self.options.device, self.options.plan, self.options.compiled, self.about)
        plan, left, start = self.options.plan, self.cases - self.done, time.perf_counter()
        budget, last, longest = self.options.budget, start, 0.0
        for setting in self._settings:
            cases = bench.cases(setting, missing) if (missing := self._missing(setting)) else iter(())
            for _ in missing:
                if budget is not None and last - start + longest > budget:
                    self.left_out = left
                    return
                rows = next(cases)
                append(self.csv, rows)
                now = time.perf_counter()
                longest, last, left = max(longest, now - last), now, left - 1
                yield rows
                if budget is not None and left:
                    share = (budget - (now - start)) / left
                    bench.plan = replace(plan, case_seconds=min(plan.case_seconds, max(share, 0) / 2))
