"""Tiny data sets in the published layouts of CLIC, BAPPS and PieAPP."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image

RANDOM = np.random.default_rng(0)


def png(path: Path, size: int | tuple[int, int] = 16) -> Path:
    """Write a PNG of random codes; `size` is a side, or (height, width)."""
    shape = (size, size) if isinstance(size, int) else size
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path, "PNG")
    return path


def md5_name(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest() + ".png"


# (O, A, B, T); the first triplet has three rows, whose people disagree; one compares a file with itself
CLIC_ROWS = [
    ("o1", "a1", "b1", "1"),
    ("o1", "b1", "a1", "0"),
    ("o2", "a2", "b2", "0"),
    ("o1", "a1", "b1", "1"),
    ("o1", "a1", "b1", "0"),
    ("o2", "a2", "a2", "1"),
]


def clic(folder: Path, size: int = 16) -> Path:
    """clic_2021_perceptual_valid.zip, unpacked: oracle.csv, which is returned, and PNG files next to it."""
    for name in sorted({name for row in CLIC_ROWS for name in row[:3]}):
        png(folder / md5_name(name), size)
    lines = [",".join([*map(md5_name, row[:3]), row[3]]) for row in CLIC_ROWS]
    path = folder / "oracle.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def into_shards(folder: Path, kind: str) -> None:
    """Pack the PNG files of a folder into archives 0.tar ... f.tar (or .zip), by the first digit of the name."""
    for digit in "0123456789abcdef":
        files = sorted(folder.glob(f"{digit}*.png"))
        if kind == "zip":
            with zipfile.ZipFile(folder / f"{digit}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    archive.write(file, file.name)
        else:
            with tarfile.open(folder / f"{digit}.tar", "w") as archive:
                for file in files:
                    archive.add(file, f"./{file.name}")
        for file in files:
            file.unlink()


def bapps(folder: Path, split: str, subsets: dict[str, list[float]], size: int = 64) -> Path:
    """dataset/2afc of twoafc_train.tar.gz or twoafc_val.tar.gz: judgements by subset, numbered from 000000."""
    for subset, judgements in subsets.items():
        for number, judgement in enumerate(judgements):
            for part in ("ref", "p0", "p1"):
                png(folder / "2afc" / split / subset / part / f"{number:06}.png", size)
            path = folder / "2afc" / split / subset / "judge" / f"{number:06}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array([judgement], np.float32))
    return folder


PIEAPP_HEADER = {
    "train": "ref. image, distorted image A, distorted image B, raw preference for A, processed preference for A",
    "val": "ref. image, distorted image A, distorted image B, raw preference for A, processed preference for A",
    "test": "ref. image, distorted image A, distorted image B, preference for A",
}


def pieapp(folder: Path, split: str, rows: dict[int, list[tuple[str, ...]]], size: int = 16) -> Path:
    """PieAPP_dataset_CVPR_2018, one split: for each reference number rows of (A, B, label, ...), files created."""
    (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    for number, pairs in rows.items():
        ref = f"ref_{number}.png"
        png(folder / "reference_images" / split / ref, size)
        for name in {name for pair in pairs for name in pair[:2]} - {ref}:
            png(folder / "distorted_images" / split / f"ref_{number}" / name, size)
        lines = [PIEAPP_HEADER[split], *(",".join((ref, *pair)) for pair in pairs)]
        (folder / "labels" / split / f"ref_{number}_pairwise_labels.csv").write_text("\n".join(lines) + "\n")
    (folder / f"{split}_reference_list.txt").write_text("".join(f"ref_{number}.png\n" for number in rows))
    return folder


def truncated(path: Path) -> Path:
    """Cut a file to half its length."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def npy(value: object, **options: object) -> bytes:
    """Write any value to an .npy file."""
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()
