"""Rules of the sources that no run would test: device guards, wide indices, no atomics, no shortcuts, no marks."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def sources(*patterns: str) -> dict[str, str]:
    """Path below the root -> text, of files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: (ROOT / name).read_text() for name in names if (ROOT / name).is_file()}


def where(pattern: str, files: dict[str, str]) -> list[str]:
    """file:line for every match."""
    return [
        f"{name}:{number}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.fixture(scope="module")
def native() -> dict[str, str]:
    return sources("csrc/*.cpp", "csrc/*.cu", "csrc/*.h")


# These make tensors of a module, on the device that the user chose for the module.
ON_THE_DEFAULT_DEVICE = {"__init__", "reset_parameters"}
FACTORIES = {
    *("arange", "as_tensor", "asarray", "complex", "empty", "empty_permuted", "empty_strided", "eye", "full"),
    *("hann_window", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "range"),
    *("scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}


def unplaced(tree: ast.AST, function: str = "") -> Iterator[int]:
    """Lines of calls that make a tensor on the default device of torch.set_default_device."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef) else function
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            made = (
                isinstance(node.func.value, ast.Name) and node.func.value.id == "torch" and node.func.attr in FACTORIES
            )
            if made and inner not in ON_THE_DEFAULT_DEVICE and "device" not in {key.arg for key in node.keywords}:
                yield node.lineno
        yield from unplaced(node, inner)


def test_new_tensors_have_a_device() -> None:
    """With another default device they would be away from their neighbours, or from their generator."""
    example = "import torch\ndef f():\n    return g(torch.zeros(3)) + torch.ones(3, device='cpu')"
    assert list(unplaced(ast.parse(example))) == [3]
    files = sources("fastiqa/*.py", "kernels/*.py")
    assert not [f"{name}:{line}" for name, text in files.items() for line in unplaced(ast.parse(text))]


def test_every_cuda_launch_goes_through_the_guard(native: dict[str, str]) -> None:
    """`launch` sets the tensor's device and PyTorch's current stream, and checks for errors."""
    launches = where(r"<<<", native)
    assert len(launches) == 1
    assert launches[0].startswith("csrc/core/launch.h")


def test_indices_are_widened_before_they_are_multiplied(native: dict[str, str]) -> None:
    assert where(r"static_cast<Index>\(blockIdx\.x\) \* static_cast<Index>\(blockDim\.x\)", native)
    assert not where(r"(?<!\()blockIdx\.\w+ \*", native)
    assert not where(r"\bint \w+ = .*\b(numel|elements)\(", native)


@pytest.mark.parametrize("library", ["cpu", "cuda"])
def test_a_library_has_one_type_of_a_name(native: dict[str, str], library: str) -> None:
    """Also among headers that no file includes together: of equally named functions the linker would keep one."""
    extension, foreign = {"cpu": (".cpp", "cuda.h"), "cuda": (".cu", "cpu.h")}[library]
    included: set[str] = set()
    waiting = [name for name in native if name.startswith("csrc/ops/") and name.endswith(extension)]
    while waiting:
        source = waiting.pop()
        for name in re.findall(r'#include "(.+)"', native[source]):
            path = f"csrc/{name}" if "/" in name else str(Path(source).with_name(name))
            if path not in included and not path.endswith(foreign):
                included.add(path)
                waiting.append(path)
    headers = {name for name in included if name.endswith(".h") and not name.startswith("csrc/emulate/")}
    assert len(headers) > 10
    homes: dict[str, list[str]] = {}
    for name in headers - {"csrc/core/scratch.h"}:
        for kind in set(re.findall(r"^(?:struct|class|enum class) (\w+)(?: \w+)*(?: : .*)? \{", native[name], re.M)):
            homes.setdefault(kind, []).append(name)
    assert len(homes) > 10
    assert not {kind: names for kind, names in homes.items() if len(names) > 1}


def test_every_triton_launch_has_a_device_guard() -> None:
    """A launch calls a subscript: kernel[grid](...)."""

    def launches(node: ast.AST) -> list[int]:
        return [n.lineno for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript)]

    found = 0
    for name, text in sources("kernels/*.py", "examples/template_op/kernels/*.py").items():
        tree = ast.parse(text)
        guards = [n for n in ast.walk(tree) if isinstance(n, ast.With) and "on_device_of" in ast.dump(n.items[0])]
        assert sorted(launches(tree)) == sorted(line for guard in guards for line in launches(guard)), name
        found += len(guards)
    assert found > 0


def test_no_atomics_and_no_shortcuts(native: dict[str, str]) -> None:
    triton = sources("kernels/*.py")
    everything = native | triton | sources("csrc/build.py", "setup.py")
    assert not where(r"\batomic(Add|Max|Min|CAS|Exch)|\batomic_", everything)
    assert not where(r"\b__(expf|logf|fdividef|powf)\b|use_fast_math|ffast-math|march=native", everything)
    assert not where(r"triton\.autotune", triton)


def test_nothing_is_unpickled_or_evaluated() -> None:
    package = sources("fastiqa/*.py", "kernels/*.py")
    assert not where(r"\bimport pickle|pickle\.loads?\b|(?<!\.)\b(eval|exec)\(|weights_only=False", package)
    loads = where(r"torch\.load\(", package)
    assert loads
    assert not set(loads) - set(where(r"torch\.load\(.*weights_only=True", package))


def test_files_are_finished_and_named() -> None:
    """No marks of unfinished work, and no file whose name tells nothing."""
    files = sources("*.py", "*.cpp", "*.cu", "*.h")
    for name in files:
        assert not re.search(r"^(utils|helpers)\b", Path(name).name), name
    assert not where(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", files)
