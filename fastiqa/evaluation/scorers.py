"""Metrics that score one image of a folder, by name: what ``fastiqa gmad`` takes.

    psnr, ssim, ms-ssim     beside the reference that a csv of image,reference names
    NAME=FILE.safetensors   a no-reference network written by ``fastiqa.save_model``: of one image (1, 3, H, W) its
                            quality (1,); or an LPIPS, negated, beside the reference
    NAME=FILE.csv           scores that are known, a csv of image,score

Images are named relative to the folder, those of known scores also by a path to them, as ``fastiqa score --csv`` names
them; references relative to the csv. Names are as `fastiqa.common.text.csv_cell` writes them, or as they are. Higher is
better.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastiqa.common.hashing import file_sha256, sha256_of
from fastiqa.common.text import from_csv_cell
from fastiqa.data import Image, read_image, tables
from fastiqa.evaluation.preferences import FULL_REFERENCE, FullReference, negative_lpips
from fastiqa.metrics.lpips import LPIPS


class Scorer(NamedTuple):
    """A metric of single images.

    Attributes:
        name: of the metric.
        score: from an image's name and the image to its score.
        source: from an image's name to the SHA-256 of what else decides its score: weights, reference, table.
    """

    name: str
    score: Callable[[str, Image], float]
    source: Callable[[str], str]


def scorer(
    metric: str,
    references: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> Scorer:
    """The metric that a text names, as this module's documentation says.

    Args:
        metric: "psnr", "ssim", "ms-ssim", "NAME=FILE.safetensors" or "NAME=FILE.csv".
        references: for the first three and LPIPS, of every image, from `read_references`.
        device: that a network computes on.
        folder: of the images, for known scores that are named by a path.

    Raises: ValueError naming the metric or file; FileNotFoundError.
    """
    name, named, file = metric.partition("=")
    if not named:
        if name not in FULL_REFERENCE:
            wanted = ", ".join(FULL_REFERENCE)
            raise ValueError(f"metric: got {metric!r}, want {wanted}, NAME=FILE.safetensors or NAME=FILE.csv")
        if references is None:
            raise ValueError(f"metric: got {metric!r}, which needs references")
        return full_reference_scorer(name, FULL_REFERENCE[name], references)
    if not name or not file:
        raise ValueError(f"metric: got {metric!r}, want NAME=FILE")
    if file.lower().endswith(".csv"):
        return known_scorer(name, Path(file), folder)
    from fastiqa.models import load_model

    model, sha256 = load_model(file).float().to(device), file_sha256(Path(file))
    if isinstance(model, LPIPS):
        if references is None:
            raise ValueError(f"metric: got {metric!r}, an LPIPS, which needs references")
        return full_reference_scorer(name, negative_lpips(model), references, sha256)
    try:
        return network_scorer(name, model, sha256)
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from None


def full_reference_scorer(
    name: str, metric: FullReference, references: Mapping[str, Path], weights: str | None = None
) -> Scorer:
    """A metric as those of `FULL_REFERENCE`, of images in float64; `weights` is the SHA-256 of its weights, if any.

    Grey has the images' bit depth, or 16 bits where two differ.
    """
    read = functools.lru_cache(maxsize=1)(read_image)  # an image's neighbours often share its reference
    source = functools.lru_cache(maxsize=None)(file_sha256)

    def reference_of(image_name: str) -> Path:
        if image_name not in references:
            raise ValueError("got no reference, want one")
        return references[image_name]

    def score(image_name: str, image: Image) -> float:
        reference = read(reference_of(image_name))
        if reference.pixels.shape != image.pixels.shape:
            sizes = [f"{x.pixels.shape[1]}x{x.pixels.shape[0]} pixels" for x in (image, reference)]
            raise ValueError(f"got {sizes[0]}, want those of its reference {reference.path}, {sizes[1]}")
        depth = image.bit_depth if image.bit_depth == reference.bit_depth else 16
        return float(metric(reference.tensor(torch.float64), image.tensor(torch.float64), depth))

    def source_of(image_name: str) -> str:
        reference = source(reference_of(image_name))
        return reference if weights is None else sha256_of(f"{weights} {reference}".encode())

    return Scorer(name, score, source_of)


def network_scorer(name: str, model: nn.Module, source: str) -> Scorer:
    """A no-reference network in eval mode, on whole images in float32; `source` says which weights it has.

    Raises: TypeError for a network that takes more than one image.
    """
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        raise TypeError(f"holds a {type(model).__name__}, want a network of one image") from None
    parameter = next(model.parameters())

    def score(image_name: str, image: Image) -> float:
        quality: Tensor = model(image.tensor().to(parameter.device))
        if quality.shape != (1,):
            raise ValueError(f"got quality of shape {tuple(quality.shape)}, want (1,)")
        return float(quality)

    return Scorer(name, score, lambda image_name: source)


def known_scorer(name: str, file: Path, folder: Path | None = None) -> Scorer:
    """Scores that a csv of image,score holds. Raises ValueError naming the file and line; FileNotFoundError."""
    scores: dict[str, float] = {}
    for line, (image, text) in _rows(file, ("image", "score"), folder):
        try:
            scores[image] = float(text)
        except ValueError:
            raise ValueError(f"{file}:{line}: got score {text!r}, want a number") from None
    digest = file_sha256(file)

    def score(image_name: str, image: Image) -> float:
        if image_name not in scores:
            raise ValueError(f"got no score in {file}, want one")
        return scores[image_name]

    return Scorer(name, score, lambda image_name: digest)


def read_references(file: str | os.PathLike[str]) -> dict[str, Path]:
    """References by the name of the image, from a csv of image,reference.

    Raises: FileNotFoundError; ValueError naming the file and line: other columns, an image that is not below the
        folder, or is named twice.
    """
    path = Path(file)
    return {
        image: path.parent / from_csv_cell(reference) for _, (image, reference) in _rows(path, ("image", "reference"))
    }


def _below(folder: Path | None, image: str) -> str:
    """A path to an image of the folder as its name there; another one as it is."""
    path = Path(image)
    if folder is None or not path.is_file() or (not path.is_absolute() and (folder / path).is_file()):
        return image
    inside, path = folder.resolve(), path.parent.resolve() / path.name
    return path.relative_to(inside).as_posix() if path.is_relative_to(inside) else image


def _rows(file: Path, columns: tuple[str, str], folder: Path | None = None) -> list[tuple[int, tuple[str, str]]]:
    """Line, and the name of an image with what the csv says of it."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    rows = tables.lines(file, file.read_bytes())
    if not rows or tuple(name.strip().lower() for name in rows[0][1]) != columns:
        got = ",".join(rows[0][1]) if rows else "nothing"
        raise ValueError(f"{file}:1: got {got}, want the columns {','.join(columns)}")
    found: dict[str, tuple[int, str]] = {}
    for line, fields in rows[1:]:
        if len(fields) != len(columns):
            raise ValueError(f"{file}:{line}: got {len(fields)} columns, want {','.join(columns)}")
        try:
            name = _below(folder, from_csv_cell(fields[0]))
            image = tables.relative_path(name, backslashes=os.sep == "\\").as_posix()
        except ValueError as error:
            raise ValueError(f"{file}:{line}: {error}") from None
        if image in found:
            raise ValueError(f"{file}:{line}: got {image!r} again, after line {found[image][0]}, want one row of each")
        found[image] = line, fields[1]
    return [(line, (image, text)) for image, (line, text) in found.items()]
