"""Triton kernels. In a source checkout they lie in the top-level folder ``kernels``; installed, they are in here."""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[2] / "kernels"))
