"""Sets whose labels are text: TID2013, KADID-10k, KonIQ-10k and FLIVE.

TID2013, 25 references x 24 types x 5 levels, cases of letters vary:

    distorted_images/i01_01_1.bmp    mos_with_names.txt, "5.51429 I01_01_1.bmp" per line

KADID-10k, 81 references x 25 types x 5 levels; what its table calls dmos is an opinion score:

    images/I01_01_01.png    dmos.csv with the header dist_img,ref_img,dmos,var

KonIQ-10k, 10,073 photographs; with the table of the official parts its MOS counts, else MOS_zscore of the other one,
both from 0 to 100:

    1024x768/<name> or 512x384/<name>    koniq10k_distributions_sets.csv: image_name, ..., MOS, SD, set
                                         koniq10k_scores_and_distributions.csv: image_name, ..., MOS_zscore

FLIVE (PaQ-2-PiQ), 39,810 photographs; official parts where both of the last tables are there, training is the rest:

    database/<folder>/<name>    database/labels_image.csv: name, mos
                                database/labels640.csv: name_image, ... of the test part
                                database/labels=640_padded.csv: name_image, is_valid, ... of validation and training

Sources: Ponomarenko et al., SPIC 2015, doi 10.1016/j.image.2014.10.009; Lin et al., QoMEX 2019, doi
10.1109/QoMEX.2019.8743252; Hosu et al., TIP 2020, arXiv 1910.06180; Ying et al., CVPR 2020, arXiv 1912.10088.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastiqa.data import tables
from fastiqa.data.rated.files import Files
from fastiqa.data.rated.validation import Rating
from fastiqa.data.report import Problem

# By the number in the file name. TID2013 in the abbreviations of tables in papers: additive Gaussian noise, noise in
# colour, spatially correlated, masked, high-frequency, impulse and quantisation noise, Gaussian blur, denoising, JPEG,
# JPEG 2000, transmission errors of both, non-eccentricity pattern noise, local blocks, mean shift, contrast, colour
# saturation, multiplicative and comfort noise, lossy compression of noisy images, colour quantisation with dither,
# chromatic aberrations, sparse sampling and reconstruction.
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
_DISTORTED = re.compile(r"(I\d\d)_(\d\d)_(\d\d?)\.(?:bmp|png)", re.IGNORECASE)

KONIQ_FOLDERS = ("1024x768", "512x384")
KONIQ_PARTS = {"training": "train", "validation": "val", "test": "test"}


def tid2013(files: Files) -> Iterator[Rating | Problem]:
    """The rows of TID2013."""
    source = files.table("mos_with_names.txt")
    for number, line in enumerate(source.read_text(encoding="latin-1").splitlines(), 1):
        if not line.strip():
            continue
        where, fields = f"{source}:{number}", line.split()
        if len(fields) != 2:
            yield Problem("bad row", where, f"got {len(fields)} columns, want a score and a file name")
        else:
            yield _of_type(f"distorted_images/{fields[1]}", fields[0], "", TID_TYPES, where)


def kadid10k(files: Files) -> Iterator[Rating | Problem]:
    """The rows of KADID-10k."""
    source = files.table("dmos.csv")
    for number, row in tables.records(source, ("dist_img", "ref_img", "dmos")):
        yield _of_type(f"images/{row['dist_img']}", row["dmos"], row["ref_img"], KADID_TYPES, f"{source}:{number}")


def _of_type(image: str, score: str, reference: str, types: tuple[str, ...], where: str) -> Rating | Problem:
    """A row of an image named <reference>_<type>_<level>."""
    name = image.rpartition("/")[2]
    found = _DISTORTED.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= len(types):
        return Problem("bad row", where, f"got {name!r}, want a name like I01_01_1 with a type of 1 to {len(types)}")
    return Rating(image, score, reference or found[1].upper(), types[int(found[2]) - 1], where)


def koniq10k(files: Files) -> Iterator[Rating | Problem]:
    """The rows of KonIQ-10k; of two folders with images the one of full size counts."""
    with_parts = files.find("koniq10k_distributions_sets.csv")
    source = with_parts or files.table("koniq10k_scores_and_distributions.csv")
    score = "MOS" if with_parts else "MOS_zscore"
    rows = list(tables.records(source, ("image_name", score, *(["set"] if with_parts else []))))
    has_images = (name for name in KONIQ_FOLDERS if any(files.find(f"{name}/{row['image_name']}") for _, row in rows))
    folder = next(has_images, KONIQ_FOLDERS[0])
    for number, row in rows:
        where, name = f"{source}:{number}", row["image_name"]
        if with_parts and row["set"] not in KONIQ_PARTS:
            yield Problem("bad row", where, f"got set {row['set']!r}, want one of {', '.join(KONIQ_PARTS)}")
            continue
        part = KONIQ_PARTS[row["set"]] if with_parts else ""
        yield Rating(f"{folder}/{name}", row[score], name, "", where, part)


def flive(files: Files) -> Iterator[Rating]:
    """The rows of FLIVE's whole images; the folder is the one that holds `database`, or `database` itself."""
    folders = ("database/", "")
    folder = next((name for name in folders if files.find(f"{name}labels_image.csv")), folders[0])
    source = files.table(f"{folder}labels_image.csv")
    of_test, of_rest = files.find(f"{folder}labels640.csv"), files.find(f"{folder}labels=640_padded.csv")
    part: dict[str, str] = {}
    if of_test and of_rest:
        for _, row in tables.records(of_rest, ("name_image", "is_valid")):
            part[row["name_image"]] = "val" if row["is_valid"].strip().lower() == "true" else "train"
        part |= {row["name_image"]: "test" for _, row in tables.records(of_test, ("name_image",))}
    for number, row in tables.records(source, ("name", "mos")):
        name = row["name"]
        official = part.get(name, "train") if part else ""
        yield Rating(f"{folder}{name}", row["mos"], name, "", f"{source}:{number}", official)
