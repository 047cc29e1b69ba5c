"""Kinds of data sets, by the names that recipes use: options, distorted photographs, views, rated images."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from fastiqa.data import (
    SETS,
    ContrastiveDataset,
    DistortedImages,
    ImageError,
    RandomCrop,
    RandomFlippedCrop,
    RatedDataset,
    TestCrops,
    TripletDataset,
    read_bapps,
    read_clic,
    read_pieapp,
    read_rated,
    read_synth,
)
from fastiqa.data.distortions import CLASSES
from fastiqa.data.triplets.sets import TRIPLET_SETS
from fastiqa.training.tasks import TASKS
from fastiqa.training.tasks.cached_features import FeatureTriplets
from fastiqa.training.tasks.comparison import RandomTriplets
from fastiqa.training.tasks.contrastive import RandomViews
from fastiqa.training.tasks.quality import RandomRated
from fastiqa.training.tasks.shared_data import read_photographs
from support import rated_folders

RATED, VIEWS = TASKS["quality"], TASKS["contrastive"]

CROPS = (RandomCrop, TripletDataset)
TAKERS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("comparison", "random"): (RandomTriplets,),
    ("comparison", "clic"): (read_clic, *CROPS),
    ("comparison", "bapps"): (read_bapps, *CROPS),
    ("comparison", "pieapp"): (read_pieapp, *CROPS),
    ("comparison", "synth"): (read_synth, *CROPS),
    ("comparison", "features"): (FeatureTriplets,),
    ("quality", "random"): (RandomRated,),
    ("quality", "distorted"): (read_photographs, DistortedImages),
    ("quality", "set"): (read_rated, RandomFlippedCrop, TestCrops, RatedDataset),
    ("contrastive", "random"): (RandomViews,),
    ("contrastive", "distorted"): (read_photographs, ContrastiveDataset),
}
# Options that the task adds, or that have a default of its own ("scores", "crops") or another name ("flip", "target",
# "means").
OWN = {
    "comparison": {"whole"},
    "quality": {"types", "target", "means", "view", "scores", "flip", "crops"},
    "contrastive": set(),
}
# Arguments that are no options: what the reader hands on, and what an option of another name decides.
NO_OPTIONS = {
    "n",
    "triplets",
    "transform",
    "photographs",
    "name",
    "images",
    "horizontal",
    "vertical",
    "teacher",
    "encode",
    "weights",
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of smooth patterns."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(8):
        colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        PIL.Image.fromarray(colours).resize((80, 72), PIL.Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


def rated(folder: Path, **options: Any) -> Any:
    return RATED.dataset("distorted", folder=str(folder), size=32, **options)


@pytest.mark.parametrize(("task", "kind"), [(name, kind) for name, task in TASKS.items() for kind in task.kinds])
def test_options_have_the_defaults_of_the_functions_that_take_them(task: str, kind: str) -> None:
    """An option and its default are written twice: in the dataclass of the kind, and in a reader or data set."""
    options = TASKS[task].kinds[kind]
    known = {f.name: f.default for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    assert sorted(known) == sorted(options.names())
    takers = TAKERS[task, kind if kind in ("random", "distorted") or task == "comparison" else "set"]
    theirs = [inspect.signature(taker).parameters for taker in takers]
    for name, default in known.items():
        if name not in OWN[task]:
            defaults = [parameters[name].default for parameters in theirs if name in parameters]
            defaults = [dataclasses.MISSING if each is inspect.Parameter.empty else each for each in defaults]
            assert defaults, name
            assert default in defaults, name
    for parameters in theirs:
        assert set(parameters) - set(known) <= NO_OPTIONS, parameters


def test_every_set_of_triplets_and_ratings_is_a_kind() -> None:
    assert set(TASKS["comparison"].kinds) == {"random", "features", *TRIPLET_SETS}
    assert set(TASKS["quality"].kinds) == {"random", "distorted", *SETS}


def test_distorted_photographs_come_with_level_and_type(photographs: Path) -> None:
    image, score, number = rated(photographs, types=True)[CLASSES.index(("jpeg", 4))]
    assert (image.shape, score.item()) == ((3, 32, 32), pytest.approx(0.2))
    names = sorted({name for name, _ in CLASSES})
    assert (names[number], number.dtype) == ("jpeg", torch.int64)
    assert len(rated(photographs)[0]) == 2


def test_parts_share_no_photograph_and_random_crops_change_with_the_epoch(photographs: Path) -> None:
    parts = {part: rated(photographs, part=part) for part in ("train", "val", "test")}
    shown = {part: {image.reference for image in dataset.records} for part, dataset in parts.items()}
    assert sum(map(len, shown.values())) == len(set.union(*shown.values())) == 8
    one, other = rated(photographs, types=True), rated(photographs, types=True)
    assert torch.equal(one[0][0], other[0][0])
    one.set_epoch(1)
    assert not torch.equal(one[0][0], other[0][0])
    middle = rated(photographs, random_crop=False)
    before = middle[0][0]
    middle.set_epoch(1)
    assert torch.equal(middle[0][0], before)


def test_windows_of_a_shrunk_photograph(photographs: Path) -> None:
    """80x72 pixels shrink to 60x54, where a window of 32 can move 28 pixels right and 22 down."""
    middle, windows = (rated(photographs, random_crop=False, longest_side=60, grid=grid) for grid in (1, 2))
    plain, crops = middle[0][0], windows[0][0]
    assert (plain.shape, crops.shape) == ((3, 32, 32), (4, 3, 32, 32))
    whole = rated(photographs, random_crop=False, longest_side=60).read(middle.records[0].image)
    assert whole.pixels.shape == (54, 60, 3)
    pixels = whole.tensor()[0]
    assert torch.equal(plain, pixels[:, 11:43, 14:46])
    assert torch.equal(crops[1], pixels[:, 5:37, 21:53])
    noisy = windows[CLASSES.index(("white_noise", 5))][0] - crops
    assert not torch.equal(noisy[0], noisy[3])  # random choices of its own
    assert rated(photographs, longest_side=81).read(middle.records[0].image).pixels.shape == (72, 80, 3)
    views = VIEWS.dataset("distorted", folder=str(photographs), crop=16, longest_side=40)
    assert views.read(middle.records[0].image).pixels.shape == (36, 40, 3)


def test_an_unreadable_photograph_is_replaced_by_the_next_one_at_the_same_level(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In whole ladders, each of one crop; the first photograph replaces the last."""
    for name in ("1.png", "2.png"):
        shutil.copy(photographs / name, tmp_path)
    for name in ("0.png", "3.png"):
        (tmp_path / name).write_bytes(b"no image")
    dataset = rated(tmp_path, on_unreadable="skip", ladders=True)
    shown = []
    dataset.item = lambda record, generator, item=dataset.item: (*item(record, generator), record, generator)
    for index in range(4 * len(CLASSES)):
        image, score, record, generator = dataset[index]
        assert (record.group, round(5 * (1 - score.item()))) == CLASSES[index % len(CLASSES)]
        shown.append((record.image.name, image, generator.bit_generator.state["state"]))
    names = ["1.png", "1.png", "2.png", "1.png"]
    assert [name for name, *_ in shown] == [name for name in names for _ in CLASSES]
    jpeg = CLASSES.index(("jpeg", 1))
    assert shown[jpeg][2] == shown[jpeg + 4][2] != shown[len(CLASSES) + jpeg][2]
    assert not torch.equal(shown[0][1], shown[len(CLASSES)][1])  # seen twice in the epoch, not the same crop
    assert sorted(dataset.unreadable) == [str(tmp_path / "0.png"), str(tmp_path / "3.png")]
    assert [message.endswith("; skipped") for message in caplog.messages] == [True, True]


def test_photographs_that_are_all_unreadable_end_the_epoch(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    dataset = rated(tmp_path, on_unreadable="skip")
    with pytest.raises(ImageError, match=r"18\.png: .*; nor could the photographs before it .* from number 3 on$"):
        dataset[3 * len(CLASSES) + 7]
    assert len(dataset.unreadable) == 16
    views = VIEWS.dataset("distorted", folder=str(tmp_path), crop=16, on_unreadable="skip")
    with pytest.raises(ImageError, match=r"15\.png: .*; nor could the photographs before it .* from number 0 on$"):
        views[0]


def test_views_of_photographs(photographs: Path) -> None:
    views, number = VIEWS.dataset("distorted", folder=str(photographs), crop=32, items=10, part="train")[3]
    assert (views.shape, number.dtype) == ((2, 3, 32, 32), torch.int64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "half"}, "part: got 'half', want one of 'all', 'train', 'val', 'test'"),
        ({"types": 1}, "types: got 1, want True or False"),
        ({"grid": 2}, "grid: got 2, want 1 with random_crop"),
        ({"longest_side": 31}, "longest_side: got 31, want an integer of at least 32"),
        ({"crop": 3}, "crop: unknown option of kind 'distorted', want one of folder, part, split_seed"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^" + message):
        rated(photographs, **options)
    with pytest.raises(ValueError, match=r"^folder: got 2024, want a path as a string, as '\./2024'$"):
        VIEWS.dataset("distorted", folder=2024)
    with pytest.raises(ValueError, match=r"folder: .* no images below it"):
        rated(tmp_path)


def tid2013(folder: Path, **options: Any) -> Any:
    return RATED.dataset("tid2013", folder=str(folder), size=32, **options)


def test_rated_images_come_as_random_crops_fixed_ones_or_whole(tmp_path: Path) -> None:
    """Crops enlarge images of 16x12 pixels; every image comes as often as it has crops."""
    folder = rated_folders.tid2013(tmp_path)
    images = read_rated("tid2013", folder)
    random = tid2013(folder, crops=3)
    assert (len(random), random[0][0].shape) == (3 * len(images), (3, 32, 32))
    assert random[len(images)][1] == random[0][1] == pytest.approx(images[0].score)
    assert not torch.equal(random[len(images)][0], random[0][0])
    fixed = tid2013(folder, view="fixed", crops=3)
    assert (len(fixed), fixed[0][0].shape) == (len(images), (3, 3, 32, 32))
    assert tid2013(folder, view="whole")[0][0].shape == (3, 12, 16)
    assert tid2013(folder, resize=[40, 48], view="fixed")[0][0].shape == (1, 3, 32, 32)
    unit = tid2013(folder, scores="unit")
    assert unit[0][1] == pytest.approx(images[0].score / 9)


def test_types_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = rated_folders.tid2013(tmp_path)
    groups = [image.group for image in read_rated("tid2013", folder)]
    numbers = [int(number) for _, _, number in map(tid2013(folder, types=True).__getitem__, range(len(groups)))]
    assert [sorted(set(groups))[number] for number in numbers] == groups
    with pytest.raises(ValueError, match=r"on_unreadable: got 'skip', want 'raise' with types"):
        tid2013(folder, types=True, on_unreadable="skip")


def test_a_type_has_the_same_number_in_every_part(tmp_path: Path) -> None:
    """One reference shows AGN and SSR, the other JPEG: no part has all types."""
    folder = rated_folders.tid2013(tmp_path)
    numbers = {}
    for part in ("train", "test"):
        options: dict[str, Any] = {"part": part, "train": 0.5}
        groups = [image.group for image in read_rated("tid2013", folder, **options)]
        items = tid2013(folder, types=True, **options)
        assert len(items) == len(groups) < 3
        numbers |= {group: int(items[i][2]) for i, group in enumerate(groups)}
    assert numbers == {"AGN": 0, "JPEG": 1, "SSR": 2}
