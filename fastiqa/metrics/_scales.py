"""Smaller images: 2×2 means between the scales of MS-SSIM, f × f means before SSIM."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from fastiqa.metrics._pair import is_traced, wide
from fastiqa.metrics.presets import Downsample, OddSides
from fastiqa.ops.octave_merge import octave_merge, octave_merge_backward

SHORT_SIDE = 256  # of an image that is not made smaller


class _Fork(torch.autograd.Function):
    """An image and sums of its 2×2 blocks, with a gradient that saves nothing: one pass over the gradients of both.

    With autograd's addition, MS-SSIM of 1080p images and its gradients took 177 instead of 136 ms.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.view_as(image), octave_merge_backward(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, to_sums: Tensor) -> Tensor:
        return octave_merge(grad, to_sums)  # type: ignore[no-any-return]


def forked(image: Tensor, odd: OddSides) -> tuple[Tensor, Tensor | None]:
    """An image, for whatever else becomes of it, and `halved`; or None, where that may wait until it is needed."""
    transformed = is_traced() or torch._C._are_functorch_transforms_active()
    if (
        image.requires_grad
        and type(image) in (Tensor, torch.nn.Parameter)  # a subclass makes views of the results, which are written to
        and not transformed
        and image.dtype in (torch.float32, torch.float64)
        and (odd == "average" or image.shape[2] % 2 == image.shape[3] % 2 == 0)
    ):
        image, sums = _Fork.apply(image)
        return image, _mean(sums, image)
    return image, None


def halved(image: Tensor, odd: OddSides) -> Tensor:
    """Means of 2×2 pixels, (N, C, ⌈H/2⌉, ⌈W/2⌉), or ⌊⌋ for "crop"; float32, or float64 with such an image."""
    image = wide(image)
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
    """`halved` for sides of which it is not known whether they are odd.

    Their parity is in indices and in no size: torch.compile simplifies sizes at length, for minutes after four scales.
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
    """Means of the 2×2 blocks of an image, in place of their sums."""
    if not is_traced() and image.shape[2] % 2 == image.shape[3] % 2 == 0:
        return sums.div_(4)
    return sums.div_(_pixels(image.shape[2], sums).view(-1, 1) * _pixels(image.shape[3], sums))


def _pixels(side: int, like: Tensor) -> Tensor:
    """How many rows or columns each block of two has."""
    rest = side - 2 * torch.arange((side + 1) // 2, device=like.device)
    return rest.clamp(max=2).to(like.dtype)


def downsampled(image: Tensor, how: Downsample) -> Tensor:
    """Means of f × f pixels, f = max(1, round(min(H, W) / 256)): see `presets.SSIMOptions`."""
    if torch._C._is_tracing() and how != "none":  # the factor would be that of the sizes seen now
        raise NotImplementedError(
            f"downsample: got {how!r} in torch.jit.trace, want 'none', or torch.compile or export"
        )
    ratio = min(image.shape[-2:]) / SHORT_SIDE
    factor = max(1, math.floor(ratio + 0.5) if how == "matlab" else round(ratio))
    if how == "none" or factor == 1:
        return image
    image = wide(image)
    if how == "matlab":
        image = _mirrored(_mirrored(image, factor, 2), factor, 3)
    return avg_pool2d(image, factor)


def _mirrored(image: Tensor, factor: int, dim: int) -> Tensor:
    """Extended to whole blocks along a dimension, the first centred on the first pixel (left of the middle of an even
    factor); beyond a border the image begins anew, backwards."""
    side, before = image.shape[dim], (factor - 1) // 2
    after = -(-side // factor) * factor - before - side
    parts = [image.narrow(dim, 0, before).flip(dim), image.narrow(dim, 0, side + min(after, 0))]
    if after > 0:
        parts.append(image.narrow(dim, side - after, after).flip(dim))
    return torch.cat(parts, dim) if before > 0 or after > 0 else parts[1]
