"""Layers of the Python sources: who may import whom, no circles, and no name for two things.

How to read a failure: "a imports b" breaks a rule. Move the things that `a` needs into a lower layer, or pass them as
arguments. `KNOWS` is the picture of the layers: a package may import the packages behind its name, and itself.

Every `import` statement and every literal `import_module("fastiqa. …")` counts, also inside a function and under
`TYPE_CHECKING`. A lazy import only hides a circle until the function runs. A lower layer that names a type of a higher
one knows the higher one.
`from package import module` imports the module alone, not the names that the package's `__init__` collects.
`fastiqa/__init__.py` is the face: it imports on first use and stands above all layers. The layers below take only the
version from it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

# package below fastiqa -> packages that it may import. The longest name that fits decides.
KNOWS = {
    "common": "",
    "runtime": "common",
    "reference": "common",
    "ops": "common runtime",
    "kernels": "runtime ops",
    "nn": "common runtime reference ops",
    "metrics": "common runtime ops",
    "data": "common",
    "models": "common runtime reference ops nn metrics",
    "evaluation": "common runtime data metrics models",
    "acceleration": "common runtime reference ops nn metrics models",
    "training.config": "common",
    "training.tasks": "common runtime nn metrics data models evaluation training.config",
    "training.recipes": "common training.config training.tasks",
    "training.run": "common data models evaluation training.config training.tasks training.recipes",
    "training": "data models evaluation training.config training.tasks training.recipes training.run",
    "bench": "common runtime reference ops nn metrics data models evaluation acceleration training",
    "cli": "common runtime ops metrics data models evaluation training bench",
}

# The one import upwards: the first call of an operator on Triton finds its kernels by its name.
BY_NAME = ("runtime.dispatch", "kernels")

# Each operator's page has these parts; one word names an operator everywhere, so fastiqa.kernels is a scope of its own.
PARTS_OF_A_RECORD = {"reference", "adjoint", "layout", "samples"}
PARTS_OF_A_RECORD |= {f"backward_{part}" for part in PARTS_OF_A_RECORD}


class Module(NamedTuple):
    """One source file: its name below fastiqa ("" for the face), its path, its syntax tree."""

    name: str
    path: Path
    tree: ast.Module


def _name(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    parts = parts[1:] if parts[0] == "fastiqa" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "fastiqa", "kernels", "bench"]
    paths = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [path for path in paths if path.endswith(".py") and (ROOT / path).is_file()]
    return {_name(path): Module(_name(path), ROOT / path, ast.parse((ROOT / path).read_text())) for path in files}


def _statements(module: Module) -> Iterator[str]:
    """Dotted names below fastiqa that the import statements of a file ask for; "" is the face."""
    package = ["fastiqa", *module.name.split(".")]
    if module.path.name != "__init__.py":
        package.pop()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            text = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            names = [text.value.rstrip(".")] if isinstance(text, ast.Constant) else []
        else:
            continue
        yield from (name.partition(".")[2] for name in names if name.partition(".")[0] == "fastiqa")


def imports_of(module: Module, known: Iterable[str]) -> set[str]:
    """Names of the modules that a module imports, without its own and the face's version."""
    known = set(known)
    found = set()
    for name in _statements(module):
        target = name
        while target not in known:
            target = target.rpartition(".")[0]
        if name != "__version__" and target != module.name:
            found.add(target)
    return found


def package_of(name: str) -> str:
    """The row of `KNOWS` for a module."""
    return next(
        (row for row in sorted(KNOWS, key=len, reverse=True) if name == row or name.startswith(f"{row}.")),
        name.partition(".")[0],
    )


def may_import(importer: str, imported: str) -> bool:
    mine, theirs = package_of(importer), package_of(imported)
    if importer in ("", "__main__") or mine == theirs:
        return True
    allowed = KNOWS.get(mine, "").split()
    return theirs in allowed or theirs.partition(".")[0] in allowed


def in_a_circle(graph: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Imports that lie on a circle: the imported module leads back to the importing one."""

    def reachable(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for name in graph.get(waiting.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    behind = {name: reachable(name) for name in graph}
    return {(name, other) for name, others in graph.items() for other in others if name in behind[other]}


@pytest.fixture(scope="module")
def graph(modules: dict[str, Module]) -> dict[str, set[str]]:
    return {name: imports_of(module, modules) for name, module in modules.items()}


def broken(graph: Mapping[str, set[str]]) -> dict[tuple[str, str], str]:
    """Import -> the rule that it breaks. The face is above all layers and on no circle."""
    layered = {name: others - {""} for name, others in graph.items() if name}
    found = dict.fromkeys(in_a_circle(layered), "on a circle")
    found |= {
        (name, other): f"{package_of(name)} may not know {package_of(other) or 'the face'}"
        for name, others in graph.items()
        for other in others
        if not may_import(name, other) and (name, other) != BY_NAME
    }
    return found


def test_the_reading_of_imports() -> None:
    source = (
        "import fastiqa.a.b\nfrom fastiqa import __version__, c\nfrom fastiqa.a import f\nimport torch\n"
        "if TYPE_CHECKING:\n    from fastiqa.d import D\ndef g():\n    from fastiqa.e import h\n    import fastiqa\n"
        "from . import x\nfrom .y import z\nfrom ..d.w import v\n"
        "import_module('fastiqa.i')\nimportlib.import_module(f'fastiqa.j.{name}')\nimport_module(name)"
    )
    module = Module("c.m", Path("m.py"), ast.parse(source))
    known = ["", "a", "a.b", "c", "c.m", "c.x", "c.y", "d", "d.w", "e", "i", "j"]
    assert imports_of(module, known) == set(known) - {"c.m"}
    assert in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {("b", "c"), ("c", "b")}
    assert package_of("training.run.trainer") == "training.run"
    assert package_of("training") == "training"
    assert may_import("nn.prf_head", "ops.high_pass")
    assert not may_import("ops.high_pass", "nn.prf_head")


def test_every_package_has_its_place(modules: dict[str, Module]) -> None:
    packages = {name.partition(".")[0] for name in modules} - {"", "__main__"}
    assert packages == {row.partition(".")[0] for row in KNOWS}
    order = list(KNOWS)
    for row, known in KNOWS.items():  # itself without circles: who is known stands above
        for other in known.split():
            assert order.index(other) < order.index(row), f"{row} knows {other}, which stands below it"


def test_imports_follow_the_layers_without_circles(graph: dict[str, set[str]]) -> None:
    wrong = [f"{name} imports {other}: {rule}" for (name, other), rule in sorted(broken(graph).items())]
    assert not wrong, "\n".join(wrong)


def _texts(tree: ast.AST) -> Iterator[str]:
    """String constants that are no docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    yield from (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def test_nothing_runs_or_reads_the_tests(modules: dict[str, Module]) -> None:
    """No path into tests/ among the strings, no import of what tests share. Sentences may name a test."""
    found = set()
    for name, module in modules.items():
        for text in _texts(ast.parse(module.path.read_text())):
            if not re.search(r"\s", text) and "tests" in text.split("/"):
                found.add((name, text))
        for node in ast.walk(module.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(name, text) for text in names if text.partition(".")[0] in ("tests", "support", "conftest")}
    assert not found


def shared_names(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Name -> the modules that define a public function so called, where they are several of one scope.

    `main` is what `python -m` runs, in whichever module.
    """
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, module in modules.items():
        scope = name.partition(".")[0] if name.startswith(("kernels.", "bench.")) else "package"
        for node in module.tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if any(part.startswith("_") for part in name.split(".")):
                continue  # a private module
            if node.name != "main" and not (name.startswith("ops.") and node.name in PARTS_OF_A_RECORD):
                homes[scope, node.name].add(name)
    shared: dict[str, set[str]] = defaultdict(set)
    for (_, function), names in homes.items():
        if len(names) > 1:
            shared[function] |= names
    return dict(shared)


def test_no_two_public_functions_share_a_name(modules: dict[str, Module]) -> None:
    """Of the package, of the kernels, and of the benchmark, each for itself: a name finds one function."""
    assert not shared_names(modules)
