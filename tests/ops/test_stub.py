"""Names and signatures for editors and type checkers: the exports of fastiqa, and fastiqa/ops/__init__.pyi."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastiqa
import fastiqa.ops
from fastiqa.ops import OPERATORS, Op
from fastiqa.ops.__main__ import TYPES, function, stub

ROOT = Path(__file__).resolve().parents[2]
VALUES = {"Tensor": "tensor", "Tensor | None": "None", "int": "1", "float": "0.5", "bool": "True", "str": '"nearest"'}


COMMITTED = Path(fastiqa.ops.__file__).parent / "__init__.pyi"
REMEDY = "the stub is of other records: run `python -m fastiqa.ops > fastiqa/ops/__init__.pyi`"


@pytest.mark.parametrize("name", OPERATORS)
def test_the_stub_has_the_operator(name: str) -> None:
    assert function(OPERATORS[name]) in COMMITTED.read_text(), REMEDY


def test_the_stub_is_up_to_date() -> None:
    assert COMMITTED.read_text() == stub(), REMEDY


def arguments(op: Op) -> list[str]:
    """One argument for each parameter of an operator, as text."""
    return [VALUES[TYPES[str(argument.type)]] for argument in op.schema.arguments]


def calls(op: Op) -> tuple[list[str], list[str]]:
    """Calls that a type checker should take, and calls that it should refuse, the latter with the error's code."""
    given, (first, *_) = arguments(op), op.schema.arguments
    required = given[: sum(not argument.has_default_value() for argument in op.schema.arguments)]
    out = "tensor" if len(op.schema.returns) == 1 else f"({'tensor, ' * len(op.schema.returns)})"
    right = [f"{op.name}({', '.join(given)})", f"{op.name}({', '.join(required)}, out={out})"]
    wrong = [
        f"{op.name}({', '.join(['1.5', *given[1:]])})  # arg-type",
        f"{op.name}({', '.join(required[1:])})  # call-arg" if len(required) == 1 else f"{op.name}()  # call-arg",
        f"{op.name}({', '.join(given)}, {first.name}_too=1)  # call-arg",
        f"{op.name}({', '.join(given)}, out=1)  # arg-type",
    ]
    return [f"reveal_type({call})" for call in right], wrong


def test_type_checkers_know_every_operator(tmp_path: Path) -> None:
    """mypy reveals the results' types, and refuses wrong arguments, missing ones, unknown ones and a wrong `out`.

    It takes each public name of fastiqa for an export, and none that is missing.
    """
    pytest.importorskip("mypy", reason="mypy, which judges the stub, is not installed")
    lines = ["import fastiqa", "from torch import Tensor", "from fastiqa.ops import *"]
    lines += [f"fastiqa.{name}" for name in fastiqa.__all__]
    expected: dict[int, str | None] = dict.fromkeys(range(1, len(lines) + 1))
    lines += ["fastiqa.nothing"]
    expected[len(lines)] = "attr-defined"
    lines += ["def calls(tensor: Tensor) -> None:"]
    for op in OPERATORS.values():
        right, wrong = calls(op)
        results = ["torch._tensor.Tensor"] * len(op.schema.returns)
        kind = results[0] if len(results) == 1 else f"tuple[{', '.join(results)}]"
        for line, answer in [*((line, kind) for line in right), *(line.split("  # ") for line in wrong)]:
            lines.append(f"    {line}")
            expected[len(lines)] = answer
    (tmp_path / "calls_of_operators.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    command += ["--cache-dir", str(tmp_path), "--config-file", "", str(tmp_path / "calls_of_operators.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found: dict[int, set[str | None]] = {}
    for line, text in re.findall(r"^\S*calls_of_operators\.py:(\d+): (.*)$", done.stdout, re.M):
        shown = re.search(r'Revealed type is "(.*)"|error: .*\[([\w-]+)\]$', text)
        if shown is not None:
            found.setdefault(int(line), set()).add(shown[1] or shown[2])
    differs = {lines[n - 1].strip(): found.get(n) for n, answer in expected.items() if found.get(n, {None}) != {answer}}
    assert not differs, done.stdout[:2000] + done.stderr
