"""Public names say what they take, give and raise."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from fastiqa.ops import Op

PACKAGES = (
    "fastiqa",
    "fastiqa.ops",
    "fastiqa.nn",
    "fastiqa.metrics",
    "fastiqa.models",
    "fastiqa.data",
    "fastiqa.training",
)


def public() -> Iterator[tuple[str, Any]]:
    """Dotted name and object of every public class and function of the package."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, Op | type) or inspect.isfunction(thing):
                yield f"{package}.{name}", thing


PUBLIC = dict(public())


def parameters(thing: Any) -> list[str]:
    """What a call takes, but for `self` and `*`."""
    if isinstance(thing, Op):
        return [argument.name for argument in thing.schema.arguments]
    if isinstance(thing, type) and (
        thing.__init__ in (nn.Module.__init__, object.__init__)
        or issubclass(thing, Exception)
        or getattr(thing, "_is_protocol", False)  # nobody calls it
    ):
        return []
    return [*inspect.signature(thing).parameters]


def section(text: str, title: str) -> str:
    """A section of a docstring in Google's style; "" where it has none."""
    found = re.search(rf"^{title}:(.*?)(?=^\w+:|\Z)", text, re.M | re.S)
    return found[1] if found else ""


def described(text: str) -> set[str]:
    """Parameters that a docstring speaks of: lines `x, y: ...` of a section, and `names` in backticks."""
    names = set(re.findall(r"`(\w+)`", text))
    for title in ("Args", "Attributes"):
        for line in re.findall(r"^ {4}([\w*, ]+):", section(text, title), re.M):
            names.update(name.strip(" *") for name in line.split(","))
    return names


def referred(text: str) -> Iterator[str]:
    """Docstrings of what a docstring names in backticks: "as `fastiqa.metrics.ssim`", "the constructor of `PRFNet`"."""
    for path in re.findall(r"`((?:fastiqa\.)?\w+(?:\.\w+)*)`", text):
        package, _, name = path.rpartition(".")
        for module in (package,) if package else (*PACKAGES, "fastiqa.reference"):
            with contextlib.suppress(ImportError, ValueError):
                yield inspect.getdoc(getattr(importlib.import_module(module), name, None)) or ""


def raises(thing: Any) -> bool:
    """Whether the source of a function, or of a class's constructor, raises by itself."""
    if isinstance(thing, Op):
        return True  # the layout rule, which checks the arguments, does
    source = inspect.unwrap(thing.__init__ if isinstance(thing, type) else thing)
    if not inspect.isfunction(source) or not source.__module__.startswith("fastiqa"):
        return False  # another library's
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    except OSError:
        return False  # a dataclass's, which has no file
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_described(name: str) -> None:
    """Every parameter is described here or in a docstring that this one names; results and errors have their word."""
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    assert text, "no docstring"
    texts = [text, *referred(text)]
    known = set[str]().union(*map(described, texts))
    assert not [parameter for parameter in parameters(thing) if parameter not in known]
    if isinstance(thing, Op) or (section(text, "Args") and not isinstance(thing, type) and returns(thing)):
        assert section(text, "Returns"), "arguments and no result"
    if raises(thing):
        assert any(re.search(r"^Raises:", text, re.M) for text in texts), "raises, and does not say so"


def returns(thing: Any) -> bool:
    """Whether a function gives something; "Iterator[None]" is what a context manager is written as."""
    return isinstance(thing, Op) or inspect.signature(thing).return_annotation not in (None, "None", "Iterator[None]")
