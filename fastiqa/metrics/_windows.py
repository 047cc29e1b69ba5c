"""SSIM's terms at the windows of an image, and their means: `fastiqa.ops.ssim` with the conventions of `presets`.

Without a gradient, large images run through the operator in bands of rows, one image at a time. Conversions and, where
no kernel runs, filters then need memory for a band only. Padding extends strips along the borders, never the image. The
windows are the same; the means of bands and strips are weighted by their numbers of windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastiqa.common import arguments
from fastiqa.metrics._metric import is_traced, to_compute_dtype
from fastiqa.metrics.luma import WEIGHTS, rounded_grey
from fastiqa.metrics.presets import Channels, Padding, WindowOptions
from fastiqa.ops import ssim as ssim_terms

BAND_PIXELS = 6 << 20  # over all channels: a full-HD image is one band, an 8K image 16; PyTorch filters 24 MiB at once
# Over all channels: 2 MB of squared errors, which stay in the cache. PSNR of two full-HD images takes 6.1 ms on a Xeon;
# in one piece it took 6.7, and 13 with fresh memory each time.
CACHED_PIXELS = 1 << 19
MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def check_size(x: Tensor, options: WindowOptions) -> None:
    """Raise ValueError unless the image holds a window or, with padding, the pixels to mirror."""
    size = options["size"]
    least = {"valid": size, "reflect": size // 2 + 1, "symmetric": max(1, size // 2)}.get(options["padding"], 1)
    height, width = x.shape[-2:]
    if min(height, width) < least:
        which = "the window" if options["padding"] == "valid" else f"for padding {options['padding']!r}"
        raise ValueError(f"x: got height {height} and width {width}, want both sides at least {least}, {which}")


def check_channels(x: Tensor, y: Tensor, channels: Channels) -> None:
    """Raise ValueError for unknown channels, luma without RGB, or rounded luma of images that require a gradient."""
    arguments.one_of("channels", channels, get_args(Channels))
    if channels == "rgb":
        return
    if x.shape[1] != 3:
        raise ValueError(f"x: got shape {tuple(x.shape)}, want three channels for channels={channels!r}")
    if channels == "luma" and torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        raise ValueError("channels: got 'luma' and images that require a gradient, want 'unrounded_luma': it rounds")


def scored_channels(image: Tensor, channels: Channels, white: float) -> Tensor:
    """The channels to score, in a floating dtype: all, or luma (N, 1, H, W)."""
    if channels == "luma":
        return rounded_grey(to_compute_dtype(image) / white, 255) * white
    if channels == "unrounded_luma":
        red, green, blue = to_compute_dtype(image).split(1, 1)
        grey: Tensor = WEIGHTS[0] * red + WEIGHTS[1] * green + WEIGHTS[2] * blue
        return grey
    return image if image.is_floating_point() else to_compute_dtype(image)


def maps(x: Tensor, y: Tensor, options: WindowOptions, white: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast term at every window: (N, C, H', W'), H' = H − size + 1 for "valid", else H."""
    border = 0 if options["padding"] == "valid" else options["size"] // 2
    return _terms(x, y, options, white, (border, border, border, border), map=True)


def means(x: Tensor, y: Tensor, mask: Tensor | None, options: WindowOptions, white: float) -> tuple[Tensor, Tensor]:
    """Means over the windows of SSIM and its contrast term: (N, C) each."""
    if mask is not None:
        values = maps(x, y, options, white)
        return masked_mean(values[0], mask, options), masked_mean(values[1], mask, options)
    border = options["size"] // 2
    if options["padding"] != "valid":
        if is_traced() or _keeps_graph(x, y) or min(x.shape[-2:]) < 2 * options["size"] or border == 0:
            return _means(x, y, options, white, (border, border, border, border))
        return _means_with_padding(x, y, options, white)
    if not runs_in_bands(x, y):
        return _means(x, y, options, white)
    scores = [_means_in_bands(x[n : n + 1], y[n : n + 1], options, white) for n in range(len(x))]
    ssim, contrast = (torch.cat(score) for score in zip(*scores, strict=True))
    return ssim, contrast


def masked_mean(values: Tensor, mask: Tensor, options: WindowOptions) -> Tensor:
    """The mean over the windows, each weighted by the mask at its centre pixel: (N, C)."""
    if options["padding"] == "valid":
        border, (height, width) = options["size"] // 2, values.shape[2:]
        mask = mask[..., border : border + height, border : border + width]
    weights = mask.to(values.dtype)
    return (values * weights).sum((2, 3)) / weights.sum((2, 3))


def runs_in_bands(x: Tensor, y: Tensor, band: int | None = None) -> bool:
    """Whether images run in bands: larger than `band` (default BAND_PIXELS), and no graph is recorded."""
    if is_traced() or _keeps_graph(x, y) or torch._C._are_functorch_transforms_active():
        return False
    return x.shape[1:].numel() > (band or BAND_PIXELS)


def _keeps_graph(x: Tensor, y: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)


def bands(rows: int, x: Tensor, multiple: int = 1, band: int | None = None) -> Iterator[range]:
    """Ranges of rows, each of about `band` pixels over all channels and a multiple of `multiple` rows."""
    step = max(1, (band or BAND_PIXELS) // (x.shape[1] * x.shape[3]) // multiple) * multiple
    return (range(start, min(start + step, rows)) for start in range(0, rows, step))


def _means_in_bands(x: Tensor, y: Tensor, options: WindowOptions, white: float) -> tuple[Tensor, Tensor]:
    """Means of an image without padding, in bands."""
    beyond = options["size"] - 1
    parts = []
    for rows in bands(x.shape[2] - beyond, x):
        x_band, y_band = (image[:, :, rows.start : rows.stop + beyond] for image in (x, y))
        parts.append((len(rows), _means(x_band, y_band, options, white)))
    return _combined(parts)


def _means_with_padding(x: Tensor, y: Tensor, options: WindowOptions, white: float) -> tuple[Tensor, Tensor]:
    """Means with padding: the windows inside the image, and those across its borders from padded strips.

    Padded copies of both full-HD images took three times as long as all of SSIM.
    """
    border, (height, width) = options["size"] // 2, x.shape[2:]
    rows, columns = height - 2 * border, width - 2 * border
    parts = [(rows * columns, means(x, y, None, {**options, "padding": "valid"}, white))]
    for dim, windows, sides in ((2, border * width, (border, border)), (3, border * rows, (0, 0))):
        for start, along in ((0, (border, 0)), (x.shape[dim] - 2 * border, (0, border))):
            x_strip, y_strip = (image.narrow(dim, start, 2 * border) for image in (x, y))
            padding = (*sides, *along) if dim == 2 else (*along, *sides)
            parts.append((windows, _means(x_strip, y_strip, options, white, padding)))
    return _combined(parts)


def _combined(parts: list[tuple[int, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    """The mean over regions, given (number of windows, means) of each; summed in float64."""
    total = sum(windows for windows, _ in parts)
    dtype = parts[0][1][0].dtype
    sums = (torch.stack([windows * means[k].double() for windows, means in parts]).sum(0) for k in (0, 1))
    ssim, contrast = ((term / total).to(dtype) for term in sums)
    return ssim, contrast


def _means(
    x: Tensor, y: Tensor, options: WindowOptions, white: float, padding: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    ssim, contrast = _terms(x, y, options, white, padding, map=False)
    return ssim.flatten(1), contrast.flatten(1)


def _terms(
    x: Tensor, y: Tensor, options: WindowOptions, white: float, padding: tuple[int, ...], map: bool
) -> tuple[Tensor, Tensor]:
    """SSIM and contrast from the operator, after padding by (left, right, top, bottom) or not at all."""
    size = options["size"]
    c1, c2 = ((options[k] * white) ** 2 for k in ("k1", "k2"))
    if options["covariance"] == "sample":  # (n / (n − 1) σ + c2) / ... = (σ + c2 (n − 1) / n) / ..., n = size²
        c2 *= (size**2 - 1) / size**2
    x, y = (scored_channels(image, options["channels"], white) for image in (x, y))
    if any(padding):
        x, y = (_padded(image, padding, options["padding"]) for image in (x, y))
    ssim, contrast = ssim_terms(x, y, size, options["sigma"], c1, c2, map)
    return ssim, contrast


def _padded(image: Tensor, padding: tuple[int, ...], how: Padding) -> Tensor:
    """Pad an image by (left, right, top, bottom) pixels."""
    if how != "symmetric":
        return pad(image, padding, mode=MODES[how])
    for dim, (before, after) in ((3, padding[:2]), (2, padding[2:])):
        first, last = image.narrow(dim, 0, before), image.narrow(dim, image.shape[dim] - after, after)
        image = torch.cat([first.flip(dim), image, last.flip(dim)], dim)
    return image
