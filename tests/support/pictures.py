"""Pictures that codecs treat like photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from fastiqa.data.images.folders import image_files


def picture(seed: int, height: int = 161, width: int = 173) -> np.ndarray:
    """Smooth colour with some grain, (H, W, 3), uint8."""
    generator = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float64)
    return (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def six_photographs(folder: Path) -> list[Path]:
    """Write six pictures of 80×72 pixels into an empty folder; the last equals the first."""
    for position, seed in enumerate((0, 1, 2, 3, 4, 0)):
        PIL.Image.fromarray(picture(seed, 72, 80)).save(folder / f"{position}.png")
    return image_files(folder)
