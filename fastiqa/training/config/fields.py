"""Dataclasses from the values of a YAML text: every mistake is one line that names the key.

YAML 1.1 takes on, off, yes and no for booleans. In recipes they are texts, as in YAML 1.2, unless a boolean is wanted:
`memory: off` is the level "off", `tensorboard: on` is true.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

WORDS = {"yes": True, "on": True, "no": False, "off": False}
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


class RecipeError(ValueError):
    """A recipe that cannot be used. The message is one line: the file, the key, "got X, want Y"."""


def require(name: str, value: object, holds: bool, want: str) -> None:
    """Raise ValueError "name: got value, want ..." unless the value `holds`."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, want {want}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    require(name, value, value in choices, f"one of {', '.join(choices)}")


def as_boolean(value: Any) -> Any:
    """True for yes and on, False for no and off in any case; other values as they are."""
    return WORDS.get(value.lower(), value) if isinstance(value, str) else value


def booleans(options: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments for a function, on/off/yes/no as booleans where the default is one.

    Args:
        options: the arguments by name.
        function: a function, or a class: the constructors of its bases count too.
    """
    functions = [function]
    if inspect.isclass(function):
        functions = [vars(kind)["__init__"] for kind in inspect.getmro(function) if "__init__" in vars(kind)]
    known = [parameter for each in functions for parameter in inspect.signature(each).parameters.values()]
    flags = {parameter.name for parameter in known if isinstance(parameter.default, bool)}
    return {name: as_boolean(value) if name in flags else value for name, value in options.items()}


def construct(kind: type, values: object, where: str = "") -> Any:
    """An instance of a dataclass from a mapping; nested dataclasses are built alike.

    Args:
        kind: the dataclass. Its annotations say which types the values have.
        values: fields by name. A field that is absent has its default.
        where: the beginning of every key in messages, such as "steps.coarse.".

    Raises: RecipeError for an unknown or missing key, a value of another type, and whatever the dataclass refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where.rstrip('.')}: got {values!r}, want a mapping of {', '.join(fields)}")
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1)
            hint = f"did you mean {close[0]}?" if close else f"want one of {', '.join(fields)}"
            raise RecipeError(f"{where}{key}: unknown key; {hint}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RecipeError(f"{where}{name}: missing")
    hints = get_type_hints(kind)
    converted = {key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return kind(**converted)
    except ValueError as error:
        raise RecipeError(f"{where}{error}") from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    """The value as its field's type."""
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return construct(kind, value, f"{where}.")  # type: ignore[arg-type]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # X | None; None itself never comes here
        return _convert(inner[0], value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: got {value!r}, want a mapping")
        return {str(key): _convert(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: got {value!r}, want a list")
        return tuple(_convert(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 takes 1e-3, without a point, for a text
            value = float(value)
        except ValueError:
            raise RecipeError(f"{where}: got {value!r}, want a number") from None
    if kind is bool:
        value = as_boolean(value)
    if type(value) is not kind:
        raise RecipeError(f"{where}: got {value!r}, want {KINDS[kind]}")
    return value
