"""luma: the grey of MATLAB's rgb2gray, on which published SSIM and MS-SSIM values are computed.

    grey = round(0.298936 R + 0.587043 G + 0.114021 B)      R, G, B, grey: integer code values, halves rounded up

MATLAB inverts the NTSC matrix; the weights are the first row of the inverse. Its documentation prints only four digits,
0.2989, 0.5870 and 0.1140. These would change SSIM of TID2013's pair I04 from 0.997753 to 0.997747, and of I06 from
0.998908 to 0.998953, away from the published 0.9978 and 0.9989.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.metrics._metric import check_values

WEIGHTS = (0.298936021293775, 0.587043074451121, 0.114020904255103)


def luma(image: Tensor, *, bit_depth: int = 8) -> Tensor:
    """Convert RGB to grey, rounded to integer code values of the bit depth and scaled back to [0, 1].

    Args:
        image: (N, 3, H, W), float32 or float64, code values divided by 2**bit_depth - 1.
        bit_depth: bits of a code value, 1 to 16.

    Returns:
        (N, 1, H, W), dtype of ``image``: integers divided by 2**bit_depth - 1. The rounding has no gradient.

    Raises:
        TypeError: another dtype (float16 and bfloat16 cannot tell all code values apart).
        ValueError: another shape or bit depth; values outside [0, 1] by more than 0.1 %, checked for eager CPU tensors,
            in one row in up to 64 of large ones.

    Equivalent to MATLAB's ``rgb2gray`` of the code values.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import luma
        >>> luma(torch.tensor([255.0, 0.0, 0.0]).view(1, 3, 1, 1) / 255) * 255
        tensor([[[[76.]]]])
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image: got {type(image).__name__}, want a torch.Tensor")
    if image.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"image: got {image.dtype}, want float32 or float64")
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, want (N, 3, H, W)")
    if isinstance(bit_depth, bool) or not isinstance(bit_depth, int):
        raise TypeError(f"bit_depth: got {bit_depth!r}, want an integer from 1 to 16")
    if not 1 <= bit_depth <= 16:
        raise ValueError(f"bit_depth: got {bit_depth}, want 1 to 16")
    check_values("image", image.detach(), 0, 1.0, None, "code values over those of white")
    return rounded_grey(image, 2**bit_depth - 1)


def rounded_grey(image: Tensor, white: int) -> Tensor:
    """`luma` of a checked image; `white` is the code value of white."""
    # Channel by channel: all three in float64 would need twice the memory of a float32 image.
    grey = torch.zeros_like(image[:, :1], dtype=torch.float64)
    for weight, channel in zip(WEIGHTS, image.detach().split(1, 1), strict=True):
        grey += (channel.double() * white).round_().mul_(weight)
    return grey.add_(0.5).floor_().div_(white).to(image.dtype)
