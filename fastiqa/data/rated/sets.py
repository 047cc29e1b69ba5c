"""SETS: the public data sets of rated images, read from the layouts as distributed; read_rated reads one.

A set is a reader and its line in :data:`SETS`. A reader yields the rows of the label file as `Rating`; file names match
in any case. Each reader's docstring shows its layout.

Sources:
    LIVE              Sheikh et al., TIP 2006, doi 10.1109/TIP.2006.881959
    CSIQ              Larson and Chandler, JEI 2010, doi 10.1117/1.3267105
    TID2013           Ponomarenko et al., SPIC 2015, doi 10.1016/j.image.2014.10.009
    KADID-10k         Lin et al., QoMEX 2019, doi 10.1109/QoMEX.2019.8743252
    LIVE Challenge    Ghadiyaram and Bovik, TIP 2016, arXiv 1511.02919
    KonIQ-10k         Hosu et al., TIP 2020, arXiv 1910.06180
    SPAQ              Fang et al., CVPR 2020, doi 10.1109/CVPR42600.2020.00373
    FLIVE             Ying et al., CVPR 2020, arXiv 1912.10088
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastiqa.common import arguments
from fastiqa.data import tables
from fastiqa.data.rated.dataset import RatedImage
from fastiqa.data.rated.split import PARTS, split_by_reference
from fastiqa.data.rated.validation import Files, RatedReport, Rating, Scale, rated_report
from fastiqa.data.report import OnProblem, Problem

LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
LIVE_IMAGES = sum(LIVE_FOLDERS.values())
CHALLENGE_IMAGES = 1169
CHALLENGE_TRAINING = 7
# dst_type of the sheet -> folder, and the type in file names
CSIQ_TYPES = {
    "noise": ("awgn", "AWGN"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
    "fnoise": ("fnoise", "fnoise"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
}
# By the number in the file name, abbreviated as in papers: additive Gaussian noise, noise in colour, spatially
# correlated, masked, high-frequency, impulse and quantisation noise, Gaussian blur, denoising, JPEG, JPEG 2000,
# transmission errors of both, non-eccentricity pattern noise, local blocks, mean shift, contrast, colour saturation,
# multiplicative and comfort noise, lossy compression of noisy images, colour quantisation with dither, chromatic
# aberrations, sparse sampling and reconstruction.
TID_TYPES = (
    "AGN", "ANC", "SCN", "MN", "HFN", "IN", "QN", "GB", "DEN", "JPEG", "JP2K", "JGTE", "J2TE", "NEPN", "Block", "MS",
    "CTC", "CCS", "MGN", "CN", "LCNI", "ICQD", "CHA", "SSR",
)  # fmt: skip
KADID_TYPES = (
    "gaussian_blur", "lens_blur", "motion_blur", "color_diffusion", "color_shift", "color_quantization",
    "color_saturation_hsv", "color_saturation_lab", "jpeg2000", "jpeg", "white_noise", "white_noise_color_component",
    "impulse_noise", "multiplicative_noise", "denoise", "brighten", "darken", "mean_shift", "jitter",
    "non_eccentricity_patch", "pixelate", "quantization", "color_block", "high_sharpen", "contrast_change",
)  # fmt: skip
KONIQ_FOLDERS = ("1024x768", "512x384")
KONIQ_PARTS = {"training": "train", "validation": "val", "test": "test"}
_REFERENCE_TYPE_LEVEL = re.compile(r"(I\d\d)_(\d\d)_(\d\d?)\.(?:bmp|png)", re.IGNORECASE)


def live(files: Files) -> Iterator[Rating]:
    """LIVE Image Quality Assessment Database Release 2: 29 references, 779 distorted images.

        {jp2k,jpeg,wn,gblur,fastfading}/img<k>.bmp    227, 233, 174, 174, 174 images
        dmos_realigned.mat                            dmos_new and orgs, 1x982, folder by folder in this order
        refnames_all.mat                              refnames_all, 1x982 cells

    orgs is 1 for the 203 undistorted originals, which are left out. The realigned scores count, as in most papers; they
    leave the range of the original scores, 0 to 100, by some units on both sides.
    """
    scores = files.table("dmos_realigned.mat")
    dmos = tables.matlab_vector(scores, "dmos_new", LIVE_IMAGES)
    originals = tables.matlab_vector(scores, "orgs", LIVE_IMAGES)
    references = tables.matlab_vector(files.table("refnames_all.mat"), "refnames_all", LIVE_IMAGES)
    images = [(folder, f"img{k}.bmp") for folder, count in LIVE_FOLDERS.items() for k in range(1, count + 1)]
    for i, (folder, name) in enumerate(images):
        if not originals[i]:
            yield Rating(f"{folder}/{name}", dmos[i], references[i], folder, f"{scores}:{i + 1}")


def csiq(files: Files) -> Iterator[Rating | Problem]:
    """CSIQ: 30 references, 866 distorted images.

        dst_imgs/<folder>/<image>.<type>.<level>.png    csiq.DMOS.xlsx, sheet all_by_image, header in its fourth row:
                                                        image, dst_idx, dst_type, dst_lev, dmos_std, dmos

    The sheet has the image "1600" as a number.
    """
    source = files.table("csiq.DMOS.xlsx")
    for number, row in tables.sheet_rows(source, "all_by_image", ("image", "dst_type", "dst_lev", "dmos")):
        where = f"{source}:{number}"
        kind = tables.cell_text(row["dst_type"])
        if kind not in CSIQ_TYPES:
            yield Problem("bad row", where, f"got dst_type {kind!r}, want one of {', '.join(CSIQ_TYPES)}")
            continue
        folder, name = CSIQ_TYPES[kind]
        image, level = tables.cell_text(row["image"]), tables.cell_text(row["dst_lev"])
        yield Rating(f"dst_imgs/{folder}/{image}.{name}.{level}.png", row["dmos"], image, folder, where)


def tid2013(files: Files) -> Iterator[Rating | Problem]:
    """TID2013: 25 references x 24 types x 5 levels; the case of letters varies.

    distorted_images/i01_01_1.bmp    mos_with_names.txt, "5.51429 I01_01_1.bmp" per line
    """
    source = files.table("mos_with_names.txt")
    for number, line in enumerate(source.read_text(encoding="latin-1").splitlines(), 1):
        if not line.strip():
            continue
        where, fields = f"{source}:{number}", line.split()
        if len(fields) != 2:
            yield Problem("bad row", where, f"got {len(fields)} columns, want a score and a file name")
        else:
            yield _with_type(f"distorted_images/{fields[1]}", fields[0], "", TID_TYPES, where)


def kadid10k(files: Files) -> Iterator[Rating | Problem]:
    """KADID-10k: 81 references x 25 types x 5 levels; the column dmos holds opinion scores, no differences.

    images/I01_01_01.png    dmos.csv with the header dist_img,ref_img,dmos,var
    """
    source = files.table("dmos.csv")
    for number, row in tables.csv_records(source, ("dist_img", "ref_img", "dmos")):
        yield _with_type(f"images/{row['dist_img']}", row["dmos"], row["ref_img"], KADID_TYPES, f"{source}:{number}")


def _with_type(image: str, score: str, reference: str, types: tuple[str, ...], where: str) -> Rating | Problem:
    """A row of an image named <reference>_<type>_<level>."""
    name = image.rpartition("/")[2]
    found = _REFERENCE_TYPE_LEVEL.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= len(types):
        return Problem("bad row", where, f"got {name!r}, want a name like I01_01_1 with a type of 1 to {len(types)}")
    return Rating(image, score, reference or found[1].upper(), types[int(found[2]) - 1], where)


def live_challenge(files: Files) -> Iterator[Rating]:
    """LIVE In the Wild Image Quality Challenge Database: 1,162 photographs.

        Images/<name>    Data/AllImages_release.mat, 1169x1 cells    Data/AllMOS_release.mat, 1x1169

    The first seven trained the observers and are left out.
    """
    scores = files.table("Data/AllMOS_release.mat")
    mos = tables.matlab_vector(scores, "AllMOS_release", CHALLENGE_IMAGES)
    names = tables.matlab_vector(files.table("Data/AllImages_release.mat"), "AllImages_release", CHALLENGE_IMAGES)
    for i in range(CHALLENGE_TRAINING, CHALLENGE_IMAGES):
        yield Rating(f"Images/{names[i]}", mos[i], names[i], "", f"{scores}:{i + 1}")


def koniq10k(files: Files) -> Iterator[Rating | Problem]:
    """KonIQ-10k: 10,073 photographs.

        1024x768/<name> or 512x384/<name>    koniq10k_distributions_sets.csv: image_name, ..., MOS, SD, set
                                             koniq10k_scores_and_distributions.csv: image_name, ..., MOS_zscore

    MOS counts if the first table, with the official parts, is there; else MOS_zscore of the second. Both run from 0 to
    100. The full-size folder goes before the other.
    """
    with_parts = files.find("koniq10k_distributions_sets.csv")
    source = with_parts or files.table("koniq10k_scores_and_distributions.csv")
    score = "MOS" if with_parts else "MOS_zscore"
    rows = list(tables.csv_records(source, ("image_name", score, *(["set"] if with_parts else []))))
    has_images = (name for name in KONIQ_FOLDERS if any(files.find(f"{name}/{row['image_name']}") for _, row in rows))
    folder = next(has_images, KONIQ_FOLDERS[0])
    for number, row in rows:
        where, name = f"{source}:{number}", row["image_name"]
        if with_parts and row["set"] not in KONIQ_PARTS:
            yield Problem("bad row", where, f"got set {row['set']!r}, want one of {', '.join(KONIQ_PARTS)}")
            continue
        part = KONIQ_PARTS[row["set"]] if with_parts else ""
        yield Rating(f"{folder}/{name}", row[score], name, "", where, part)


def spaq(files: Files) -> Iterator[Rating]:
    """SPAQ: 11,125 smartphone photographs.

    TestImage/<name>.jpg    Annotations/MOS and Image attribute scores.xlsx: Image name, MOS, Brightness, ...
    """
    source = files.table("Annotations/MOS and Image attribute scores.xlsx")
    for number, row in tables.sheet_rows(source, None, ("Image name", "MOS")):
        name = tables.cell_text(row["Image name"])
        yield Rating(f"TestImage/{name}", row["MOS"], name, "", f"{source}:{number}")


def flive(files: Files) -> Iterator[Rating]:
    """FLIVE (PaQ-2-PiQ): 39,810 whole photographs; the folder holds `database`, or is `database` itself.

        database/<folder>/<name>    database/labels_image.csv: name, mos
                                    database/labels640.csv: name_image, ... of the test part
                                    database/labels=640_padded.csv: name_image, is_valid, ... of validation and training

    Where both of the last tables are there, they give the official parts; training is the rest.
    """
    folders = ("database/", "")
    folder = next((name for name in folders if files.find(f"{name}labels_image.csv")), folders[0])
    source = files.table(f"{folder}labels_image.csv")
    of_test, of_rest = files.find(f"{folder}labels640.csv"), files.find(f"{folder}labels=640_padded.csv")
    part: dict[str, str] = {}
    if of_test and of_rest:
        for _, row in tables.csv_records(of_rest, ("name_image", "is_valid")):
            part[row["name_image"]] = "val" if row["is_valid"].strip().lower() == "true" else "train"
        part |= {row["name_image"]: "test" for _, row in tables.csv_records(of_test, ("name_image",))}
    for number, row in tables.csv_records(source, ("name", "mos")):
        name = row["name"]
        official = part.get(name, "train") if part else ""
        yield Rating(f"{folder}{name}", row["mos"], name, "", f"{source}:{number}", official)


@dataclass(frozen=True)
class RatedSet:
    """A data set of rated images.

    Attributes:
        title: its name in tables.
        images: number of images in the set as published.
        scale: units of its scores.
        reader: yields the rows of its label file.
    """

    title: str
    images: int
    scale: Scale
    reader: Callable[[Files], Iterator[Rating | Problem]]

    def check(self, folder: str | os.PathLike[str]) -> RatedReport:
        """Report the contents of a folder.

        Raises:
            FileNotFoundError: no such folder, no label file. ValueError: a label file that cannot be read, naming it.
            ImportError: a .mat file without scipy, an .xlsx file without openpyxl.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        files = Files(folder)
        return rated_report(self.title, files, self.reader(files), scale=self.scale, published=self.images)


SETS: dict[str, RatedSet] = {
    "live": RatedSet("LIVE", 779, Scale(0, 100, higher_is_better=False, tolerance=15), live),
    "csiq": RatedSet("CSIQ", 866, Scale(0, 1, higher_is_better=False), csiq),
    "tid2013": RatedSet("TID2013", 3_000, Scale(0, 9, higher_is_better=True), tid2013),
    "kadid10k": RatedSet("KADID-10k", 10_125, Scale(1, 5, higher_is_better=True), kadid10k),
    "livec": RatedSet("LIVE Challenge", 1_162, Scale(0, 100, higher_is_better=True), live_challenge),
    "koniq10k": RatedSet("KonIQ-10k", 10_073, Scale(0, 100, higher_is_better=True), koniq10k),
    "spaq": RatedSet("SPAQ", 11_125, Scale(0, 100, higher_is_better=True), spaq),
    "flive": RatedSet("FLIVE", 39_810, Scale(0, 100, higher_is_better=True), flive),
}


def read_rated(
    name: str,
    folder: str | os.PathLike[str],
    part: Literal["all", "train", "val", "test"] = "all",
    *,
    split_seed: int = 0,
    train: float = 0.8,
    val: float = 0.0,
    official: bool = True,
    scores: Literal["own", "quality", "unit"] = "own",
    on_problem: OnProblem = "raise",
) -> list[RatedImage]:
    """Read the rated images of a data set, or of one part of it.

    Args:
        name: of `SETS`: "live", "csiq", "tid2013", "kadid10k", "livec" (LIVE Challenge), "koniq10k", "spaq", "flive".
        folder: the unpacked set.
        part: "all", or a part of the official split (KonIQ-10k, FLIVE) or else of a split by reference.
        split_seed, train, val: arguments of `split_by_reference`; an official split ignores them.
        official: take the official split where there is one; False splits by reference there too, for protocols with
            several random splits of KonIQ-10k.
        scores: "own", as the set gives them; "quality", in the same units, but low + high - score where lower is better
            (LIVE, CSIQ); or "unit", 0 for the worst and 1 for the best of the scale, to train on several sets at once.
        on_problem: "raise" at the first missing file, bad label or bad row, or "skip" them.

    Returns:
        The images in the order of the label file.

    Raises:
        FileNotFoundError: no such folder or label file. ImportError: see `RatedSet.check`. ValueError: an argument out
            of its range; a problem, or no images at all; naming file and line.
    """
    arguments.one_of("name", name, tuple(SETS))
    arguments.one_of("part", part, ("all", *PARTS))
    arguments.one_of("scores", scores, ("own", "quality", "unit"))
    arguments.flag("official", official)
    report, scale = SETS[name].check(folder), SETS[name].scale
    images = report.accepted(on_problem)
    if part != "all":
        split = (official and report.official_split()) or split_by_reference(images, split_seed, train, val)
        images = split.get(part, [])
        if not images:
            named = ", ".join(name for name, members in split.items() if members)
            raise ValueError(f"part: got {part!r}, which has no images, want one of {named}")
    if scores == "unit":
        return [image._replace(score=scale.quality(image.score)) for image in images]
    if scores == "quality" and not scale.higher_is_better:
        return [image._replace(score=scale.low + scale.high - image.score) for image in images]
    return images
