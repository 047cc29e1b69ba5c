"""SHA-256 of bytes and of files, in hexadecimal."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(content: bytes) -> str:
    """SHA-256 of `content`: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content: 64 lower-case hexadecimal digits. Raises OSError."""
    return sha256_of(file.read_bytes())
