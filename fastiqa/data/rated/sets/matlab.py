"""Sets whose labels are MATLAB arrays: LIVE and LIVE Challenge.

LIVE Image Quality Assessment Database Release 2, 29 references, 779 distorted images:

    {jp2k,jpeg,wn,gblur,fastfading}/img<k>.bmp    227, 233, 174, 174, 174 images
    dmos_realigned.mat                            dmos_new and orgs, 1x982, folder by folder in this order
    refnames_all.mat                              refnames_all, 1x982 cells

orgs is 1 where the image is the undistorted original itself: these 203 are left out. The realigned scores count, as in
most papers; they leave the range of the original ones, 0 to 100, by some units on both sides.

LIVE In the Wild Image Quality Challenge Database, 1,162 photographs:

    Images/<name>    Data/AllImages_release.mat, 1169x1 cells    Data/AllMOS_release.mat, 1x1169

The first seven trained the observers: these are left out.

Sources: Sheikh et al., TIP 2006, doi 10.1109/TIP.2006.881959; Ghadiyaram and Bovik, TIP 2016, arXiv 1511.02919.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastiqa.data.rated.files import Files
from fastiqa.data.rated.validation import Rating

LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
LIVE_IMAGES = sum(LIVE_FOLDERS.values())
CHALLENGE_IMAGES = 1169
CHALLENGE_TRAINING = 7


def live(files: Files) -> Iterator[Rating]:
    """The rows of LIVE, without the originals."""
    scores = files.table("dmos_realigned.mat")
    dmos, originals = _vector(scores, "dmos_new", LIVE_IMAGES), _vector(scores, "orgs", LIVE_IMAGES)
    references = _vector(files.table("refnames_all.mat"), "refnames_all", LIVE_IMAGES)
    images = [(folder, f"img{k}.bmp") for folder, count in LIVE_FOLDERS.items() for k in range(1, count + 1)]
    for i, (folder, name) in enumerate(images):
        if not originals[i]:
            yield Rating(f"{folder}/{name}", dmos[i], references[i], folder, f"{scores}:{i + 1}")


def challenge(files: Files) -> Iterator[Rating]:
    """The rows of LIVE Challenge, without those that trained the observers."""
    scores = files.table("Data/AllMOS_release.mat")
    mos = _vector(scores, "AllMOS_release", CHALLENGE_IMAGES)
    names = _vector(files.table("Data/AllImages_release.mat"), "AllImages_release", CHALLENGE_IMAGES)
    for i in range(CHALLENGE_TRAINING, CHALLENGE_IMAGES):
        yield Rating(f"Images/{names[i]}", mos[i], names[i], "", f"{scores}:{i + 1}")


def _vector(source: Path, variable: str, length: int) -> list[Any]:
    """A row or column of numbers or of cells with a string each. Raises ValueError naming the file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(f"{source}: reading .mat files needs scipy: pip install fastiqa[train]") from None
    try:
        content = loadmat(source, variable_names=[variable])
    except Exception as error:  # damaged files are met with struct.error, zlib.error, TypeError, MatReadError…
        raise ValueError(f"{source}: damaged, or not a MATLAB file of version 7 or older: {error}") from error
    if variable not in content:
        raise ValueError(f"{source}: got no variable {variable!r}, want it with {length} entries")
    values = content[variable].ravel().tolist()
    if len(values) != length:
        raise ValueError(f"{source}: got {len(values)} entries of {variable!r}, want {length}")
    return [value.item() if isinstance(value, np.ndarray) and value.size == 1 else value for value in values]
