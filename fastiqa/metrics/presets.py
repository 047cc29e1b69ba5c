"""Conventions of SSIM and MS-SSIM, and the presets of other programs; ``docs/ssim.md`` explains them.

``ssim(x, y, preset="torchmetrics")`` gives torchmetrics' value, ``ssim(x, y, padding="reflect")`` the same convention
by its own name, and ``ssim(x, y, preset="torchmetrics", sigma=2.0)`` changes one convention of a preset.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args

from fastiqa.metrics._metric import check_number
from fastiqa.ops.ssim import LARGEST_SIZE

Padding = Literal["valid", "reflect", "symmetric", "replicate", "zero"]
Channels = Literal["rgb", "luma", "unrounded_luma"]
Covariance = Literal["population", "sample"]
Downsample = Literal["none", "matlab", "blocks"]
Method = Literal["product", "wtd_sum"]
OddSides = Literal["average", "zero", "crop", "replicate"]
ChannelMean = Literal["after", "before"]
Black = Literal["subtracted", "kept"]

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class WindowOptions(TypedDict, total=False):
    """Conventions that SSIM and MS-SSIM share.

    Attributes:
        size: side of the window in pixels, odd, at most 33.
        sigma: standard deviation of the Gaussian window in pixels; 0 for a uniform window.
        truncate: a number ends the window that many sigmas from its centre, unless `size` is given:
            size = 2 · floor(truncate · sigma + 0.5) + 1; None keeps `size`.
        k1, k2: the stabilisers are (k1 · data_range)² and (k2 · data_range)².
        padding: "valid" keeps windows inside the image. The others centre a window on every pixel, and fill the outside
            with the image mirrored at the centres of its border pixels ("reflect") or at their edges ("symmetric"),
            with its border pixels ("replicate"), or with black ("zero").
        channels: "rgb" averages the scores of the channels, of any number; "luma" takes MATLAB's grey, rounded to 8
            bits, without a gradient; "unrounded_luma" takes the same weights without rounding.
        covariance: "population"; "sample" is unbiased for a uniform window of size² pixels.
        black: for data_range=(black, white): "subtracted" from the images, so luminance counts from 0; or "kept", where
            only white − black counts.
    """

    size: int
    sigma: float
    truncate: float | None
    k1: float
    k2: float
    padding: Padding
    channels: Channels
    covariance: Covariance
    black: Black


class SSIMOptions(WindowOptions, total=False):
    """Conventions of SSIM.

    Attributes:
        downsample: first average f × f pixels, f = max(1, round(min(H, W) / 256)): "none"; "matlab", centred on every
            f-th pixel, with a mirrored border; "blocks", whole blocks, cutting off the rest.
    """

    downsample: Downsample


class MSSSIMOptions(WindowOptions, total=False):
    """Conventions of MS-SSIM.

    Attributes:
        weights: of the scales, the finest first.
        method: "product" of powers, where a negative mean counts as 0; "wtd_sum", the weighted mean.
        odd: 2×2 means at odd sides: "average" existing pixels, MATLAB's mirrored border; "zero" prepends a row of
            zeros; "crop" drops the last row; "replicate" doubles the first row and column, both if either side is odd.
        last_padding: padding of the last scale, the only one whose luminance counts; None takes `padding`.
        channel_mean: average the channels "after" or "before" the scales are combined.
    """

    weights: tuple[float, ...]
    method: Method
    odd: OddSides
    last_padding: Padding | None
    channel_mean: ChannelMean


_WINDOW: WindowOptions = {
    "size": 11, "sigma": 1.5, "truncate": None, "k1": 0.01, "k2": 0.03, "padding": "valid", "channels": "rgb",
    "covariance": "population", "black": "subtracted",
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
    "skimage_gaussian": {"truncate": 3.5},
    "torchmetrics": {"padding": "reflect", "truncate": 3.5, "black": "kept"},
}

MS_SSIM_PRESETS: dict[str, MSSSIMOptions] = {
    "fastiqa": {},
    "matlab": {"channels": "luma"},
    "matlab_wtd_sum": {"channels": "luma", "method": "wtd_sum"},
    "piq": {"odd": "replicate"},
    "pytorch_msssim": {"odd": "zero"},
    "torchmetrics": {
        "odd": "crop", "last_padding": "reflect", "channel_mean": "before", "truncate": 3.5, "black": "kept",
    },
}  # fmt: skip

_CHOICES: dict[str, tuple[Any, ...]] = {
    "padding": get_args(Padding),
    "channels": get_args(Channels),
    "covariance": get_args(Covariance),
    "downsample": get_args(Downsample),
    "method": get_args(Method),
    "odd": get_args(OddSides),
    "last_padding": (None, *get_args(Padding)),
    "channel_mean": get_args(ChannelMean),
    "black": get_args(Black),
}

_Options = TypeVar("_Options", SSIMOptions, MSSSIMOptions)


def resolved_conventions(
    defaults: _Options, presets: Mapping[str, _Options], preset: str, options: _Options
) -> _Options:
    """All conventions: given options go before those of the preset, and these before the defaults.

    Raises: ValueError naming the preset or option, "got X, want Y"; TypeError for an unknown option.
    """
    if not isinstance(preset, str) or preset not in presets:
        raise ValueError(f"preset: got {preset!r}, want one of {', '.join(presets)}")
    for name, value in options.items():
        if name not in defaults:
            raise TypeError(f"{name}: not a convention of this metric, which are {', '.join(defaults)}")
        _check(name, value)
    convention: dict[str, Any] = {**defaults, **presets[preset], **options}
    if not isinstance(convention["size"], int):  # NumPy's
        convention["size"] = int(convention["size"])
    if convention["truncate"] is not None and "size" not in options and convention["sigma"] > 0:
        reach = convention["truncate"] * convention["sigma"]
        if reach >= LARGEST_SIZE // 2 + 0.5:
            want = f"a window of at most {LARGEST_SIZE} pixels, truncate · sigma below {LARGEST_SIZE / 2}"
            raise ValueError(f"sigma: got {convention['sigma']} with truncate={convention['truncate']}, want {want}")
        convention["size"] = 2 * math.floor(reach + 0.5) + 1
    return cast("_Options", convention)


def _check(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless `value` is valid for the convention."""
    if name in _CHOICES:
        if not (value is None or isinstance(value, str)) or value not in _CHOICES[name]:
            raise ValueError(f"{name}: got {value!r}, want {' or '.join(map(repr, _CHOICES[name]))}")
    elif name == "size":
        if isinstance(value, bool) or not isinstance(value, numbers.Integral | int):
            raise TypeError(f"size: got {value!r}, want an odd number from 1 to {LARGEST_SIZE}")
        if value % 2 != 1 or not 1 <= int(value) <= LARGEST_SIZE:
            raise ValueError(f"size: got {value}, want an odd number from 1 to {LARGEST_SIZE}")
    elif name == "weights":
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"weights: got {type(value).__name__}, want a tuple or list of numbers")
        for k, weight in enumerate(value):
            check_number(f"weights[{k}]", weight)
        if not value or sum(value) <= 0:
            raise ValueError(f"weights: got {value}, want at least one and not all zero")
    elif name != "truncate" or value is not None:
        check_number(name, value)
