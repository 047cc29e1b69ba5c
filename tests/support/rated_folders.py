"""Tiny sets of rated images in the published layouts: every folder and label file, a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import PIL.Image
import scipy.io

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
FORMATS = {".bmp": "BMP", ".png": "PNG", ".jpg": "JPEG"}


def image(path: Path) -> Path:
    """Write an image of 16x12 random pixels in the format of its suffix, in either case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(PIXELS).save(path, FORMATS[path.suffix.lower()])
    return path


def cells(names: Sequence[str], column: bool = False) -> np.ndarray:
    """A MATLAB cell array of strings, a row or a column."""
    array = np.empty((len(names), 1) if column else (1, len(names)), dtype=object)
    for i, name in enumerate(names):
        array[(i, 0) if column else (0, i)] = np.array([name])
    return array


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    """An Excel workbook: rows of cells by sheet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\r\n" for line in lines))
    return path


LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}


def live(folder: Path) -> Path:
    """databaserelease2: entry i of 982 scores i / 9 - 5, from -5 to 104; every fifth is an original."""
    i = np.arange(982)
    references = [f"ref{k % 29}.bmp" for k in i]
    folder.mkdir(parents=True, exist_ok=True)
    labels = {"dmos_new": i[None] / 9 - 5, "dmos_std": np.ones((1, 982)), "orgs": (i[None] % 5 == 0).astype(np.uint8)}
    scipy.io.savemat(folder / "dmos_realigned.mat", labels)
    scipy.io.savemat(folder / "dmos.mat", {"dmos": i[None] / 20, "orgs": labels["orgs"]})
    scipy.io.savemat(folder / "refnames_all.mat", {"refnames_all": cells(references)})
    paths = [folder / name / f"img{k}.bmp" for name, count in LIVE_FOLDERS.items() for k in range(1, count + 1)]
    content = image(folder / "refimgs" / "ref0.bmp").read_bytes()
    for name in LIVE_FOLDERS:
        (folder / name).mkdir()
    for path in paths:
        path.write_bytes(content)
    return folder


CSIQ_HEADER = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
CSIQ_ROWS: list[list[object]] = [
    [1600, 1, "noise", 1, 0.03, 0.062],
    [1600, 3, "jpeg 2000", 5, 0.1, 0.9],
    ["cactus", 2, "blur", 2, 0.02, 0.5],
    ["cactus", 6, "contrast", 3, 0.02, 0.25],
    ["cactus", 5, "fnoise", 4, 0.02, 1],
    ["cactus", 4, "jpeg", 1, 0.02, 0],
]
CSIQ_FILES = [
    "awgn/1600.AWGN.1.png", "jpeg2000/1600.jpeg2000.5.png", "blur/cactus.BLUR.2.png",
    "contrast/cactus.contrast.3.png", "fnoise/cactus.fnoise.4.png", "jpeg/cactus.JPEG.1.png",
]  # fmt: skip


def csiq(folder: Path, rows: Sequence[list[object]] = CSIQ_ROWS, sheet: str = "all_by_image") -> Path:
    """csiq.DMOS.xlsx with its sheets, header in the fourth row, columns D to I; images in dst_imgs."""
    indent: list[object] = [None] * 3
    sheets: dict[str, list[list[object]]] = {
        "all_by_distortion": [["an overview"]],
        sheet: [["CSIQ"], [], ["DMOS by image"], indent + CSIQ_HEADER, *(indent + row for row in rows), []],
    }
    workbook(folder / "csiq.DMOS.xlsx", sheets)
    for name in CSIQ_FILES:
        image(folder / "dst_imgs" / name)
    return folder


def tid2013(folder: Path) -> Path:
    """Names in the table begin with I, those on the disk in both cases."""
    for name in ("i01_01_1.bmp", "I01_24_5.BMP", "I25_10_3.bmp"):
        image(folder / "distorted_images" / name)
    text(folder / "mos_with_names.txt", "5.51429 I01_01_1.bmp", "0.2 I01_24_5.bmp", "9 i25_10_3.bmp")
    return folder


def kadid10k(folder: Path) -> Path:
    for name in ("I01.png", "I01_01_01.png", "I81_25_05.png"):
        image(folder / "images" / name)
    rows = ("I01_01_01.png,I01.png,4.57,0.496", "I81_25_05.png,I81.png,1,0.3")
    text(folder / "dmos.csv", "dist_img,ref_img,dmos,var", *rows)
    return folder


def livec(folder: Path) -> Path:
    """ChallengeDB_release: 1169 entries, the first seven in trainingImages; entry i scores i / 20."""
    names = [*(f"t{k}.bmp" for k in range(1, 8)), *(f"{k}.bmp" for k in range(3, 1164)), "1164.JPG"]
    data = folder / "Data"
    data.mkdir(parents=True)
    scipy.io.savemat(data / "AllImages_release.mat", {"AllImages_release": cells(names, column=True)})
    scipy.io.savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.arange(1169)[None] / 20})
    scipy.io.savemat(data / "AllStdDev_release.mat", {"AllStdDev_release": np.ones((1, 1169))})
    content = image(folder / "Images" / "trainingImages" / "t1.bmp").read_bytes()
    for name in names[7:]:
        (folder / "Images" / name).write_bytes(content)
    return folder


def koniq10k(folder: Path, official: bool = True, images: str = "1024x768") -> Path:
    names = ["10004473376.jpg", "10007357496.jpg", "10007903636.jpg", "10009096245.jpg"]
    for name in names:
        image(folder / images / name)
    text(
        folder / "koniq10k_scores_and_distributions.csv",
        '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"',
        *(f'"{name}",0,0,25,73,7,105,3.8,0.5,{score}' for name, score in zip(names, (77.4, 80.3, 82, 70), strict=True)),
    )
    if official:
        parts = ("training", "validation", "test", "training")
        rows = [f"{name},0,0,25,73,7,105,{60 + i},9.1,{parts[i]}" for i, name in enumerate(names)]
        text(folder / "koniq10k_distributions_sets.csv", "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set", *rows)
    return folder


def spaq(folder: Path) -> Path:
    header: list[object] = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    rows: list[list[object]] = [["00001.jpg", 51, 50, 55, 52, 49, 48], ["00002.jpg", 33.125, 30, 31, 32, 33, 34]]
    workbook(folder / "Annotations" / "MOS and Image attribute scores.xlsx", {"Sheet1": [header, *rows]})
    for row in rows:
        image(folder / "TestImage" / str(row[0]))
    return folder


FLIVE_NAMES = ["blur_dataset/motion0044.jpg", "voc_emotic_ava/AVA__102506.jpg", "EE371R/rq59.jpg"]


def flive(folder: Path) -> Path:
    """One image of each part; no table names the training image."""
    database = folder / "database"
    for name in FLIVE_NAMES:
        image(database / name)
    scores = ("75.44372347614072", "0.0", "64.1")
    text(database / "labels_image.csv", "name,mos", *map(",".join, zip(FLIVE_NAMES, scores, strict=True)))
    text(database / "labels640.csv", "mos_patch_1,name_patch,mos_image,name_image", f"79.4,p.jpg,75.4,{FLIVE_NAMES[0]}")
    text(database / "labels=640_padded.csv", "name_image,mos_image,is_valid", f"{FLIVE_NAMES[1]},0,True")
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "live": live, "csiq": csiq, "tid2013": tid2013, "kadid10k": kadid10k,
    "livec": livec, "koniq10k": koniq10k, "spaq": spaq, "flive": flive,
}  # fmt: skip
