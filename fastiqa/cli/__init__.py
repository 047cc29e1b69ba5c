"""The ``fastiqa`` command. Its modules need typer and rich (the extra `cli`), importing this package does not."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import MutableMapping, Sequence
from typing import NoReturn

from fastiqa.common.extras import install_command

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what the user may have set
SPINNING = ("bench", "train", "pretrain")  # commands that keep OpenMP's default


def let_waiting_threads_sleep(command: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Let OpenMP's waiting threads sleep, where its default is to spin, unless the user or the command wants that.

    On two busy cores `score` of 20 images of 64x64 took 28 s with the default and 7 s without, on idle ones as long.
    Training of a tiny network took 8.2 s instead of 7.5 on idle cores; a benchmark measures the user's default.
    """
    if not set(command) & set(SPINNING) and not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the ``fastiqa`` command and exit: 0 when it did its work, 2 after one line on stderr when it could not.

    Args:
        arguments: what follows the command's name; ``sys.argv[1:]`` by default.
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
