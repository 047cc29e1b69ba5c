"""The installed package: import cost, the kernels folder in every kind of installation, wheels, builds."""

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
from typing import Any

import pytest
import torch
from support.emulation import build

import fastiqa
from fastiqa import ops
from fastiqa.cli import info
from fastiqa.common import extras
from fastiqa.runtime import native

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])

# Imports the Triton kernels and a foreign `kernels` package, runs an operator, and prints their places.
PROBE = """
import sys, torch, fastiqa, fastiqa.kernels.cross_difference, fastiqa.kernels.lib.launch
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
    """A virtual environment with this one's packages, but without its fastiqa."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # A path file shows only plain packages; it does not run an editable installation's hook.
    (site / "borrowed.pth").write_text(f"{SITE}\n")
    return str(folder / "bin" / "python")


def wheel(folder: Path, source: Path, **extra: str) -> tuple[Path, str]:
    """A wheel, and the output of `pip -v` while making it."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, env=clean_environment(**extra), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), done.stdout + done.stderr


def sdist(folder: Path, source: Path) -> Path:
    """Make and unpack the source distribution of a checkout."""
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=source, env=clean_environment(FASTIQA_NATIVE="0"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    packed = next(folder.glob("*.tar.gz"))
    shutil.unpack_archive(packed, folder)
    return folder / packed.name.removesuffix(".tar.gz")


def setup(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment() | extra, capture_output=True, text=True)


def some_torch(folder: Path, cuda: str | None) -> str:
    """A folder for PYTHONPATH with the parts of torch that a build reads before it compiles."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text(f"__version__, cuda = '2.99.0', {cuda!r}\n")
    (folder / "torch-2.99.0.dist-info").mkdir()
    (folder / "torch-2.99.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.99.0\n")
    return str(folder)


def program(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def checkout(folder: Path) -> Path:
    """A copy of the sources that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


# ---- import ----


def test_import_is_cheap_and_touches_nothing(tmp_path: Path) -> None:
    """Under 0.3 s beyond torch, with everything public; no CUDA, no Triton, no compiled library, no output."""
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


def test_every_message_names_an_extra_of_the_distribution() -> None:
    """`fastiqa` on PyPI is another project: what is to be installed is spelled in one place."""
    project = (ROOT / "pyproject.toml").read_text()
    assert f'\nname = "{extras.DISTRIBUTION}"' in project
    assert f'\nall = ["{extras.DISTRIBUTION}[' in project
    defined = project.partition("\n[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    named = set()
    for folder in ("fastiqa", "kernels", "bench"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert not re.search(r"\bfastiqa\[", text), file
            named |= set(re.findall(r"""install_command\(["'](\w+)["']\)""", text))
    assert named >= {"cli", "train", "triton", "hub", "bench", "torchmetrics"}
    assert named <= set(re.findall(r"^(\w+) = ", defined, re.M))


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


def test_editable_installation(tmp_path: Path, foreign: Path) -> None:
    """This environment's own installation, from its root and from elsewhere."""
    for cwd in (ROOT, tmp_path):
        out = python(PROBE, cwd, PYTHONPATH=str(foreign))
        assert str(ROOT / "kernels" / "cross_difference.py") in out


def test_wheel_outside_the_checkout(tmp_path: Path, foreign: Path, published: Any) -> None:
    """A wheel from the source distribution, which has the compiled sources, published weights and no test."""
    original = checkout(tmp_path / "source")
    shipped = [published("mfenet_small").file(), published("mfenet_small").file().with_suffix(".json")]
    weights = original / "fastiqa" / "models" / "weights"
    weights.mkdir(exist_ok=True)
    for file in shipped:
        shutil.copy(file, weights)
    source = sdist(tmp_path / "sdist", original)
    assert not (source / "tests").exists()
    for file in (source / "csrc").glob("ops/*/*.cpp"):
        if file.stem != "cross_difference":
            file.unlink()  # the same lines compile all of them, in this environment's installation
    built, printed = wheel(tmp_path / "wheels", source, FASTIQA_CUDA="0")
    assert re.search(r"fastiqa: CPU 1 of 1: cross_difference\.cpp, \d+ s", printed)
    tag = re.fullmatch(r"fastiqa_kernels-[\d.]+-py3-none-manylinux_2_(\d+)_\w+\.whl", built.name)
    assert tag is not None, built.name
    names = zipfile.ZipFile(built).namelist()
    assert "fastiqa/libfastiqa_cpu.so" in names
    assert {"fastiqa/py.typed", "fastiqa/ops/__init__.pyi", "fastiqa/kernels/lib/launch.py"} <= {*names}
    assert "fastiqa/training/recipes/prfnet_progressive.yaml" in names
    assert {name for name in names if name.startswith("fastiqa/models/weights/")} == {
        f"fastiqa/models/weights/{file.name}" for file in weights.iterdir()
    }
    assert "fastiqa/bench/runner/run.py" in names
    assert not [name for name in names if name.startswith("fastiqa/bench/") and not re.search(r"/\w+\.py$", name)]
    assert not [name for name in names if "regression" in name]
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"fastiqa"}
    executable = environment(tmp_path / "env")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(built).extractall(site)
    library = site / "fastiqa" / "libfastiqa_cpu.so"
    versions = subprocess.run(["objdump", "-T", str(library)], capture_output=True, text=True, check=True).stdout
    glibc = [int(minor) for minor in re.findall(r"\bGLIBC_2\.(\d+)", versions)]
    assert max(glibc) <= int(tag[1]) <= max(28, *glibc)  # GCC 12 and later may need more, for libstdc++
    for file in site.rglob("fastiqa*/**/*"):  # no path from the build
        content = file.read_bytes() if file.is_file() else b""
        assert not [path for path in (source, SITE, ROOT) if str(path).encode() in content], file
    out = python(PROBE, tmp_path, executable, PYTHONPATH=str(foreign))
    assert str(site / "fastiqa" / "kernels" / "cross_difference.py") in out
    assert "  cpu     runs" in out
    scorer = "import fastiqa; print(len(fastiqa.create_model('mfenet_small.test', pretrained=True).state_dict()))"
    assert int(python(scorer, tmp_path, executable)) > 100
    command = [executable, "-m", "fastiqa", "bench", "cross_difference", "--quick", "--mode=fwd", "--seconds=0.02"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(next(tmp_path.glob("fastiqa-bench-*.csv")).read_text().splitlines()) == 1 + 4 * 2


@pytest.mark.parametrize(
    "variables",
    [pytest.param({"FASTIQA_NATIVE": "0"}, marks=pytest.mark.slow), {"PATH": "", "CXX": "", "CUDA_HOME": ""}],
    ids=str,
)
def test_without_a_compiler(tmp_path: Path, foreign: Path, variables: dict[str, str]) -> None:
    """A pure Python wheel, on request or without a compiler: torch runs it, and so does Triton's interpreter."""
    source = checkout(tmp_path / "source")
    built, _ = wheel(tmp_path / "wheels", source, **variables)
    assert built.name.endswith("-py3-none-any.whl")
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
        ({"FASTIQA_NATIVE": "no"}, "FASTIQA_NATIVE: got 'no', want auto, 0 or 1"),
        ({"FASTIQA_CUDA": "1", "PATH": "", "CUDA_HOME": "", "CUDA_PATH": ""}, "no C++ compiler found"),
        ({"FASTIQA_NATIVE": "1", "PATH": ""}, "FASTIQA_NATIVE=1: no C++ compiler found"),
    ],
)
def test_build_errors_say_what_to_do(variables: dict[str, str], message: str) -> None:
    done = setup("--name", **variables)
    assert done.returncode != 0
    assert message in done.stderr


def test_compilers_that_fail_are_told_and_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error only if a library was demanded; otherwise a note in its place, which the first call repeats."""
    failing = 'echo "probe.cpp:9:21: error: no dispatcher found" >&2', "exit 1"
    compilers = {
        "CXX": program(tmp_path / "old-g++", *failing),
        "CUDA_HOME": str(Path(program(tmp_path / "cuda" / "bin" / "nvcc", *failing)).parents[1]),
        "PYTHONPATH": some_torch(tmp_path / "site", "13.0"),
    }
    done = setup("build_ext", f"--build-lib={tmp_path / 'lib'}", **compilers)
    assert done.returncode == 0, done.stderr
    assert "fastiqa: the CPU library is left out" in done.stderr
    assert "fastiqa: the CUDA library is left out" in done.stderr
    folder = tmp_path / "lib" / "fastiqa"
    assert sorted(file.name for file in folder.iterdir()) == ["libfastiqa_cpu.txt", "libfastiqa_cuda.txt"]
    for demand, library in (("FASTIQA_NATIVE", "old-g++"), ("FASTIQA_CUDA", "nvcc")):
        done = setup("build_ext", f"--build-lib={tmp_path / 'lib'}", **compilers, **{demand: "1"})
        assert done.returncode != 0
        assert re.search(rf"fastiqa: \S+{re.escape(library)} cannot make the kernels \(probe.cpp:9", done.stderr)
    monkeypatch.setattr(native, "path", lambda library: folder / f"lib{library}.so")
    with pytest.raises(native.Unavailable, match=r"was not built: \S+old-g\+\+ cannot make the kernels .*g\+\+ 12"):
        native.build_record("fastiqa_cpu")


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_the_cuda_library_is_for_a_torch_that_has_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None
) -> None:
    """With nvcc but no CUDA in torch, the library is built only on request, and `fastiqa info` tells."""
    home = str(Path(program(tmp_path / "cuda" / "bin" / "nvcc", "exit 1")).parents[1])
    beside = {"CUDA_HOME": home, "CXX": program(tmp_path / "g++", "exit 1")}
    beside["PYTHONPATH"] = some_torch(tmp_path / "site", cuda)
    for asked in ("", "0", "1"):
        done = setup("build_ext", f"--build-lib={tmp_path / 'lib'}", **beside, FASTIQA_CUDA=asked)
        tried = f"{home}/bin/nvcc cannot make the kernels" in done.stderr
        assert tried == (asked == "1" or (asked == "" and cuda is not None)), done.stderr
        said = "fastiqa: torch 2.99.0 has no CUDA: no CUDA library (FASTIQA_CUDA=1 builds it)" in done.stderr
        assert said == (asked == "" and cuda is None), done.stderr
    monkeypatch.setattr(native, "path", lambda library: tmp_path / f"lib{library}.so")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    reason = "reinstall where nvcc and a C" if cuda else f"torch {torch.__version__} has no CUDA (FASTIQA_CUDA=1 builds"
    assert reason in str(native._load_once.__wrapped__("cuda"))


@pytest.mark.skipif(build().find_cxx() is None, reason="needs a C++ compiler")
def test_the_next_compiler_is_taken_where_one_cannot_make_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = build().find_cxx()
    program(tmp_path / "g++", "exit 1")
    program(tmp_path / "c++", f'exec {working} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CXX", raising=False)
    chosen, clones = build().choose_cxx(tmp_path / "work")
    assert chosen == str(tmp_path / "c++")
    assert len(clones.split()) in (0, 2)
    with pytest.raises(build().BuildError, match=r"\Aexit status 1\n"):
        build()._probe_cxx(str(tmp_path / "g++"), tmp_path / "work" / "g++")


def test_torch_without_the_stable_abi_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build().importlib.metadata, "version", lambda name: "2.9.1+cu128")
    with pytest.raises(build().BuildError, match=r"\Atorch: got 2\.9\.1\+cu128, want 2\.10 or later\Z"):
        build().choose_cxx(tmp_path)


def test_compute_capabilities_are_those_that_nvcc_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nvcc before 12.8 does not know Blackwell, which runs the PTX of the newest other architecture."""
    nvcc = program(tmp_path / "nvcc", *(f"echo compute_{arch}" for arch in (50, 80, 86, 89, 90)))
    monkeypatch.delenv("FASTIQA_CUDA_ARCHS", raising=False)
    assert build().cuda_archs(nvcc) == ("80", "90")
    assert "knows no compute capability 100, 120: left out" in capsys.readouterr().err
    assert build().cuda_archs(program(tmp_path / "silent", "exit 1")) == build().CUDA_ARCHS
    monkeypatch.setenv("FASTIQA_CUDA_ARCHS", "8.6;12.0")
    with pytest.raises(build().BuildError, match="knows no compute capability 120, but 50, 80, 86, 89, 90"):
        build().cuda_archs(nvcc)


@pytest.mark.parametrize(
    ("versions", "system"),
    [
        (["GLIBC_2.2.5", "GLIBC_2.14", "GLIBCXX_3.4.9", "CXXABI_1.3.9", "GCC_3.0"], "manylinux_2_28"),
        (["GLIBC_2.32", "GLIBCXX_3.4.21"], "manylinux_2_32"),
        (["GLIBC_2.17", "GLIBCXX_3.4.29"], "manylinux_2_34"),
        (["GLIBC_2.38", "GLIBCXX_3.4.30", "CXXABI_1.3.13"], "manylinux_2_38"),
        (["GLIBC_2.38", "GLIBCXX_3.4.99"], None),
    ],
)
def test_a_wheel_is_tagged_with_what_its_libraries_need(tmp_path: Path, versions: list[str], system: str) -> None:
    """auditwheel's policies, with the exact version of glibc."""
    (tmp_path / "library.so").write_bytes(b"\x7fELF\0" + b"\0".join(map(str.encode, versions)) + b"\0")
    assert build().manylinux([tmp_path / "library.so"]) == system


@pytest.mark.parametrize(
    ("setuptools", "hidden", "prints"),
    [
        ("58.1.0", [], "setuptools: got 58.1.0, want 64 or later: python -m pip install --upgrade setuptools wheel"),
        ("65.5.0", ["setuptools.command.bdist_wheel", "wheel"], "makes no wheels without the package wheel"),
        ("65.5.0", ["setuptools.command.bdist_wheel"], "'license': 'Apache-2.0'"),
        ("76.1.0", [], "'license': 'Apache-2.0'"),
        ("77.0.0", [], "'license_expression': 'Apache-2.0'"),
    ],
)
def test_setuptools_of_fresh_environments(setuptools: str, hidden: list[str], prints: str) -> None:
    """Python 3.10 and 3.11 bring 65.5; before 70.1 there is no wheel command, before 77 another licence field."""
    code = f"""
import runpy, sys, types, setuptools
setuptools.__version__ = {setuptools!r}
setuptools.setup = lambda **options: (print(options), options["cmdclass"]["bdist_wheel"](setuptools.Distribution()))
for name in {hidden!r}:
    sys.modules[name] = None
if {hidden!r} == ["setuptools.command.bdist_wheel"]:
    sys.modules["wheel"] = types.ModuleType("wheel")
    sys.modules["wheel.bdist_wheel"] = types.ModuleType("wheel.bdist_wheel")
    sys.modules["wheel.bdist_wheel"].bdist_wheel = setuptools.Command
    setuptools.Command.initialize_options = lambda self: None
sys.argv = ["setup.py", "bdist_wheel"]
runpy.run_path("setup.py")
"""
    command = [sys.executable, "-c", code]
    environment = clean_environment(FASTIQA_NATIVE="0")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert prints in done.stdout + done.stderr
    project = (ROOT / "pyproject.toml").read_text().partition("[project]")[2].partition("\n[")[0]
    assert not re.search(r"^license", project, re.M)


def test_info_names_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys, the first words of the lines, are for programs too."""
    monkeypatch.setattr(ops, "OPERATORS", {})
    lines = info.report().splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["fastiqa", "python", "torch", "triton", "GPU"]
    assert lines[0] == f"fastiqa  {fastiqa.__version__} (distribution fastiqa-kernels)"


def test_info_fails_where_a_library_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "OPERATORS", {})
    assert info.main() == 0
    monkeypatch.setattr(native, "LIBRARIES", ("broken", "absent"))
    monkeypatch.setattr(native, "path", lambda library: tmp_path / f"lib{library}.so")
    (tmp_path / "libbroken.so").write_bytes(b"no library")
    assert info.main() == 1
    assert re.search(r"broken libbroken\.so does not load: ", capsys.readouterr().out)


def test_info_says_that_a_compiler_made_no_code_for_avx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "OPERATORS", {})
    monkeypatch.setattr(info.platform, "machine", lambda: "x86_64")
    record = {"torch": "2.13.0", "compiler": "clang version 14.0.6", "clones": ""}
    monkeypatch.setattr(native, "build_record", lambda library: record)
    assert "clang version 14.0.6, without code for AVX, so slow" in info.report()
    record["clones"] = "x86-64-v4 x86-64-v3"
    assert "without code for AVX" not in info.report()


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
        """Whether a new object exists."""
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
