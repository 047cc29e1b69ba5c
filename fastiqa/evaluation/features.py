"""Feature caches: the maps of a frozen backbone, computed once for fixed crops, from which a head is trained.

    <folder>/triplets.csv    copy of the table of the ``fastiqa data synth`` folder
    <folder>/train.npy       float16 (rows, numbers); likewise val and test
    <folder>/train.json      the manifest, written last: without it there is no cache of this split

A row holds all maps of one crop of one image, finest first, each (C, H, W), flattened and joined: 188,416 numbers or
377 kB for 256x256 pixels and EfficientNet-Lite0's maps at strides 4 to 32. A photograph and all its codings share a
crop, at a place that (seed, reference) decides. Rows stand photograph by photograph and crop by crop; a group is one
photograph's reference and codings at one crop. Keys of the manifest:

    format                    1
    channels, strides         of the maps, finest first
    backbone_sha256           of the backbone's weights and statistics (`backbone_sha256`)
    table_sha256, source      SHA-256 of the table, and the folder that it comes from
    crop, crops, seed, split  side of the crops in pixels, crops of a photograph, their seed, and the split
    groups                    in row order {"place": [top, left], "images": [reference, coding, ...]}, paths in `source`

A cache belongs to one backbone and one table. Training refuses it after either has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.common.files import is_empty, locked, remove_unfinished, replacing, write_atomically
from fastiqa.common.hashing import file_sha256, sha256_of
from fastiqa.data import ImageError, Triplet, read_image, read_synth
from fastiqa.data.synth.table import SPLITS, TRIPLETS
from fastiqa.data.triplets.transforms import random_place

FORMAT = 1
AT_ONCE = 16  # crops in a batch of the backbone
DTYPE = np.dtype("<f2")
KEYS = ("channels", "strides", "backbone_sha256", "table_sha256", "source", "crop", "crops", "seed", "groups")
LARGEST = float(np.finfo(np.float16).max)


def backbone_sha256(model: nn.Module) -> str:
    """SHA-256 of a network's backbone: its state dict without counts of batches, and the statistics of its images."""
    network: Any = model
    digest = hashlib.sha256(json.dumps([list(network.image_mean), list(network.image_std)]).encode())
    for name, tensor in sorted(network.backbone.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def numbers_of(crop: int, channels: Sequence[int], strides: Sequence[int]) -> int:
    """The numbers in a row: Σ C · (crop / stride)²."""
    return sum(width * (crop // stride) ** 2 for width, stride in zip(channels, strides, strict=True))


def unpacked(
    rows: Sequence[Tensor], channels: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Rows of a cache → maps.

    Args:
        rows: K tensors (N, numbers).
        channels, strides: of the maps, finest first.
        dtype: of the maps.

    Returns: for each stage one tensor (K·N, C, H, W), the maps of the first N rows first.

    Raises: ValueError for a number of columns that no square crop has.
    """
    coarsest = strides[-1]
    count, numbers = rows[0].shape
    cells = sum(width * (coarsest // stride) ** 2 for width, stride in zip(channels, strides, strict=True))
    side = math.isqrt(numbers // cells) * coarsest
    if side == 0 or numbers_of(side, channels, strides) != numbers:
        raise ValueError(f"rows: got {numbers:,} numbers, want a multiple of {cells:,} by a square number")
    maps, start = [], 0
    for width, stride in zip(channels, strides, strict=True):
        size = side // stride
        stop = start + width * size * size
        packed = torch.empty(len(rows) * count, stop - start, dtype=dtype, device=rows[0].device)
        for part, row in zip(packed.split(count), rows, strict=True):
            part.copy_(row[:, start:stop])  # converts, joins and cuts in one pass
        maps.append(packed.view(-1, width, size, size))
        start = stop
    return maps


@torch.inference_mode()
def write_features(
    model: nn.Module,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    crop: int = 256,
    crops: int = 1,
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    on_image: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, int]:
    """Compute the feature cache of a folder of ``fastiqa data synth``, see the module's text.

    A split whose cache is there already is kept. After an interruption the same call computes the splits that lack.

    Args:
        model: a PRFNet, on its device; set to eval mode.
        source: the folder of triplets.
        folder: the cache's folder; made if it does not exist.
        crop: side of the square crops in pixels, a multiple of the backbone's largest stride.
        crops: crops of each photograph.
        seed: with a reference's name it decides the places of its crops.
        splits: of "train", "val" and "test".
        on_image: called with the number of images done and of all images.

    Returns: the rows by split, without splits that have no triplets.

    Raises:
        TypeError: a model that is no PRFNet.
        ValueError: an argument out of range; a damaged table; features beyond float16; as an
            `fastiqa.data.ImageError` an image that cannot be read, is smaller than the crop, or has another size than
            its reference.
        FileExistsError: the folder holds other files and no cache.
        OSError: a file cannot be written, or another process writes to the folder.
    """
    network: Any = model.eval()
    if not all(hasattr(network, name) for name in ("encode", "compare", "backbone", "head")):
        raise TypeError(f"model: got {type(model).__name__}, want a PRFNet")
    for name, number, least in (("crop", crop, 1), ("crops", crops, 1), ("seed", seed, 0)):
        arguments.integer(name, number, minimum=least)
    if crop % network.strides[-1]:
        raise ValueError(f"crop: got {crop}, want a multiple of {network.strides[-1]}, the backbone's largest stride")
    for split in splits:
        arguments.one_of("splits", split, SPLITS)
    start, target = Path(source), Path(folder)
    triplets = {split: read_synth(start, split) for split in splits}
    table = (start / TRIPLETS).read_bytes()
    about = {
        "format": FORMAT,
        "channels": list(network.channels),
        "strides": list(network.strides),
        "backbone_sha256": backbone_sha256(model),
        "table_sha256": sha256_of(table),
        "source": os.path.abspath(start),
        "crop": crop,
        "crops": crops,
        "seed": seed,
    }
    images = {split: _by_reference(start, of_split) for split, of_split in triplets.items() if of_split}
    target.mkdir(parents=True, exist_ok=True)
    if not is_empty(target) and not any((target / f"{split}.json").is_file() for split in SPLITS):
        raise FileExistsError(f"{target}: holds other files and no features, want a new folder")
    with locked(target):
        remove_unfinished(target)
        waiting = {split: found for split, found in images.items() if not _is_current(target, split, about)}
        total, done = sum(_count(found) for found in waiting.values()), 0
        for split, found in waiting.items():
            (target / f"{split}.json").unlink(missing_ok=True)
            shape = (crops * _count(found), numbers_of(crop, network.channels, network.strides))
            groups: list[dict[str, Any]] = []
            with replacing(target / f"{split}.npy") as temporary, temporary.open("wb") as file:
                header = {"descr": DTYPE.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for reference, names in found.items():
                    places, pixels = _crops(start, reference, names, crop, crops, seed)
                    for place, of_group in zip(places, pixels, strict=True):
                        groups.append({"place": place, "images": names})
                        for rows in _rows(network, of_group, names):
                            file.write(rows.tobytes())
                    done += len(names)
                    on_image(done, total)
            write_atomically(target / TRIPLETS, table)
            write_atomically(target / f"{split}.json", json.dumps({**about, "split": split, "groups": groups}).encode())
    return {split: crops * _count(found) for split, found in images.items()}


def _by_reference(source: Path, triplets: Sequence[Triplet]) -> dict[str, list[str]]:
    """For each reference all images, itself first, in the order of the table."""
    found: dict[str, dict[str, None]] = {}
    for triplet in triplets:
        ref, a, b = (path.relative_to(source).as_posix() for path in triplet[:3])
        found.setdefault(ref, {ref: None}).update({a: None, b: None})
    return {ref: list(names) for ref, names in found.items()}


def _count(images: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, images.values()))


def _is_current(folder: Path, split: str, about: Mapping[str, Any]) -> bool:
    """Whether a split's cache is there and is what this call would write."""
    try:
        manifest = FeatureCache(folder, split).manifest
    except (OSError, ValueError):
        return False
    return all(manifest[key] == value for key, value in about.items())


def _crops(
    source: Path, reference: str, names: Sequence[str], side: int, count: int, seed: int
) -> tuple[list[list[int]], list[list[Tensor]]]:
    """The places (top, left) of a photograph's crops, and for each the crops (1, 3, side, side) of all images."""
    key = int.from_bytes(hashlib.sha256(os.fsencode(reference)).digest()[:8], "big")
    random = np.random.default_rng((seed, key))
    places: list[list[int]] = []
    pixels: list[list[Tensor]] = [[] for _ in range(count)]
    size: tuple[int, ...] = ()
    for name in names:
        image = read_image(source / name)
        height, width = image.pixels.shape[:2]
        if not places:
            size = (height, width)
            if min(size) < side:
                raise ImageError(image.path, f"is {width}x{height} pixels, want both sides at least the crop's {side}")
            places = [list(random_place((height, width), (side, side), random)) for _ in range(count)]
        if (height, width) != size:
            want = f"{size[1]}x{size[0]} as its reference {reference}"
            raise ImageError(image.path, f"is {width}x{height} pixels, want {want}")
        for (top, left), crops in zip(places, pixels, strict=True):
            part = image.pixels[top : top + side, left : left + side]
            crops.append(dataclasses.replace(image, pixels=part).tensor())
    return places, pixels


def _rows(network: Any, crops: Sequence[Tensor], names: Sequence[str]) -> Iterator[NDArray[np.float16]]:
    """The rows of crops, a few crops at a time. Raises ValueError naming an image whose features exceed float16."""
    side = crops[0].shape[-1]
    numbers = numbers_of(side, network.channels, network.strides)
    for first in range(0, len(crops), AT_ONCE):
        batch = torch.cat(list(crops[first : first + AT_ONCE]))
        rows = torch.cat([maps.flatten(1) for maps in network.encode(batch.to(network.mean))], 1)
        if rows.shape[1] != numbers:
            raise ValueError(f"model: got {rows.shape[1]:,} numbers of a crop, want {numbers:,} by its strides")
        if bad := (~(rows.abs() <= LARGEST).all(1)).nonzero().flatten().tolist():  # true for NaN too
            raise ValueError(f"{names[first + bad[0]]}: got features that float16 cannot hold")
        yield rows.to(torch.float16).cpu().numpy()


class FeatureCache:
    """One split of a feature cache.

    Args:
        folder: of `write_features`.
        split: "train", "val" or "test".

    Attributes:
        manifest: see the module's text.

    Raises: ValueError, naming the file: no such cache, not one of this version, a damaged one, or one whose table has
        changed since, in the cache or in the folder that it was computed from.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str) -> None:
        arguments.one_of("split", split, SPLITS)
        self.folder, self.split = Path(folder), split
        self.manifest = self._read()
        self._opened: NDArray[np.float16] | None = None
        self._check()

    def _read(self) -> dict[str, Any]:
        path = self.folder / f"{self.split}.json"
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file: fastiqa data features writes it when all else is there") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: is not JSON: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            got = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
            raise ValueError(f"{path}: format: got {got!r}, want {FORMAT}: compute the features anew")
        if missing := [key for key in KEYS if key not in manifest]:
            raise ValueError(f"{path}: {missing[0]}: missing")
        return manifest

    def _check(self) -> None:
        about, path = self.manifest, self.folder / f"{self.split}.npy"
        for table in (self.folder / TRIPLETS, Path(about["source"]) / TRIPLETS):
            if (table.is_file() or table.parent == self.folder) and file_sha256(table) != about["table_sha256"]:
                raise ValueError(f"{self.folder}: {table} is not the table of these features: compute them anew")
        count = sum(len(group["images"]) for group in about["groups"])
        shape = (count, numbers_of(about["crop"], about["channels"], about["strides"]))
        matrix = self.matrix
        if matrix.shape != shape or matrix.dtype != DTYPE:
            got = f"{matrix.dtype} of shape {matrix.shape}"
            raise ValueError(f"{path}: got {got}, want {DTYPE} of shape {shape} as its manifest says")

    @property
    def matrix(self) -> NDArray[np.float16]:
        """The rows (rows, numbers), mapped: a page of the file is read when it is used. Changes stay in memory."""
        if self._opened is None:
            path = self.folder / f"{self.split}.npy"
            try:
                self._opened = np.load(path, mmap_mode="c", allow_pickle=False)
            except (OSError, EOFError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from error
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        """Without the matrix, which another process maps for itself."""
        return {**self.__dict__, "_opened": None}

    def rows(self) -> dict[str, list[int]]:
        """For each image, by its path in the source folder, its row at each crop."""
        found: dict[str, list[int]] = {}
        names = (name for group in self.manifest["groups"] for name in group["images"])
        for row, name in enumerate(names):
            found.setdefault(name, []).append(row)
        return found

    def model_error(self, model: nn.Module) -> str | None:
        """Why a network cannot be trained on this cache, or None."""
        about, network = self.manifest, model
        for name in ("channels", "strides"):
            if (got := list(getattr(network, name, ()))) != about[name]:
                return f"{self.folder}: features of {name} {about[name]}, the model has {got}"
        if backbone_sha256(network) != about["backbone_sha256"]:
            return f"{self.folder}: features of a backbone with other weights than the model's: compute them anew"
        return None
