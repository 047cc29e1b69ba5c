"""SSIM: structural similarity, by default in a Gaussian window of 11×11 pixels, sigma 1.5.

    luminance = (2 μx μy + C1) / (μx² + μy² + C1)               C1 = (0.01 data_range)²
    contrast  = (2 σxy + C2) / (σx² + σy² + C2)                 C2 = (0.03 data_range)²
    ssim      = mean over windows of luminance · contrast       x, y: (N, C, H, W) → (N,)

By default windows lie inside the image (no padding), and the scores of the channels are averaged. `fastiqa.ops.ssim`
computes both terms in one pass.

Source: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastiqa.common import arguments
from fastiqa.common.tracing import one_node
from fastiqa.metrics import _windows
from fastiqa.metrics._metric import (
    DataRange,
    Metric,
    Reduction,
    check_mask,
    check_pair,
    check_reduction,
    reduce_batch,
    require_finite,
    to_compute_dtype,
)
from fastiqa.metrics.presets import SSIM_DEFAULTS, SSIM_PRESETS, Downsample, SSIMOptions, resolved_conventions

if TYPE_CHECKING:
    from typing_extensions import Unpack

WINDOW = 11
SHORT_SIDE = 256  # pixels: `downsample` keeps images with this shorter side


@overload
def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    return_map: Literal[False] = False,
    return_contrast: Literal[False] = False,
    reduction: Reduction = "none",
    **options: Unpack[SSIMOptions],
) -> Tensor: ...


@overload
def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    return_map: Literal[True],
    return_contrast: Literal[False] = False,
    reduction: Reduction = "none",
    **options: Unpack[SSIMOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    return_map: Literal[False] = False,
    return_contrast: Literal[True],
    reduction: Reduction = "none",
    **options: Unpack[SSIMOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    return_map: Literal[True],
    return_contrast: Literal[True],
    reduction: Reduction = "none",
    **options: Unpack[SSIMOptions],
) -> tuple[Tensor, Tensor, Tensor]: ...


def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: DataRange = None,
    check_range: bool | None = None,
    preset: str = "fastiqa",
    mask: Tensor | None = None,
    return_map: bool = False,
    return_contrast: bool = False,
    reduction: Reduction = "none",
    **options: Unpack[SSIMOptions],
) -> Tensor | tuple[Tensor, ...]:
    """Structural similarity of each pair of images, in [-1, 1]; 1 means equal, higher is better.

    Args:
        x: (N, C, H, W), any floating dtype or uint8, values in [0, data_range], both sides at least the window's size.
        y: same shape and device as ``x``, and both floating or both uint8; the measure is symmetric.
        data_range: value of white, or (black, white), both finite; None: 255 for uint8, 1.0 for all others.
        check_range: None checks the values of CPU tensors, in large images one row in up to 64. Values outside the
            range by more than 0.1 % of it raise. An image that requires a gradient, which a network may have made, only
            warns of values outside by more than the range. True checks every value on any device, and synchronises it.
            False checks nothing. Compiled, exported, traced or mapped tensors are never checked.
        preset: name of a program's conventions in `fastiqa.metrics.presets.SSIM_PRESETS`.
        mask: weights of the windows, (N or 1, 1, H, W), bool or floating, not negative. A window has the weight of its
            centre pixel, so pixels outside the mask still count in windows centred inside.
        return_map: also return the value at every window.
        return_contrast: also return the mean of the contrast term, SSIM without luminance, as the last result.
        reduction: "none", one score per image; "mean" or "sum" over the batch.
        options: conventions that override the preset: `fastiqa.metrics.presets.SSIMOptions` (``size``, ``sigma``,
            ``truncate``, ``k1``, ``k2``, ``padding``, ``channels``, ``covariance``, ``black``, ``downsample``).

    Returns:
        (N,), or () for "mean" and "sum". With ``return_map`` also the map, (N, C, H-10, W-10), whose element (i, j)
        belongs to the window centred on pixel (i+5, j+5); with padding (N, C, H, W). The contrast has the score's
        shape. float64 if an image is float64, otherwise float32; half-precision images are computed in float32, also
        inside autocast.

    Raises:
        TypeError, ValueError: naming the argument, "got X, want Y": dtype, shape, device, range, an image smaller than
            the window, a convention; for eager CPU tensors also NaN, infinity, values outside the range and negative
            weights in a mask.

    Equivalent to ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`` of each pair; ``docs/ssim.md`` compares other libraries.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import ssim
        >>> image = torch.rand(2, 3, 32, 32)
        >>> ssim(image, image)
        tensor([1., 1.])
        >>> ssim(image, image, preset="torchmetrics", return_map=True)[1].shape
        torch.Size([2, 3, 32, 32])
    """
    arguments.flag("return_map", return_map)
    arguments.flag("return_contrast", return_contrast)
    check_reduction(reduction)
    convention = resolved_conventions(SSIM_DEFAULTS, SSIM_PRESETS, preset, options)
    pair = check_pair(x, y, data_range, check_range, keeps_black=convention["black"] == "kept")
    x, y, white, _ = pair
    _windows.check_channels(x, y, convention["channels"])
    if mask is not None:
        check_mask(mask, x)
    weights = mask
    if convention["downsample"] != "none":
        how, channels = convention["downsample"], convention["channels"]
        x, y = (_downsampled(_windows.scored_channels(image, channels, white), how) for image in (x, y))
        weights = None if mask is None else _downsampled(mask.to(x.dtype), how)
        convention = {**convention, "channels": "rgb"}
    _windows.check_size(x, convention)
    if return_map:
        maps = _windows.maps(x, y, convention, white)
        means = tuple(m.mean((2, 3)) if weights is None else _windows.masked_mean(m, weights, convention) for m in maps)
    else:
        means = _windows.means(x, y, weights, convention, white)
    results = [reduce_batch(require_finite(means[0].mean(1), pair, mask), reduction)]
    if return_map:
        results.append(maps[0])
    if return_contrast:
        results.append(reduce_batch(means[1].mean(1), reduction))
    return results[0] if len(results) == 1 else tuple(results)


def _downsampled(image: Tensor, how: Downsample) -> Tensor:
    """Average f × f pixels, f = max(1, round(min(H, W) / 256)): see `presets.SSIMOptions`."""
    if torch._C._is_tracing() and how != "none":  # a trace would fix the factor of the sizes seen now
        raise NotImplementedError(
            f"downsample: got {how!r} in torch.jit.trace, want 'none', or torch.compile or export"
        )
    ratio = min(image.shape[-2:]) / SHORT_SIDE
    factor = max(1, math.floor(ratio + 0.5) if how == "matlab" else round(ratio))
    if how == "none" or factor == 1:
        return image
    image = to_compute_dtype(image)
    if how == "matlab":
        image = _mirrored(_mirrored(image, factor, 2), factor, 3)
    return avg_pool2d(image, factor)


def _mirrored(image: Tensor, factor: int, dim: int) -> Tensor:
    """Mirror an image at its edges to whole blocks along a dimension.

    The first block is centred on the first pixel, or half a pixel behind it for an even factor.
    """
    side, before = image.shape[dim], (factor - 1) // 2
    after = -(-side // factor) * factor - before - side
    parts = [image.narrow(dim, 0, before).flip(dim), image.narrow(dim, 0, side + min(after, 0))]
    if after > 0:
        parts.append(image.narrow(dim, side - after, after).flip(dim))
    return torch.cat(parts, dim) if before > 0 or after > 0 else parts[1]


class SSIM(Metric):
    """`ssim` as a module with fixed options; call it with x, y and optionally a mask.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import SSIM
        >>> metric = SSIM(preset="torchmetrics", reduction="mean")
        >>> image = torch.rand(2, 3, 32, 32)
        >>> metric(image, image)
        tensor(1.)
    """

    name: ClassVar[str] = "ssim"
    score_range = (-1.0, 1.0)

    def __init__(
        self,
        *,
        data_range: DataRange = None,
        check_range: bool | None = None,
        preset: str = "fastiqa",
        reduction: Reduction = "none",
        **options: Unpack[SSIMOptions],
    ) -> None:
        resolved_conventions(SSIM_DEFAULTS, SSIM_PRESETS, preset, options)
        super().__init__(data_range, reduction, check_range, preset=preset, **options)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        score: Tensor = one_node(ssim, x, y, mask=mask, **self.options)
        return score
