"""Native parts of the build; everything declarative is in pyproject.toml.

FASTIQA_NATIVE=0  no compiled library at all: PyTorch and Triton do the work
FASTIQA_CUDA=0|1  never | always build the CUDA library (default: where nvcc is found)
FASTIQA_CUDA_ARCHS="90;100"  compute capabilities instead of csrc/build.py's list
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import build as native  # noqa: E402

# Top-level kernels/ is installed as fastiqa.kernels, since `kernels` is somebody else's package; bench/ likewise.
FOLDERS = {"fastiqa.kernels": "kernels", "fastiqa.bench": "bench"}


def wanted() -> list[str]:
    """The libraries this machine is to build."""
    if os.environ.get("FASTIQA_NATIVE") == "0":
        return []
    cuda = os.environ.get("FASTIQA_CUDA") or "auto"
    if cuda not in ("auto", "0", "1"):
        raise SystemExit(f"FASTIQA_CUDA: got {cuda!r}, want auto, 0 or 1")
    if native.find_cxx() is None:
        if cuda == "1":
            raise SystemExit("FASTIQA_CUDA=1: no C++ compiler found (looked for $CXX, g++, c++, clang++)")
        print("fastiqa: no C++ compiler found, so no compiled library is built; `fastiqa info` says what runs instead")
        return []
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(
            "fastiqa: the compiled libraries need torch while they are built. Install torch first and add "
            "--no-build-isolation, or set FASTIQA_NATIVE=0 to install without them."
        )
    if cuda == "1" or (cuda == "auto" and native.find_nvcc()):
        return ["cpu", "cuda"]
    return ["cpu"]


class BuildNative(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"  # loaded by torch.ops.load_library, so no Python tag

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        library = ext.name.rpartition("_")[2]
        make = native.build_cuda if library == "cuda" else native.build_cpu
        try:
            make(output, ROOT / "build" / "native" / library)
        except native.BuildError as error:
            raise SystemExit(f"fastiqa: {error}") from None


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return ("py3", "none", platform)  # no Python C API in the libraries: one wheel for every Python


setup(
    packages=[*find_packages(include=["fastiqa", "fastiqa.*"], exclude=list(FOLDERS)), *FOLDERS],
    package_dir={"fastiqa": "fastiqa", **FOLDERS},
    package_data={"fastiqa": ["py.typed"], "fastiqa.training": ["recipes/*.yaml"]},
    include_package_data=False,  # MANIFEST.in is for the source distribution
    ext_modules=[Extension(f"fastiqa.libfastiqa_{library}", sources=[]) for library in wanted()],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
