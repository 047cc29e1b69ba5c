"""The ``fastiqa`` command. Its modules need typer and rich (``fastiqa[cli]``), importing this package does not."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what the user may have set


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the ``fastiqa`` command and exit: 0 when it did its work, 2 after one line on stderr when it could not.

    Args:
        arguments: what follows the command's name; ``sys.argv[1:]`` by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Waiting threads of OpenMP sleep, where spinning is its default: on two busy cores `score` of 20 images of 64x64
    # took 28 s with it and 7 s without. OpenMP reads this when torch is loaded; a benchmark keeps the user's default.
    if "torch" not in sys.modules and arguments[:1] != ["bench"] and not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    for name in ("typer", "rich"):
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"error: the fastiqa command needs {name}: pip install fastiqa[cli]", file=sys.stderr)
            sys.exit(2)
    from fastiqa.cli.app import run

    sys.exit(run(arguments))
