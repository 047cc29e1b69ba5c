"""Images from files, without a silent loss of precision; triplets for training."""

from __future__ import annotations

from fastiqa.data.images import Image, ImageError, read_image
from fastiqa.data.synth_csv import read_synth
from fastiqa.data.triplets import Triplet

__all__ = ["Image", "ImageError", "Triplet", "read_image", "read_synth"]
