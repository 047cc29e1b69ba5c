"""Native parts of the build; everything declarative is in pyproject.toml, but for the licence.

FASTIQA_NATIVE=0|1  no compiled library: PyTorch and Triton do the work | one that cannot be built is an error
FASTIQA_CUDA=0|1    never | always build the CUDA library (default: where torch has CUDA and nvcc is found)
FASTIQA_CUDA_ARCHS="90;100"  compute capabilities instead of csrc/build.py's list
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import setuptools
from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import build as native  # noqa: E402

SETUPTOOLS = tuple(int(number) for number in setuptools.__version__.split(".")[:2])
UPGRADE = "python -m pip install --upgrade setuptools wheel"
if SETUPTOOLS < (64, 0):
    raise SystemExit(f"fastiqa: setuptools: got {setuptools.__version__}, want 64 or later: {UPGRADE}")

try:
    from setuptools.command.bdist_wheel import bdist_wheel  # from 70.1 on
except ImportError:
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:
        bdist_wheel = None

# Top-level kernels/ is installed as fastiqa.kernels, since `kernels` is somebody else's package; bench/ likewise.
FOLDERS = {"fastiqa.kernels": "kernels", "fastiqa.bench": "bench"}


def option(name: str) -> str:
    value = os.environ.get(name) or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name}: got {value!r}, want auto, 0 or 1")
    return value


def wanted() -> list[str]:
    """The libraries this machine is to build."""
    compiled, cuda = option("FASTIQA_NATIVE"), option("FASTIQA_CUDA")
    if compiled == "0":
        return []
    if native.find_cxx() is None:
        for name, value in (("FASTIQA_NATIVE", compiled), ("FASTIQA_CUDA", cuda)):
            if value == "1":
                raise SystemExit(f"{name}=1: no C++ compiler found (looked for $CXX, g++, c++, clang++)")
        print("fastiqa: no C++ compiler found, so no compiled library is built; `fastiqa info` says what runs instead")
        return []
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(
            "fastiqa: the compiled libraries need torch while they are built. Install torch first and add "
            "--no-build-isolation, or set FASTIQA_NATIVE=0 to install without them."
        )
    # A torch without CUDA could not load what takes half of a build's time.
    if cuda == "1" or (cuda == "auto" and native.find_nvcc() and native.torch_cuda()[1]):
        return ["cpu", "cuda"]
    return ["cpu"]


class BuildNative(build_ext):
    """Leaves out a library that cannot be built, unless it was demanded, and a text in its place that says why."""

    def run(self) -> None:
        self.reasons: dict[str, str] = {}
        libraries = [ext.name.rpartition("_")[2] for ext in self.extensions]
        super().run()
        folder = Path(self.get_finalized_command("build_py").get_package_dir("fastiqa"))
        if not self.inplace:
            folder = Path(self.build_lib) / "fastiqa"
        for library in libraries:
            note = folder / f"libfastiqa_{library}.txt"
            note.unlink(missing_ok=True)
            if library in self.reasons:
                (folder / f"libfastiqa_{library}.so").unlink(missing_ok=True)  # an earlier build's
                folder.mkdir(parents=True, exist_ok=True)
                note.write_text(self.reasons[library] + "\n", encoding="utf-8")

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"  # loaded by torch.ops.load_library, so no Python tag

    def build_extensions(self) -> None:
        version, cuda = native.torch_cuda()
        if option("FASTIQA_CUDA") == "auto" and cuda is None and native.find_nvcc():
            print(f"fastiqa: torch {version} has no CUDA: no CUDA library (FASTIQA_CUDA=1 builds it)", file=sys.stderr)
        # What is left out is in no list of files, and a wheel without any library is a pure one.
        self.extensions[:] = [ext for ext in self.extensions if self.is_built(ext)]
        self.distribution.ext_modules = self.extensions

    def is_built(self, ext: Extension) -> bool:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        library = ext.name.rpartition("_")[2]
        make = native.build_cuda if library == "cuda" else native.build_cpu
        try:
            make(output, ROOT / "build" / "native" / library)
        except native.BuildError as error:
            demanded = "1" in (option("FASTIQA_NATIVE"), option("FASTIQA_CUDA") if library == "cuda" else "")
            if demanded:
                raise SystemExit(f"fastiqa: {error}") from None
            self.reasons[library] = str(error).splitlines()[0]
            print(
                f"fastiqa: {error}\nfastiqa: the {library.upper()} library is left out. Everything works without it, "
                "but slower; FASTIQA_NATIVE=1 makes this an error.",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True


if bdist_wheel is None:

    class Wheel(Command):
        """Stands for a command that setuptools lacks: what asks for it is told why."""

        user_options = ()

        def initialize_options(self) -> None:
            raise SystemExit(
                f"fastiqa: setuptools {setuptools.__version__} makes no wheels without the package wheel: {UPGRADE}"
            )

        finalize_options = run = initialize_options

else:

    class Wheel(bdist_wheel):
        @property
        def root_is_pure(self) -> bool:
            return not self.distribution.has_ext_modules()

        @root_is_pure.setter
        def root_is_pure(self, value: bool) -> None:
            """Decided before anything is built, when it is not known yet what can be."""

        def get_tag(self) -> tuple[str, str, str]:
            _, _, platform = super().get_tag()
            folder = Path(self.get_finalized_command("build_ext").build_lib) / "fastiqa"
            libraries = [folder / f"{ext.name.rpartition('.')[2]}.so" for ext in self.distribution.ext_modules or []]
            # An editable installation asks before anything is built, and never leaves this machine.
            if platform.startswith("linux_") and libraries and all(library.exists() for library in libraries):
                system = native.manylinux(libraries)
                platform = platform if system is None else platform.replace("linux", system, 1)
            return ("py3", "none", platform)  # no Python C API in the libraries: one wheel for every Python


setup(
    # pyproject.toml can say it for setuptools before 77 or from 77 on, not for both.
    **{"license_expression" if SETUPTOOLS >= (77, 0) else "license": "Apache-2.0"},
    packages=[
        *find_packages(include=["fastiqa", "fastiqa.*"], exclude=list(FOLDERS)),
        *FOLDERS,
        *(f"{package}.{inner}" for package, folder in FOLDERS.items() for inner in find_packages(folder)),
    ],
    package_dir={"fastiqa": "fastiqa", **FOLDERS},
    package_data={
        "fastiqa": ["py.typed"],
        "fastiqa.models": ["weights/*.json", "weights/*.safetensors"],
        "fastiqa.ops": ["__init__.pyi"],
        "fastiqa.training": ["recipes/*.yaml"],
    },
    include_package_data=False,  # MANIFEST.in is for the source distribution
    ext_modules=[Extension(f"fastiqa.libfastiqa_{library}", sources=[]) for library in wanted()],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
