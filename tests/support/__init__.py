"""Shared by the tests."""

from pathlib import Path

# `support.emulation` is csrc/emulate/emulation.py: it lies beside its sources, since the benchmark uses it as well.
__path__.append(str(Path(__file__).resolve().parents[2] / "csrc" / "emulate"))
