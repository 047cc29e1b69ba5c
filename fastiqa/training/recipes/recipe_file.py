"""read_recipe: a recipe from YAML, with the overrides of a command line, checked against the dataclasses.

    base: prfnet_progressive       another recipe, by name or by a path relative to this file, that this one changes
    optimizer: {lr: 0.001}         fields of a step that stand at the top are defaults of all steps
    steps:
      coarse: {losses: {clic: bce}, epochs: 40}
      fine: null                   null takes a key away

Mappings are joined key by key: base, file, overrides.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import importlib
import itertools
import os
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from fastiqa.common import limits
from fastiqa.common.text import decoded
from fastiqa.training.config.settings import Step
from fastiqa.training.config.yaml_text import as_boolean
from fastiqa.training.recipes.recipe import Recipe, RecipeError

FOLDER = Path(__file__).resolve().parent
STEP_FIELDS = tuple(f.name for f in dataclasses.fields(Step))
MOST_CHARACTERS = 1 << 16  # of a file: ours have 2,000
MOST_MERGED = 1000  # keys in one place: merges of merges double them
LONGEST_CHAIN = 16  # of bases
# Of YAML 1.1 without numbers in base 60, and integers without those in base 8.
_INTEGER = r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"
_REAL = r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def recipe_names() -> list[str]:
    """The recipes that come with fastiqa, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: one of `recipe_names()`, or a YAML file.
        overrides: changes as "key.of.the.recipe=value", the value being YAML; "=null" takes the key away.

    Raises:
        RecipeError: for an unknown name, a file that is not YAML or beyond `fastiqa.common.limits`, and for every key
            that is unknown, missing, or of a value that the recipe cannot have; the message names the file and the key.
        ImportError: without PyYAML.

    Example:
        >>> recipe = read_recipe("prfnet_progressive", ["steps.coarse.epochs=2"])
        >>> recipe.steps["coarse"].epochs, recipe.steps["fine"].freeze_backbone
        (2, True)
    """
    path = _resolve(source, Path())
    values = _with_base(path, ())
    for text in overrides:
        key, value = _override(text)
        _refuse_hidden(key, values)
        values = _joined(values, _nested(key, value))
    try:
        return _construct(Recipe, _with_shared(_without_null(values)), "")  # type: ignore[no-any-return]
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def as_yaml(recipe: Recipe) -> str:
    """A recipe in full, as `read_recipe` reads it."""
    return str(_yaml().safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True))


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as `Recipe.as_dict` gave it in an older version, with the defaults of what is new since then.

    Raises: RecipeError for what is no recipe of this version.
    """
    recipe: Recipe = _construct(Recipe, _without_null(saved), "")
    return recipe.as_dict()


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ImportError("recipes need PyYAML: pip install fastiqa[train]") from None


def _resolve(source: str | os.PathLike[str], folder: Path) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not (folder / path).is_file():
            raise RecipeError(f"{folder / path}: no such file")
        return folder / path
    if str(source) not in recipe_names():
        raise RecipeError(f"recipe: got {str(source)!r}, want a .yaml file or one of {', '.join(recipe_names())}")
    return FOLDER / f"{source}.yaml"


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping of a file on top of that of its base."""
    if path.resolve() in seen:
        raise RecipeError(f"{path}: base: got a recipe whose base is, in the end, itself")
    if len(seen) == LONGEST_CHAIN:
        raise RecipeError(f"{path}: base: got a chain of more than {LONGEST_CHAIN} recipes")
    if (size := path.stat().st_size) > MOST_CHARACTERS:
        raise RecipeError(f"{path}: got {size:,} bytes, want at most {MOST_CHARACTERS:,}")
    values = _parsed(path.read_bytes(), f"{path}:")
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: got {type(values).__name__}, want a mapping")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"{path}: base: got {base!r}, want the name or file of a recipe")
    return _joined(_with_base(_resolve(base, path.parent), (*seen, path.resolve())), values)


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _joined(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_null(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > limits.DEEPEST:
        raise RecipeError(f"--set: got {text!r}, want key=value, as optimizer.lr=0.01")
    return parts, _parsed(value, f"--set {key}: {value!r}")


def _parsed(text: str | bytes, what: str) -> Any:
    """The values of a YAML text. Raises RecipeError, whose message begins with `what`, for one that is none, or beyond
    the limits."""
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


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader, with bounded merges: each level of `<<: [*a, *a]` doubles the keys of the one below.

    As in YAML 1.2 only true and false are booleans, not on, off, yes and no, a date is a text, no key stands twice in
    a mapping, and tabs may stand between words. 1:30 and 010, in YAML 1.1 ninety and eight, are texts.
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
        """Past tabs too, where they indent nothing."""
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


def _nested(key: Sequence[str], value: Any) -> dict[str, Any]:
    return {key[0]: _nested(key[1:], value) if key[1:] else value}


def _refuse_hidden(key: list[str], values: Mapping[str, Any]) -> None:
    """A default of all steps that some step has a value of its own for would not reach that step."""
    steps = values.get("steps")
    if key[0] not in STEP_FIELDS or not isinstance(steps, Mapping):
        return
    hidden = [f"steps.{name}.{'.'.join(key)}" for name, step in steps.items() if _has(step, key)]
    if hidden:
        raise RecipeError(f"--set {'.'.join(key)}: steps have values of their own, want {' or '.join(hidden)}")


def _has(values: object, key: Sequence[str]) -> bool:
    if not key:
        return True
    return isinstance(values, Mapping) and key[0] in values and _has(values[key[0]], key[1:])


def _with_shared(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a step that stand at the top, moved into every step."""
    shared = {key: values.pop(key) for key in STEP_FIELDS if key in values}
    steps = values.get("steps")
    if isinstance(steps, Mapping) and shared:
        values["steps"] = {k: _joined(shared, v) if isinstance(v, Mapping) else v for k, v in steps.items()}
    return values


def _construct(kind: type, values: object, where: str) -> Any:
    """An instance of a dataclass from a mapping."""
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
    """The value as the type of its field."""
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _construct(kind, value, f"{where}.")  # type: ignore[arg-type]
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
