"""The ``fastiqa`` command. Its modules need typer and rich (``fastiqa[cli]``), importing this package does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the ``fastiqa`` command and exit: 0 when it did its work, 2 after one line on stderr when it could not.

    Args:
        arguments: what follows the command's name; ``sys.argv[1:]`` by default.
    """
    for name in ("typer", "rich"):
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"error: the fastiqa command needs {name}: pip install fastiqa[cli]", file=sys.stderr)
            sys.exit(2)
    from fastiqa.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
