"""MS-SSIM: structural similarity at five scales, each half the size of the one before.

    s_1..s_4  = mean contrast at scales 1–4,  s_5 = mean of luminance · contrast at scale 5
    ms_ssim   = Π relu(s_i)^w_i                                 or, as a weighted sum, Σ w_i s_i / Σ w_i

The terms are SSIM's, see `fastiqa.metrics.ssim`. Between scales 2×2 pixels are averaged. By default the last window of
an odd side averages the pixels that exist, which equals the symmetric border of the authors' MATLAB code.

Source: Wang, Simoncelli, Bovik, Multiscale Structural Similarity for Image Quality Assessment, Asilomar 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastiqa.common.tracing import one_node
from fastiqa.metrics import _windows
from fastiqa.metrics._metric import (
    DataRange,
    Metric,
    Reduction,
    check_mask,
    check_pair,
    check_reduction,
    is_traced,
    reduce_batch,
    require_finite,
    to_compute_dtype,
)
from fastiqa.metrics.presets import (
    MS_SSIM_DEFAULTS,
    MS_SSIM_PRESETS,
    SCALE_WEIGHTS,
    MSSSIMOptions,
    OddSides,
    resolved_conventions,
)
from fastiqa.metrics.ssim import WINDOW
from fastiqa.ops import octave_merge, octave_merge_backward

if TYPE_CHECKING:
    from typing_extensions import Unpack

# the fifth scale must hold a window: ceil(161 / 16) = 11, ceil(160 / 16) = 10
LARGEST_SIDE_TOO_SMALL = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1)


def ms_ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    reduction: Reduction = "none",
    **options: Unpack[MSSSIMOptions],
) -> Tensor:
    """Multi-scale structural similarity of each pair of images; 1 means equal, higher is better.

    Args:
        x: (N, C, H, W), any floating dtype or uint8, values in [0, data_range], both sides greater than 160.
        y: same shape and device as ``x``, and both floating or both uint8; the measure is symmetric.
        data_range, check_range: as for :func:`fastiqa.metrics.ssim`.
        preset: name of a program's conventions in `fastiqa.metrics.presets.MS_SSIM_PRESETS`.
        mask: weights of the windows, (N or 1, 1, H, W), bool or floating, not negative. A window has the weight of its
            centre pixel; weights are averaged between scales as the images are.
        reduction: "none", one score per image; "mean" or "sum" over the batch.
        options: conventions that override the preset: `fastiqa.metrics.presets.MSSSIMOptions` (``size``, ``sigma``,
            ``truncate``, ``k1``, ``k2``, ``padding``, ``channels``, ``covariance``, ``black``, ``weights``, ``method``,
            ``odd``, ``last_padding``, ``channel_mean``). The paper and other libraries take the "product". Only
            "wtd_sum", as the authors' MATLAB code calls it, gives the values published for TID2013's pairs (0.8462 for
            I19; the product is 0.8418).

    Returns:
        (N,), or () for "mean" and "sum"; float64 if an image is float64, otherwise float32. In the product, a channel
        with a negative mean at some scale scores 0 and has a zero gradient.

    Raises:
        TypeError, ValueError: naming the argument, "got X, want Y": dtype, shape, device, range, a side of 160 pixels
            or fewer, a convention; for eager CPU tensors also NaN, infinity, values outside the range and negative
            weights in a mask.

    Equivalent to ``pytorch_msssim.ms_ssim(size_average=False)`` if both sides are multiples of 16. At odd sides that
    library averages with zeros from outside the image, this function only existing pixels: ``docs/ssim.md``.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import ms_ssim
        >>> image = torch.rand(2, 3, 176, 192)
        >>> ms_ssim(image, image)
        tensor([1., 1.])
    """
    check_reduction(reduction)
    convention = resolved_conventions(MS_SSIM_DEFAULTS, MS_SSIM_PRESETS, preset, options)
    pair = check_pair(x, y, data_range, check_range, keeps_black=convention["black"] == "kept")
    x, y, white, _ = pair
    _windows.check_channels(x, y, convention["channels"])
    _check_size(x, convention)
    if mask is not None:
        check_mask(mask, x)
    score = _joined(_scale_scores(x, y, mask, convention, white), convention).mean(1)
    return reduce_batch(require_finite(score, pair, mask), reduction)


def _check_size(x: Tensor, convention: MSSSIMOptions) -> None:
    size, scales = convention["size"], len(convention["weights"])
    too_small = (size - 1) * 2 ** (scales - 1)
    if convention["odd"] == "crop":
        too_small = size * 2 ** (scales - 1) - 1
    height, width = x.shape[-2:]
    if min(height, width) <= too_small:
        wanted = f"both sides greater than {too_small}, for {scales} scales"
        raise ValueError(f"x: got height {height} and width {width}, want {wanted}")


def _scale_scores(x: Tensor, y: Tensor, mask: Tensor | None, convention: MSSSIMOptions, white: float) -> list[Tensor]:
    """Mean contrast of all scales but the last, and mean SSIM of the last: (N, C) each."""
    if convention["channels"] != "rgb":
        x, y = (_windows.scored_channels(image, convention["channels"], white) for image in (x, y))
        convention = {**convention, "channels": "rgb"}
    scores = []
    for _ in convention["weights"][1:]:
        (x, half_x), (y, half_y) = (_forked(image, convention["odd"]) for image in (x, y))
        scores.append(_windows.means(x, y, mask, convention, white)[1])
        x = _half_size(x, convention["odd"]) if half_x is None else half_x
        y = _half_size(y, convention["odd"]) if half_y is None else half_y
        mask = None if mask is None else _halved(mask.to(x.dtype), convention["odd"])
    if convention["last_padding"] is not None:
        convention = {**convention, "padding": convention["last_padding"]}
    return [*scores, _windows.means(x, y, mask, convention, white)[0]]


def _half_size(image: Tensor, odd: OddSides) -> Tensor:
    """`_halved`; large half-precision images run in bands, so only a band exists in float32."""
    if image.dtype.itemsize >= 4 or not _windows.runs_in_bands(image, image) or image.shape[2] % 2:
        return _halved(image, odd)
    rows = _windows.bands(image.shape[2], image, multiple=2)
    return torch.cat([_halved(image[:, :, r.start : r.stop], odd) for r in rows], 2)


class _Fork(torch.autograd.Function):
    """An image and the sums of its 2×2 blocks; backward saves nothing and adds both gradients in one pass.

    With autograd's own addition, MS-SSIM with gradients of 1080p images took 177 instead of 136 ms.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.view_as(image), octave_merge_backward(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, to_sums: Tensor) -> Tensor:
        return octave_merge(grad, to_sums)


def _forked(image: Tensor, odd: OddSides) -> tuple[Tensor, Tensor | None]:
    """An image for further use, and its `_halved`, with one gradient pass for both; None where halving can wait."""
    transformed = is_traced() or torch._C._are_functorch_transforms_active()
    if (
        image.requires_grad
        and type(image) in (Tensor, torch.nn.Parameter)  # subclasses return views, which are written to here
        and not transformed
        and image.dtype in (torch.float32, torch.float64)
        and (odd == "average" or image.shape[2] % 2 == image.shape[3] % 2 == 0)
    ):
        image, sums = _Fork.apply(image)
        return image, _mean(sums, image)
    return image, None


def _halved(image: Tensor, odd: OddSides) -> Tensor:
    """Average 2×2 pixels: (N, C, ⌈H/2⌉, ⌈W/2⌉), or ⌊⌋ for "crop"; float64 for a float64 image, else float32."""
    image = to_compute_dtype(image)
    if is_traced() and odd != "average":
        return _halved_by_index(image, odd)
    odd_height, odd_width = image.shape[2] % 2, image.shape[3] % 2
    if odd == "crop":
        image = image[..., : image.shape[2] - odd_height, : image.shape[3] - odd_width]
    elif odd == "zero" and (odd_height or odd_width):
        image = pad(image, (odd_width, 0, odd_height, 0))
    elif odd == "replicate" and (odd_height or odd_width):
        image = pad(image, (1, 0, 1, 0), mode="replicate")
        image = image[..., : image.shape[2] // 2 * 2, : image.shape[3] // 2 * 2]
    return _mean(octave_merge_backward(image), image)  # avg_pool2d took 15 times as long on a CPU


def _halved_by_index(image: Tensor, odd: OddSides) -> Tensor:
    """`_halved` for symbolic sides of unknown parity.

    Parity enters indices, never sizes: torch.compile would simplify sizes for minutes after four scales.
    """
    height, width = image.shape[2:]
    shifts: dict[str, tuple[int, int]] = {
        "crop": (0, 0),
        "zero": (height % 2, width % 2),
        "replicate": (1 - (1 - height % 2) * (1 - width % 2),) * 2,
    }
    for dim, side, shift in zip((2, 3), (height, width), shifts[odd], strict=True):
        blocks = side // 2 if odd == "crop" else (side + 1) // 2
        first = 2 * torch.arange(blocks, device=image.device) - shift
        pixels = image.index_select(dim, first.clamp(min=0))
        if odd == "zero":
            pixels = pixels.masked_fill((first < 0).view(-1, *(1,) * (3 - dim)), 0)
        image = pixels + image.index_select(dim, first + 1)
    return image / 4


def _mean(sums: Tensor, image: Tensor) -> Tensor:
    """Divide the sums of 2×2 blocks by their numbers of pixels, in place."""
    if not is_traced() and image.shape[2] % 2 == image.shape[3] % 2 == 0:
        return sums.div_(4)
    return sums.div_(_pixels(image.shape[2], sums).view(-1, 1) * _pixels(image.shape[3], sums))


def _pixels(side: int, like: Tensor) -> Tensor:
    """The number of rows or columns in each block of two."""
    rest = side - 2 * torch.arange((side + 1) // 2, device=like.device)
    return rest.clamp(max=2).to(like.dtype)


def _joined(scores: list[Tensor], convention: MSSSIMOptions) -> Tensor:
    """Combine the scales to MS-SSIM: (N, C), or (N, 1) with the channels averaged before."""
    if convention["channel_mean"] == "before":
        scores = [score.mean(1, keepdim=True) for score in scores]
    weights = convention["weights"]
    if convention["method"] == "wtd_sum":
        shares = [weight / sum(weights) for weight in weights]
        return torch.stack([share * score for share, score in zip(shares, scores, strict=True)]).sum(0)
    product = torch.ones_like(scores[0])
    for weight, score in zip(weights, scores, strict=True):
        # 0^w has an infinite slope: after a relu, forward-mode and second derivatives would be NaN; the base is 1 here
        negative = score <= 0  # false for NaN, which stays
        product = product * score.masked_fill(negative, 1).pow(weight) * ~negative
    return product


class MSSSIM(Metric):
    """`ms_ssim` as a module with fixed options; call it with x, y and optionally a mask.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import MSSSIM
        >>> metric = MSSSIM(preset="pytorch_msssim", reduction="mean")
        >>> image = torch.rand(2, 3, 161, 163)
        >>> metric(image, image)
        tensor(1.)
    """

    name: ClassVar[str] = "ms_ssim"

    def __init__(
        self,
        *,
        data_range: DataRange = None,
        check_range: bool | None = None,
        preset: str = "fastiqa",
        reduction: Reduction = "none",
        **options: Unpack[MSSSIMOptions],
    ) -> None:
        convention = resolved_conventions(MS_SSIM_DEFAULTS, MS_SSIM_PRESETS, preset, options)
        super().__init__(data_range, reduction, check_range, preset=preset, **options)
        self.score_range = (0.0 if convention["method"] == "product" else -1.0, 1.0)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        score: Tensor = one_node(ms_ssim, x, y, mask=mask, **self.options)
        return score
