"""distort: a bank of 25 distortions at five levels, after the list of KADID-10k.

    blur           gaussian_blur, lens_blur, motion_blur
    colour         colour_diffusion, colour_shift, colour_quantisation, saturation_hsv, saturation_lab
    compression    jpeg2000, jpeg
    noise          white_noise, colour_noise, impulse_noise, multiplicative_noise, denoised
    brightness     brighten, darken, mean_shift
    spatial        jitter, non_eccentricity_patch, pixelate, quantisation, colour_block
    contrast       high_sharpen, contrast_change

The order and the settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019), where they can be: the file of each family
says what differs. What is drawn at random, a direction or a field of noise, does not depend on the level, so the five
levels of one state of the generator are one choice at five strengths.

A higher level is a worse image: on windows of 224×224 pixels of seven photographs, PSNR fell from level to level of
every type but in one, for colour_shift, which an image that repeats itself hides. SSIM does not order colour_shift
either. Of one core, such a window takes 0.1 to 12 ms, colour_quantisation up to 30, and 4 on average.
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
# Name and level of each class: number 0 is an image as it is, 5 t + level type t, from 0; 126, as in CONTRIQUE.
CLASSES: tuple[tuple[str, int], ...] = (
    ("none", 0),
    *((name, level) for name in DISTORTIONS for level in range(1, LEVELS + 1)),
)
SMALLEST_SIDE = 32  # five halvings, which the wavelets of JPEG 2000 make


@torch.no_grad()
def distort(images: Tensor, name: str, level: int, generator: torch.Generator | None = None) -> Tensor:
    """Images with one distortion, each image of a batch with random choices of its own.

    Args:
        images: (N, 3, H, W), float32 or float64, RGB in [0, 1], on any device, both sides at least 32 pixels.
        name: one of :data:`DISTORTIONS`.
        level: 1 to 5.
        generator: of the random choices; None for PyTorch's own. One of the CPU draws the same for images on any
            device.

    Returns:
        Images of that shape, dtype and device, in [0, 1], without a gradient. jpeg2000, jpeg and colour_quantisation
        round to 8 bits and work on the CPU, one image after the other.

    Raises:
        ValueError: another shape, name or level. TypeError: another dtype.

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
