"""Code on the site runs as printed, page by page; commands on it have the options and recipes that they name."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from fastiqa.bench.peers.torchvision_shim import import_library

from fastiqa.cli.app import app
from fastiqa.training import read_recipe

ROOT = Path(__file__).resolve().parents[2]
IMPORT_TORCHVISION = ("lpips", "piq", "pyiqa", "timm", "torchmetrics")
PAGES = {page.relative_to(ROOT / "docs").as_posix(): page for page in sorted((ROOT / "docs").rglob("*.md"))}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line and text of each block of code."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def missing(code: str) -> str | None:
    """The first package that the code imports and that is not installed."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            package = "torchmetrics" if name == "fastiqa.metrics.torchmetrics" else name.partition(".")[0]
            if importlib.util.find_spec(package) is None:
                return package
            if package in IMPORT_TORCHVISION:
                import_library(package)
    return None


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if blocks(page, "python")])
def test_python_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    absent = []
    for line, code in blocks(PAGES[name], "python"):
        if (package := missing(code)) is not None:
            absent.append(package)
            continue
        exec(compile("\n" * line + code, str(PAGES[name]), "exec"), names)
    if absent:
        pytest.skip(f"all other code ran; not installed: {', '.join(absent)}")


def commands(text: str) -> list[list[str]]:
    """The words of each `fastiqa` command in shell code; lines end in a backslash or a comment."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("fastiqa") + 1 :] for line in words if "fastiqa" in line]


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "fastiqa" in page.read_text()])
def test_commands_exist(name: str) -> None:
    for _, text in blocks(PAGES[name], "sh"):
        for words in commands(text):
            command: Any = typer.main.get_command(app)
            while words and words[0] in getattr(command, "commands", ()):
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
            named = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert named <= options | {"--help"}, f"fastiqa {command.name}: {named - options}"
            assert not hasattr(command, "commands") or not words or words[0].startswith("-"), words
            if command.name == "train" and words and not words[0].startswith("-"):
                read_recipe(words[0], [value for key, value in itertools.pairwise(words) if key == "--set"])
    for module in re.findall(r"python -m (fastiqa[\w.]*\w)", PAGES[name].read_text()):
        assert importlib.util.find_spec(module) is not None, module
