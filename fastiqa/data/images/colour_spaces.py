"""Colour spaces: sRGB images (N, 3, H, W) in [0, 1] as grey, HSV, YCbCr, CIELAB or without their local means.

    to_ycbcr    ITU-R BT.601, full range: luma in [0, 1], both colour differences in [-0.5, 0.5]
    to_lab      CIE 1976 L*a*b* of IEC 61966-2-1 sRGB, white D65: L in [0, 100], a and b about -110 to 110
    to_hsv      hexcone model (Smith, 1978), all three in [0, 1]; hue 0 for greys

Contrastive pre-training shows a network its images in the `COLOUR_SPACES`, each scaled to [0, 1] (CONTRIQUE,
Madhusudana et al., IEEE TIP 2022). All functions keep dtype and device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastiqa.data.images.filters import gaussian_filter

_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)  # D65: the sums of the matrix's rows
_LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))  # times f(X), f(Y), f(Z); then L less 16
_LINEAR_BELOW = 6 / 29  # f is a cube root above, and its tangent below


def to_ycbcr(rgb: Tensor) -> Tensor:
    """Convert R'G'B' (N, 3, H, W) in [0, 1] to Y'CbCr (N, 3, H, W)."""
    return _mixed(rgb, _matrix(_YCBCR, rgb))


def from_ycbcr(ycbcr: Tensor) -> Tensor:
    """Invert :func:`to_ycbcr`."""
    return _mixed(ycbcr, _inverse(_YCBCR, ycbcr))


def bt601_luma(rgb: Tensor) -> Tensor:
    """The first channel of :func:`to_ycbcr`: luma (N, 1, H, W) in [0, 1], not rounded."""
    return _mixed(rgb, _matrix(_YCBCR[:1], rgb))


def to_lab(rgb: Tensor) -> Tensor:
    """Convert R'G'B' (N, 3, H, W) in [0, 1] to L*a*b* (N, 3, H, W).

    Equivalent to ``skimage.color.rgb2lab`` to 0.02: scikit-image rounds the matrix to six digits.

    Example:
        >>> import torch
        >>> to_lab(torch.ones(1, 3, 1, 1)).flatten().round(decimals=2).abs()
        tensor([100.,   0.,   0.])
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(linear, _matrix(_XYZ, rgb) / rgb.new_tensor(_WHITE)[:, None])
    root = xyz.clamp(min=_LINEAR_BELOW**3) ** (1 / 3)
    f = torch.where(xyz > _LINEAR_BELOW**3, root, xyz / (3 * _LINEAR_BELOW**2) + 4 / 29)
    lab = _mixed(f, _matrix(_LAB, rgb))
    lab[:, 0] -= 16
    return lab


def from_lab(lab: Tensor) -> Tensor:
    """Invert :func:`to_lab`; colours outside sRGB leave [0, 1]."""
    shifted = torch.cat([lab[:, :1] + 16, lab[:, 1:]], 1)
    f = _mixed(shifted, _inverse(_LAB, lab))
    xyz = torch.where(f > _LINEAR_BELOW, f**3, 3 * _LINEAR_BELOW**2 * (f - 4 / 29))
    linear = _mixed(xyz * xyz.new_tensor(_WHITE).view(3, 1, 1), _inverse(_XYZ, lab))
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def to_hsv(rgb: Tensor) -> Tensor:
    """Convert R'G'B' (N, 3, H, W) in [0, 1] to hue, saturation and value. Equivalent to ``skimage.color.rgb2hsv``."""
    value, largest = rgb.max(1)
    chroma = value - rgb.amin(1)
    red, green, blue = rgb.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sixths = torch.stack([green - blue, blue - red, red - green], 1) / divisor[:, None]
    sixths = sixths.gather(1, largest[:, None])[:, 0] + 2 * largest
    saturation = chroma / torch.where(value > 0, value, 1)
    return torch.stack([(sixths / 6).remainder(1), saturation, value], 1)


def _unit_lab(rgb: Tensor) -> Tensor:
    """L*a*b* in [0, 1]: L / 100, (a + 128) / 255 and (b + 128) / 255, as 8 bits store it."""
    lightness, a, b = to_lab(rgb).split(1, 1)
    return torch.cat([lightness / 100, (a + 128) / 255, (b + 128) / 255], 1)


def _mean_subtracted(rgb: Tensor) -> Tensor:
    """The image less its Gaussian blur of 7×7 pixels; each channel is stretched to [0, 1]."""
    rest = rgb - gaussian_filter(rgb, 7 / 6, radius=3)
    least, largest = rest.amin((2, 3), keepdim=True), rest.amax((2, 3), keepdim=True)
    return (rest - least) / (largest - least).clamp(min=1e-5)


def _grey(rgb: Tensor) -> Tensor:
    return bt601_luma(rgb).expand_as(rgb)


def _rgb(rgb: Tensor) -> Tensor:
    return rgb


COLOUR_SPACES: dict[str, Callable[[Tensor], Tensor]] = {
    "rgb": _rgb,
    "grey": _grey,
    "lab": _unit_lab,
    "hsv": to_hsv,
    "mean_subtracted": _mean_subtracted,
}


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return like.new_tensor(rows)


def _inverse(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device="cpu").inverse().to(like)


def _mixed(images: Tensor, matrix: Tensor) -> Tensor:
    """The matrix product with the channels of every pixel."""
    mixed: Tensor = (matrix @ images.flatten(2)).unflatten(2, images.shape[2:])
    return mixed
