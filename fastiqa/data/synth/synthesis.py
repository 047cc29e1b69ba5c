"""synthesize: labelled triplets from a folder of photographs and real codecs; ``fastiqa data synth`` runs it.

    OUT/synth.json              options, encoder versions, photographs with their SHA-256: these decide all the rest
    OUT/<photograph>/           images and record of one photograph: fastiqa.data.synth.photo
    OUT/triplets.csv            all triplets, written at the end: fastiqa.data.synth.table

Lossless photographs are best: a reference lacks what a camera's JPEG has lost. Photographs with equal bytes count once.
A photograph and everything made from it belong to one split: the SHA-256 of seed and content orders the photographs,
the first go to val, the next to test, the others to train.

The same photographs, options and versions give the same bytes with any number of processes, interrupted or not. On
another kind of processor the last digits of scores and of JPEG 2000's wavelets may differ.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from fastiqa.common.files import FolderInUseError, is_empty, locked, remove_unfinished, write_atomically
from fastiqa.common.hashing import file_sha256
from fastiqa.common.text import one_line
from fastiqa.data.images.codecs import codec_version
from fastiqa.data.images.folders import SUFFIXES, image_files
from fastiqa.data.images.photographs import split_contents
from fastiqa.data.synth.options import Labeller, Scorer, SynthError, SynthOptions, WorldOptions, settings_of
from fastiqa.data.synth.photo import Outcome, Task, run_tasks
from fastiqa.data.synth.table import write_triplets

SETTINGS = "synth.json"
FORMAT = 1


@dataclass(frozen=True)
class Summary:
    """The result of :func:`synthesize`.

    Attributes:
        triplets: number by split.
        photographs: number used; ``kept`` of them were whole from an earlier run.
        bad: a line for each unusable photograph: file and reason.
        duplicates: skipped files, equal to another one.
    """

    triplets: dict[str, int]
    photographs: int
    kept: int
    bad: tuple[str, ...]
    duplicates: tuple[str, ...]


def synthesize(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: SynthOptions | None = None,
    *,
    labellers: Mapping[str, Labeller],
    scorers: Mapping[str, Scorer] | None = None,
    workers: int | None = None,
    skip_bad: bool = False,
    started: Callable[[int], None] = lambda photographs: None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Make triplets from every photograph below a folder; an interrupted run continues when it is called again.

    Args:
        source: folder with photographs for :func:`fastiqa.data.read_image`, both sides at least 161 pixels; subfolders
            are searched, hidden names skipped.
        out: folder to write, outside ``source``: new, empty, or from an earlier run with the same photographs, options
            and versions, whose whole photographs are kept.
        options: :class:`SynthOptions`, the profile "classic", or :class:`WorldOptions`, the profile "world".
        labellers: metrics by name, ``fastiqa.evaluation.labellers.LABELLERS``; ``options.metric`` chooses one.
        scorers: the same for the profile "world", ``fastiqa.evaluation.labellers.SCORERS``; ``options.metrics``
            chooses.
        workers: processes, at least 1; by default one per core. 1 works in this process. More are spawned, so a script
            must call this under ``if __name__ == "__main__":``.
        skip_bad: skip unusable photographs instead of stopping there.
        started, finished: called with the number of photographs, then with the outcome of each.

    Raises:
        SynthError: naming the file or option: another metric, no photographs, an unusable one, fewer than the splits
            need, an ``out`` with other photographs or options or in use by another run, a file that cannot be written.
            Finished photographs stay.

    Example:
        >>> import numpy as np, PIL.Image, tempfile
        >>> from pathlib import Path
        >>> from fastiqa.data import read_synth
        >>> from fastiqa.data.synth.synthesis import SynthOptions, synthesize
        >>> from fastiqa.evaluation.labellers import LABELLERS
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "photos").mkdir()
        ...     noise = np.random.default_rng(0).integers(0, 256, (161, 170, 3), np.uint8)
        ...     PIL.Image.fromarray(noise).save(Path(folder, "photos", "noise.png"))
        ...     options = SynthOptions(codecs=("jpeg",), extras=(), levels=2, pairs=2, val=0, test=0)
        ...     folders = Path(folder, "photos"), Path(folder, "out")
        ...     summary = synthesize(*folders, options, labellers=LABELLERS, workers=1)
        ...     triplets = read_synth(Path(folder, "out"), "train")
        >>> summary.triplets, triplets[0].ref.name, triplets[0].group
        ({'train': 1, 'val': 0, 'test': 0}, 'reference.png', 'jpeg')
    """
    options = options or SynthOptions()
    folder, target = Path(source), Path(out)
    labeller: Labeller | Mapping[str, Scorer]
    if isinstance(options, WorldOptions):
        labeller = options.scorers_of(scorers or {})
    else:
        labeller = options.labeller_of(labellers)
    versions = _versions(options, labeller)
    workers = _cores() if workers is None else workers
    if workers < 1:
        raise SynthError(f"workers: got {workers}, want 1 or more")
    try:
        files = _photographs(folder, target)
        digests = {file: file_sha256(file) for file in files}
        unique = {sha256: file for file, sha256 in reversed(digests.items())}  # the first file of a content
        splits = splits_of(list(unique), options)
        target.mkdir(parents=True, exist_ok=True)
        with locked(target):
            photographs = {file.relative_to(folder).as_posix(): digests[file] for file in files}
            _check_settings(target, options, versions, photographs)
            remove_unfinished(target)
            tasks = [
                Task(file, sha256, target / _folder_name(file, sha256), options, labeller)
                for sha256, file in unique.items()
            ]
            started(len(tasks))
            done = []
            with closing(run_tasks(tasks, workers)) as results:
                for outcome in results:
                    if outcome.bad and not skip_bad:
                        raise SynthError(f"{outcome.bad}; --skip-bad goes on without it")
                    done.append(outcome)
                    finished(outcome)
            counts = write_triplets(target, folder, done, splits)
    except FolderInUseError as error:
        raise SynthError(f"OUT: {one_line(str(error))}") from None
    except BrokenProcessPool:
        raise SynthError("a worker process was killed (out of memory?): run again, with fewer --workers") from None
    except OSError as error:
        raise SynthError(f"{one_line(str(error.filename or target))}: {error.strerror or error}") from None
    used = [outcome for outcome in done if not outcome.bad]
    bad = tuple(sorted(outcome.bad for outcome in done if outcome.bad))
    if not used:
        raise SynthError(f"{folder}: no photograph in it can be used; {bad[0]}")
    duplicates = tuple(str(file) for file in files if unique[digests[file]] != file)
    return Summary(counts, len(used), sum(outcome.kept for outcome in used), bad, duplicates)


def splits_of(contents: list[str], options: SynthOptions) -> dict[str, str]:
    """The split, "val", "test" or "train", of each content, a SHA-256. Raises SynthError for too few contents."""
    seed = options.seed if options.split_seed is None else options.split_seed
    try:
        return split_contents(contents, seed, options.val, options.test)
    except ValueError as error:
        raise SynthError(f"{error}, or --val 0 --test 0") from None


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # a container's share, where os.cpu_count has the machine's
    return os.cpu_count() or 1


def _photographs(folder: Path, target: Path) -> list[Path]:
    if not folder.is_dir():
        raise SynthError(f"SOURCE_FOLDER: got {one_line(str(folder))}, want a folder with photographs")
    if folder.resolve() in (target.resolve(), *target.resolve().parents):
        raise SynthError(f"OUT: got {one_line(str(target))}, want a folder that is not in SOURCE_FOLDER")
    files = image_files(folder)
    if not files:
        raise SynthError(f"SOURCE_FOLDER: no photographs ({' '.join(SUFFIXES)}) in {one_line(str(folder))}")
    return files


def _folder_name(file: Path, sha256: str) -> str:
    """A unique name that tells the photograph and is valid on every file system."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', file.stem)[:40]}-{sha256[:12]}"


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for group, values in settings.items():
        yield from ((f"{group} {name}", value) for name, value in values.items())


def _versions(options: SynthOptions, labeller: Labeller | Mapping[str, Scorer]) -> dict[str, Any]:
    """The versions that decide the output. Raises SynthError for a missing metric."""
    versions: dict[str, Any] = {"format": FORMAT, "pillow": PIL.__version__, "numpy": np.__version__}
    versions |= {name: codec_version(name) for name in options.codecs}
    if not isinstance(labeller, Labeller):
        return versions | {name: scorer.implementation() for name, scorer in labeller.items()}
    if labeller.package is not None:
        versions[labeller.package] = importlib.metadata.version(labeller.package)
    return versions


def _check_settings(
    target: Path, options: SynthOptions, versions: Mapping[str, Any], photographs: dict[str, str]
) -> None:
    """Write synth.json, or raise SynthError if an existing one differs from the settings of this call."""
    settings = {"option": settings_of(options), "version of": versions, "photograph": photographs}
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    path = target / SETTINGS
    if not path.exists():
        if not is_empty(target):
            raise SynthError(f"OUT: got {one_line(str(target))}, a folder of other files, want a new or an empty one")
        write_atomically(path, text.encode("utf-8", "surrogateescape"))
        return
    try:
        before = dict(_flat(json.loads(path.read_text("utf-8", "surrogateescape"))))
    except (ValueError, AttributeError):
        raise SynthError(f"{one_line(str(path))}: damaged; want another OUT") from None
    now = dict(_flat(json.loads(text)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            was, is_ = before.get(name, "nothing"), now.get(name, "nothing")
            reason = f"{one_line(name)}: got {is_}, want {was}, with which OUT was made; or another OUT"
            raise SynthError(f"{one_line(str(path))}: {reason}")
