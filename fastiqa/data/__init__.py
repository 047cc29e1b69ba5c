"""Images from files, without a silent loss of precision, labelled triplets of them, rated and distorted images."""

from __future__ import annotations

from fastiqa.data.bapps import check_bapps, read_bapps
from fastiqa.data.clic import check_clic, read_clic
from fastiqa.data.contrastive import ContrastiveDataset
from fastiqa.data.distorted import DistortedImages
from fastiqa.data.distortions import DISTORTIONS, distort
from fastiqa.data.folders import image_files
from fastiqa.data.images import Image, ImageError, read_image
from fastiqa.data.photographs import split_photographs
from fastiqa.data.pieapp import check_pieapp, read_pieapp
from fastiqa.data.rated import RatedDataset, RatedImage
from fastiqa.data.rated_sets import SETS, RatedSet, read_rated
from fastiqa.data.rated_split import split_by_reference
from fastiqa.data.rated_transforms import RandomFlippedCrop, TestCrops
from fastiqa.data.rated_validation import RatedReport
from fastiqa.data.report import LabelReport, Problem, decode
from fastiqa.data.synth_csv import check_synth, read_synth
from fastiqa.data.transforms import RandomCrop, WholeImage
from fastiqa.data.triplets import Triplet, TripletDataset
from fastiqa.data.validation import Report

__all__ = [
    "DISTORTIONS",
    "SETS",
    "ContrastiveDataset",
    "DistortedImages",
    "Image",
    "ImageError",
    "LabelReport",
    "Problem",
    "RandomCrop",
    "RandomFlippedCrop",
    "RatedDataset",
    "RatedImage",
    "RatedReport",
    "RatedSet",
    "Report",
    "TestCrops",
    "Triplet",
    "TripletDataset",
    "WholeImage",
    "check_bapps",
    "check_clic",
    "check_pieapp",
    "check_synth",
    "decode",
    "distort",
    "image_files",
    "read_bapps",
    "read_clic",
    "read_image",
    "read_pieapp",
    "read_rated",
    "read_synth",
    "split_by_reference",
    "split_photographs",
]
