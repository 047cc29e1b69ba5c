"""Images from files, without a silent loss of precision."""

from __future__ import annotations

from fastiqa.data.images import Image, ImageError, read_image

__all__ = ["Image", "ImageError", "read_image"]
