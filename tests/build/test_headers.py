"""Rules of the includes of csrc: layers without circles, few levels, and nothing shared that only one operator uses."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import emulation

# Where headers of a folder may include from; of a family or an operator its own as well. Nothing else includes emulate.
LAYERS = {"core": {"core"}, "passes": {"core"}, "ops": {"core", "passes"}, "emulate": {"core", "emulate"}}
DEEPEST = 5  # headers in a chain of includes

Graph = dict[Path, list[Path]]


def included(file: Path) -> list[Path]:
    """Own files that a file includes, by their paths below csrc; a .cu names its operator's .cpp beside it."""
    names = re.findall(r'^#include "(.+)"$', file.read_text(), re.M)
    return [emulation.CSRC / name if name.endswith(".h") else file.with_name(name) for name in names]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Every source and header of csrc and of the template operator, and what it includes."""
    files = [file for tree in (emulation.CSRC, emulation.TEMPLATE / "csrc") for file in sorted(tree.rglob("*.*"))]
    return {file: included(file) for file in files if file.suffix in (".h", ".cpp", ".cu")}


def place(file: Path) -> tuple[str, ...]:
    """Folders below csrc: ("passes", "blocks"), ("core",)."""
    parts = file.parent.parts
    return parts[len(parts) - parts[::-1].index("csrc") :]


def longest(graph: Graph, file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The longest chain of headers that begins at a file. A circle is an error."""
    assert file not in above, f"a circle: {' -> '.join(f.name for f in (*above, file))}"
    below = [longest(graph, name, (*above, file)) for name in graph[file]]
    return [*([file] if file.suffix == ".h" else []), *max(below, key=len, default=[])]


def reached(graph: Graph, file: Path) -> set[Path]:
    return {file}.union(*(reached(graph, name) for name in graph[file]))


def test_a_circle_and_a_chain_are_seen(tmp_path: Path) -> None:
    a, b, source = (tmp_path / name for name in ("a.h", "b.h", "c.cpp"))
    assert longest({source: [a, b], a: [b], b: []}, source) == [a, b]
    with pytest.raises(AssertionError, match=r"a circle: c\.cpp -> a\.h -> b\.h -> a\.h"):
        longest({source: [a], a: [b], b: [a]}, source)


def test_includes_have_no_circle_and_few_levels(graph: Graph) -> None:
    assert not {name for names in graph.values() for name in names} - set(graph)
    for file in graph:
        chain = longest(graph, file)
        assert len(chain) <= DEEPEST, [str(header.relative_to(emulation.CSRC)) for header in chain]


def test_layers_include_downwards(graph: Graph) -> None:
    """Operators see a family's pass.h alone, after all else."""
    for file, names in graph.items():
        home = place(file)
        if not home:
            continue  # the probes of compilers
        for name in names:
            assert place(name)[0] in LAYERS[home[0]] or place(name) == home, f"{file} includes {name}"
        passes = [name.name for name in names if place(name)[0] == "passes"] if home[0] == "ops" else []
        assert passes == ["pass.h"][: len(passes)], file
        assert not passes or names[-1].name == "pass.h", file


def test_shared_headers_are_shared(graph: Graph) -> None:
    """A header of one operator lies beside it; one of core that a single file includes is a part of that file."""
    sources = [file for file in graph if place(file)[:1] == ("ops",) and file.suffix != ".h"]
    users = [(place(source), reached(graph, source)) for source in sources]
    for header in (file for file in graph if file.suffix == ".h"):
        operators = {operator for operator, files in users if header in files}
        if place(header)[0] in ("core", "passes"):
            assert len(operators) >= 2, header
        if place(header) == ("core",):
            assert sum(header in names for names in graph.values()) >= 2, header
        if place(header)[0] == "ops":
            assert operators == {place(header)}, header


def compilations(graph: Graph, layer: str) -> Iterator[tuple[list[str], str]]:
    """Compiles each header alone: the CPU's with PyTorch, CUDA's against the emulation, those of both devices twice."""
    build = emulation.build()
    cxx, (include, _) = build.find_cxx(), build.torch_flags()
    flags = {"cpu": (build.STABLE_ABI, *include), "cuda": emulation.DEVICES["cuda"]}
    for header in (file for file in graph if file.suffix == ".h" and place(file)[0] == layer):
        devices = {"cuda"} if re.search(r"^ *__(device|global)__\b", header.read_text(), re.M) else {"cpu"}
        if header.name in ("pass.h", "scratch.h"):
            devices = {"cpu", "cuda"}
        for device in {"cuda"} if place(header) == ("emulate",) else devices:
            command = [cxx, "-std=c++20", "-fsyntax-only", "-w", *flags[device], f"-I{emulation.CSRC}", "-xc++", "-"]
            yield command, f'#include "{header.relative_to(emulation.CSRC)}"'


@pytest.mark.slow
@pytest.mark.skipif(emulation.build().find_cxx() is None, reason="a C++ compiler compiles headers, and there is none")
@pytest.mark.parametrize("layer", LAYERS)
def test_every_header_compiles_alone(graph: Graph, layer: str) -> None:
    def run(compilation: tuple[list[str], str]) -> str:
        command, text = compilation
        return subprocess.run(command, input=text, capture_output=True, text=True).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert not [error[:1000] for error in pool.map(run, compilations(graph, layer)) if error]
