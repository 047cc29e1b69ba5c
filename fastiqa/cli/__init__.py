"""The ``fastiqa`` command. Its modules need typer and rich (the extra `cli`); this package alone needs neither."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import MutableMapping, Sequence
from typing import NoReturn

from fastiqa.common.extras import install_command

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # variables that the user may have set
SPINNING = ("bench", "train", "pretrain")  # commands that keep OpenMP's default


def let_waiting_threads_sleep(command: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Let OpenMP's waiting threads sleep instead of spin, unless the user or the command decides otherwise.

    On two busy cores, `score` of 20 images of 64x64 took 28 s spinning and 7 s sleeping; on idle cores both took the
    same. Training of a tiny network took 7.5 s spinning and 8.2 s sleeping on idle cores, so it keeps the default, and
    a benchmark measures the user's default.
    """
    if not set(command) & set(SPINNING) and not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the ``fastiqa`` command and exit: with 0 after its work, with 2 after one line on stderr if it could not.

    Args:
        arguments: the words after the command's name; ``sys.argv[1:]`` by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "torch" not in sys.modules:  # OpenMP reads this when torch is loaded
        let_waiting_threads_sleep(arguments[:1], os.environ)
    for name in ("typer", "rich"):
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"error: the fastiqa command needs {name}: {install_command('cli')}", file=sys.stderr)
            sys.exit(2)
    from fastiqa.cli.app import run

    sys.exit(run(arguments))
