"""Words that YAML 1.1 takes for booleans: on, off, yes and no. In a recipe they are texts, as in YAML 1.2, but where a
boolean is wanted they are one, as they were: `memory: off` is the level "off", `tensorboard: on` is true."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

WORDS = {"yes": True, "on": True, "no": False, "off": False}


def as_boolean(value: Any) -> Any:
    """The boolean of a word; any other value as it is."""
    return WORDS.get(value.lower(), value) if isinstance(value, str) else value


def booleans(options: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function, words as booleans where its default is one; of a class those of its bases, too."""
    functions = [function]
    if inspect.isclass(function):
        functions = [vars(kind)["__init__"] for kind in inspect.getmro(function) if "__init__" in vars(kind)]
    known = [parameter for each in functions for parameter in inspect.signature(each).parameters.values()]
    flags = {parameter.name for parameter in known if isinstance(parameter.default, bool)}
    return {name: as_boolean(value) if name in flags else value for name, value in options.items()}
