"""Feature caches: their rows, their places, and what invalidates them."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import fastiqa
from fastiqa.data import ImageError, read_image
from fastiqa.evaluation.features import FeatureCache, backbone_sha256, numbers_of, unpacked, write_features
from support.synth_folders import content, small_folder

CROP = 64


def network(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return fastiqa.create_model("prfnet_lite", first_stage_stride=4, **options).eval()


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("synth"))


@pytest.fixture(scope="module")
def cached(synth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    assert write_features(network(), synth, folder, crop=CROP, crops=2) == {"train": 32, "val": 16}
    return folder


def test_rows_are_the_networks_maps_of_the_crops(synth: Path, cached: Path) -> None:
    """To half a unit in float16's last place: 2^-11 of the value, 2^-25 near zero."""
    model, cache = network(), FeatureCache(cached, "train")
    assert cache.matrix.shape == (32, numbers_of(CROP, model.channels, model.strides))
    row = 0
    for group in cache.manifest["groups"]:
        top, left = group["place"]
        for name in group["images"]:
            image = read_image(synth / name).tensor()[..., top : top + CROP, left : left + CROP]
            with torch.no_grad():
                want = model.encode(image)
            got = unpacked([torch.from_numpy(cache.matrix[row : row + 1])], model.channels, model.strides)
            for maps, of_image in zip(got, want, strict=True):
                assert maps.shape == of_image.shape
                # one batch of convolutions may round unlike another: 1e-5 beside the rounding to float16
                torch.testing.assert_close(maps, of_image, rtol=2**-11 + 1e-5, atol=1e-5)
            row += 1
    assert row == 32


def test_a_photograph_and_its_codings_share_crops_that_the_seed_and_the_name_decide(
    synth: Path, cached: Path, tmp_path: Path
) -> None:
    groups = FeatureCache(cached, "train").manifest["groups"]
    images = [["reference.png", "0.png", "1.png", "2.png"]] * 8
    assert [[name.split("/")[1] for name in group["images"]] for group in groups] == images
    assert len({tuple(group["place"]) for group in groups}) > 4
    assert FeatureCache(cached, "train").rows()["photo1/1.png"] == [10, 14]
    write_features(network(), synth, tmp_path / "same", crop=CROP, crops=2)
    assert content(tmp_path / "same") == content(cached)
    write_features(network(), synth, tmp_path / "other", crop=CROP, crops=2, seed=1, splits=["val"])
    other = FeatureCache(tmp_path / "other", "val").manifest["groups"]
    assert [g["place"] for g in other] != [g["place"] for g in FeatureCache(cached, "val").manifest["groups"]]
    assert not (tmp_path / "other" / "train.json").exists()


def test_unpacked_joins_rows_for_the_packed_head() -> None:
    model = network()
    maps = [torch.randn(6, c, 96 // s, 96 // s).half() for c, s in zip(model.channels, model.strides, strict=True)]
    rows = torch.cat([of_stage.flatten(1) for of_stage in maps], 1)
    for got, want in zip(unpacked(rows.split(2), model.channels, model.strides), maps, strict=True):
        assert torch.equal(got, want.float())
    with pytest.raises(ValueError, match="rows: got 100 numbers, want a multiple of 2,944 by a square number"):
        unpacked([torch.zeros(1, 100)], model.channels, model.strides)


def test_complete_splits_are_kept_and_a_killed_run_leaves_no_cache(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = tmp_path / "features", []

    def stop(images: int, total: int) -> None:
        done.append(images)
        if images == 20:  # in the second split, val
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(network(), synth, folder, crop=CROP, on_image=stop)
    assert sorted(path.name for path in folder.iterdir()) == ["train.json", "train.npy", "triplets.csv"]
    with pytest.raises(ValueError, match=r"val\.json: no such file: fastiqa data features writes it when all else"):
        FeatureCache(folder, "val")
    kept, done = (folder / "train.npy").stat().st_mtime_ns, []
    assert write_features(network(), synth, folder, crop=CROP, on_image=lambda *n: done.append(n)) == {
        "train": 16,
        "val": 8,
    }
    assert done == [(4, 8), (8, 8)]
    assert (folder / "train.npy").stat().st_mtime_ns == kept
    # other weights: both splits anew; between the two files of a split there is no manifest
    monkeypatch.setattr("fastiqa.evaluation.features._crops", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_features(network(1), synth, folder, crop=CROP)
    assert not (folder / "train.json").exists()


def test_unfinished_files_of_a_killed_process_are_removed(synth: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / ".train.npy.0123456789abcdef.tmp"
    unfinished.mkdir()
    (unfinished / "new").write_bytes(b"half")
    write_features(network(), synth, tmp_path, crop=CROP, splits=["val"])
    assert not unfinished.exists()


def test_a_cache_is_refused_for_another_network(cached: Path) -> None:
    cache = FeatureCache(cached, "val")
    assert cache.model_error(network()) is None
    assert cache.model_error(network(fusion="fpn", symmetric=True)) is None  # another head
    assert cache.model_error(network(1)) is not None  # other random weights
    other = network()
    assert backbone_sha256(other) == cache.manifest["backbone_sha256"]
    with torch.no_grad():
        other.head.mlp[0].bias.add_(1)
        next(iter(other.backbone.buffers())).add_(0)
    assert cache.model_error(other) is None
    with torch.no_grad():
        next(iter(other.backbone.buffers())).add_(1)
    assert cache.model_error(other) == (
        f"{cached}: features of a backbone with other weights than the model's: compute them anew"
    )
    five = fastiqa.create_model("prfnet_lite")
    assert str(cache.model_error(five)).endswith(
        "features of channels [24, 40, 112, 320], the model has [16, 24, 40, 112, 320]"
    )


@pytest.mark.parametrize("where", ["cache", "source"])
def test_a_cache_is_refused_for_another_table(where: str, tmp_path: Path) -> None:
    synth, folder = small_folder(tmp_path / "synth"), tmp_path / "features"
    write_features(network(), synth, folder, crop=CROP)
    table = (folder if where == "cache" else synth) / "triplets.csv"
    table.write_text(table.read_text().replace("0.7", "0.6"))
    with pytest.raises(ValueError, match=re.escape(f"{table} is not the table of these features: compute them anew")):
        FeatureCache(folder, "train")
    write_features(network(), synth, folder, crop=CROP)
    FeatureCache(folder, "train")


def test_a_cache_needs_no_source(tmp_path: Path) -> None:
    synth, folder = small_folder(tmp_path / "synth"), tmp_path / "features"
    write_features(network(), synth, folder, crop=CROP)
    os.rename(synth, tmp_path / "gone")
    cache = FeatureCache(folder, "train")
    assert len(pickle.dumps(cache)) < 10_000 < cache.matrix.nbytes
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).matrix, cache.matrix)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train.json", lambda data: b"{", r"train\.json: is not JSON"),
        ("train.json", lambda data: b"[" * 100_000, r"train\.json: is not JSON"),
        ("train.json", lambda data: b"[]", r"train\.json: format: got 'list', want 1: compute the features anew"),
        ("train.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "format: got 2, want 1"),
        ("train.json", lambda data: data.replace(b'"crop"', b'"size"'), r"train\.json: crop: missing"),
        ("train.npy", lambda data: data[:-1], r"train\.npy: mmap length is greater than file size"),
        ("train.npy", lambda data: b"", r"train\.npy: "),
        ("train.npy", lambda data: data.replace(b"<f2", b"<i2"), r"train\.npy: got int16 of shape .* want float16"),
    ],
)
def test_a_damaged_cache_is_refused(file: str, change: Any, message: str, synth: Path, tmp_path: Path) -> None:
    write_features(network(), synth, tmp_path, crop=CROP, splits=["train"])
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        FeatureCache(tmp_path, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop: got 0"),
        ({"crop": 100}, "crop: got 100, want a multiple of 32, the backbone's largest stride"),
        ({"crops": 0}, "crops: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"splits": ["all"]}, "splits: got 'all', want one of 'train', 'val', 'test'"),
        ({"crop": 96}, r"photo0/reference\.png: is 88x80 pixels, want both sides at least the crop's 96"),
    ],
)
def test_arguments_are_refused(options: dict[str, Any], message: str, synth: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_features(network(), synth, tmp_path, **{"crop": CROP, **options})
    assert not list(tmp_path.glob("*.npy"))


def test_other_networks_folders_and_images_are_refused(tmp_path: Path) -> None:
    synth = small_folder(tmp_path / "synth", 1, 0)
    with pytest.raises(TypeError, match="model: got MFENet, want a PRFNet"):
        write_features(fastiqa.create_model("mfenet", qen="b0", dan=False), synth, tmp_path / "new")
    with pytest.raises(FileExistsError, match=re.escape(f"{synth}: holds other files and no features")):
        write_features(network(), synth, synth, crop=CROP)
    with pytest.raises(ValueError, match=r"triplets\.csv: no such file: fastiqa data synth writes it"):
        write_features(network(), tmp_path, tmp_path / "new", crop=CROP)
    huge = network()
    with torch.no_grad():
        for parameter in huge.backbone.parameters():
            parameter.mul_(100)
    with pytest.raises(ValueError, match=r"photo0/\w+\.png: got features that float16 cannot hold"):
        write_features(huge, synth, tmp_path / "new", crop=CROP)
    PIL.Image.new("RGB", (80, 80)).save(synth / "photo0" / "1.png")
    want = r"photo0/1\.png: is 80x80 pixels, want 88x80 as its reference photo0/reference\.png"
    with pytest.raises(ImageError, match=want):
        write_features(network(), synth, tmp_path / "new", crop=CROP)
    assert json.loads(json.dumps(content(tmp_path / "new"), default=len)) == {}
