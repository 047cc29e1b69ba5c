"""compare_files: which of two images is closer to a reference, by PSNR, SSIM, MS-SSIM, LPIPS and PRFNet.

The conventions give the published values. PSNR is over RGB code values. SSIM and MS-SSIM are on the rounded grey of
MATLAB's rgb2gray, with an 11×11 Gaussian window, valid windows and no downsampling first; MS-SSIM joins its scales by
their weighted sum. All three are computed in float64, LPIPS over RGB and PRFNet in float32. Each image is scaled by the
maximum of its own bit depth. Grey is rounded to that depth, or to 16 bits where the three differ. A metric prefers the
candidate with the greater value, LPIPS the one with the smaller; equal values are a tie.

Where all three images are grey, PSNR is over their one channel, and SSIM and MS-SSIM are on it as it is; networks take
three equal channels. Where one has alpha and no background is chosen, all three are compared on white and on black:
each metric of a candidate is its worse value, and PRFNet's probability the mean of two.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastiqa.common.hashing import file_sha256
from fastiqa.common.text import one_line
from fastiqa.data import Image, ImageError, ReadingPolicy, read_image
from fastiqa.data.images import native_stderr
from fastiqa.data.images.policy import AS_SHOWN
from fastiqa.evaluation.networks import prepare_for_inference, untrained_warning
from fastiqa.evaluation.preferences import PUBLISHED, load_lpips
from fastiqa.metrics import LPIPS, luma, ms_ssim, psnr, ssim
from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL
from fastiqa.metrics.ssim import WINDOW
from fastiqa.models import Card, PRFNet, card_of, create_model, load_model
from fastiqa.models.published import DEFAULTS, find_card
from fastiqa.runtime.failures import reason_of

# Pixels of an image from which PRFNet's backbone takes one image at a time, in a third of the memory.
LARGE = 1 << 20


class CompareError(ValueError):
    """A comparison that cannot be made.

    Attributes:
        argument: the argument of :func:`compare_files` at fault: "ref", "a", "b", "weights" or "lpips".
        reason: file and reason, in one line.
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"{argument}: {reason}")
        self.argument, self.reason = argument, reason


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

    def worse(self, other: Scores) -> Scores:
        """The worse value of each candidate."""
        choose = max if self.lower_is_better else min
        pairs = ((self.a, other.a), (self.b, other.b))
        a, b = (None if x is None or y is None else choose(x, y) for x, y in pairs)
        return Scores(a, b, self.lower_is_better)


@dataclass(frozen=True)
class Verdict:
    """PRFNet's probability that B is closer to the reference.

    Attributes:
        probability_b_closer: the probability.
        weights: the file of its weights, or MODEL.TAG of published ones.
        model: name of the network, one of `fastiqa.list_models()`.
        sha256: of the file.
        card: the facts about published weights, or None.
    """

    probability_b_closer: float
    weights: str
    model: str
    sha256: str
    card: Card | None = None

    @property
    def prefers(self) -> str:
        """ "a", "b" or, at exactly one half, "tie"."""
        probability = self.probability_b_closer
        return "tie" if probability == 0.5 else "b" if probability > 0.5 else "a"


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare_files`.

    Attributes:
        paths: the files, by "ref", "a" and "b".
        width, height: pixels of all three images.
        metrics: scores by "psnr" (dB), "ssim", "ms_ssim" and, where its weights were given, "lpips".
        prfnet: PRFNet's verdict, or None where no weights were given.
        notes: sentences on what was not computed and why.
        failure: what ended the comparison before all was computed, such as memory that did not suffice, or None.
        policy: how the files were read.
        decisions: what was decided in reading each file, by "ref", "a" and "b", such as "grey" or "alpha on white".
        channels: 1 where all three are grey and the metrics take one channel, else 3.
        backgrounds: what alpha was composited on; none for opaque images.
    """

    paths: dict[str, str]
    width: int
    height: int
    metrics: dict[str, Scores]
    prfnet: Verdict | None
    notes: tuple[str, ...]
    failure: str | None = None
    policy: ReadingPolicy = AS_SHOWN
    decisions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    channels: int = 3
    backgrounds: tuple[str, ...] = ()


def compare_files(
    ref: str | os.PathLike[str],
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    lpips: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    policy: ReadingPolicy = AS_SHOWN,
) -> Comparison:
    """Compare two image files with a reference file.

    Args:
        ref, a, b: files that :func:`fastiqa.data.read_image` reads, of one size, both sides at least 11 pixels.
        weights: a PRFNet written by ``fastiqa.save_model``, or the name of published weights, "published" for the
            default ones; some need the extra `weights`. None leaves PRFNet out.
        lpips: an LPIPS written by ``fastiqa.save_model``, or "published" for AlexNet's published weights, which the
            extra `weights` installs; None leaves LPIPS out.
        device: where metrics and networks compute; None is CUDA where there is one, else the CPU.
        dtype: in which PRFNet computes.
        policy: what becomes of images that are not plain opaque RGB; the default reads them as a viewer shows them.

    Returns:
        A :class:`Comparison`. MS-SSIM has no values where a side is 160 pixels or fewer; a note says so, and where
        images are too small for published weights. Where memory runs out, or a
        backend that was asked for cannot run, it holds the results until then, and `failure` says why it ends there.

    Raises:
        CompareError: naming the argument, the file and the reason.

    Example:
        >>> compare_files("original.png", "a.jpg", "b.avif").metrics["ssim"].prefers  # doctest: +SKIP
        'b'
    """
    paths = {"ref": os.fspath(ref), "a": os.fspath(a), "b": os.fspath(b)}
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    images = {name: _read(name, path, policy) for name, path in paths.items()}
    height, width = images["ref"].pixels.shape[:2]
    for name in ("a", "b"):
        if images[name].pixels.shape != images["ref"].pixels.shape:
            other_height, other_width = images[name].pixels.shape[:2]
            reason = f"is {other_width}x{other_height} pixels, REF is {width}x{height}"
            raise CompareError(name, f"{one_line(paths[name])}: {reason}")
    if min(height, width) < WINDOW:
        reason = f"is {width}x{height} pixels, SSIM needs at least {WINDOW}x{WINDOW}"
        raise CompareError("ref", f"{one_line(paths['ref'])}: {reason}")
    card = _card(weights)
    file = card.name if card is not None else None if weights is None else os.fspath(weights)
    prfnet = None if file is None else _prfnet(file, card)
    distance = None if lpips is None else _lpips(lpips)

    metrics: dict[str, Scores] = {}
    notes: list[str] = []
    verdict, failure = None, None
    views = _views(images, paths, policy, notes)
    try:
        for results in zip(*(_classical(view, where, notes) for view in views), strict=True):
            metrics[results[0][0]] = _worst([scores for _, scores in results])
        if distance is not None and lpips is not None:
            distance.to(where)
            metrics["lpips"] = _worst([_lpips_scores(distance, view, where, lpips) for view in views])
        if prfnet is not None and file is not None:
            if card is None and (warning := untrained_warning(prfnet, file)):
                notes.append(warning)
            passes = "three" if height * width >= LARGE else "batch"
            network = prepare_for_inference(prfnet, where, dtype, passes=passes)
            found = [_probability(network, view, where, file, card, notes) for view in views]
            probabilities = [value for value in found if value is not None]
            if probabilities:
                probability = sum(probabilities) / len(probabilities)
                facts = (prfnet.model_name, file_sha256(Path(file))) if card is None else (card.model, card.sha256)
                verdict = Verdict(probability, file, *facts, card)
    except (MemoryError, RuntimeError) as error:
        if (failure := reason_of(error)) is None:
            raise
        notes.append(f"not all was computed: {failure}")
    decisions = {name: tuple(dict.fromkeys(note for view in views for note in view[name].notes)) for name in images}
    channels = 1 if all(image.grey for view in views for image in view.values()) else 3
    backgrounds = tuple(
        dict.fromkeys(i.background for view in views for i in view.values() if i.background is not None)
    )
    sentences = tuple(dict.fromkeys(notes))
    return Comparison(
        paths, width, height, metrics, verdict, sentences, failure, policy, decisions, channels, backgrounds
    )


def _views(
    images: dict[str, Image], paths: dict[str, str], policy: ReadingPolicy, notes: list[str]
) -> list[dict[str, Image]]:
    """The three images on each background: on one, or on white and on black where one has alpha and none is chosen."""
    views = [images]
    if policy.background is None and any(image.background is not None for image in images.values()):
        black = dataclasses.replace(policy, background="black")
        on_black = {
            name: image if image.background is None else _read(name, paths[name], black)
            for name, image in images.items()
        }
        views.append(on_black)
        notes.append("alpha: compared on white and on black; each metric is the worse value, a probability the mean")
    grey = [name.upper() for name, image in images.items() if image.grey]
    if len(grey) == len(images):
        notes.append("all three images are grey: metrics take one channel, networks three equal ones")
    elif grey:
        notes.append(f"compared in RGB: {' and '.join(grey)} {'is' if len(grey) == 1 else 'are'} grey")
    return views


def _worst(scores: list[Scores]) -> Scores:
    return functools.reduce(Scores.worse, scores)


def _classical(images: dict[str, Image], device: torch.device, notes: list[str]) -> Iterator[tuple[str, Scores]]:
    """PSNR, SSIM and MS-SSIM, one after the other, so that those are kept that were computed before an error."""
    depths = [image.bit_depth for image in images.values()]
    if len(set(depths)) > 1:
        scaled = "each was scaled by its own maximum, grey rounded to 16 bits"
        notes.append("bit depths differ: REF {}, A {}, B {}; {}".format(*depths, scaled))
    # two roundings would tell an image from itself: its SSIM at 8 and at 16 bits was 0.99998
    grey_depth = depths[0] if len(set(depths)) == 1 else 16
    colour = {name: image.tensor(torch.float64).to(device) for name, image in images.items()}
    one_channel = all(image.grey for image in images.values())
    yield "psnr", _scores(psnr, {name: image[:, :1] if one_channel else image for name, image in colour.items()})
    grey = {name: luma(image, bit_depth=grey_depth) for name, image in colour.items()}
    del colour
    yield "ssim", _scores(ssim, grey)
    if min(grey["ref"].shape[-2:]) > LARGEST_SIDE_TOO_SMALL:
        yield "ms_ssim", _scores(lambda x, y: ms_ssim(x, y, method="wtd_sum"), grey)
    else:
        yield "ms_ssim", Scores(None, None)
        notes.append(f"MS-SSIM is n/a: it needs both sides greater than {LARGEST_SIDE_TOO_SMALL} pixels")


def _read(argument: str, path: str, policy: ReadingPolicy) -> Image:
    try:
        with native_stderr.silenced():
            return read_image(path, policy)
    except ImageError as error:
        raise CompareError(argument, str(error)) from None


def _card(weights: str | os.PathLike[str] | None) -> Card | None:
    """The card of published weights, None for a file."""
    try:
        return card_of(DEFAULTS["comparison"]) if weights == PUBLISHED else find_card(weights)
    except ValueError as error:
        raise CompareError("weights", one_line(str(error))) from None


def _prfnet(name: str, card: Card | None) -> PRFNet:
    """The network of a file, or of published weights."""
    try:
        model = load_model(name) if card is None else create_model(name, pretrained=True).eval()
    except ImportError as error:
        raise CompareError("weights", one_line(str(error))) from None
    except (OSError, ValueError) as error:
        raise _refused("weights", name, error) from None
    if not isinstance(model, PRFNet):
        raise CompareError("weights", f"{one_line(name)}: holds a {type(model).__name__}, want a PRFNet")
    return model


def _lpips(file: str | os.PathLike[str]) -> LPIPS:
    try:
        return load_lpips(file)
    except ImportError as error:
        raise CompareError("lpips", one_line(str(error))) from None
    except (OSError, ValueError) as error:
        raise _refused("lpips", file, error) from None


def _refused(argument: str, file: str | os.PathLike[str], error: Exception) -> CompareError:
    """Name the file once: the loader's own messages do, others do not."""
    name, reason = one_line(os.fspath(file)), one_line(str(error))
    return CompareError(argument, reason if name in reason else f"{name}: {reason}")


def _probability(
    network: Any, images: dict[str, Image], device: torch.device, name: str, card: Card | None, notes: list[str]
) -> float | None:
    """PRFNet's probability that B is closer; None, and a note, for images that published weights cannot take."""
    try:
        with torch.inference_mode():
            value = float(network.probability(*(images[key].tensor().to(device) for key in ("ref", "a", "b"))))
    except ValueError as error:
        if card is None:
            raise _refused("weights", name, error) from None
        notes.append(f"{card.model} was not run: {one_line(str(error))}")
        return None
    if not math.isfinite(value):
        raise CompareError("weights", f"{one_line(name)}: PRFNet's probability is {value}")
    return value


def _lpips_scores(model: LPIPS, images: dict[str, Image], device: torch.device, file: str | os.PathLike[str]) -> Scores:
    try:
        with torch.inference_mode():
            ref, *others = (images[name].tensor().to(device) for name in ("ref", "a", "b"))
            of_a, of_b = (float(model(ref, image)) for image in others)
    except ValueError as error:
        raise _refused("lpips", file, error) from None
    return Scores(of_a, of_b, lower_is_better=True)


def _scores(metric: Callable[[Tensor, Tensor], Tensor], images: dict[str, Tensor]) -> Scores:
    of_a, of_b = (float(metric(images["ref"], images[name])) for name in ("a", "b"))
    return Scores(of_a, of_b)
