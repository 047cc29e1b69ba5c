"""The values of a YAML text, as in YAML 1.2 and within `fastiqa.common.limits`."""

from __future__ import annotations

import collections
import functools
import importlib
import itertools
import re
from typing import Any

from fastiqa.common import limits
from fastiqa.common.extras import install_command
from fastiqa.common.text import decoded
from fastiqa.training.config.fields import RecipeError

MOST_MERGED = 1000  # keys in one mapping: merges of merges double them
# YAML 1.1's numbers without base 60, and its integers without base 8.
_INTEGER = r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"
_REAL = r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"


def parsed(text: str | bytes, what: str) -> Any:
    """The values of a YAML text.

    Raises:
        RecipeError: the text is not YAML, or is beyond the limits; its message begins with `what`.
        ImportError: PyYAML is not installed.
    """
    yaml = _yaml()
    try:
        values = yaml.load(decoded(text) if isinstance(text, bytes) else text, _loader())
    except RecursionError:
        raise RecipeError(f"{what} is nested more than {limits.DEEPEST} deep") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: digits, bytes that are not UTF-8
        hint = "; want spaces where there are tabs" if r"'\t'" in str(error) else ""
        raise RecipeError(f"{what} is not YAML: {' '.join(str(error).split())}{hint}") from None
    try:
        limits.check_values(values)
    except ValueError as error:
        raise RecipeError(f"{what} {error}") from None
    return values


def dumped(values: Any) -> str:
    """The YAML text of values, keys in their order. Raises ImportError without PyYAML."""
    return str(_yaml().safe_dump(values, sort_keys=False, allow_unicode=True))


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ImportError(f"recipes need PyYAML: {install_command('train')}") from None


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader with bounded merges: each level of `<<: [*a, *a]` doubles the keys of the one below.

    As in YAML 1.2, only true and false are booleans, not on, off, yes and no. A date is a text. No key stands twice in
    a mapping. Tabs may stand between words. 1:30 and 010, ninety and eight in YAML 1.1, are texts.
    """
    yaml = _yaml()
    boolean, integer, real, date = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp"))

    def compose_mapping_node(self: Any, anchor: Any) -> Any:
        node = yaml.SafeLoader.compose_mapping_node(self, anchor)
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        keys = [key.value for key in scalars if key.tag != "tag:yaml.org,2002:merge"]
        if repeated := [key for key, count in collections.Counter(keys).items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} stands twice", node.start_mark)
        return node

    def flatten_mapping(self: Any, node: Any) -> None:
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and len(value.value) > MOST_MERGED:
                raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_MERGED:,} merges", key.start_mark)
        yaml.SafeLoader.flatten_mapping(self, node)
        if len(node.value) > MOST_MERGED:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_MERGED:,} keys", node.start_mark)

    def scan_to_next_token(self: Any) -> None:
        """Skips tabs too, unless they indent something."""
        yaml.SafeLoader.scan_to_next_token(self)
        while self.peek() == "\t":
            blanks = next(k for k in itertools.count() if self.peek(k) not in " \t")
            before = self.buffer[self.pointer - self.column : self.pointer]
            if not before.strip() and self.peek(blanks) not in "\r\n\0":
                return
            self.forward(blanks)
            yaml.SafeLoader.scan_to_next_token(self)

    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (boolean, integer, real, date)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    functions = {
        function.__name__: function for function in (compose_mapping_node, flatten_mapping, scan_to_next_token)
    }
    loader: Any = type("Loader", (yaml.SafeLoader,), {**functions, "yaml_implicit_resolvers": resolvers})
    loader.add_implicit_resolver(boolean, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    loader.add_implicit_resolver(real, re.compile(_REAL), list("-+.0123456789"))
    loader.add_implicit_resolver(integer, re.compile(_INTEGER), list("-+0123456789"))
    return loader  # type: ignore[no-any-return]
