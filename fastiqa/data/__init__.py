"""Image files read without silent loss of precision, and data sets of them: triplets, rated, distorted, synthetic."""

from __future__ import annotations

from fastiqa.data.distortions import DISTORTIONS, distort
from fastiqa.data.distortions.contrastive import ContrastiveDataset
from fastiqa.data.images.folders import image_files
from fastiqa.data.images.photographs import split_photographs
from fastiqa.data.images.policy import ReadingPolicy
from fastiqa.data.images.reading import Image, ImageError, read_image
from fastiqa.data.rated.dataset import RatedDataset, RatedImage
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.data.rated.sets import SETS, RatedSet, read_rated
from fastiqa.data.rated.split import split_by_reference
from fastiqa.data.rated.transforms import RandomFlippedCrop, TestCrops
from fastiqa.data.rated.validation import RatedReport
from fastiqa.data.report import LabelReport, Problem, decode
from fastiqa.data.synth.table import check_synth, read_synth
from fastiqa.data.triplets.bapps import check_bapps, read_bapps
from fastiqa.data.triplets.clic import check_clic, read_clic
from fastiqa.data.triplets.dataset import Triplet, TripletDataset
from fastiqa.data.triplets.pieapp import check_pieapp, read_pieapp
from fastiqa.data.triplets.transforms import RandomCrop, WholeImage
from fastiqa.data.triplets.validation import Report

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
    "ReadingPolicy",
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
