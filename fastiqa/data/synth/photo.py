"""The work on photographs, in one process or several: a folder of PNG files each, and a record, written last.

    <folder>/reference.png           the photograph in 8 bits, cropped if `max_size` says so
    <folder>/00_jpeg.png …           the distorted images
    <folder>/photograph.json         the record: settings and SHA-256 of each file, the labelled pairs

Images are stored as PNG, not as coded files. A decoder's output depends on its version (inverse transforms, chroma
upsampling), and a chain that ends in a resize has no coded file. So a label belongs to exactly the pixels on disk; the
price is eleven times the space (28 photographs, four codecs). A folder is whole when it has a record and every file has
its SHA-256.

The profile "world" compresses PNG less (17 instead of 55 ms of 512², the same size) and scores all images of a
photograph together: a metric prepares their reference once, and 36 images of 1024² take 113 MB.
"""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import PIL.Image
import torch

from fastiqa.common.files import remove_unfinished, write_atomically
from fastiqa.common.hashing import file_sha256, sha256_of
from fastiqa.data.images.reading import Image, ImageError, read_image
from fastiqa.data.synth.ladder import DistortedImage, Pixels, distorted, draw_ladders, draw_pairs
from fastiqa.data.synth.options import (
    SMALLEST_SIDE,
    Labeller,
    Scorer,
    SynthOptions,
    WorldOptions,
    Written,
    soft_label,
)
from fastiqa.data.synth.world import draw_near_pairs, draw_world_ladders

RECORD = "photograph.json"
REFERENCE = "reference.png"


@dataclass(frozen=True)
class Task:
    """A photograph to work on: its file and SHA-256, the folder for its images, options and labellers.

    `labeller` is one for the profile "classic", and scorers by name for "world".
    """

    source: Path
    sha256: str
    folder: Path
    options: SynthOptions
    labeller: Labeller | Mapping[str, Scorer]


@dataclass(frozen=True)
class Pair:
    """A labelled pair: the numbers of two distorted images, the probability that b is closer, and the rule.

    `weight` is the metrics' agreement about the label in the profile "world" (`soft_label`), else None.
    """

    a: int
    b: int
    label: float
    rule: str
    weight: float | None = None


@dataclass(frozen=True)
class Photograph:
    """The record of one photograph; `labelled_by` names each metric's implementation in the profile "world"."""

    reference_sha256: str
    images: tuple[DistortedImage, ...]
    pairs: tuple[Pair, ...]
    labelled_by: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a task: the record, and whether an earlier run made it; or why the photograph is unusable."""

    task: Task
    photograph: Photograph | None = None
    kept: bool = False
    bad: str = ""


def run_tasks(tasks: Sequence[Task], workers: int) -> Generator[Outcome, None, None]:
    """Run tasks in `workers` processes and yield their outcomes as they finish.

    Closing the iterator early finishes the running tasks and drops the others.

    Raises: as :func:`make_images`; ``BrokenProcessPool`` if a process was killed.
    """
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: other thread counts round sums differently
        try:
            yield from map(make_images, tasks)
        finally:
            torch.set_num_threads(threads)
        return
    # spawned: forking a process with PyTorch threads may deadlock
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_begin)
    try:
        for future in as_completed([pool.submit(make_images, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Set up a worker: one thread; it dies with the parent, however that ends, and on Ctrl-C without a traceback."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def make_images(task: Task) -> Outcome:
    """Make the images and the record of one photograph, unless its folder is whole. Raises OSError if writing fails."""
    if (kept := read_whole(task.folder)) is not None:
        return Outcome(task, kept, kept=True)
    try:
        pixels = _eight_bits(read_image(task.source))
    except ImageError as error:
        return Outcome(task, bad=str(error))
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        reason = f"is {width}x{height} pixels, want both sides at least {SMALLEST_SIDE}"
        return Outcome(task, bad=f"{task.source}: {reason}")
    task.folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(task.folder)
    # seeded by content, not by name or order: a photograph gets the same images whatever the others are
    generator = np.random.default_rng([task.options.seed, int(task.sha256, 16)])
    pixels = _cropped(pixels, task.options.max_size, generator)
    if isinstance(task.labeller, Labeller):
        photograph = _make_classic(pixels, task, task.labeller, generator)
    else:
        photograph = _make_world(pixels, task, task.labeller, generator)
    write_atomically(task.folder / RECORD, json.dumps(_without_none(dataclasses.asdict(photograph)), indent=1).encode())
    return Outcome(task, photograph)


def read_whole(folder: Path) -> Photograph | None:
    """The record of a folder if all its images are as written, else None."""
    try:
        photograph = _read_record(folder / RECORD)
        wanted = {image.file: image.sha256 for image in photograph.images} | {REFERENCE: photograph.reference_sha256}
        if all(file_sha256(folder / name) == sha256 for name, sha256 in wanted.items()):
            return photograph
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # missing, or a damaged record
        pass
    return None


def _read_record(path: Path) -> Photograph:
    content: dict[str, Any] = json.loads(path.read_bytes())
    images = tuple(DistortedImage(**image) for image in content["images"])
    pairs = tuple(Pair(**pair) for pair in content["pairs"])
    return Photograph(content["reference_sha256"], images, pairs, content.get("labelled_by"))


def _without_none(value: Any) -> Any:
    """A JSON value without the fields that only the other profile has."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value


def _eight_bits(image: Image) -> Pixels:
    if image.bit_depth == 8:
        return image.pixels.astype(np.uint8, copy=False)
    result: Pixels = np.empty(image.pixels.shape, np.uint8)
    for codes, row in zip(image.pixels, result, strict=True):  # row by row: a float64 copy takes eight times the memory
        row[:] = np.rint(codes * (255 / (2**image.bit_depth - 1)))
    return result


def _make_classic(pixels: Pixels, task: Task, labeller: Labeller, generator: np.random.Generator) -> Photograph:
    options = task.options
    reference_sha256 = _write_png(task.folder / REFERENCE, pixels)
    ladders = draw_ladders(generator, options.codecs, options.extras, options.levels)
    images: list[DistortedImage] = []
    for number, ladder in enumerate(ladders):
        for quality in ladder.qualities:
            file = f"{len(images):02d}_{ladder.codec}.png"
            decoded, size = distorted(pixels, ladder, quality)
            sha256 = _write_png(task.folder / file, decoded)
            score = labeller.score(task.folder / REFERENCE, task.folder / file)
            settings = ladder.settings(quality)
            images.append(DistortedImage(file, sha256, ladder.codec, settings, number, quality, size, round(score, 4)))
    drawn = draw_pairs(generator, images, options.pairs)
    pairs = [Pair(a, b, _label(images[a], images[b], rule, labeller), rule) for a, b, rule in drawn]
    return Photograph(reference_sha256, tuple(images), tuple(pairs))


def _make_world(
    pixels: Pixels, task: Task, scorers: Mapping[str, Scorer], generator: np.random.Generator
) -> Photograph:
    options = task.options
    assert isinstance(options, WorldOptions)
    reference = Written(task.folder / REFERENCE, pixels)
    reference_sha256 = _write_png(*reference, compress_level=1)
    ladders = draw_world_ladders(generator, options.codecs, options.extras, options.levels)
    written: list[Written] = []
    unscored: list[DistortedImage] = []
    for number, ladder in enumerate(ladders):
        for quality in ladder.qualities:
            decoded, size = ladder.distorted(pixels, quality)
            image = Written(task.folder / f"{len(written):02d}_{ladder.codec}.png", decoded)
            sha256, settings = _write_png(*image, compress_level=1), ladder.settings(quality)
            unscored.append(DistortedImage(image.path.name, sha256, ladder.codec, settings, number, quality, size, 0.0))
            written.append(image)
    by_metric = {name: scorer.scores(reference, written) for name, scorer in scorers.items()}
    images = []
    for index, record in enumerate(unscored):
        scores = {name: round(values[index], 4) for name, values in by_metric.items()}
        mean = fmean(scores[name] / scorer.scale for name, scorer in scorers.items())
        images.append(dataclasses.replace(record, score=round(mean, 4), scores=scores))
    pairs = []
    for a, b in draw_near_pairs(generator, images, options.pairs, options.near):
        first, second = images[a].scores or {}, images[b].scores or {}
        label, weight = soft_label([(second[name] - first[name]) / scorers[name].scale for name in scorers])
        pairs.append(Pair(a, b, round(label, 6), "metric", round(weight, 6)))
    labelled_by = {name: scorer.implementation() for name, scorer in scorers.items()}
    return Photograph(reference_sha256, tuple(images), tuple(pairs), labelled_by)


def _cropped(pixels: Pixels, largest: int | None, generator: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    if largest is None:
        return pixels
    top = int(generator.integers(max(0, height - largest) + 1))
    left = int(generator.integers(max(0, width - largest) + 1))
    return np.ascontiguousarray(pixels[top : top + largest, left : left + largest])


def _write_png(path: Path, pixels: Pixels, **options: int) -> str:
    """Write a PNG, with options for Pillow; return the SHA-256 of the file."""
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG", **options)
    write_atomically(path, stream.getvalue())
    return sha256_of(stream.getvalue())


def _label(a: DistortedImage, b: DistortedImage, rule: str, labeller: Labeller) -> float:
    if rule == "quality":
        return float(b.quality > a.quality)
    return round(labeller.probability(a.score, b.score), 6)
