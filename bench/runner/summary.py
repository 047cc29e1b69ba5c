"""What a case's rows amount to: fastiqa beside the better of eager and torch.compile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .rows import Row

RIVALS = ("eager", "compile")
FASTIQA = ("cuda", "triton", "cpu", "torch")


def median_us(row: Row | None) -> float | None:
    """The median, None for a provider without one."""
    return float(row["t_p50_us"]) if row is not None and row.get("t_p50_us") not in (None, "") else None


def ours(providers: Mapping[str, Row]) -> Row | None:
    """fastiqa's row: its fastest backend, or without times the first that was to run."""
    rows = [providers[name] for name in FASTIQA if name in providers]
    timed = [row for row in rows if median_us(row) is not None]
    if any(row["status"] in ("wrong", "failed") for row in rows):
        return next(row for row in rows if row["status"] in ("wrong", "failed"))
    return min(timed, key=lambda row: median_us(row) or 0) if timed else rows[0] if rows else None


def speedup(providers: Mapping[str, Row]) -> float | None:
    """Over the better of eager and compile, of those measured."""
    mine = median_us(ours(providers))
    rivals = [t for name in RIVALS if (t := median_us(providers.get(name))) is not None]
    return min(rivals) / mine if mine and rivals else None


class Spread(NamedTuple):
    """Of some speed-ups: how many, geometric mean, worst and best."""

    cases: int
    mean: float
    worst: float
    best: float


def spread(ratios: Iterable[float]) -> Spread | None:
    values = list(ratios)
    if not values:
        return None
    return Spread(len(values), math.exp(sum(map(math.log, values)) / len(values)), min(values), max(values))


def bad(row: Row) -> bool:
    """A kernel of fastiqa that computes something else than its reference, or breaks."""
    return row["provider"] in FASTIQA and row["status"] in ("wrong", "failed")
