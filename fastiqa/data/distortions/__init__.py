"""distort: a bank of 25 distortions at five levels, after KADID-10k.

    blur           gaussian_blur, lens_blur, motion_blur
    colour         colour_diffusion, colour_shift, colour_quantisation, saturation_hsv, saturation_lab
    compression    jpeg2000, jpeg
    noise          white_noise, colour_noise, impulse_noise, multiplicative_noise, denoised
    brightness     brighten, darken, mean_shift
    spatial        jitter, non_eccentricity_patch, pixelate, quantisation, colour_block
    contrast       high_sharpen, contrast_change

Order and settings follow KADID-10k (Lin, Hosu, Saupe, QoMEX 2019) where possible; each file lists its differences.
Random draws, a direction or a noise field, do not depend on the level: from one generator state, the five levels are
one choice at five strengths.

A higher level is worse. On 224×224 windows of seven photographs PSNR fell from level to level for every type, except
for colour_shift in one photograph, whose repeating content hides the shift. SSIM does not order colour_shift either.
One core takes 0.1 to 12 ms for such a window, up to 30 ms for colour_quantisation, and 4 ms on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.data.distortions.blur import BLURS
from fastiqa.data.distortions.colour import COLOURS
from fastiqa.data.distortions.compression import COMPRESSIONS
from fastiqa.data.distortions.distortion import LEVELS, Distortion
from fastiqa.data.distortions.noise import NOISES
from fastiqa.data.distortions.spatial import SPATIALS
from fastiqa.data.distortions.tone import BRIGHTNESSES, CONTRASTS

__all__ = ["CLASSES", "DISTORTIONS", "LEVELS", "SMALLEST_SIDE", "Distortion", "distort"]

DISTORTIONS: dict[str, Distortion] = {
    distortion.name: distortion
    for family in (BLURS, COLOURS, COMPRESSIONS, NOISES, BRIGHTNESSES, SPATIALS, CONTRASTS)
    for distortion in family
}
# Name and level by class number: 0 is the undistorted image, 5 t + level is type t; 126 classes, as in CONTRIQUE.
CLASSES: tuple[tuple[str, int], ...] = (
    ("none", 0),
    *((name, level) for name in DISTORTIONS for level in range(1, LEVELS + 1)),
)
SMALLEST_SIDE = 32  # JPEG 2000's wavelets halve five times


@torch.no_grad()
def distort(images: Tensor, name: str, level: int, generator: torch.Generator | None = None) -> Tensor:
    """Distort images; each image of a batch gets its own random draws.

    Args:
        images: (N, 3, H, W), float32 or float64, RGB in [0, 1], on any device, both sides at least 32 pixels.
        name: one of :data:`DISTORTIONS`.
        level: 1 to 5.
        generator: for the random draws; None for PyTorch's default. A CPU generator draws the same numbers for images
            on any device.

    Returns:
        Images of the same shape, dtype and device, in [0, 1], without a gradient. jpeg2000, jpeg and
        colour_quantisation round to 8 bits and run on the CPU, image by image.

    Raises:
        ValueError: wrong shape, name or level. TypeError: wrong dtype.

    Example:
        >>> images = torch.rand(2, 3, 48, 64)
        >>> distort(images, "white_noise", 3, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 48, 64])
    """
    _check(images)
    arguments.one_of("name", name, tuple(DISTORTIONS))
    arguments.one_of("level", level, range(1, LEVELS + 1))
    distortion = DISTORTIONS[name]
    return distortion.apply(images, distortion.settings[level - 1], generator).clamp(0, 1)


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: got {got}, want a float32 or float64 tensor")
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0 or min(images.shape[2:]) < SMALLEST_SIDE:
        wanted = f"(N, 3, H, W) with N of at least 1 and both sides of at least {SMALLEST_SIDE}"
        raise ValueError(f"images: got shape {tuple(images.shape)}, want {wanted}")
