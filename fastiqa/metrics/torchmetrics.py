"""MeanScore: the mean score over all batches and processes, for torchmetrics. Needs the extra `torchmetrics`."""

# No `from __future__ import annotations`: torch.jit.script reads the annotations of the states.
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.common.extras import install_command
from fastiqa.metrics._metric import Reduction
from fastiqa.metrics.registry import create_metric

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        f"fastiqa.metrics.torchmetrics needs torchmetrics ({error}): {install_command('torchmetrics')}"
    ) from error


# Options of `torchmetrics.Metric` itself.
BASE_OPTIONS = (
    "compute_on_cpu",
    "compute_with_cache",
    "dist_sync_fn",
    "dist_sync_on_step",
    "distributed_available_fn",
    "process_group",
    "sync_on_compute",
)


class MeanScore(Metric):  # type: ignore[misc]
    """The mean of a metric's scores, as a `torchmetrics.Metric`: ``update(preds, target)``, ``compute()``, ``reset()``.

    The state is a float64 sum and a number of images, for any number and sizes of images; processes add theirs. Scores
    have no gradient. Like torchmetrics' own metrics it can be part of a scripted module, where update and compute stay
    Python. MeanScore("psnr") averages the images' PSNR; torchmetrics' PSNR pools the error over all images.

    Args:
        metric: a name in `fastiqa.list_metrics()`, or a module from two images (N, C, H, W) to scores (N,).
        reduction: "mean" or "sum" of all scores; "none" keeps them in a list and returns all, (N,).
        options: of the named metric and of `torchmetrics.Metric`, such as ``dist_sync_on_step``.

    Raises: as `fastiqa.create_metric` and `torchmetrics.Metric`; ImportError without torchmetrics; TypeError for
        options with a module; ValueError for another reduction, and for a metric without one score per image.

    Example:
        >>> import torch
        >>> from fastiqa.metrics.torchmetrics import MeanScore
        >>> mean = MeanScore("psnr", data_range=255)
        >>> mean.update(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 255.0))
        >>> mean.compute()
        tensor(0., dtype=torch.float64)
    """

    __jit_ignored_attributes__: ClassVar[list[str]] = [*Metric.__jit_ignored_attributes__, "metric"]
    is_differentiable = False
    full_state_update = False

    def __init__(self, metric: str | nn.Module, *, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__(**{name: options.pop(name) for name in BASE_OPTIONS if name in options})
        arguments.one_of("reduction", reduction, get_args(Reduction))
        self.reduction = reduction
        if not isinstance(metric, str) and options:
            raise TypeError(f"options: got {', '.join(options)} for a module, want them for a name")
        self.metric = create_metric(metric, **options) if isinstance(metric, str) else metric
        if reduction == "none":
            self.add_state("scores", [], dist_reduce_fx="cat")
        else:
            self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:
        """Whether a greater score of the metric means a better image."""
        return bool(getattr(self.metric, "higher_is_better", True))

    @torch.no_grad()
    def update(self, preds: Tensor, target: Tensor) -> None:
        scores = self.metric(preds, target)
        if scores.shape != preds.shape[:1]:
            raise ValueError(f"metric: got scores of shape {tuple(scores.shape)}, want one an image, (N,)")
        if self.reduction == "none":
            self.scores.append(scores)
        else:
            self.total += scores.double().sum()
            self.images += scores.numel()

    def compute(self) -> Tensor:
        if self.reduction == "none":
            scores: Tensor = dim_zero_cat(self.scores)
            return scores
        total: Tensor = self.total
        return total if self.reduction == "sum" else total / self.images
