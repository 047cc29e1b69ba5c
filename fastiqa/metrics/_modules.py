"""What the modules of metrics have in common, and the loss that any of them makes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.metrics._pair import DataRange, Reduction, check_data_range, check_reduction


class Metric(nn.Module):
    """A metric of two images with its options, for use as a module.

    Attributes:
        name: in `fastiqa.create_metric`.
        higher_is_better: whether a greater score means a better image.
        score_range: lowest and highest score.
        options: what the function is called with.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    score_range: tuple[float, float]

    def __init__(
        self, data_range: DataRange, reduction: Reduction, check_range: bool | None = None, **options: Any
    ) -> None:
        super().__init__()
        check_data_range(data_range)
        check_reduction(reduction)
        self.options: dict[str, Any] = {"data_range": data_range, "reduction": reduction, **options}
        if check_range is not None:
            self.options["check_range"] = arguments.flag("check_range", check_range)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class MetricLoss(nn.Module):
    """A loss: how far the mean score of a batch is from the best.

    Args:
        metric: a module of one score an image, (N,), or of their mean, with `higher_is_better` and `score_range`.

    Raises: TypeError for a metric without these two; ValueError for one of sums.

    Its value is best − score where a greater score is better and bounded (1 − SSIM), −score where it is not bounded
    (−PSNR), and the score where less is better.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import SSIM, MetricLoss
        >>> loss = MetricLoss(SSIM())
        >>> image = torch.rand(2, 3, 32, 32, requires_grad=True)
        >>> loss(image, torch.rand(2, 3, 32, 32)).backward()
        >>> image.grad.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        wanted = ("higher_is_better", "score_range")
        if not (isinstance(metric, nn.Module) and all(hasattr(metric, name) for name in wanted)):
            want = "a module with higher_is_better and score_range, such as SSIM()"
            raise TypeError(f"metric: got {type(metric).__name__}, want {want}")
        conventions = getattr(metric, "options", {}) | getattr(metric, "convention", {})
        if conventions.get("reduction") == "sum":
            raise ValueError("metric: got one with reduction='sum', want 'none' or 'mean'")
        self.metric = metric

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        metric: Any = self.metric
        score: Tensor = (metric(x, y) if mask is None else metric(x, y, mask)).mean()
        if not metric.higher_is_better:
            return score
        best = metric.score_range[1]
        return best - score if math.isfinite(best) else -score
