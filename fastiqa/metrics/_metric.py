"""What all full-reference metrics share: checks of images, mask and score, reductions, the module and the loss."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.common.arguments import RANGE_TOLERANCE
from fastiqa.runtime.layout import ACCUMULATION

Reduction = Literal["none", "mean", "sum"]
DataRange = float | tuple[float, float] | None
CODE_VALUES = 255.0  # data range of uint8 images
# In images with more values, only one row in up to 64 is checked: 0.05 ms (one thread) for a full-HD image, beside
# 6.8 ms of SSIM or 2.3 ms of PSNR; checking all rows takes 1.8 ms.
CHECKED_VALUES = 1 << 16
LARGEST_STEP = 64


class Pair(NamedTuple):
    """Two checked images.

    Attributes:
        x, y: of one dtype and device, with black at 0.
        white: the value of white.
        given_range: black and white as the caller gave them.
    """

    x: Tensor
    y: Tensor
    white: float
    given_range: tuple[float, float]


def check_pair(
    x: Tensor,
    y: Tensor,
    data_range: DataRange,
    check_range: bool | None = None,
    *,
    keeps_black: bool = False,
    one_against_many: bool = False,
) -> Pair:
    """Check the two images of a metric, promote them to the wider dtype and subtract black.

    Args:
        x, y: (N, C, H, W), floating or both uint8.
        data_range: value of white, or of black and white; None: 255 for uint8, otherwise 1.
        check_range: see `check_values`.
        keeps_black: keep the values, and take white less black for white, as torchmetrics does.
        one_against_many: also accept one image against several.

    Raises:
        TypeError: not a tensor, a dtype that is neither floating nor uint8, uint8 with a floating dtype, a data range
            that is neither a number nor a pair of numbers.
        ValueError: not (N, C, H, W), an empty image, different shapes or devices, a data range that is not positive and
            finite, or not 255 for uint8; values outside the range.
    """
    for name, image in (("x", x), ("y", y)):
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}, want a torch.Tensor")
        if not image.is_floating_point() and image.dtype != torch.uint8:
            raise TypeError(f"{name}: got {image.dtype}, want a floating dtype or uint8")
        if image.is_floating_point() and image.dtype not in ACCUMULATION:
            raise TypeError(f"{name}: got {image.dtype}, want a floating dtype of at least 16 bits")
        if image.layout != torch.strided or image.is_nested:
            kind = "a nested tensor" if image.is_nested else image.layout
            raise TypeError(f"{name}: got {kind}, want a dense tensor")
        if image.ndim != 4:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want (N, C, H, W)")
        if 0 in image.shape[1:]:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want at least one channel, row and column")
    one = one_against_many and 1 in (x.shape[0], y.shape[0])
    if (x.shape[1:] != y.shape[1:]) if one else (x.shape != y.shape):
        raise ValueError(f"y: got shape {tuple(y.shape)}, want that of x, {tuple(x.shape)}")
    if x.dtype != y.dtype:
        if torch.uint8 in (x.dtype, y.dtype):
            raise TypeError(f"y: got {y.dtype}, want that of x, {x.dtype}")
        common = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(common), y.to(common)
    if x.device != y.device:
        raise ValueError(f"y: got a tensor on {y.device}, want the device of x, {x.device}")
    black, white = check_data_range(data_range) or (0, 1.0 if x.is_floating_point() else CODE_VALUES)
    if x.dtype == torch.uint8 and (black, white) != (0, CODE_VALUES):
        raise ValueError(f"data_range: got {data_range}, want 255 (or None) for uint8 images")
    for name, image in (("x", x), ("y", y)):
        check_values(name, image, black, white, check_range)
    if black and not keeps_black:
        x, y = to_compute_dtype(x) - black, to_compute_dtype(y) - black
    return Pair(x, y, white - black if black else white, (black, white))


def check_data_range(data_range: DataRange) -> tuple[float, float] | None:
    """Return (black, white), or None for None. Raises TypeError or ValueError for an invalid range."""
    if data_range is None:
        return None
    if isinstance(data_range, tuple):
        if len(data_range) != 2 or not all(map(_is_number, data_range)):
            raise TypeError(f"data_range: got {data_range!r}, want a number or two, (black, white)")
        black, white = data_range
        if not -math.inf < black < white < math.inf:
            raise ValueError(f"data_range: got {data_range}, want (black, white), finite and black less than white")
        return black, white
    if not _is_number(data_range):
        raise TypeError(f"data_range: got {type(data_range).__name__}, want a number or two, (black, white)")
    if not 0 < data_range < math.inf:  # math.isfinite breaks the graph where a compiled call's number varies
        raise ValueError(f"data_range: got {data_range}, want a positive finite number")
    return 0, data_range


def check_number(name: str, value: Any, least: float = 0.0) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number of at least `least`."""
    if not _is_number(value):
        raise TypeError(f"{name}: got {type(value).__name__}, want a number")
    if not least <= value < math.inf:
        raise ValueError(f"{name}: got {value}, want a finite number of at least {least:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def check_values(
    name: str,
    image: Tensor,
    black: float,
    white: float,
    check_range: bool | None,
    remedy: str = "or another data_range",
) -> None:
    """Raise ValueError for values outside [black, white] by more than 0.1 % of the range: an image in another range.

    Args:
        name: of the argument, for the message.
        image: (N, C, H, W).
        black, white: the range.
        check_range: None checks CPU tensors, and only some rows of large ones. An image that requires a gradient, which
            a network may have made, gets a warning instead, if values are outside by more than the range itself. True
            checks every value on any device, and synchronises it. False checks nothing. Never checked where values
            cannot steer Python: compiled, exported, traced, inside vmap, tensor subclasses, uint8.
        remedy: what else the message proposes.
    """
    if check_range is not None:
        arguments.flag("check_range", check_range)
    if check_range is False or image.dtype == torch.uint8 or not _can_be_read(image) or image.numel() == 0:
        return
    if check_range is None and image.device.type != "cpu":
        return
    step = 1 if check_range else min(LARGEST_STEP, image.shape[2], -(-image.numel() // CHECKED_VALUES))
    values = image.detach()
    low, high = (float(bound) for bound in torch.aminmax(values if step == 1 else values[:, :, step // 2 :: step]))
    learns = image.requires_grad and torch.is_grad_enabled() and not check_range
    beyond = (1.0 if learns else RANGE_TOLERANCE) * (white - black)
    # NaN and infinity are reported by `require_finite`, from the score.
    if not math.isfinite(high - low) or black - beyond <= low <= high <= white + beyond:
        return
    want = f"want {[black, white]}, {remedy}"
    if not learns:
        raise ValueError(f"{name}: got values from {low:.6g} to {high:.6g}, {want}")
    # without the changing values: Python shows an equal warning only once
    warnings.warn(f"{name}: got values outside {[black - beyond, white + beyond]}, {want}", stacklevel=4)


def check_mask(mask: Tensor, x: Tensor) -> None:
    """Raise TypeError or ValueError unless `mask` has weights for the pixels of `x`; checks values if readable."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: got {type(mask).__name__}, want a torch.Tensor")
    if not mask.is_floating_point() and mask.dtype != torch.bool:
        raise TypeError(f"mask: got {mask.dtype}, want bool or a floating dtype")
    if mask.layout != torch.strided:
        raise TypeError(f"mask: got {mask.layout}, want a dense tensor")
    n, _, h, w = x.shape
    if mask.ndim != 4 or mask.shape[0] not in (1, n) or mask.shape[1:] != (1, h, w):
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, want ({n} or 1, 1, {h}, {w})")
    if mask.device != x.device:
        raise ValueError(f"mask: got a tensor on {mask.device}, want the device of x, {x.device}")
    if mask.dtype != torch.bool and mask.device.type == "cpu" and _can_be_read(mask) and mask.numel() > 0:
        low, high = (float(bound) for bound in torch.aminmax(mask.detach()))
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"mask: got weights from {low:.6g} to {high:.6g}, want finite ones of at least 0")


def to_compute_dtype(image: Tensor) -> Tensor:
    """Convert to the dtype of the computation: float64 stays, everything else becomes float32."""
    return image.to(torch.float64 if image.dtype == torch.float64 else torch.float32)


def check_reduction(reduction: Reduction) -> None:
    """Raise ValueError for an unknown reduction."""
    arguments.one_of("reduction", reduction, get_args(Reduction))


def require_finite(score: Tensor, pair: Pair, mask: Tensor | None) -> Tensor:
    """Return the scores (N,) if they are finite, else find the cause in the images.

    NaN and infinity in an image reach its score, and checking the score costs a thousandth of checking the images.

    Raises:
        ValueError: NaN or infinity in an image, or a mask without weight, for eager CPU tensors. Elsewhere the check
            would synchronise the device or break the graph, and the score is NaN.
    """
    if score.device.type == "cpu" and _can_be_read(score) and not torch.isfinite(score).all():
        for name, image in (("x", pair.x), ("y", pair.y)):
            if not torch.isfinite(image).all():
                raise ValueError(f"{name}: got NaN or infinity, want finite values in {list(pair.given_range)}")
        if mask is not None and torch.isnan(score).any():
            raise ValueError("mask: got no weight at any window of an image, want some")
    return score


def reduce_batch(score: Tensor, reduction: Reduction) -> Tensor:
    """Reduce scores (N, ...) over the batch: "none", "mean" or "sum"."""
    if reduction == "none":
        return score
    return score.mean(0) if reduction == "mean" else score.sum(0)


def _can_be_read(tensor: Tensor) -> bool:
    """Whether Python may branch on the values: an ordinary tensor with data, outside tracing."""
    return arguments.is_eager(tensor) and not tensor.is_meta


def is_traced() -> bool:
    """Whether sizes are symbolic, so Python must not branch on them: torch.compile, torch.export, torch.jit.trace."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


class Metric(nn.Module):
    """The base of metrics of two images as modules.

    Args:
        data_range: value of white, or (black, white); None: 255 for uint8, otherwise 1.
        reduction: "none" for one score per image, "mean" or "sum".
        check_range: as for :func:`fastiqa.metrics.ssim`; None takes the default of the metric's function.
        options: further keyword arguments for the metric's function.

    Raises: TypeError or ValueError for an invalid range or reduction.

    Attributes:
        name: in `fastiqa.create_metric`.
        higher_is_better: whether a greater score means a better image.
        score_range: lowest and highest score.
        options: keyword arguments for the metric's function.
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
    """A loss from a metric: the distance of the mean score of a batch from the best score.

    The loss is best − score if greater scores are better and bounded (1 − SSIM), −score if they are unbounded (−PSNR),
    and the score itself if less is better (LPIPS).

    Args:
        metric: a module that returns one score per image, (N,), or their mean, with the attributes `higher_is_better`
            and `score_range`.

    Raises: TypeError for a metric without these attributes; ValueError for reduction="sum".

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
