"""How the compiled libraries are made: the one place with compilers, flags and architectures.

`setup.py` builds the CPU and the CUDA library with it; the tests also build the sources of both without PyTorch, on a
CPU, plain and under the sanitizers. Nothing here looks for a GPU: a machine without one builds the same code.

| library              | sources            | needs                    |
| -------------------- | ------------------ | ------------------------ |
| libfastiqa_cpu.so    | csrc/ops/*/*.cpp   | g++ 11 or clang++ 14, torch 2.10 |
| libfastiqa_cuda.so   | csrc/ops/*/*.cu    | nvcc 12, g++, torch 2.10 |
| the tests' programs  | both               | g++                      |

Compilers are tried on csrc/probe.cpp and csrc/probe.cu before they are to compile for minutes.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).resolve().parent

# Real code for Ampere, Hopper and both Blackwells (8.6 and 8.9 run 8.0's), and PTX for what follows.
CUDA_ARCHS = ("80", "90", "100", "120")

# Only csrc/passes/channelwise tells architectures apart, so those on one side share their PTX, which is most of nvcc's
# time: octave_split.cu takes 24 instead of 35 s.
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
PLAIN_FLAGS = ("-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-pthread")

NVCC_JOB_GIB = 2  # memory one nvcc job may take

# Sources of either library that take longest, 29 to 13 s of a core for the CPU, the slowest first: two cores that begin
# with them end together, where in the order of names one waits 14 s for the other.
SLOWEST = ("gated_upsample", "difference_response", "octave_split", "ssim", "octave_merge", "large_kernel_conv")

# The newest symbol versions of libstdc++ and libgcc beside each glibc 2.X, from auditwheel's manylinux policies of
# x86-64; those of aarch64 allow as much or more. torch 2.10 asks for glibc 2.28 itself.
MANYLINUX = (
    (28, {"GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}),
    (31, {"GLIBCXX": (3, 4, 28), "CXXABI": (1, 3, 12), "GCC": (7, 0, 0)}),
    (34, {"GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (7, 0, 0)}),
    (35, {"GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}),
    (39, {"GLIBCXX": (3, 4, 33), "CXXABI": (1, 3, 15), "GCC": (14, 0, 0)}),
)


class BuildError(RuntimeError):
    """A compiler is missing or failed. The first line says which and why; what it printed follows."""


def find_cxx() -> str | None:
    """The C++ compiler: $CXX, else g++, c++ or clang++ on the PATH."""
    return next(iter(_cxx_on_path()), None)


def _cxx_on_path() -> list[str]:
    names = ("g++", "c++", "clang++")
    asked = os.environ.get("CXX")
    if asked and (path := shutil.which(asked)):
        return [path]
    paths = [path for name in names if (path := shutil.which(name))]
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def find_nvcc() -> str | None:
    """CUDA's compiler: below $CUDA_HOME or $CUDA_PATH, else on the PATH."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    return next((path for name in [*candidates, "nvcc"] if (path := shutil.which(name))), None)


def _torch() -> Path:
    """The installed torch's folder."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch: not installed, want 2.10 or later")
    return Path(spec.origin).parent


def torch_cuda() -> tuple[str, str | None]:
    """The installed torch's version and that of its CUDA, None for a torch without; read without importing torch."""
    about = importlib.util.spec_from_file_location("torch_version", _torch() / "version.py")
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return str(module.__version__), module.cuda


def torch_flags() -> tuple[list[str], list[str]]:
    """Include and link flags of the installed torch, without importing it."""
    root = _torch()
    version = importlib.metadata.version("torch")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 10):
        raise BuildError(f"torch: got {version}, want 2.10 or later")
    # -isystem: warnings inside torch's headers are not ours.
    include = ["-isystem", str(root / "include")]
    # libtorch.so brings a CUDA torch's libtorch_cuda.so along. No symbol is its own, so that linkers of distributions
    # that pass --as-needed by themselves would drop it, and with it all that the CUDA library takes from torch.
    needed = ["-Xlinker", "--no-as-needed"] if sys.platform.startswith("linux") else []
    return include, [f"-L{root / 'lib'}", *needed, "-ltorch", "-ltorch_cpu", "-lc10"]


def nameless() -> list[str]:
    """Flags of g++ and clang++ that keep the folders of sources and of torch out of what they compile."""
    spec = importlib.util.find_spec("torch")
    torch = [f"-ffile-prefix-map={Path(spec.origin).parent}=torch"] if spec is not None and spec.origin else []
    return [f"-ffile-prefix-map={CSRC}=csrc", *torch]


def choose_cxx(work: Path) -> tuple[str, str]:
    """A C++ compiler that can make the kernels, and the names of the instruction sets it makes clones for.

    The first of $CXX, else of g++, c++ and clang++, that compiles and links csrc/probe.cpp with clones; without one the
    first that does without. Raises BuildError with every compiler's reason.
    """
    torch_flags()  # whose reason is no compiler's
    plain, reasons = None, []
    for cxx in _cxx_on_path():
        try:
            clones = _probe_cxx(cxx, work / Path(cxx).name)
        except BuildError as error:
            reasons.append(f"{cxx} cannot make the kernels ({error.args[0].splitlines()[0]})")
            continue
        if clones:
            return cxx, clones
        plain = plain or cxx
    if plain is not None:
        return plain, ""
    if reasons:
        raise BuildError(f"{'; '.join(reasons)}: install g++ 12 or later, or name another in CXX")
    raise BuildError("no C++ compiler: looked for $CXX, g++, c++, clang++. Install g++ 12 or later")


def _probe_cxx(cxx: str, work: Path) -> str:
    """The instruction sets of a compiler's clones. Raises BuildError if it cannot make the kernels."""
    include, _ = torch_flags()
    command = [cxx, *CXX_FLAGS, *nameless(), STABLE_ABI, f"-I{CSRC}", *include, "-c"]
    library = work / "probe.so"
    _run([cxx, "-shared", "-o", str(library), *map(str, _compile(command, [CSRC / "probe.cpp"], work, jobs=1))])
    try:
        probe = ctypes.CDLL(str(library)).fastiqa_probe
    except OSError as error:  # made for another system or C library
        raise BuildError(f"what it makes does not load: {error}") from None
    probe.restype = ctypes.c_char_p
    return str(probe().decode())


def build_cpu(output: Path, work: Path, sources: Sequence[Path] | None = None) -> None:
    """Compiles the CPU library."""
    cxx, clones = choose_cxx(work / "probe")
    include, link = torch_flags()
    compile_ = [cxx, *CXX_FLAGS, *nameless(), STABLE_ABI, f"-I{CSRC}", *include, "-c"]
    sources = sources if sources is not None else sorted((CSRC / "ops").glob("*/*.cpp"))
    record = _record("cpu", [cxx, "--version"], CXX_FLAGS, clones=clones)
    objects = [
        *_compile(compile_, sources, work, jobs=os.cpu_count() or 1, shown="CPU"),
        *_compile([*compile_, record], [CSRC / "library.cpp"], work, jobs=1),
    ]
    _run([cxx, "-shared", "-o", str(output), *map(str, objects), *link])


def build_cuda(output: Path, work: Path, sources: Sequence[Path] | None = None, archs: Sequence[str] = ()) -> None:
    """Compiles the CUDA library; links on machines whose torch knows no CUDA."""
    nvcc, cxx = find_nvcc(), find_cxx()
    if nvcc is None or cxx is None:
        missing = "nvcc (looked in $CUDA_HOME, $CUDA_PATH and PATH)" if nvcc is None else "a C++ compiler"
        raise BuildError(f"FASTIQA_CUDA needs {missing}; set FASTIQA_CUDA=0 to build without it")
    archs = archs or cuda_archs(nvcc)
    include, link = torch_flags()
    generate = [f"-gencode=arch=compute_{ptx_of(arch, archs)},code=sm_{arch}" for arch in archs]
    newest = ptx_of(max(archs, key=int), archs)
    generate.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    host = [f"-Xcompiler={flag}" for flag in nameless()]
    start = [nvcc, *NVCC_FLAGS, *host]
    end = [STABLE_ABI, "-DUSE_CUDA", f"-I{CSRC}", *include, "-c"]
    try:
        _compile([*start, f"-arch=sm_{archs[0]}", *end], [CSRC / "probe.cu"], work / "probe", jobs=1)
    except BuildError as error:
        reason, _, details = error.args[0].partition("\n")
        raise BuildError(f"{nvcc} cannot make the kernels ({reason}): install nvcc 12.8 or later\n{details}") from None
    sources = sources if sources is not None else sorted((CSRC / "ops").glob("*/*.cu"))
    record = _record("cuda", [nvcc, "--version"], NVCC_FLAGS, archs=list(archs), ptx=newest)
    objects = [
        *_compile([*start, *generate, *end], sources, work, jobs=_nvcc_jobs(), shown="CUDA"),
        *_compile([cxx, "-fPIC", record, "-c"], [CSRC / "library.cpp"], work, jobs=1),
    ]
    # The static CUDA runtime (nvcc's default) works beside whichever libcudart torch brings. No kernel calls another
    # object's: the device's linker would only add an empty program that names the folders it looked in.
    _run([nvcc, "-shared", "--no-device-link", "-o", str(output), *map(str, objects), *link])


def build_plain(output: Path, work: Path, sources: Iterable[Path], flags: Sequence[str], shared: bool) -> None:
    """Compiles sources without PyTorch (csrc/emulate/plain_tensor.h): a shared library, or a program if one has a main.

    CUDA sources need `-include emulate/emulate.h`, those for the CPU `-include emulate/plain_tensor.h`.
    """
    cxx = find_cxx()
    if cxx is None:
        raise BuildError("no C++ compiler: looked for $CXX, g++, c++, clang++")
    compile_ = [cxx, *PLAIN_FLAGS, *flags, f"-I{CSRC}", "-x", "c++", "-c"]
    objects = _compile(compile_, list(sources), work, jobs=os.cpu_count() or 1)
    kind = ["-shared"] if shared else []
    if output.exists() and all(obj.stat().st_mtime < output.stat().st_mtime for obj in objects):
        return  # another process may be running it
    _run([cxx, *kind, "-pthread", *flags, "-o", str(output), *map(str, objects)])


def cuda_archs(nvcc: str | None = None) -> tuple[str, ...]:
    """Compute capabilities to build for: $FASTIQA_CUDA_ARCHS ("80;90"), else those of CUDA_ARCHS that nvcc knows."""
    words = os.environ.get("FASTIQA_CUDA_ARCHS", "").split(";")
    asked = tuple(arch.strip().replace(".", "") for arch in words if arch.strip())
    known = _archs_of(nvcc) if nvcc else ()
    archs = asked or tuple(arch for arch in CUDA_ARCHS if arch in known or not known)
    unknown = [arch for arch in asked or CUDA_ARCHS if known and arch not in known]
    if unknown and (asked or not archs):
        raise BuildError(f"{nvcc} knows no compute capability {', '.join(unknown)}, but {', '.join(known)}")
    if unknown:  # newer GPUs run what is compiled from the PTX of the newest that is left
        print(f"fastiqa: {nvcc} knows no compute capability {', '.join(unknown)}: left out", file=sys.stderr)
    return archs


def _archs_of(nvcc: str) -> tuple[str, ...]:
    """Compute capabilities that a compiler knows; none if it does not say."""
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    return tuple(re.findall(r"\bcompute_(\d+)\b", done.stdout)) if done.returncode == 0 else ()


def ptx_of(arch: str, archs: Sequence[str]) -> str:
    """The architecture whose PTX becomes the code of `arch`: the oldest asked for on its side of CUDA_DIVIDE."""
    return min((a for a in archs if (int(a) < CUDA_DIVIDE) == (int(arch) < CUDA_DIVIDE)), key=int)


def _record(library: str, version: list[str], flags: Sequence[str], **more: object) -> str:
    import torch

    lines = subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    compiler = next((line for line in lines if "release" in line), lines[0])
    record = {"library": library, "torch": torch.__version__, "compiler": compiler, "flags": " ".join(flags), **more}
    return f"-DFASTIQA_BUILD_RECORD={json.dumps(json.dumps(record))}"


def manylinux(libraries: Iterable[Path]) -> str | None:
    """The oldest `manylinux_2_X` whose systems have every symbol version that these need; None for a newer libstdc++.

    Versions are named in a library's table of strings, so nothing but the file is read. torch's own libraries are left
    to torch, which the package requires.
    """
    needed: dict[str, tuple[int, ...]] = {}
    for library in libraries:
        for name, version in re.findall(rb"(?<=\0)(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)(?=\0)", library.read_bytes()):
            numbers = tuple(map(int, version.decode().split(".")))
            needed[name.decode()] = max(needed.get(name.decode(), ()), numbers)
    glibc = needed.pop("GLIBC", (2,))
    for minor, newest in MANYLINUX:
        if all(version <= newest[name] for name, version in needed.items()):
            return f"manylinux_2_{max(minor, *glibc[1:2])}"
    return None


def _compile(
    command: Sequence[str], sources: Sequence[Path], work: Path, jobs: int, shown: str | None = None
) -> list[Path]:
    """Compiles each source unless its object is newer than all it is made of, and was made by the same command.

    With a library's name as `shown`, a line on stderr follows every source.
    """
    work.mkdir(parents=True, exist_ok=True)
    lock, done = threading.Lock(), 0
    last = len(SLOWEST)
    ordered = sorted(sources, key=lambda source: SLOWEST.index(source.stem) if source.stem in SLOWEST else last)

    def one(source: Path) -> Path:
        nonlocal done
        obj = work / f"{source.parent.name}_{source.name}.o"
        note, files = obj.with_suffix(".command"), obj.with_suffix(".files")
        line = json.dumps([*command, str(source)])
        begun = time.monotonic()
        fresh = note.exists() and note.read_text() == line and _is_newer(obj, files)
        if not fresh:
            note.unlink(missing_ok=True)
            _run([*command, "-MMD", "-MF", str(files), str(source), "-o", str(obj)])
            note.write_text(line)
        with lock:
            done += 1
            if shown is not None:
                took = "unchanged" if fresh else f"{time.monotonic() - begun:.0f} s"
                words = f"fastiqa: {shown} {done} of {len(sources)}: {source.name}, {took}"
                print(words, file=sys.stderr, flush=True)
        return obj

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, ordered))


def _is_newer(obj: Path, files: Path) -> bool:
    """Whether an object is newer than its source and headers, in the list for make that its compiler wrote of them."""
    if not (obj.exists() and files.exists()):
        return False
    words = re.split(r"(?<!\\)\s+", files.read_text().replace("\\\n", " ").partition(": ")[2].strip())
    names = (word.replace("\\ ", " ") for word in words)
    return all(Path(name).exists() and Path(name).stat().st_mtime < obj.stat().st_mtime for name in names)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(str(error)) from None
    if done.returncode != 0:
        printed = f"{done.stdout}{done.stderr}"
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        lines += [f"exit status {done.returncode}"]
        first = next((line for line in lines if re.search(r"\b(fatal|error|undefined)\b", line)), lines[0])
        raise BuildError(f"{first}\n{' '.join(command)}\nfailed with\n{printed}")


def _nvcc_jobs() -> int:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(gib // NVCC_JOB_GIB)))
