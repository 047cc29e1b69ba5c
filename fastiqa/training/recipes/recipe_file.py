"""read_recipe: a recipe from a YAML file and a command line's overrides, checked against the dataclasses.

    base: prfnet_progressive       the recipe that this one changes: a name, or a path relative to this file
    optimizer: {lr: 0.001}         a step's field at the top is the default of all steps
    steps:
      coarse: {losses: {clic: bce}, epochs: 40}
      fine: null                   null takes a key away

Mappings are joined key by key: base, file, overrides.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastiqa.common import limits
from fastiqa.training.config import yaml_text
from fastiqa.training.config.fields import RecipeError, construct
from fastiqa.training.config.settings import Step
from fastiqa.training.recipes.recipe import Recipe

FOLDER = Path(__file__).resolve().parent
STEP_FIELDS = tuple(f.name for f in dataclasses.fields(Step))
MOST_BYTES = 1 << 16  # in a file: ours have 2,000
LONGEST_CHAIN = 16  # bases


def recipe_names() -> list[str]:
    """The recipes that come with fastiqa, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: one of `recipe_names()`, or a YAML file.
        overrides: changes as "key.of.the.recipe=value" with a YAML value; "=null" takes the key away.

    Returns:
        The recipe, complete: keys that the file leaves out have their defaults.

    Raises:
        RecipeError: an unknown name; a file that is not YAML, or beyond `fastiqa.common.limits`; a key that is unknown,
            missing or has a value that the recipe cannot have. The message names the file and the key.
        ImportError: PyYAML is not installed.

    Example:
        >>> recipe = read_recipe("prfnet_progressive", ["steps.coarse.epochs=2"])
        >>> recipe.steps["coarse"].epochs, recipe.steps["fine"].freeze_backbone
        (2, True)
    """
    path = _resolve(source, Path())
    values = _with_base(path, ())
    known = values.get("data")
    for text in overrides:
        key, value = _override(text)
        _refuse_hidden(key, values)
        values = _joined(values, _nested(key, value))
    try:
        recipe: Recipe = construct(Recipe, _with_shared(_without_null(values)))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    _refuse_unused(recipe, known if isinstance(known, Mapping) else {})
    return recipe


def as_yaml(recipe: Recipe) -> str:
    """The YAML text of a recipe with every key, for `read_recipe`."""
    return yaml_text.dumped(recipe.as_dict())


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A dictionary that an older version's `Recipe.as_dict` gave, with the defaults of newer keys.

    Raises: RecipeError if it is no recipe of this version.
    """
    recipe: Recipe = construct(Recipe, _without_null(saved))
    return recipe.as_dict()


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
    """The mapping of a file, joined onto its base's."""
    if path.resolve() in seen:
        raise RecipeError(f"{path}: base: got a recipe whose base is, in the end, itself")
    if len(seen) == LONGEST_CHAIN:
        raise RecipeError(f"{path}: base: got a chain of more than {LONGEST_CHAIN} recipes")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise RecipeError(f"{path}: got {size:,} bytes, want at most {MOST_BYTES:,}")
    values = yaml_text.parsed(path.read_bytes(), f"{path}:")
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
    return parts, yaml_text.parsed(value, f"--set {key}: {value!r}")


def _nested(key: Sequence[str], value: Any) -> dict[str, Any]:
    return {key[0]: _nested(key[1:], value) if key[1:] else value}


def _refuse_hidden(key: list[str], values: Mapping[str, Any]) -> None:
    """Raise RecipeError for a default of all steps that would not reach a step with a value of its own."""
    steps = values.get("steps")
    if key[0] not in STEP_FIELDS or not isinstance(steps, Mapping):
        return
    hidden = [f"steps.{name}.{'.'.join(key)}" for name, step in steps.items() if _has(step, key)]
    if hidden:
        raise RecipeError(f"--set {'.'.join(key)}: steps have values of their own, want {' or '.join(hidden)}")


def _refuse_unused(recipe: Recipe, known: Mapping[str, Any]) -> None:
    """Raise RecipeError for a data set that only an override names: a misspelt one, in most cases.

    A recipe's own data sets may be unused, as by an override that takes a step away.
    """
    used = {*recipe.validation.data, *(name for step in recipe.steps.values() for name in step.losses)}
    for name in recipe.data:
        if name not in known and name not in used:
            want = f"one of {', '.join(map(str, known))}" if known else "one that a step or a validation uses"
            raise RecipeError(f"--set data.{name}: no step and no validation uses {name!r}, want {want}")


def _has(values: object, key: Sequence[str]) -> bool:
    if not key:
        return True
    return isinstance(values, Mapping) and key[0] in values and _has(values[key[0]], key[1:])


def _with_shared(values: dict[str, Any]) -> dict[str, Any]:
    """Move a step's fields at the top into every step."""
    shared = {key: values.pop(key) for key in STEP_FIELDS if key in values}
    steps = values.get("steps")
    if isinstance(steps, Mapping) and shared:
        values["steps"] = {k: _joined(shared, v) if isinstance(v, Mapping) else v for k, v in steps.items()}
    return values
