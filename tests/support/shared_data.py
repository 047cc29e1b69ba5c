"""Published image pairs and triplets that lie outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("FASTIQA_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def shared_file(name: str) -> Path:
    """A file of the shared data, such as ``tid2013/I04_ref.png``; skips the test where it is absent."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} of the shared test data is absent; set FASTIQA_TEST_DATA to the folder that holds it")
    return path
