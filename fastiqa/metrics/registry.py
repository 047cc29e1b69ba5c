"""create_metric, list_metrics: full-reference metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fastiqa.metrics.lpips import LPIPS
from fastiqa.metrics.ms_ssim import MSSSIM
from fastiqa.metrics.psnr import PSNR
from fastiqa.metrics.ssim import SSIM

# name -> module of two images, with `name`, `higher_is_better` and `score_range`
METRICS: dict[str, Callable[..., nn.Module]] = {metric.name: metric for metric in (PSNR, SSIM, MSSSIM, LPIPS)}


def list_metrics(pattern: str = "*") -> list[str]:
    """The sorted names of metrics that match the shell-style `pattern`."""
    return sorted(name for name in METRICS if fnmatchcase(name, pattern))


def create_metric(name: str, **options: Any) -> nn.Module:
    """Create a metric by name.

    The module's attributes `name`, `higher_is_better` and `score_range` say what a score means.
    `fastiqa.metrics.MetricLoss` turns it into a loss.

    Args:
        name: one of `list_metrics()`.
        options: of the metric's module, such as ``data_range``, ``preset`` and ``reduction``.

    Returns:
        A module from two batches (N, C, H, W) to scores (N,), or to a single number with a reduction.
    Raises: ValueError for an unknown name; TypeError or ValueError for the module's options.

    Example:
        >>> import fastiqa
        >>> metric = fastiqa.create_metric("ssim", preset="torchmetrics")
        >>> metric.higher_is_better, metric.score_range
        (True, (-1.0, 1.0))
    """
    if not isinstance(name, str) or name not in METRICS:
        raise ValueError(f"name: got {name!r}, want one of {', '.join(list_metrics())}")
    return METRICS[name](**options)
