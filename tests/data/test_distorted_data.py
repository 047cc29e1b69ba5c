"""Data sets of distorted photographs: ContrastiveDataset and DistortedImages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from fastiqa.data import ImageError
from fastiqa.data.distortions import CLASSES, DISTORTIONS, contrastive
from fastiqa.data.distortions.contrastive import ContrastiveDataset
from fastiqa.data.images.photographs import Photographs, split_photographs
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.training.tasks.quality import WithTypes
from support.pictures import six_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    return six_photographs(tmp_path)


def test_views_are_of_two_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a photograph with the row as red and the column as green, mirrored or not."""
    monkeypatch.setattr(contrastive, "CLASSES", CLASSES[:1])
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    PIL.Image.fromarray(np.stack([rows, columns, rows], -1)).save(tmp_path / "ramp.png")
    dataset = ContrastiveDataset([tmp_path / "ramp.png"], crop=24, items=40, colour_spaces=["rgb"])
    first, mirrored, corners = set(), set(), set()
    for views, number in (dataset[i] for i in range(40)):
        assert views.shape == (2, 3, 24, 24)
        assert views.dtype == torch.float32
        assert (number.item(), number.dtype) == (0, torch.int64)
        codes = views * 255
        steps = codes[:, 0].diff(dim=1).mean((1, 2)).round().int().tolist()
        across = codes[:, 1].diff(dim=2).mean((1, 2)).round().int()
        assert sorted(steps) == [1, 2]
        assert across.abs().tolist() == steps
        first.add(steps[0])
        mirrored.update(across.sign().tolist())
        corners.add((codes[0, 0].min().item(), codes[0, 1].min().item()))
    assert (first, mirrored) == ({1, 2}, {-1, 1})
    assert len(corners) > 30


def test_items_depend_on_seed_epoch_and_number_alone(photographs: list[Path]) -> None:
    dataset, same = (ContrastiveDataset(photographs, crop=16, items=150, seed=3) for _ in range(2))
    kept = ContrastiveDataset(photographs, crop=16, items=150, seed=3, keep=True)
    assert all(torch.equal(a, b) for i in (7, 0, -1) for a, b in zip(dataset[i], same[i], strict=True))
    assert all(torch.equal(a, b) for i in (7, 0, 6) for a, b in zip(dataset[i], kept[i], strict=True))
    other = ContrastiveDataset(photographs, crop=16, items=150, seed=4)
    same.set_epoch(1)
    for changed in (other, same):
        assert not torch.equal(changed[7][0], dataset[7][0])
    same.set_epoch(0)
    assert torch.equal(same[7][0], dataset[7][0])
    classes = [int(dataset[i][1]) for i in range(150)]
    assert len(set(classes)) > 70
    assert 0 <= min(classes) < 6
    assert 119 < max(classes) <= 125


def test_views_are_seen_in_all_colour_spaces(photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "CLASSES", CLASSES[:1])
    dataset = ContrastiveDataset(photographs, crop=16, items=40)
    views = torch.cat([dataset[i][0] for i in range(40)])
    grey = ((views[:, 0] == views[:, 1]) & (views[:, 1] == views[:, 2])).flatten(1).all(1)
    assert 5 <= grey.sum() <= 30
    assert views.min() > -1e-6
    assert views.max() < 1 + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 8}, "crop: got 8, want an integer of at least 16"),
        ({"items": 0}, "items: got 0, want an integer of at least 1"),
        ({"colour_spaces": ["cmyk"]}, "colour_spaces: got 'cmyk', want one of 'rgb', 'grey'"),
        ({"colour_spaces": []}, "colour_spaces: got none, want at least one"),
        ({"seed": -1}, "seed: got -1, want an integer of at least 0"),
    ],
)
def test_bad_options(photographs: list[Path], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveDataset(photographs, **options)  # type: ignore[arg-type]


def test_a_photograph_too_small_is_named(photographs: list[Path]) -> None:
    for dataset in (ContrastiveDataset(photographs, crop=37), DistortedImages(photographs, size=74)):
        with pytest.raises(ImageError, match=r"0\.png: is 80x72 pixels, want both sides at least 74"):
            dataset[0]
    with pytest.raises(ValueError, match="photographs: got none, want at least one"):
        DistortedImages([])


def test_distorted_images_are_every_type_at_every_level(photographs: list[Path]) -> None:
    dataset = DistortedImages(photographs[:2], size=48, random_crop=False)
    assert len(dataset) == 2 * 126
    plain, score = dataset[126]
    assert (score.item(), score.dtype) == (1.0, torch.float32)
    pixels = np.asarray(PIL.Image.open(photographs[1]))[12:60, 16:64]
    assert np.array_equal(np.rint(plain.permute(1, 2, 0).numpy() * 255), pixels)
    for i, record in enumerate(dataset.records[127:252], 127):
        image, score = dataset[i]
        assert image.shape == (3, 48, 48)
        assert score == record.score == pytest.approx(1 - CLASSES[i - 126][1] / 5)
        assert (record.group, record.image) == (CLASSES[i - 126][0], photographs[1])
        assert not torch.equal(image, plain), record
    assert {record.group for record in dataset.records} == {"none", *DISTORTIONS}
    assert len({record.reference for record in dataset.records}) == 2


def test_distorted_images_are_cropped_at_random(photographs: list[Path]) -> None:
    dataset, same = (DistortedImages(photographs[:1], size=48, seed=2) for _ in range(2))
    assert torch.equal(dataset[3][0], same[3][0])
    same.set_epoch(5)
    assert not torch.equal(dataset[3][0], same[3][0])
    assert not torch.equal(dataset[0][0], same[0][0])


def test_distorted_images_come_again(photographs: list[Path]) -> None:
    fresh, again = (DistortedImages(photographs[:1], size=48, repeat_after=after) for after in (None, 2))
    codes = [(fresh[7][0] * 255).round()]
    assert torch.equal((again[7][0] * 255).round(), codes[0])
    for dataset in (fresh, again):
        dataset.set_epoch(3)
    assert not torch.equal((fresh[7][0] * 255).round(), (again[7][0] * 255).round())
    again.set_epoch(2)
    again.read = Photographs(1000, keep=False)  # would refuse the photograph
    assert torch.equal((again[-119][0] * 255).round(), codes[0])
    assert again[7][1] == fresh[7][1]


def test_the_levels_of_a_ladder_are_of_one_crop(photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DistortedImages(photographs[:2], size=48, ladders=True)
    assert [len(block) for block in dataset.blocks] == [1, *[5] * 25] * 2
    assert [index for block in dataset.blocks for index in block] == list(range(252))
    for block in dataset.blocks[1:26]:
        ladder = [dataset.records[index] for index in block]
        assert [round(5 * (1 - record.score)) for record in ladder] == [1, 2, 3, 4, 5]
        assert len({(record.image, record.group) for record in ladder}) == 1
    calls: list[tuple[Tensor, int]] = []

    def untouched(crops: Tensor, _name: str, _level: int, random: torch.Generator) -> Tensor:
        calls.append((crops, random.initial_seed()))
        return crops

    monkeypatch.setattr("fastiqa.data.rated.distorted.distort", untouched)
    for index in (1, 5, 6):
        dataset[index]
    (first, seed), (fifth, same), (other, another) = calls
    assert torch.equal(first, fifth)
    assert seed == same
    assert not torch.equal(first, other)
    assert seed != another
    assert WithTypes(dataset).blocks == dataset.blocks


def test_photographs_are_split_by_content(photographs: list[Path]) -> None:
    parts = split_photographs(photographs, seed=1, val=0.2, test=0.2)
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "val": 1, "test": 1}
    assert sorted(path for part in parts.values() for path in part) == photographs[:5]  # the sixth equals the first
    renamed = [path.rename(path.with_name(f"renamed-{9 - int(path.stem)}.png")) for path in photographs]
    again = split_photographs(sorted(renamed), seed=1, val=0.2, test=0.2)
    assert [p.read_bytes() for p in again["test"]] == [
        renamed[photographs.index(p)].read_bytes() for p in parts["test"]
    ]
    with pytest.raises(ValueError, match="photographs: got 1, want at least 3"):
        split_photographs(renamed[:1])
