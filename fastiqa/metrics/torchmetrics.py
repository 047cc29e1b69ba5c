"""Metrics for torchmetrics: the mean score of all images, over batches and processes. Needs `fastiqa[torchmetrics]`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.metrics.registry import create_metric

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        f"fastiqa.metrics.torchmetrics needs torchmetrics ({error}): pip install 'fastiqa[torchmetrics]'"
    ) from error


class MeanScore(Metric):  # type: ignore[misc]
    """The mean of a metric's scores, as a `torchmetrics.Metric`: ``update(preds, target)``, ``compute()``, ``reset()``.

    Its state is a sum in float64 and a number of images, whatever their sizes and however many; processes add theirs.
    Scores are taken without a gradient. Unlike torchmetrics' PSNR, whose error is taken over all images together, it
    is the mean of the images' PSNR.

    Args:
        metric: a name of `fastiqa.list_metrics`, or a module of two images (N, C, H, W) with scores (N,).
        options: of the named metric.

    Raises: ImportError without torchmetrics; what `fastiqa.create_metric` raises; TypeError for options of a module.

    Example:
        >>> import torch
        >>> from fastiqa.metrics.torchmetrics import MeanScore
        >>> mean = MeanScore("psnr", data_range=255)
        >>> mean.update(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 255.0))
        >>> mean.compute()
        tensor(0., dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, metric: str | nn.Module, **options: Any) -> None:
        super().__init__()
        if not isinstance(metric, str) and options:
            raise TypeError(f"options: got {', '.join(options)} for a module, want them for a name")
        self.metric = create_metric(metric, **options) if isinstance(metric, str) else metric
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:
        """As of the metric."""
        return bool(getattr(self.metric, "higher_is_better", True))

    @torch.no_grad()
    def update(self, preds: Tensor, target: Tensor) -> None:
        scores = self.metric(preds, target)
        self.total += scores.double().sum()
        self.images += scores.numel()

    def compute(self) -> Tensor:
        return self.total / self.images
