"""Print the operators' signatures for editors: `python -m fastiqa.ops > fastiqa/ops/__init__.pyi`.

The import of the package makes the operators, which no type checker sees. This program prints a stub from their
records: names, types and defaults of the schema, docstrings of the reference.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator

from fastiqa.ops import OPERATORS, Op, __all__

HEADER = '''\
"""The operators' signatures, for editors and type checkers. Generated from the records; do not edit:

python -m fastiqa.ops > fastiqa/ops/__init__.pyi
"""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from torch import Tensor

from fastiqa.runtime.op import Map as Map
from fastiqa.runtime.op import Op as Op

_P = ParamSpec("_P")
_R = TypeVar("_R", covariant=True)

class _Operator(Op, Generic[_P, _R]):
    """A record that is called as the function beneath it."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...  # type: ignore[override]

def _operator(function: Callable[_P, _R]) -> _Operator[_P, _R]: ...
'''

LINE = 120
TYPES = {"Tensor": "Tensor", "Optional[Tensor]": "Tensor | None", "int": "int", "float": "float", "bool": "bool"}
TYPES |= {"str": "str"}


def _parameters(op: Op) -> Iterator[str]:
    defaults = inspect.signature(op.reference).parameters
    for argument in op.schema.arguments:
        name, kind, declared = argument.name, TYPES[str(argument.type)], defaults[argument.name].default
        if argument.has_default_value():
            assert declared == argument.default_value, f"{op.name}: the reference has another default for {name}"
            yield f"{name}: {kind} = {json.dumps(declared) if isinstance(declared, str) else repr(declared)}"
        elif name == "out":  # positional, since the keyword belongs to every call
            yield f"out_: {kind}"
            yield "/"
        else:
            assert declared is inspect.Parameter.empty, f"{op.name}: the schema has no default for {name}"
            yield f"{name}: {kind}"


def function(op: Op) -> str:
    """The stub's text for one operator."""
    results = ["Tensor"] * len(op.schema.returns)
    returned = results[0] if len(results) == 1 else f"tuple[{', '.join(results)}]"
    parameters = [*_parameters(op), "*", f"out: {returned} | None = None"]
    head = f"def {op.name}({', '.join(parameters)}) -> {returned}:"
    if len(head) > LINE:
        lines = "".join(f"    {parameter},\n" for parameter in parameters)
        head = f"def {op.name}(\n{lines}) -> {returned}:"
    text = textwrap.indent(inspect.cleandoc(op.__doc__ or "").rstrip(), "    ", lambda line: bool(line.strip()))
    closing = '"""' if "\n" not in text else '\n    """'
    return f'@_operator\n{head}\n    """{text.lstrip()}{closing}\n'


def _rank(name: str) -> tuple[bool, bool, str]:
    """Sort constants before classes before functions."""
    return not name.isupper(), not name[0].isupper(), name


def stub() -> str:
    """The text of `fastiqa/ops/__init__.pyi`."""
    listed = "".join(f'    "{name}",\n' for name in sorted(__all__, key=_rank))
    parts = [f"{HEADER}\nOPERATORS: dict[str, Op]\n", *(function(OPERATORS[name]) for name in sorted(OPERATORS))]
    return "\n".join([*parts, f"__all__ = [\n{listed}]\n"])


if __name__ == "__main__":
    print(stub(), end="")
