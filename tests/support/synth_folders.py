"""What `fastiqa data synth` wrote."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image

from fastiqa.data.synth.table import COLUMNS, world_columns
from support.pictures import picture


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by its path below the folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def table(out: Path) -> list[dict[str, str]]:
    """The rows of triplets.csv."""
    with (out / "triplets.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def small_folder(folder: Path, train: int = 4, val: int = 2, *, world: bool = True, size: int = 80) -> Path:
    """A folder as fastiqa data synth writes it: photographs with three noisy copies and three triplets each.

    The copies have 2, 4 and 6 code values of noise; the weights are 0.5, 0.75 and 1.
    """
    rows = []
    for number, split in enumerate(["train"] * train + ["val"] * val):
        name = f"photo{number}"
        (folder / name).mkdir(parents=True)
        pixels = picture(number, size, size + 8)
        PIL.Image.fromarray(pixels).save(folder / name / "reference.png")
        for copy in (0, 1, 2):
            noise = np.random.default_rng(copy).normal(0, 2 * copy + 2, pixels.shape)
            noisy = (pixels + noise).round().clip(0, 255).astype(np.uint8)
            PIL.Image.fromarray(noisy).save(folder / name / f"{copy}.png")
        for k, (a, b) in enumerate(((0, 1), (2, 1), (0, 2))):
            row = dict.fromkeys(COLUMNS, "1") | {"rule": "metric", "group": "jpeg", "split": split}
            row |= {"ref": f"{name}/reference.png", "a": f"{name}/{a}.png", "b": f"{name}/{b}.png"}
            row |= {"label": str(0.2 if a < b else 0.7), "photograph": f"{name}.png"}
            rows.append(row | ({"weight": str(0.5 + k / 4)} if world else {}))
    with (folder / "triplets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, world_columns([]) if world else COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder
