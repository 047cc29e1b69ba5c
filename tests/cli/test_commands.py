"""The commands as a whole: the page that lists them, what their help costs, what `info` does without typer."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fastiqa.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command_line.md"


def commands(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command by its words, without the groups that hold commands."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(names), command
        return
    for name, one in inner.items():
        yield from commands(one, *names, name)


def test_the_page_lists_every_command() -> None:
    """In the order of the help, each with the first sentence of its own."""
    table = re.findall(r"^\| `fastiqa ([a-z ]+)` \| (.+?) \|$", PAGE.read_text(), re.M)
    help_ = {name: command.help.partition("\n\n")[0] for name, command in commands(typer.main.get_command(app))}
    assert len(help_) >= 10
    assert dict(table) == {name: " ".join(text.split()) for name, text in help_.items()}
    assert [name for name, _ in table] == list(help_)


def test_help_imports_no_torch() -> None:
    """It takes 0.2 s; torch alone takes more than a second."""
    code = "import sys; from fastiqa.cli.app import run; run(['--help']); run(['score', '--help'])"
    code += "; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: fastiqa score" in done.stdout


def test_info_needs_no_typer() -> None:
    code = "import runpy, sys; sys.modules |= {'typer': None, 'rich': None}; sys.argv = ['info']"
    code += "; runpy.run_module('fastiqa.cli.info', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("fastiqa  "), done.stderr
