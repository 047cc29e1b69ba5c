"""Scorers: metrics that score one image of a folder, named as ``fastiqa gmad`` takes them.

    psnr, ssim, ms-ssim     against the reference that a csv of image,reference names
    NAME=FILE.safetensors   a no-reference network from ``fastiqa.save_model``, from an image (1, 3, H, W) to its
                            quality (1,); or an LPIPS, negated, against the reference
    NAME=FILE.csv           known scores, a csv of image,score

Image names are relative to the folder, reference names to the csv. Known scores may also name an image by its path, as
``fastiqa score --csv`` does. Names may be written by `fastiqa.common.text.csv_cell` or plain. Higher is better.
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
from fastiqa.common.installed_weights import PACKAGED
from fastiqa.common.text import from_csv_cell
from fastiqa.data import Image, read_image, tables
from fastiqa.evaluation.preferences import FULL_REFERENCE, PUBLISHED, FullReference, load_lpips, negative_lpips
from fastiqa.metrics.lpips import LPIPS


class Scorer(NamedTuple):
    """A metric of single images.

    Attributes:
        name: of the metric.
        score: (name of an image, the image) -> its score.
        source: name of an image -> SHA-256 of the weights, reference or table that also decide its score.
    """

    name: str
    score: Callable[[str, Image], float]
    source: Callable[[str], str]


def create_scorer(
    metric: str,
    references: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> Scorer:
    """Make a scorer from its name on the command line.

    Args:
        metric: "psnr", "ssim", "ms-ssim", "lpips", "NAME=FILE.safetensors" or "NAME=FILE.csv".
        references: from `read_references`, for all images; the first four and another LPIPS need them.
        device: for a network.
        folder: of the images, for known scores that name images by path.

    Raises: ValueError naming the metric or file; FileNotFoundError; ImportError for "lpips" without the extra.
    """
    name, named, file = metric.partition("=")
    if not named:
        if name != "lpips" and name not in FULL_REFERENCE:
            known = ", ".join((*FULL_REFERENCE, "lpips"))
            raise ValueError(f"metric: got {metric!r}, want {known}, NAME=FILE.safetensors or NAME=FILE.csv")
        if references is None:
            raise ValueError(f"metric: got {metric!r}, which needs references")
        if name == "lpips":
            lpips = negative_lpips(load_lpips(PUBLISHED).to(device))
            return full_reference_scorer(name, lpips, references, PACKAGED["lpips_alex"].sha256)
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
    """A scorer from a metric like those in `FULL_REFERENCE`, on images in float64.

    Args:
        name: of the scorer.
        metric: its grey has the images' bit depth, or 16 bits if image and reference differ.
        references: name of an image -> its reference.
        weights: SHA-256 of the metric's weights, if it has any.
    """
    read = functools.lru_cache(maxsize=1)(read_image)  # neighbours often share a reference
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
    """A scorer from a no-reference network in eval mode, on whole images in float32.

    Args:
        name: of the scorer.
        model: (1, 3, H, W) in [0, 1] -> quality (1,).
        source: SHA-256 of its weights.

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
    """A scorer from a csv of image,score. Raises ValueError naming the file and line; FileNotFoundError."""
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
    """Read a csv of image,reference: name of an image -> path of its reference.

    Raises: FileNotFoundError; ValueError naming the file and line: other columns, an image outside the folder or named
        twice.
    """
    path = Path(file)
    return {
        image: path.parent / from_csv_cell(reference) for _, (image, reference) in _rows(path, ("image", "reference"))
    }


def _below(folder: Path | None, image: str) -> str:
    """Convert a path to an image below the folder to its name there; keep any other text."""
    path = Path(image)
    if folder is None or not path.is_file() or (not path.is_absolute() and (folder / path).is_file()):
        return image
    inside, path = folder.resolve(), path.parent.resolve() / path.name
    return path.relative_to(inside).as_posix() if path.is_relative_to(inside) else image


def _rows(file: Path, columns: tuple[str, str], folder: Path | None = None) -> list[tuple[int, tuple[str, str]]]:
    """The rows of a two-column csv: line, and (name of an image, text of the other column)."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    rows = tables.csv_lines(file, file.read_bytes())
    if not rows or tuple(name.strip().lower() for name in rows[0][1]) != columns:
        got = ",".join(rows[0][1]) if rows else "nothing"
        raise ValueError(f"{file}:1: got {got}, want the columns {','.join(columns)}")
    found: dict[str, tuple[int, str]] = {}
    for line, fields in rows[1:]:
        if len(fields) != len(columns):
            raise ValueError(f"{file}:{line}: got {len(fields)} columns, want {','.join(columns)}")
        try:
            name = _below(folder, from_csv_cell(fields[0]))
            image = tables.parse_relative_path(name, backslashes=os.sep == "\\").as_posix()
        except ValueError as error:
            raise ValueError(f"{file}:{line}: {error}") from None
        if image in found:
            raise ValueError(f"{file}:{line}: got {image!r} again, after line {found[image][0]}, want one row of each")
        found[image] = line, fields[1]
    return [(line, (image, text)) for image, (line, text) in found.items()]
