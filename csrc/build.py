"""How the compiled libraries are made: the one place with compilers, flags and architectures.

`setup.py` builds the CPU and the CUDA library with it; the tests also build the CUDA sources for a CPU, plain and under
the sanitizers. Nothing here looks for a GPU: a machine without one builds the same code.

| library              | sources            | needs                    |
| -------------------- | ------------------ | ------------------------ |
| libfastiqa_cpu.so    | csrc/cpu/*.cpp     | g++ or clang++, torch    |
| libfastiqa_cuda.so   | csrc/cuda/*.cu     | nvcc, g++, torch         |
| emulated CUDA        | csrc/cuda/*.cu     | g++                      |
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).resolve().parent

# Real code for Ampere, Hopper and both Blackwells (8.6 and 8.9 run 8.0's), and PTX for what follows.
CUDA_ARCHS = ("80", "90", "100", "120")

# The sources tell architectures apart here alone (csrc/common/channel_packs_cuda.h), so those on one side share their
# PTX, which is most of nvcc's time: octave_split.cu takes 24 instead of 35 s.
CUDA_DIVIDE = 100

# The stable ABI of torch 2.10: one binary for that and every later release.
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"

# -fno-trapping-math and -fno-math-errno change no value; without them GCC does not turn selects into vector code.
# -fopenmp-simd: a sum may be reordered where its loop says so (`#pragma omp simd reduction`), and nowhere else.
CXX_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-fopenmp-simd",
    "-Wall",
)
NVCC_FLAGS = (
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
)
EMULATE_FLAGS = ("-std=c++20", "-fPIC", "-DFASTIQA_EMULATE", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-pthread")

NVCC_JOB_GIB = 2  # memory one nvcc job may take


class BuildError(RuntimeError):
    """A compiler is missing or failed; the message says what to do."""


def find_cxx() -> str | None:
    """The C++ compiler: $CXX, else g++, c++ or clang++ on the PATH."""
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def find_nvcc() -> str | None:
    """CUDA's compiler: below $CUDA_HOME or $CUDA_PATH, else on the PATH."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    return next((path for name in [*candidates, "nvcc"] if (path := shutil.which(name))), None)


def torch_flags() -> tuple[list[str], list[str]]:
    """Include and link flags of the installed torch."""
    import torch

    root = Path(torch.__file__).parent
    # -isystem: warnings inside torch's headers are not ours.
    return ["-isystem", str(root / "include")], [f"-L{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]


def build_cpu(output: Path, work: Path, sources: Sequence[Path] | None = None) -> None:
    """Compiles the CPU library."""
    cxx = find_cxx()
    if cxx is None:
        raise BuildError("no C++ compiler: looked for $CXX, g++, c++, clang++. Install one, or set FASTIQA_NATIVE=0")
    include, link = torch_flags()
    compile_ = [cxx, *CXX_FLAGS, STABLE_ABI, f"-I{CSRC / 'common'}", *include, "-c"]
    sources = sources if sources is not None else sorted((CSRC / "cpu").glob("*.cpp"))
    record = _record("cpu", [cxx, "--version"], CXX_FLAGS)
    objects = [
        *_compile(compile_, sources, work, jobs=os.cpu_count() or 1),
        *_compile([*compile_, record], [CSRC / "library.cpp"], work, jobs=1),
    ]
    _run([cxx, "-shared", "-o", str(output), *map(str, objects), *link])


def build_cuda(output: Path, work: Path, sources: Sequence[Path] | None = None, archs: Sequence[str] = ()) -> None:
    """Compiles the CUDA library; links on machines whose torch knows no CUDA."""
    nvcc, cxx = find_nvcc(), find_cxx()
    if nvcc is None or cxx is None:
        missing = "nvcc (looked in $CUDA_HOME, $CUDA_PATH and PATH)" if nvcc is None else "a C++ compiler"
        raise BuildError(f"FASTIQA_CUDA needs {missing}; set FASTIQA_CUDA=0 to build without it")
    archs = archs or cuda_archs()
    include, link = torch_flags()
    generate = [f"-gencode=arch=compute_{ptx_of(arch, archs)},code=sm_{arch}" for arch in archs]
    newest = ptx_of(max(archs, key=int), archs)
    generate.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    compile_ = [nvcc, *NVCC_FLAGS, *generate, STABLE_ABI, "-DUSE_CUDA", f"-I{CSRC / 'common'}", *include, "-c"]
    sources = sources if sources is not None else sorted((CSRC / "cuda").glob("*.cu"))
    record = _record("cuda", [nvcc, "--version"], NVCC_FLAGS, archs=list(archs), ptx=newest)
    objects = [
        *_compile(compile_, sources, work, jobs=_nvcc_jobs()),
        *_compile([cxx, "-fPIC", record, "-c"], [CSRC / "library.cpp"], work, jobs=1),
    ]
    # The static CUDA runtime (nvcc's default) works beside whichever libcudart torch brings.
    _run([nvcc, "-shared", *generate, "-o", str(output), *map(str, objects), *link])


def build_emulated(output: Path, work: Path, sources: Iterable[Path], flags: Sequence[str], shared: bool) -> None:
    """Compiles CUDA sources for the CPU (csrc/common/emulate.h): a shared library, or a program if one has a main."""
    cxx = find_cxx()
    if cxx is None:
        raise BuildError("no C++ compiler: looked for $CXX, g++, c++, clang++")
    compile_ = [cxx, *EMULATE_FLAGS, *flags, f"-I{CSRC / 'common'}", "-x", "c++", "-c"]
    objects = _compile(compile_, list(sources), work, jobs=os.cpu_count() or 1)
    kind = ["-shared"] if shared else []
    if output.exists() and all(obj.stat().st_mtime < output.stat().st_mtime for obj in objects):
        return  # another process may be running it
    _run([cxx, *kind, "-pthread", *flags, "-o", str(output), *map(str, objects)])


def cuda_archs() -> tuple[str, ...]:
    """Compute capabilities to build for: $FASTIQA_CUDA_ARCHS ("80;90"), else CUDA_ARCHS."""
    asked = os.environ.get("FASTIQA_CUDA_ARCHS", "")
    return tuple(arch.strip().replace(".", "") for arch in asked.split(";") if arch.strip()) or CUDA_ARCHS


def ptx_of(arch: str, archs: Sequence[str]) -> str:
    """The architecture whose PTX becomes the code of `arch`: the oldest asked for on its side of CUDA_DIVIDE."""
    return min((a for a in archs if (int(a) < CUDA_DIVIDE) == (int(arch) < CUDA_DIVIDE)), key=int)


def _record(library: str, version: list[str], flags: Sequence[str], **more: object) -> str:
    import torch

    lines = subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    compiler = next((line for line in lines if "release" in line), lines[0])
    record = {"library": library, "torch": torch.__version__, "compiler": compiler, "flags": " ".join(flags), **more}
    return f"-DFASTIQA_BUILD_RECORD={json.dumps(json.dumps(record))}"


def _compile(command: Sequence[str], sources: Sequence[Path], work: Path, jobs: int) -> list[Path]:
    """Compiles each source unless its object is newer than all it is made of, and was made by the same command."""
    work.mkdir(parents=True, exist_ok=True)

    def one(source: Path) -> Path:
        obj = work / f"{source.parent.name}_{source.name}.o"
        note, files = obj.with_suffix(".command"), obj.with_suffix(".files")
        line = json.dumps([*command, str(source)])
        if not (note.exists() and note.read_text() == line and _is_newer(obj, files)):
            note.unlink(missing_ok=True)
            _run([*command, "-MMD", "-MF", str(files), str(source), "-o", str(obj)])
            note.write_text(line)
        return obj

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, sources))


def _is_newer(obj: Path, files: Path) -> bool:
    """Whether an object is newer than its source and headers, in the list for make that its compiler wrote of them."""
    if not (obj.exists() and files.exists()):
        return False
    words = re.split(r"(?<!\\)\s+", files.read_text().replace("\\\n", " ").partition(": ")[2].strip())
    names = (word.replace("\\ ", " ") for word in words)
    return all(Path(name).exists() and Path(name).stat().st_mtime < obj.stat().st_mtime for name in names)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\nfailed with\n{done.stdout}{done.stderr}")


def _nvcc_jobs() -> int:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(gib // NVCC_JOB_GIB)))
