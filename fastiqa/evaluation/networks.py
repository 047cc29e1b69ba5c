"""Networks from files, made ready to score images: folded for inference, checked for training, asked image by image."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastiqa.common.text import one_line
from fastiqa.data import Image, ImageError, ReadingPolicy, TestCrops, read_image
from fastiqa.data.images import native_stderr
from fastiqa.data.images.photographs import grid_windows, shrunk
from fastiqa.data.images.policy import STRICT
from fastiqa.models.inference import optimize_for_inference
from fastiqa.runtime.failures import reason_of

CROPS_AT_ONCE = 8  # in a batch, which bounds the memory that they need


def prepare_for_inference(model: Any, device: torch.device | str, dtype: torch.dtype, **options: Any) -> nn.Module:
    """Return the network as `optimize_for_inference` makes it; a network that it refuses, in eval mode and in `dtype`.

    Folding takes 0.17 s on two idle cores. It saves 0.10 s of PRFNet's 0.39 for a triplet of 224x224 pixels, and 1.3 s
    of 2.7 for one of 448x448.

    Args:
        model: a network from `load_model`, which is moved to `device` and set to eval mode.
        device, dtype: where and in which type the network computes. Images come in float32, results are float32.
        options: of `optimize_for_inference`.
    """
    model = model.to(device).float().eval()
    try:
        fast: nn.Module = optimize_for_inference(model, dtype=dtype, **options)
        return fast
    except (TypeError, ValueError):  # another network, or a norm whose results depend on the batch
        return model.to(dtype)  # type: ignore[no-any-return]


def untrained_warning(model: nn.Module, file: str | os.PathLike[str]) -> str | None:
    """Return a sentence that names the file if no norm of the network has ever seen an image, else None.

    Training changes running statistics with the first batch, and files of published backbones bring their own. Initial
    ones, 0 and 1 everywhere, belong to a network that was saved as it was made.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    if not norms or any((m.running_mean != 0).any() or (m.running_var != 1).any() for m in norms):  # type: ignore[union-attr]
        return None
    return f"{one_line(os.fspath(file))} looks untrained: its norms have their initial statistics; results mean nothing"


def mean_score(network: nn.Module, crops: Tensor, device: torch.device | str) -> float:
    """Return the mean of a no-reference network's scores over an image's crops (K, 3, H, W), a few at a time."""
    scores = [network(part.to(device)) for part in crops.split(CROPS_AT_ONCE)]
    return torch.cat(scores).double().mean().item()


@dataclass(frozen=True)
class Windows:
    """Image → crops (grid², 3, size, size), evenly spread; the whole image (1, 3, H, W) where a side is smaller."""

    size: int
    grid: int

    @property
    def n(self) -> int:
        """The number of crops."""
        return self.grid**2

    def __call__(self, image: Image) -> Tensor:
        return image.tensor() if min(image.pixels.shape[:2]) < self.size else grid_windows(image, self.size, self.grid)


class ImageScore(NamedTuple):
    """The quality of an image, and what was decided in reading it."""

    value: float
    notes: tuple[str, ...]


def score_image(
    network: nn.Module,
    file: Path,
    crops: TestCrops | Windows | None,
    device: torch.device | str,
    longest_side: int | None = None,
    policy: ReadingPolicy = STRICT,
) -> ImageScore:
    """Return the quality of one image by a no-reference network: the mean over its crops.

    Args:
        network: maps (N, 3, H, W) in [0, 1] to (N,), in eval mode on `device`.
        file: an image that `read_image` reads.
        crops: which parts of the image are scored; None scores the whole image once.
        device: where the network computes.
        longest_side: shrink a larger image until its longer side has this many pixels, before it is cropped.
        policy: what becomes of images that are not plain opaque RGB; grey ones have three equal channels.

    Raises:
        ImageError: the image cannot be read, is too small, or too large for the memory.
        ValueError: the score is not finite.
    """
    try:
        with native_stderr.silenced():
            image = read_image(file, policy)
        if longest_side is not None:
            image = shrunk(image, longest_side)
        parts = image.tensor() if crops is None else crops(image)
        with torch.inference_mode():
            score = mean_score(network, parts, device)
    except ImageError:
        raise
    except ValueError as error:  # an image from read_image can only be too small
        raise ImageError(file, str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if (reason := reason_of(error)) is None or not reason.startswith("out of memory"):
            raise
        raise ImageError(file, reason) from error
    if not math.isfinite(score):
        raise ValueError(f"{file}: got {score} for its quality, want a number")
    return ImageScore(score, image.notes)
