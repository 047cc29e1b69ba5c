"""The work on photographs, in one process or several: a folder of PNG files each, and a record, written last.

    <folder>/reference.png           the photograph in 8 bits, cropped if `max_size` says so
    <folder>/00_jpeg.png …           the distorted images
    <folder>/photograph.json         the record: settings and SHA-256 of each file, the labelled pairs

Images are stored as PNG, not as coded files. A decoder's output depends on its version (inverse transforms, chroma
upsampling), and a chain that ends in a resize has no coded file. So a label belongs to exactly the pixels on disk; the
price is eleven times the space (28 photographs, four codecs). A folder is whole when it has a record and every file has
its SHA-256.
"""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from fastiqa.common.files import remove_unfinished, write_atomically
from fastiqa.common.hashing import file_sha256, sha256_of
from fastiqa.data.images.reading import Image, ImageError, read_image
from fastiqa.data.synth.ladder import DistortedImage, Pixels, distorted, draw_ladders, draw_pairs
from fastiqa.data.synth.options import SMALLEST_SIDE, Labeller, SynthOptions

RECORD = "photograph.json"
REFERENCE = "reference.png"


@dataclass(frozen=True)
class Task:
    """A photograph to work on: its file and SHA-256, the folder for its images, options and labeller."""

    source: Path
    sha256: str
    folder: Path
    options: SynthOptions
    labeller: Labeller


@dataclass(frozen=True)
class Pair:
    """A labelled pair: the numbers of two distorted images, the probability that b is closer, and the rule."""

    a: int
    b: int
    label: float
    rule: str


@dataclass(frozen=True)
class Photograph:
    """The record of one photograph."""

    reference_sha256: str
    images: tuple[DistortedImage, ...]
    pairs: tuple[Pair, ...]


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
    photograph = _make(pixels, task)
    write_atomically(task.folder / RECORD, json.dumps(dataclasses.asdict(photograph), indent=1).encode())
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
    return Photograph(content["reference_sha256"], images, tuple(Pair(**pair) for pair in content["pairs"]))


def _eight_bits(image: Image) -> Pixels:
    if image.bit_depth == 8:
        return image.pixels.astype(np.uint8, copy=False)
    result: Pixels = np.empty(image.pixels.shape, np.uint8)
    for codes, row in zip(image.pixels, result, strict=True):  # row by row: a float64 copy takes eight times the memory
        row[:] = np.rint(codes * (255 / (2**image.bit_depth - 1)))
    return result


def _make(pixels: Pixels, task: Task) -> Photograph:
    options = task.options
    # seeded by content, not by name or order: a photograph gets the same images whatever the others are
    generator = np.random.default_rng([options.seed, int(task.sha256, 16)])
    pixels = _cropped(pixels, options.max_size, generator)
    reference_sha256 = _write_png(task.folder / REFERENCE, pixels)
    ladders = draw_ladders(generator, options.codecs, options.extras, options.levels)
    images: list[DistortedImage] = []
    for number, ladder in enumerate(ladders):
        for quality in ladder.qualities:
            file = f"{len(images):02d}_{ladder.codec}.png"
            decoded, size = distorted(pixels, ladder, quality)
            sha256 = _write_png(task.folder / file, decoded)
            score = task.labeller.score(task.folder / REFERENCE, task.folder / file)
            settings = ladder.settings(quality)
            images.append(DistortedImage(file, sha256, ladder.codec, settings, number, quality, size, round(score, 4)))
    drawn = draw_pairs(generator, images, options.pairs)
    pairs = [Pair(a, b, _label(images[a], images[b], rule, task.labeller), rule) for a, b, rule in drawn]
    return Photograph(reference_sha256, tuple(images), tuple(pairs))


def _cropped(pixels: Pixels, largest: int | None, generator: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    if largest is None:
        return pixels
    top = int(generator.integers(max(0, height - largest) + 1))
    left = int(generator.integers(max(0, width - largest) + 1))
    return np.ascontiguousarray(pixels[top : top + largest, left : left + largest])


def _write_png(path: Path, pixels: Pixels) -> str:
    """Write a PNG; return the SHA-256 of the file."""
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    write_atomically(path, stream.getvalue())
    return sha256_of(stream.getvalue())


def _label(a: DistortedImage, b: DistortedImage, rule: str, labeller: Labeller) -> float:
    if rule == "quality":
        return float(b.quality > a.quality)
    return round(labeller.probability(a.score, b.score), 6)
