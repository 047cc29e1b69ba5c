"""The benchmark. In a source checkout it lies in the top-level folder ``bench``; installed, it is in here."""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[2] / "bench"))
