"""The package as installed: import cost, the kernels folder in every kind of installation, wheels, lint and types."""

from __future__ import annotations

import functools
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from emulation import build

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_paths()["purelib"])

# Imports the Triton kernels and a foreign `kernels` package, runs an operator, and says from where.
PROBE = """
import sys, torch, fastiqa, fastiqa.kernels.cross_difference, fastiqa.kernels.launch
from fastiqa.ops import cross_difference
import kernels
assert kernels.WHOSE == "somebody else's", kernels
x = torch.arange(24.0).reshape(1, 2, 3, 4)
assert torch.equal(cross_difference(2 * x, x, x), torch.cat([x, x], 1))
print(fastiqa.__file__)
print(fastiqa.kernels.cross_difference.__file__)
print(fastiqa.explain("cross_difference", x, x, x))
"""


def clean_environment(**extra: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("FASTIQA_", "PYTHON", "TRITON"))} | extra


def python(code: str, cwd: Path, executable: str = sys.executable, **environment: str) -> str:
    command = [executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with somebody else's `kernels` package."""
    (tmp_path / "foreign" / "kernels").mkdir(parents=True)
    (tmp_path / "foreign" / "kernels" / "__init__.py").write_text('WHOSE = "somebody else\'s"\n')
    return tmp_path / "foreign"


@functools.cache
def environment(folder: Path) -> str:
    """A virtual environment that sees this one's packages, but not this one's fastiqa."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # Only plain packages are seen through a path file; an editable installation's hook in it is not run.
    (site / "borrowed.pth").write_text(f"{SITE}\n")
    return str(folder / "bin" / "python")


def wheel(folder: Path, source: Path, **extra: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, env=clean_environment(**extra), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def checkout(folder: Path) -> Path:
    """A copy of the sources: what git tracks and what it would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


# ---- import ----


def test_import_is_cheap_and_touches_nothing(tmp_path: Path) -> None:
    """Under 0.3 s beyond torch, everything public included; no CUDA, no Triton, no compiled library, no output."""
    # Of the processor: other tests run beside this one. Without torch's objects, which the collector looks through at
    # some allocation or other after its import: 0.1 s on a machine where fastiqa's own is 0.15.
    timed = (
        "import gc, time, torch; gc.collect(); gc.freeze(); start = time.process_time(); import {};"
        " print(time.process_time() - start)"
    )
    everything = "fastiqa, fastiqa.ops, fastiqa.nn, fastiqa.models, fastiqa.metrics, fastiqa.reference, fastiqa.data"
    seconds = statistics.median(float(python(timed.format(everything), tmp_path)) for _ in range(5))
    assert seconds < 0.3
    untouched = """
import sys, torch
before = set(sys.modules)
import fastiqa, fastiqa.ops, fastiqa.nn, fastiqa.models, fastiqa.metrics, fastiqa.cli
assert not torch.cuda.is_initialized()
heavy = {"triton", "torchvision", "timm", "transformers", "scipy", "matplotlib", "typer", "rich", "PIL"}
assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)
assert "libfastiqa" not in open("/proc/self/maps").read()
"""
    assert python(untouched, tmp_path) == ""


def test_public_names_resolve(tmp_path: Path) -> None:
    names = "import fastiqa; print([name for name in fastiqa.__all__ if getattr(fastiqa, name) is None])"
    assert python(names, tmp_path).strip() == "[]"


# ---- installations ----


def test_raw_checkout(tmp_path: Path, foreign: Path) -> None:
    source = checkout(tmp_path / "source")
    executable = environment(tmp_path / "env")
    for cwd, path in ((source, f"{foreign}"), (tmp_path, f"{foreign}:{source}")):
        out = python("import sys; sys.path.append('.')\n" + PROBE if cwd == source else PROBE, cwd, executable,
                     PYTHONPATH=path)  # fmt: skip
        assert str(source / "kernels" / "cross_difference.py") in out


@pytest.mark.slow
def test_editable_installation(tmp_path: Path, foreign: Path) -> None:
    """This environment's own installation, from its root and from elsewhere."""
    for cwd in (ROOT, tmp_path):
        out = python(PROBE, cwd, PYTHONPATH=str(foreign))
        assert str(ROOT / "kernels" / "cross_difference.py") in out


@pytest.mark.slow
def test_wheel_outside_the_checkout(tmp_path: Path, foreign: Path) -> None:
    source = checkout(tmp_path / "source")
    for file in (source / "csrc" / "cpu").glob("*.cpp"):
        if file.stem != "cross_difference":
            file.unlink()  # all are compiled by the same lines, and are for this environment's own installation
    built = wheel(tmp_path / "wheels", source, FASTIQA_CUDA="0")
    assert re.fullmatch(r"fastiqa-[\d.]+-py3-none-linux_\w+\.whl", built.name)
    names = zipfile.ZipFile(built).namelist()
    assert "fastiqa/libfastiqa_cpu.so" in names
    assert "fastiqa/py.typed" in names
    assert "fastiqa/training/recipes/prfnet_progressive.yaml" in names
    assert "fastiqa/bench/run.py" in names
    assert not [name for name in names if name.startswith("fastiqa/bench/") and not re.search(r"/\w+\.py$", name)]
    assert not [name for name in names if "regression" in name]
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"fastiqa"}
    executable = environment(tmp_path / "env")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(built).extractall(site)
    out = python(PROBE, tmp_path, executable, PYTHONPATH=str(foreign))
    assert str(site / "fastiqa" / "kernels" / "cross_difference.py") in out
    assert "  cpu     runs" in out
    command = [executable, "-m", "fastiqa", "bench", "cross_difference", "--quick", "--mode=fwd", "--seconds=0.02"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(next(tmp_path.glob("fastiqa-bench-*.csv")).read_text().splitlines()) == 1 + 4 * 2


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"FASTIQA_NATIVE": "0"}, {"PATH": "", "CXX": "", "CUDA_HOME": ""}], ids=str)
def test_without_a_compiler(tmp_path: Path, foreign: Path, variables: dict[str, str]) -> None:
    """Asked for, or for want of a compiler, a pure Python wheel: torch runs it, Triton's interpreter too."""
    source = checkout(tmp_path / "source")
    built = wheel(tmp_path / "wheels", source, **variables)
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")]
    executable = environment(tmp_path / "env")
    zipfile.ZipFile(built).extractall(next((tmp_path / "env").glob("lib/python*/site-packages")))
    out = python(PROBE, tmp_path, executable, PYTHONPATH=str(foreign))
    assert "  cpu     libfastiqa_cpu.so was not built" in out
    assert "  torch   runs" in out
    interpreted = {"TRITON_INTERPRET": "1", "FASTIQA_BACKEND": "triton", "PYTHONPATH": str(foreign)}
    out = python(PROBE, tmp_path, executable, **interpreted)
    assert "  triton  runs" in out


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FASTIQA_CUDA": "yes"}, "FASTIQA_CUDA: got 'yes', want auto, 0 or 1"),
        ({"FASTIQA_CUDA": "1", "PATH": "", "CUDA_HOME": "", "CUDA_PATH": ""}, "no C++ compiler found"),
    ],
)
def test_build_errors_say_what_to_do(variables: dict[str, str], message: str) -> None:
    command = [sys.executable, "setup.py", "--name"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment() | variables, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.skipif(build().find_cxx() is None, reason="needs a C++ compiler")
def test_objects_are_made_again_when_what_they_are_made_of_changes(tmp_path: Path) -> None:
    folder = tmp_path / "that's with a space"
    folder.mkdir()
    source, included, other = folder / "a.cpp", folder / "a.h", folder / "b.h"
    source.write_text('#include "a.h"\n')
    included.write_text("int a;\n")
    other.write_text("int b;\n")
    compiler = [build().find_cxx(), "-c"]

    def made(command: list[str]) -> bool:
        """Whether there is a new object now."""
        before = obj.stat().st_mtime_ns if obj.exists() else None
        assert build()._compile(command, [source], tmp_path, jobs=1) == [obj]
        return obj.stat().st_mtime_ns != before

    obj = tmp_path / f"{folder.name}_a.cpp.o"
    for file in (source, included, other):
        os.utime(file, (1, 1))
    assert made(compiler)
    assert not made(compiler)
    os.utime(other)
    assert not made(compiler)
    os.utime(included)
    assert made(compiler)
    os.utime(source)
    assert made(compiler)
    assert made([*compiler, "-O1"])
    assert not made([*compiler, "-O1"])
    included.unlink()
    source.write_text("int c;\n")
    os.utime(source, (1, 1))
    assert made([*compiler, "-O1"])


def test_a_build_without_torch_says_how_to_build(tmp_path: Path) -> None:
    """An isolated build environment has setuptools and no torch."""
    hidden = "import importlib.util, runpy, sys; find = importlib.util.find_spec; "
    hidden += "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a); "
    hidden += "sys.argv = ['setup.py', '--name']; runpy.run_path('setup.py')"
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "--no-build-isolation" in done.stderr
    assert "FASTIQA_NATIVE=0" in done.stderr


# ---- the code itself ----


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)])
def test_lint_and_types(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_is_true(tmp_path: Path) -> None:
    """Its first example runs, and its tables are what bench/data says."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example is not None
    assert python(example[1], tmp_path).splitlines()[0] == "torch.Size([1, 6, 448, 448])"
    check = [sys.executable, "-m", "fastiqa.bench.report", "--check"]
    assert subprocess.run(check, env=clean_environment(PYTHONPATH=str(ROOT))).returncode == 0
