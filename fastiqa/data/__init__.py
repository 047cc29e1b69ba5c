"""Images from files, without a silent loss of precision, and labelled triplets of them."""

from __future__ import annotations

from fastiqa.data.bapps import check_bapps, read_bapps
from fastiqa.data.clic import check_clic, read_clic
from fastiqa.data.images import Image, ImageError, read_image
from fastiqa.data.pieapp import check_pieapp, read_pieapp
from fastiqa.data.synth_csv import read_synth
from fastiqa.data.transforms import RandomCrop, WholeImage
from fastiqa.data.triplets import Triplet, TripletDataset
from fastiqa.data.validation import Problem, Report, decode

__all__ = [
    "Image",
    "ImageError",
    "Problem",
    "RandomCrop",
    "Report",
    "Triplet",
    "TripletDataset",
    "WholeImage",
    "check_bapps",
    "check_clic",
    "check_pieapp",
    "decode",
    "read_bapps",
    "read_clic",
    "read_image",
    "read_pieapp",
    "read_synth",
]
