"""Changes of brightness.

    brighten, darken    the curve x + 2 s x (1 - x) through black, white and 0.5 + s / 2; s < 0 darkens
    mean_shift          s added to all values, with one random sign an image

Curves have KADID-10k's settings (Lin, Hosu, Saupe, QoMEX 2019), which bends lightness too where it brightens. Its mean
shift goes from +0.15 over 0 to -0.15, up and down in quality; here the size grows with the level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, uniform


def tone_curve(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    return images + 2 * amount * images * (1 - images)


def mean_shift(images: Tensor, size: float, generator: torch.Generator | None) -> Tensor:
    signs = torch.where(uniform(images, generator, len(images), 1, 1, 1) < 0.5, -1.0, 1.0)
    return images + size * signs


BRIGHTNESSES = (
    Distortion("brighten", "brightness", tone_curve, (0.1, 0.2, 0.4, 0.7, 1.1)),
    Distortion("darken", "brightness", tone_curve, (-0.05, -0.1, -0.2, -0.4, -0.8)),
    Distortion("mean_shift", "brightness", mean_shift, (0.04, 0.08, 0.12, 0.15, 0.2)),
)
