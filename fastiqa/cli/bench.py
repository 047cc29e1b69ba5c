"""Options of ``fastiqa bench``, put together; the benchmark itself is in ``fastiqa.bench``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

import fastiqa.bench.command as command
import fastiqa.bench.run as runner


def bench(
    chosen: dict[str, list[Any]],
    *,
    quick: bool,
    compiled: bool | None,
    rounds: int | None,
    seconds: float | None,
    budget: float | None,
    device: str | None,
    threads: int | None,
    all_samples: bool,
    csv: Path | None,
    resume: bool,
) -> int:
    """Exit status of ``fastiqa bench``.

    Args:
        chosen: names, sizes ("NxCxHxW"), dtypes, layouts, modes and memory where the command line names them.
        quick, compiled, rounds, seconds, budget, device, threads, all_samples, csv, resume: as the options so named.
    """
    options = runner.quick(runner.Options()) if quick else runner.Options()
    try:
        chosen = chosen | (
            {"sizes": [runner.parse_size(text) for text in chosen["sizes"]]} if "sizes" in chosen else {}
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plan = options.plan if rounds is None else dataclasses.replace(options.plan, rounds=rounds)
    if seconds is not None:
        plan = dataclasses.replace(plan, case_seconds=seconds, round_seconds=min(plan.round_seconds, seconds / 50))
    options = dataclasses.replace(
        options,
        **chosen,
        plan=plan,
        compiled=not quick if compiled is None else compiled,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        all_samples=all_samples,
        csv=csv,
        resume=resume,
        budget=options.budget if budget is None else budget,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    return int(command.run(options))
