"""RatedDataset, its transforms and the split by reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from fastiqa.data import (
    Image,
    ImageError,
    RandomFlippedCrop,
    RatedDataset,
    RatedImage,
    TestCrops,
    read_image,
    split_by_reference,
)
from fastiqa.data.triplets.transforms import enlarged
from support import labelled_folders as folders


@pytest.fixture
def images(tmp_path):
    """Six random 40x60 images of three references, scores 0, 0.5, ..., 2.5."""
    paths = [folders.png(tmp_path / f"{i}.png", (40, 60)) for i in range(6)]
    return [RatedImage(path, i / 2, f"ref{i // 2}", "blur") for i, path in enumerate(paths)]


def noise(height, width):
    return Image(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8), 8, Path("noise.png"))


def place(crop, image):
    """Top and left of a crop (3, h, w) in an image (3, H, W)."""
    windows = image.unfold(1, crop.shape[1], 1).unfold(2, crop.shape[2], 1)
    ((top, left),) = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
    return top, left


def test_items_are_what_read_image_reads(images):
    dataset = RatedDataset(images)
    for i, rated in enumerate(images):
        image, score = dataset[i]
        assert torch.equal(image, read_image(rated.image).tensor()[0])
        assert (score.dtype, score.shape, float(score)) == (torch.float32, (), i / 2)
    batch, scores = next(iter(DataLoader(dataset, batch_size=6)))
    assert (batch.shape, scores.tolist()) == ((6, 3, 40, 60), [0, 0.5, 1, 1.5, 2, 2.5])


def test_an_item_is_a_function_of_seed_epoch_and_index_alone(images):
    def items(seed, epoch, order):
        dataset = RatedDataset(images, RandomFlippedCrop(16), seed=seed)
        dataset.set_epoch(epoch)
        return {i: dataset[i][0] for i in order}

    first, again, other_epoch, other_seed = (
        items(5, 3, range(6)), items(5, 3, (4, 2)), items(5, 2, (4,)), items(6, 3, (4,)),
    )  # fmt: skip
    assert torch.equal(first[4], again[4])
    assert torch.equal(first[2], again[2])
    assert not torch.equal(first[4], other_epoch[4])
    assert not torch.equal(first[4], other_seed[4])


def test_an_unreadable_image_ends_the_epoch_or_is_passed_over(images, caplog):
    folders.truncated(images[1].image)
    with pytest.raises(ImageError, match=r"1\.png"):
        RatedDataset(images)[1]
    dataset = RatedDataset(images, on_unreadable="skip")
    assert float(dataset[1][1]) == 1.0  # of image 2
    assert list(dataset.unreadable) == [str(images[1].image)]
    assert dataset[1][1] == dataset[2][1]
    (warning,) = caplog.messages
    assert warning.startswith(f"{images[1].image}: ")
    assert warning.endswith("; skipped")


def test_bad_arguments_are_named(images):
    with pytest.raises(ValueError, match="images: got none, want at least one"):
        RatedDataset([])
    with pytest.raises(ValueError, match=r"images\[1\]\.score: got nan, want a finite number"):
        RatedDataset([images[0], images[1]._replace(score=float("nan"))])
    with pytest.raises(ValueError, match="on_unreadable: got 'ignore'"):
        RatedDataset(images, on_unreadable="ignore")
    with pytest.raises(ValueError, match="size: got 0"):
        RandomFlippedCrop(0)
    with pytest.raises(ValueError, match="resize: got 384, want 2 positive integers"):
        RandomFlippedCrop(resize=384)
    with pytest.raises(ValueError, match="n: got 0"):
        TestCrops(0, 8)


def test_crops_are_mirrored_in_both_directions_and_reach_every_border():
    image = noise(9, 10)
    whole = image.tensor()[0]
    seen = set()
    for seed in range(400):
        crop = RandomFlippedCrop(8)(image, np.random.default_rng(seed))
        for flips in ((), (-1,), (-2,), (-1, -2)):
            windows = whole.unfold(1, 8, 1).unfold(2, 8, 1)
            match = (windows == crop.flip(flips)[:, None, None]).all(-1).all(-1).all(0).nonzero()
            seen |= {(flips, *map(int, found)) for found in match}
    assert len(seen) == 4 * 2 * 3
    plain = RandomFlippedCrop(8, horizontal=False, vertical=False)
    assert {place(plain(image, np.random.default_rng(seed)), whole) for seed in range(60)} == {
        (top, left) for top in range(2) for left in range(3)
    }


def test_small_images_are_enlarged_and_large_ones_resized_first():
    crop = RandomFlippedCrop(24, horizontal=False, vertical=False)
    generator = np.random.default_rng
    assert crop(noise(12, 20), generator(0)).shape == (3, 24, 24)
    smooth = Image(np.full((40, 60, 3), 51, np.uint8), 8, Path("flat.png"))
    resized = RandomFlippedCrop(24, resize=(24, 36))(smooth, generator(0))
    assert resized.shape == (3, 24, 24)
    torch.testing.assert_close(resized, torch.full((3, 24, 24), 0.2))
    image = noise(48, 72)
    small = interpolate(image.tensor(), size=(24, 24), mode="bilinear", align_corners=False, antialias=True)[0]
    assert torch.equal(RandomFlippedCrop(24, (24, 24), False, False)(image, generator(0)), small)


@pytest.mark.parametrize("shape", [(40, 60), (24, 60), (24, 24), (20, 60)])
@pytest.mark.parametrize("resize", [None, (40, 60), (30, 50)])
def test_crops_are_those_of_the_whole_image_as_numbers(shape, resize):
    """Crops before and after the conversion to float are equal bit for bit, with the same draws; at 16 bits too."""
    pixels = np.random.default_rng(2).integers(0, 2**16, (*shape, 3), dtype=np.uint16)
    for image in (noise(*shape), Image(pixels, 16, Path("deep.png"))):
        whole = image.tensor()
        if resize is not None and resize != shape:
            whole = interpolate(whole, size=resize, mode="bilinear", align_corners=False, antialias=True)
        (whole,) = enlarged(whole, 24)

        def crops(n, random, whole=whole):
            places = [random.integers([side - 23 for side in whole.shape[1:]]) for _ in range(n)]
            return torch.stack([whole[:, top : top + 24, left : left + 24] for top, left in places])

        for n in (1, 5):
            got = TestCrops(n, 24, seed=3, resize=resize)(image)
            assert got.is_contiguous()
            assert torch.equal(got, crops(n, np.random.default_rng(3)))
        mine, theirs = np.random.default_rng(4), np.random.default_rng(4)
        crop = RandomFlippedCrop(24, resize, vertical=False)(image, mine)
        (plain,) = crops(1, theirs)
        assert torch.equal(crop, plain.flip(-1) if theirs.random(2)[0] < 0.5 else plain)
        assert mine.random() == theirs.random()


def test_of_a_large_image_no_more_is_converted_than_the_crops(monkeypatch):
    converted = []
    tensor = Image.tensor
    monkeypatch.setattr(Image, "tensor", lambda image: converted.append(image.pixels.shape) or tensor(image))
    image = noise(300, 400)
    for resize in (None, (300, 400)):
        RandomFlippedCrop(32, resize)(image, np.random.default_rng(0))
        TestCrops(3, 32, resize=resize)(image)
    assert converted == [(32, 32, 3)] * 8
    TestCrops(118, 32)(image)  # more pixels than the image has
    assert converted[8:] == [(300, 400, 3)]


def test_an_image_that_would_grow_too_large_is_refused():
    wanted = r"noise\.png: is 4000x1 pixels, more than \d+ \(PIL.Image.MAX_IMAGE_PIXELS\) with the shorter side enl"
    for transform in (TestCrops(), RandomFlippedCrop()):
        with pytest.raises(ImageError, match=wanted):
            transform(noise(1, 4000), np.random.default_rng(0))
    assert TestCrops(2, 32)(noise(1, 4000)).shape == (2, 3, 32, 32)


def test_test_crops_are_the_same_in_every_epoch_and_differ_among_themselves(images):
    dataset = RatedDataset(images, TestCrops(5, 16, seed=3))
    crops, _ = dataset[1]
    assert crops.shape == (5, 3, 16, 16)
    dataset.set_epoch(7)
    assert torch.equal(dataset[1][0], crops)
    whole = read_image(images[1].image).tensor()[0]
    assert len({place(crop, whole) for crop in crops}) > 1
    assert torch.equal(TestCrops(3, 16, seed=3)(read_image(images[1].image)), crops[:3])
    assert not torch.equal(TestCrops(5, 16, seed=4)(read_image(images[1].image)), crops)


# split by reference


@pytest.mark.parametrize(("references", "train"), [(29, 23), (30, 24), (25, 20), (1162, 930)])
def test_no_reference_is_in_two_parts_of_a_split(references, train):
    images = [RatedImage(Path(f"{r}_{i}.bmp"), 1.0, f"ref{r}") for r in range(references) for i in range(3)]
    split = split_by_reference(images, seed=1)
    contents = {name: {image.reference for image in part} for name, part in split.items()}
    assert {name: len(content) for name, content in contents.items()} == {
        "train": train, "val": 0, "test": references - train,
    }  # fmt: skip
    assert contents["train"].isdisjoint(contents["test"])
    assert sorted(image for part in split.values() for image in part) == sorted(images)


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    images = [RatedImage(Path(f"{r}.bmp"), 1.0, f"ref{r}") for r in range(20)]
    first = split_by_reference(images, seed=0, train=0.6, val=0.2)
    backwards = split_by_reference(images[::-1], seed=0, train=0.6, val=0.2)
    assert {name: sorted(part) for name, part in backwards.items()} == {n: sorted(part) for n, part in first.items()}
    assert [len(part) for part in first.values()] == [12, 4, 4]
    assert split_by_reference(images, seed=1, train=0.6, val=0.2) != first
    assert split_by_reference(images, seed=0, train=0.8, val=0.2)["test"] == []


def test_a_split_that_cannot_be_is_refused():
    images = [RatedImage(Path(f"{r}.bmp"), 1.0, f"ref{r % 2}") for r in range(20)]
    with pytest.raises(ValueError, match=r"got 2 references, want enough for a share of 0\.2 in 'test'"):
        split_by_reference(images, seed=0)
    with pytest.raises(ValueError, match=r"train: got 1\.2"):
        split_by_reference(images, seed=0, train=1.2)
    with pytest.raises(ValueError, match=r"val: got 0\.5, want a share from 0 to 0\.2"):
        split_by_reference(images, seed=0, val=0.5)
    with pytest.raises(ValueError, match="seed: got -1"):
        split_by_reference(images, seed=-1)
