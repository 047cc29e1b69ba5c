"""SSIM and MS-SSIM: structural similarity in a Gaussian window of 11×11 pixels, sigma 1.5.

    luminance = (2 μx μy + C1) / (μx² + μy² + C1)               C1 = (0.01 data_range)²
    contrast  = (2 σxy + C2) / (σx² + σy² + C2)                 C2 = (0.03 data_range)²
    ssim      = mean over pixels of luminance · contrast        x, y: (N, C, H, W) → (N,)
    s_1..s_4  = mean contrast at scales 1–4,  s_5 = mean of luminance · contrast at scale 5
    ms_ssim   = Π relu(s_i)^w_i                                 or, as a weighted sum, Σ w_i s_i / Σ w_i

Windows lie wholly inside the image (no padding), every channel is scored by itself, then the channels are averaged.
Between scales 2×2 pixels are averaged; where a side is odd its last window averages what exists, which is the
symmetric border of the authors' MATLAB code.

Variances are moments of values from which each channel's own mean was taken: E[(x−k)²] − E[x−k]² loses fewer digits
than E[x²] − E[x]², and nothing at all where the channel is flat.

Sources: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004; Wang, Simoncelli, Bovik, Asilomar 2003.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from fastiqa.metrics._pair import checked_pair

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# the fifth scale needs one whole window: ceil(161 / 16) = 11, ceil(160 / 16) = 10
LARGEST_SIDE_TOO_SMALL = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1)


@overload
def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0, return_map: Literal[False] = False) -> Tensor: ...


@overload
def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0, return_map: Literal[True]) -> tuple[Tensor, Tensor]: ...


def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0, return_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Structural similarity of each pair of images, in [-1, 1]; 1 means equal, higher is better.

    Args:
        x: (N, C, H, W), any floating dtype, values in [0, data_range], both sides at least 11.
        y: same shape, dtype and device as ``x``; the measure is symmetric.
        data_range: value of white: 1.0 for images in [0, 1], 255 for 8-bit code values.
        return_map: also return the value at every window.

    Returns:
        (N,), or with ``return_map`` the pair (N,), (N, C, H-10, W-10), where the map's element (i, j) belongs to the
        window centred on pixel (i+5, j+5). float64 for float64 images, float32 for all others (half-precision images
        are computed in float32, inside autocast too).

    Raises:
        TypeError, ValueError: naming the argument, what came and what was wanted (dtype, shape, device, range, an
            image smaller than the window; NaN or infinity in CPU tensors outside tracing).

    Equivalent to ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`` of each pair. The MATLAB code takes one grey channel: see
    :func:`fastiqa.metrics.luma`.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import ssim
        >>> image = torch.rand(2, 3, 32, 32)
        >>> ssim(image, image)
        tensor([1., 1.])
    """
    x, y = checked_pair(x, y, data_range)
    _refuse_small(x, WINDOW - 1, f"both sides at least {WINDOW}, the window")
    luminance, contrast = _terms(x, y, data_range)
    values = luminance * contrast
    score = values.mean((1, 2, 3))
    return (score, values) if return_map else score


def ms_ssim(
    x: Tensor, y: Tensor, *, data_range: float = 1.0, method: Literal["product", "wtd_sum"] = "product"
) -> Tensor:
    """Multi-scale structural similarity of each pair of images; 1 means equal, higher is better.

    Args:
        x: (N, C, H, W), any floating dtype, values in [0, data_range], both sides greater than 160.
        y: same shape, dtype and device as ``x``; the measure is symmetric.
        data_range: value of white: 1.0 for images in [0, 1], 255 for 8-bit code values.
        method: how the five scales are joined, by the names of the authors' MATLAB code: "product", that of the paper
            and of other libraries, or "wtd_sum", which alone gives the values published for TID2013's pairs
            (0.8462 for I19; the product is 0.8418).

    Returns:
        (N,), float64 for float64 images, float32 for all others. In the product, a channel with a negative mean at
        some scale scores 0 and has a zero gradient.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was wanted (dtype, shape, device, range, a side
            of 160 pixels or fewer, another method; NaN or infinity in CPU tensors outside tracing).

    Equivalent to ``pytorch_msssim.ms_ssim(size_average=False)`` where both sides are multiples of 16; at odd sides
    that library averages with zeros from outside the image, this function only what exists.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import ms_ssim
        >>> image = torch.rand(2, 3, 176, 192)
        >>> ms_ssim(image, image)
        tensor([1., 1.])
    """
    x, y = checked_pair(x, y, data_range)
    wanted = f"both sides greater than {LARGEST_SIDE_TOO_SMALL}, for {len(SCALE_WEIGHTS)} scales"
    _refuse_small(x, LARGEST_SIDE_TOO_SMALL, wanted)
    if method not in ("product", "wtd_sum"):
        raise ValueError(f"method: got {method!r}, wanted 'product' or 'wtd_sum'")
    scores = []
    for scale in range(len(SCALE_WEIGHTS)):
        if scale > 0:
            x, y = (avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False) for image in (x, y))
        luminance, contrast = _terms(x, y, data_range)
        last = scale == len(SCALE_WEIGHTS) - 1
        scores.append((luminance * contrast if last else contrast).mean((2, 3)))
    if method == "wtd_sum":
        shares = [weight / sum(SCALE_WEIGHTS) for weight in SCALE_WEIGHTS]
        return torch.stack([share * score for share, score in zip(shares, scores, strict=True)]).sum(0).mean(1)
    product = x.new_ones(x.shape[:2])
    for weight, score in zip(SCALE_WEIGHTS, scores, strict=True):
        # 0^w has an infinite slope: after a relu its forward-mode and second derivatives are NaN; here the base is 1
        product = product * torch.where(score > 0, score, 1).pow(weight) * (score > 0)
    return product.mean(1)


def _refuse_small(x: Tensor, too_small: int, wanted: str) -> None:
    height, width = x.shape[-2:]
    if min(height, width) <= too_small:
        raise ValueError(f"x: got height {height} and width {width}, wanted {wanted}")


def _terms(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Luminance and contrast at every window: two maps (N, C, H-10, W-10)."""
    x, y = x.contiguous(), y.contiguous()
    # the result does not depend on the centre, so no gradient flows through it
    centre_x, centre_y = (image.detach().mean((2, 3), keepdim=True) for image in (x, y))
    x, y = x - centre_x, y - centre_y
    with torch.autocast(x.device.type, enabled=False):
        moments = _filtered(torch.cat([x, y, x * x, y * y, x * y], 1))
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5, 1)
    variances = (square_x - mean_x * mean_x) + (square_y - mean_y * mean_y)
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + centre_x, mean_y + centre_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    contrast = (2 * covariance + c2) / (variances + c2)
    return luminance, contrast


def _filtered(maps: Tensor) -> Tensor:
    """Columns, then rows, filtered with the Gaussian: (N, C, H, W) → (N, C, H-10, W-10)."""
    distance = torch.arange(WINDOW, dtype=torch.float64, device=maps.device) - WINDOW // 2
    gaussian = torch.exp(-distance.square() / (2 * SIGMA**2))
    gaussian = (gaussian / gaussian.sum()).to(maps.dtype)
    channels = maps.shape[1]
    maps = conv2d(maps, gaussian.view(1, 1, WINDOW, 1).expand(channels, -1, -1, -1), groups=channels)
    return conv2d(maps, gaussian.view(1, 1, 1, WINDOW).expand(channels, -1, -1, -1), groups=channels)
