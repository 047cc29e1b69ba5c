"""compare_files: which of two images is closer to a reference, by PSNR, SSIM, MS-SSIM, LPIPS and PRFNet.

Conventions are those of the published values: PSNR over RGB code values; SSIM and MS-SSIM on the rounded grey of
MATLAB's rgb2gray, 11×11 Gaussian window, valid windows, no downsampling first; MS-SSIM joins its scales by their
weighted sum. All three are computed in float64, LPIPS over RGB and PRFNet in float32. Each image is scaled by the
maximum of its own bit depth; grey is rounded to that depth, or to 16 bits where the three differ. Of two candidates a
metric prefers the one with the greater value, LPIPS the one with the smaller; equal values are a tie.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.common.text import one_line
from fastiqa.data import Image, ImageError, read_image
from fastiqa.data.images import native_stderr
from fastiqa.evaluation.networks import chosen_device, chosen_dtype, ready, untrained
from fastiqa.evaluation.preferences import load_lpips
from fastiqa.metrics import LPIPS, luma, ms_ssim, psnr, ssim
from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL
from fastiqa.metrics.ssim import WINDOW
from fastiqa.runtime.failures import reason_of

LARGE = (
    1 << 20
)  # pixels of an image from which PRFNet's backbone runs on one at a time, which takes a third of the memory


class CompareError(ValueError):
    """A comparison that cannot be made.

    The message is one line: argument (REF, A, B, --weights or --lpips), file and reason.
    """


@dataclass(frozen=True)
class Scores:
    """One metric of A and of B against the reference, or None where the images are too small for it."""

    a: float | None
    b: float | None
    lower_is_better: bool = False

    @property
    def prefers(self) -> str | None:
        """ "a", "b", "tie" or, without values, None."""
        if self.a is None or self.b is None:
            return None
        return "tie" if self.a == self.b else "a" if (self.a > self.b) is not self.lower_is_better else "b"


@dataclass(frozen=True)
class Verdict:
    """PRFNet's probability that B is closer to the reference, and the file of its weights."""

    probability_b_closer: float
    weights: str

    @property
    def prefers(self) -> str:
        """ "a", "b" or, at exactly one half, "tie"."""
        probability = self.probability_b_closer
        return "tie" if probability == 0.5 else "b" if probability > 0.5 else "a"


@dataclass(frozen=True)
class Comparison:
    """What ``fastiqa compare`` reports.

    Attributes:
        paths: the files, by "ref", "a" and "b".
        width, height: pixels of all three images.
        metrics: scores by "psnr" (dB), "ssim", "ms_ssim" and, where its weights were given, "lpips".
        prfnet: PRFNet's verdict, or None where no weights were given.
        notes: sentences on what was not computed and why.
        failure: what ended the comparison before all was computed, such as memory that did not suffice, or None.
    """

    paths: dict[str, str]
    width: int
    height: int
    metrics: dict[str, Scores]
    prfnet: Verdict | None
    notes: tuple[str, ...]
    failure: str | None = None


def compare_files(
    ref: str | os.PathLike[str],
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    lpips: str | os.PathLike[str] | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> Comparison:
    """Compare two image files with a reference file.

    Args:
        ref, a, b: files that :func:`fastiqa.data.read_image` reads, of one size, both sides at least 11 pixels.
        weights: a PRFNet written by ``fastiqa.save_model``; without it PRFNet is not run.
        lpips: an LPIPS written by it; without it LPIPS is not run.
        device: that the metrics and networks compute on: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: that PRFNet computes in: "float32", "bfloat16", "float16" or "float64".

    Returns:
        A :class:`Comparison`. MS-SSIM has no values where a side is 160 pixels or fewer. Where memory runs out, or a
        backend that was asked for cannot run, it holds what was computed before and says so in its `failure`.

    Raises:
        CompareError: naming the argument, the file and the reason.
    """
    paths = {"ref": os.fspath(ref), "a": os.fspath(a), "b": os.fspath(b)}
    try:
        where, wanted = chosen_device(device), chosen_dtype(dtype)
    except ValueError as error:
        raise CompareError(str(error)) from None
    images = {name: _read(name.upper(), path) for name, path in paths.items()}
    height, width = images["ref"].pixels.shape[:2]
    for name in ("a", "b"):
        if images[name].pixels.shape != images["ref"].pixels.shape:
            other_height, other_width = images[name].pixels.shape[:2]
            reason = f"is {other_width}x{other_height} pixels, REF is {width}x{height}"
            raise CompareError(f"{name.upper()}: {one_line(paths[name])}: {reason}")
    if min(height, width) < WINDOW:
        reason = f"is {width}x{height} pixels, SSIM needs at least {WINDOW}x{WINDOW}"
        raise CompareError(f"REF: {one_line(paths['ref'])}: {reason}")
    prfnet = None if weights is None else _prfnet(weights)
    distance = None if lpips is None else _lpips(lpips)

    metrics: dict[str, Scores] = {}
    notes: list[str] = []
    verdict, failure = None, None
    try:
        metrics.update(_classical(images, where, notes))
        if distance is not None and lpips is not None:
            metrics["lpips"] = _lpips_scores(distance.to(where), images, where, lpips)
        if prfnet is None or weights is None:
            notes.append("PRFNet was not run: no weights were given (--weights FILE)")
        else:
            if warning := untrained(prfnet, weights):
                notes.append(warning)
            passes = "three" if height * width >= LARGE else "batch"
            network = ready(prfnet, where, wanted, passes=passes)
            verdict = Verdict(_asked(network, images, where, weights), os.fspath(weights))
    except (MemoryError, RuntimeError) as error:
        if (failure := reason_of(error)) is None:
            raise
        notes.append(f"not all was computed: {failure}")
    return Comparison(paths, width, height, metrics, verdict, tuple(notes), failure)


def _classical(images: dict[str, Image], device: torch.device, notes: list[str]) -> Iterator[tuple[str, Scores]]:
    """PSNR, SSIM and MS-SSIM, one after the other, so that those are kept that were computed before an error."""
    depths = [image.bit_depth for image in images.values()]
    if len(set(depths)) > 1:
        scaled = "each was scaled by its own maximum, grey rounded to 16 bits"
        notes.append("bit depths differ: REF {}, A {}, B {}; {}".format(*depths, scaled))
    # two roundings would tell an image from itself: its SSIM at 8 and at 16 bits was 0.99998
    grey_depth = depths[0] if len(set(depths)) == 1 else 16
    colour = {name: image.tensor(torch.float64).to(device) for name, image in images.items()}
    yield "psnr", _scores(psnr, colour)
    grey = {name: luma(image, bit_depth=grey_depth) for name, image in colour.items()}
    del colour
    yield "ssim", _scores(ssim, grey)
    if min(grey["ref"].shape[-2:]) > LARGEST_SIDE_TOO_SMALL:
        yield "ms_ssim", _scores(lambda x, y: ms_ssim(x, y, method="wtd_sum"), grey)
    else:
        yield "ms_ssim", Scores(None, None)
        notes.append(f"MS-SSIM is n/a: it needs both sides greater than {LARGEST_SIDE_TOO_SMALL} pixels")


def _read(argument: str, path: str) -> Image:
    try:
        with native_stderr.silenced():
            return read_image(path)
    except ImageError as error:
        raise CompareError(f"{argument}: {error}") from None


def _prfnet(weights: str | os.PathLike[str]) -> nn.Module:
    from fastiqa.models import load_model

    name = one_line(os.fspath(weights))
    try:
        model = load_model(weights)
    except (OSError, ValueError) as error:
        raise _refused("--weights", weights, error) from None
    if not hasattr(model, "probability"):
        raise CompareError(f"--weights: {name}: holds a {type(model).__name__}, want a PRFNet")
    return model


def _lpips(file: str | os.PathLike[str]) -> LPIPS:
    try:
        return load_lpips(file)
    except (OSError, ValueError) as error:
        raise _refused("--lpips", file, error) from None


def _refused(argument: str, file: str | os.PathLike[str], error: Exception) -> CompareError:
    """The loader's own messages name the file already, others do not."""
    name, reason = one_line(os.fspath(file)), one_line(str(error))
    return CompareError(f"{argument}: {reason if name in reason else f'{name}: {reason}'}")


def _asked(network: Any, images: dict[str, Image], device: torch.device, weights: str | os.PathLike[str]) -> float:
    """PRFNet's probability that B is closer."""
    try:
        with torch.inference_mode():
            value = float(network.probability(*(images[key].tensor().to(device) for key in ("ref", "a", "b"))))
    except ValueError as error:
        raise _refused("--weights", weights, error) from None
    if not math.isfinite(value):
        raise CompareError(f"--weights: {one_line(os.fspath(weights))}: PRFNet's probability is {value}")
    return value


def _lpips_scores(model: LPIPS, images: dict[str, Image], device: torch.device, file: str | os.PathLike[str]) -> Scores:
    try:
        with torch.inference_mode():
            ref, *others = (images[name].tensor().to(device) for name in ("ref", "a", "b"))
            of_a, of_b = (float(model(ref, image)) for image in others)
    except ValueError as error:
        raise _refused("--lpips", file, error) from None
    return Scores(of_a, of_b, lower_is_better=True)


def _scores(metric: Callable[[Tensor, Tensor], Tensor], images: dict[str, Tensor]) -> Scores:
    of_a, of_b = (float(metric(images["ref"], images[name])) for name in ("a", "b"))
    return Scores(of_a, of_b)
