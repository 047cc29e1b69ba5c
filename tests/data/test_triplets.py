"""TripletDataset and its transforms: one crop for all three images, reproducible to the bit; unreadable files."""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile

import pytest
import torch
from torch.utils.data import DataLoader

from fastiqa.data import (
    ImageError,
    RandomCrop,
    Triplet,
    TripletDataset,
    WholeImage,
    read_clic,
    read_image,
)
from fastiqa.data.images import photographs as photographs_module
from support import labelled_folders as folders
from support.shared_data import shared_file


@pytest.fixture
def triplets(tmp_path):
    """Six triplets of random 40x60 images, labels 0, 0.2, ..., 1."""
    paths = [[folders.png(tmp_path / f"{i}{part}.png", (40, 60)) for part in "oab"] for i in range(6)]
    return [Triplet(*path, label=i / 5) for i, path in enumerate(paths)]


def whole(triplet):
    return [read_image(path).tensor()[0] for path in triplet[:3]]


def place(crop, image):
    """Top and left of a crop (3, h, w) in an image (3, H, W)."""
    windows = image.unfold(1, crop.shape[1], 1).unfold(2, crop.shape[2], 1)
    found = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero()
    assert len(found) == 1
    return tuple(found[0].tolist())


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_items_are_what_read_image_reads(triplets):
    dataset = TripletDataset(triplets)
    assert len(dataset) == 6
    for i in range(6):
        *images, label = dataset[i]
        assert same(images, whole(triplets[i]))
        assert all(image.dtype == torch.float32 and image.shape == (3, 40, 60) for image in images)
        assert label.dtype == torch.float32
        assert label.shape == ()
        assert float(label) == pytest.approx(i / 5)
    assert same(dataset[-1], dataset[5])
    with pytest.raises(IndexError):
        dataset[6]


def test_crops_are_the_same_of_all_three(triplets):
    dataset = TripletDataset(triplets, RandomCrop(16, flip=False, swap=False))
    places = set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        *crops, _ = dataset[1]
        assert all(crop.shape == (3, 16, 16) for crop in crops)
        (found,) = {place(crop, image) for crop, image in zip(crops, whole(triplets[1]), strict=True)}
        places.add(found)
    assert len(places) > 15  # of 25 x 45


def test_crops_reach_every_border(triplets):
    """An image one pixel larger than the crop has four places, and each is drawn."""
    dataset = TripletDataset(triplets, RandomCrop(39, flip=False, swap=False))
    rows = set()
    for epoch in range(30):
        dataset.set_epoch(epoch)
        rows.add(place(dataset[0][0], whole(triplets[0])[0])[0])
    assert rows == {0, 1}


def test_flips_mirror_all_three_and_swaps_exchange_the_label(triplets):
    ref, a, b = whole(triplets[1])
    dataset = TripletDataset(triplets, RandomCrop(64, small="native"))
    seen = []
    for epoch in range(100):
        dataset.set_epoch(epoch)
        *images, label = dataset[1]
        mirrored = not torch.equal(images[0], ref)
        images = [image.flip(-1) for image in images] if mirrored else images
        swapped = not torch.equal(images[1], a)
        assert same(images, (ref, b, a) if swapped else (ref, a, b))
        assert float(label) == pytest.approx(0.8 if swapped else 0.2)
        seen.append((mirrored, swapped))
    assert all(15 <= seen.count(pair) <= 35 for pair in ((0, 0), (0, 1), (1, 0), (1, 1)))


def test_flip_and_swap_can_be_switched_off(triplets):
    dataset = TripletDataset(triplets, RandomCrop(64, small="native", flip=False, swap=False))
    for epoch in range(10):
        dataset.set_epoch(epoch)
        assert same(dataset[2][:3], whole(triplets[2]))


def test_an_item_is_a_function_of_seed_epoch_and_index_alone(triplets):
    """A run resumed in epoch 3 at item 4 sees the first run's items, with or without workers."""
    transform = RandomCrop(16)
    first = TripletDataset(triplets, transform, seed=5)
    seen = {}
    for epoch in range(4):
        first.set_epoch(epoch)
        seen |= {(epoch, i): first[i] for i in range(6)}
    resumed = TripletDataset(triplets, transform, seed=5)
    resumed.set_epoch(3)
    assert same(resumed[4], seen[3, 4])
    assert not same(resumed[4], seen[2, 4])
    other = TripletDataset(triplets, transform, seed=6)
    other.set_epoch(3)
    assert not same(other[4], seen[3, 4])
    # equal images at different indices are cropped differently
    repeated = TripletDataset([triplets[0]] * 8, transform)
    assert len({float(repeated[i][0].sum()) for i in range(8)}) > 4


def test_set_epoch_reaches_persistent_workers(triplets):
    dataset = TripletDataset(triplets, RandomCrop(16))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        refs = torch.cat([batch[0] for batch in loader])
        assert torch.equal(refs, torch.stack([dataset[i][0] for i in range(6)]))


def test_small_images_are_enlarged_or_stay(tmp_path):
    """BAPPS' 64x64 in the second step: the paper's 448x448, or native pixels."""
    path = folders.png(tmp_path / "patch.png", 64)
    dataset = [Triplet(path, path, path, 1.0)]
    upscaled = TripletDataset(dataset, RandomCrop(448, flip=False))[0][0]
    assert upscaled.shape == (3, 448, 448)
    assert 0 <= float(upscaled.min()) < float(upscaled.max()) <= 1
    image = read_image(path).tensor()
    bicubic = torch.nn.functional.interpolate(image, size=(448, 448), mode="bicubic", align_corners=False)
    assert torch.equal(upscaled, bicubic[0].clamp(0, 1))
    native = TripletDataset(dataset, RandomCrop(448, small="native", flip=False))[0][0]
    assert torch.equal(native, image[0])


@pytest.mark.parametrize(
    ("shape", "upscaled", "native"),
    [((40, 60), (48, 48), (40, 48)), ((60, 40), (48, 48), (48, 40)), ((1, 90), (48, 48), (1, 48))],
)
def test_small_policies_of_images_that_are_not_square(tmp_path, shape, upscaled, native):
    path = folders.png(tmp_path / "image.png", shape)
    triplet = [Triplet(path, path, path, 0.0)]
    assert TripletDataset(triplet, RandomCrop(48))[0][0].shape[1:] == upscaled
    assert TripletDataset(triplet, RandomCrop(48, small="native"))[0][0].shape[1:] == native


def test_whole_images_are_padded_by_reflection(triplets):
    ref, a, _, label = TripletDataset(triplets, WholeImage(32))[1]
    image = whole(triplets[1])[0]
    assert ref.shape == a.shape == (3, 64, 64)
    assert torch.equal(ref[:, :40, :60], image)
    assert torch.equal(ref[:, 40:, :60], image[:, 15:39].flip(1))
    assert float(label) == pytest.approx(0.2)
    assert TripletDataset(triplets, WholeImage(8, shorter_side=48))[1][0].shape == (3, 48, 72)
    assert same(TripletDataset(triplets, WholeImage(20, shorter_side=20))[0][:3], whole(triplets[0]))


def test_whole_images_too_small_to_be_reflected_are_named(tmp_path):
    path = folders.png(tmp_path / "tiny.png", 12)
    with pytest.raises(ValueError, match=r"tiny\.png: got 12x12 pixels, want more than half of 32"):
        TripletDataset([Triplet(path, path, path, 0.0)], WholeImage(32))[0]


def test_kept_images_are_read_once(triplets, monkeypatch):
    plain, kept = (TripletDataset(triplets, RandomCrop(8), keep=keep) for keep in (False, True))
    want = [plain[i] for i in range(len(plain))]
    read = []
    monkeypatch.setattr(photographs_module, "read_image", lambda path: read.append(path) or read_image(path))
    for _ in range(2):
        assert all(same(kept[i], item) for i, item in enumerate(want))
    assert sorted(read) == sorted({path for triplet in triplets for path in triplet[:3]})


def damage(triplets, index, part):
    return folders.truncated(triplets[index][part])


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_unreadable_image_ends_the_epoch_and_is_named(triplets, part):
    path = damage(triplets, 2, part)
    dataset = TripletDataset(triplets)
    dataset[1]
    with pytest.raises(ImageError, match=f"{path.name}: the file is truncated") as error:
        dataset[2]
    assert error.value.path == str(path)
    with pytest.raises(RuntimeError, match=rf"{path.name}: the file is truncated"):
        list(DataLoader(dataset, batch_size=2, num_workers=1))


def test_an_unreadable_image_is_skipped_and_named_once(triplets, caplog):
    path = damage(triplets, 5, 1)
    dataset = TripletDataset(triplets, on_unreadable="skip")
    with caplog.at_level(logging.WARNING, logger="fastiqa"):
        for _ in range(3):
            batches = list(DataLoader(dataset, batch_size=2))
    assert [len(batch[3]) for batch in batches] == [2, 2, 2]
    assert same(dataset[5], dataset[0])  # the next readable triplet replaces it
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the file is truncated; triplets with this image are skipped"
    ]
    assert dataset.unreadable == {str(path): "the file is truncated"}


def test_what_takes_the_place_is_cropped_by_the_place(triplets):
    """The replacement triplet appears twice in the epoch, with different crops."""
    damage(triplets, 2, 0)
    dataset = TripletDataset(triplets, RandomCrop(16), on_unreadable="skip")
    assert not same(dataset[2], dataset[3])
    assert same(dataset[2], TripletDataset(triplets, RandomCrop(16), on_unreadable="skip")[2])


def test_a_vanished_folder_is_not_skipped_for_ever(tmp_path):
    gone = [Triplet(*[tmp_path / f"{i}{part}.png" for part in "oab"], label=0.5) for i in range(40)]
    dataset = TripletDataset(gone, on_unreadable="skip")
    with pytest.raises(ImageError, match=r"22o\.png: no such file; nor could .* be read, from number 7 on"):
        dataset[7]
    assert len(dataset.unreadable) == 16
    with pytest.raises(ImageError, match="no such file"):
        TripletDataset(gone[:1], on_unreadable="skip")[0]


def test_images_of_different_sizes_are_unreadable(triplets):
    folders.png(triplets[0].b, (40, 61))
    with pytest.raises(ImageError, match=r"0b\.png: is 61x40 pixels, its reference .*0o\.png is 60x40"):
        TripletDataset(triplets)[0]
    assert same(TripletDataset(triplets, on_unreadable="skip")[0][:3], whole(triplets[1]))


def test_arguments_are_checked(triplets):
    with pytest.raises(ValueError, match="triplets: got none, want at least one"):
        TripletDataset([])
    for label in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"triplets\[1\]\.label: got {label}, want a probability"):
            TripletDataset([triplets[0], triplets[1]._replace(label=label)])
    with pytest.raises(ValueError, match="on_unreadable: got 'ignore', want one of 'raise', 'skip'"):
        TripletDataset(triplets, on_unreadable="ignore")
    with pytest.raises(ValueError, match="seed: got -1"):
        TripletDataset(triplets, seed=-1)
    with pytest.raises(ValueError, match="epoch: got -1"):
        TripletDataset(triplets).set_epoch(-1)
    for options, name in (({"size": 0}, "size"), ({"small": "pad"}, "small"), ({"flip": 1}, "flip")):
        with pytest.raises(ValueError, match=f"{name}: got"):
            RandomCrop(**options)
    with pytest.raises(ValueError, match="multiple: got 0"):
        WholeImage(0)
    with pytest.raises(ValueError, match="shorter_side: got 0"):
        WholeImage(shorter_side=0)


def open_at(path):
    """The descriptors of a file that this process has open, with their positions."""
    wanted, found = path.stat().st_ino, {}
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == wanted:
                found[descriptor] = os.lseek(descriptor, 0, os.SEEK_CUR)
    return found


def test_workers_share_no_position_in_an_archive(tmp_path):
    """A forked worker shares the position of inherited descriptors with its parent: reading would move both."""
    csv = folders.clic(tmp_path)
    wanted = [TripletDataset(read_clic(csv))[i] for i in range(4)]
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(tmp_path.glob("*.png")):
            opened.write(file, file.name)
            file.unlink()
    dataset = TripletDataset(read_clic(csv))
    assert same(dataset[0], wanted[0])
    before = open_at(archive)
    assert before
    items = list(DataLoader(dataset, batch_size=None, num_workers=1))
    assert all(same(item, other) for item, other in zip(items, wanted, strict=True))
    assert open_at(archive) == before


def test_published_triplet_through_the_dataset():
    ref, a, b = (shared_file(f"lpips/ex_{name}.png") for name in ("ref", "p0", "p1"))
    item = TripletDataset([Triplet(ref, a, b, 1.0, "traditional")], RandomCrop(448, flip=False, swap=False))[0]
    assert [tensor.shape for tensor in item] == [(3, 448, 448)] * 3 + [()]
