"""Conventions of SSIM and MS-SSIM, and what other programs take for granted, as data: ``docs/ssim.md`` explains them.

``ssim(x, y, preset="torchmetrics")`` gives torchmetrics' value, ``ssim(x, y, padding="reflect")`` the same convention
by its own name, and ``ssim(x, y, preset="torchmetrics", sigma=2.0)`` changes one convention of a preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args

Padding = Literal["valid", "reflect", "zero"]
Channels = Literal["rgb", "luma", "unrounded_luma"]
Covariance = Literal["population", "sample"]
Downsample = Literal["none", "matlab", "blocks"]
Method = Literal["product", "wtd_sum"]
OddSides = Literal["average", "zero", "crop", "replicate"]
ChannelMean = Literal["after", "before"]

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class WindowOptions(TypedDict, total=False):
    """What SSIM and MS-SSIM have in common.

    Attributes:
        size: pixels along a side of the window, odd, at most 33.
        sigma: of the Gaussian window in pixels; 0: uniform.
        k1, k2: the stabilisers are (k1 · data_range)² and (k2 · data_range)².
        padding: "valid", windows lie in the image; "reflect", "zero": a window at every pixel, what lies outside is
            the image mirrored at its border pixels, or zero.
        channels: "rgb", each channel by itself, then their mean, for any number of channels; "luma", MATLAB's grey
            rounded to 8 bits, which has no gradient; "unrounded_luma", the same weights and no rounding.
        covariance: "population"; "sample", unbiased for a uniform window of size² pixels.
    """

    size: int
    sigma: float
    k1: float
    k2: float
    padding: Padding
    channels: Channels
    covariance: Covariance


class SSIMOptions(WindowOptions, total=False):
    """Conventions of SSIM.

    Attributes:
        downsample: before anything else, to means of f × f pixels, f = max(1, round(min(H, W) / 256)): "none";
            "matlab", centred on every f-th pixel, the image mirrored with its border; "blocks", whole blocks, the rest
            is cut off.
    """

    downsample: Downsample


class MSSSIMOptions(WindowOptions, total=False):
    """Conventions of MS-SSIM.

    Attributes:
        weights: of the scales, the finest first.
        method: "product" of powers, a negative mean counts as 0; "wtd_sum", the weighted mean.
        odd: 2×2 means at odd sides: "average" what exists, which is MATLAB's mirrored border; "zero", a row of zeros
            before the first counts; "crop", the last row is left out; "replicate", the first row and column twice,
            both where either side is odd.
        last_padding: that of the last scale, the only one whose luminance counts; None: as `padding`.
        channel_mean: "after" the scales are joined, or "before".
    """

    weights: tuple[float, ...]
    method: Method
    odd: OddSides
    last_padding: Padding | None
    channel_mean: ChannelMean


_WINDOW: WindowOptions = {
    "size": 11, "sigma": 1.5, "k1": 0.01, "k2": 0.03, "padding": "valid", "channels": "rgb", "covariance": "population",
}  # fmt: skip

SSIM_DEFAULTS: SSIMOptions = {**_WINDOW, "downsample": "none"}

MS_SSIM_DEFAULTS: MSSSIMOptions = {
    **_WINDOW, "weights": SCALE_WEIGHTS, "method": "product", "odd": "average", "last_padding": None,
    "channel_mean": "after",
}  # fmt: skip

# name -> what differs from the defaults
SSIM_PRESETS: dict[str, SSIMOptions] = {
    "fastiqa": {},
    "fused_ssim": {"padding": "zero"},
    "kornia": {"padding": "reflect"},
    "matlab": {"channels": "luma"},
    "matlab_downsampled": {"channels": "luma", "downsample": "matlab"},
    "piq": {"downsample": "blocks"},
    "pytorch_msssim": {},
    "skimage": {"size": 7, "sigma": 0.0, "covariance": "sample"},
    "skimage_gaussian": {},
    "torchmetrics": {"padding": "reflect"},
}

MS_SSIM_PRESETS: dict[str, MSSSIMOptions] = {
    "fastiqa": {},
    "matlab": {"channels": "luma"},
    "matlab_wtd_sum": {"channels": "luma", "method": "wtd_sum"},
    "piq": {"odd": "replicate"},
    "pytorch_msssim": {"odd": "zero"},
    "torchmetrics": {"odd": "crop", "last_padding": "reflect", "channel_mean": "before"},
}

_CHOICES: dict[str, tuple[Any, ...]] = {
    "padding": get_args(Padding),
    "channels": get_args(Channels),
    "covariance": get_args(Covariance),
    "downsample": get_args(Downsample),
    "method": get_args(Method),
    "odd": get_args(OddSides),
    "last_padding": (None, *get_args(Padding)),
    "channel_mean": get_args(ChannelMean),
}

_Options = TypeVar("_Options", SSIMOptions, MSSSIMOptions)


def completed(defaults: _Options, presets: Mapping[str, _Options], preset: str, options: _Options) -> _Options:
    """Every convention: the given options, before those of the preset, before the defaults.

    Raises: ValueError naming the preset or option, what came and what was wanted; TypeError for an unknown option.
    """
    if preset not in presets:
        raise ValueError(f"preset: got {preset!r}, want one of {', '.join(presets)}")
    for name, value in options.items():
        if name not in defaults:
            raise TypeError(f"{name}: not a convention of this metric, which are {', '.join(defaults)}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"{name}: got {value!r}, want {' or '.join(map(repr, _CHOICES[name]))}")
    weights: Any = options.get("weights", SCALE_WEIGHTS)
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights: got {weights}, want at least one, none negative and not all zero")
    return cast("_Options", {**defaults, **presets[preset], **options})
