"""Compression with real encoders, on the CPU.

    jpeg2000    irreversible wavelet; the setting is the ratio of 24 bits a pixel to the file's bits
    jpeg        libjpeg, chroma subsampled 4:2:0; the setting is the quality

Settings are KADID-10k's (Lin, Hosu, Saupe, QoMEX 2019). For small images the file headers use up the strongest ratios'
bits: levels 4 and 5 of jpeg2000 give equal images at 64×64 and 96×96 pixels, and different ones at 128×128.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.data.distortions.distortion import Distortion, through_codes
from fastiqa.data.images.codecs import decode_image, encode_image


def jpeg2000(images: Tensor, ratio: float, generator: torch.Generator | None) -> Tensor:
    return through_codes(images, lambda codes: decode_image(encode_image(codes, "jpeg2000", 24 / ratio), "jpeg2000"))


def jpeg(images: Tensor, quality: float, generator: torch.Generator | None) -> Tensor:
    return through_codes(images, lambda codes: decode_image(encode_image(codes, "jpeg", quality), "jpeg"))


COMPRESSIONS = (
    Distortion("jpeg2000", "compression", jpeg2000, (16, 32, 45, 120, 400)),
    Distortion("jpeg", "compression", jpeg, (43, 36, 24, 7, 4)),
)
