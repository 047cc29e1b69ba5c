"""The house's docstrings as Griffe reads Google's: an extension that `mkdocs.yml` names.

Example:                  becomes "Examples:", whose code and results Griffe keeps as code
Raises: words on a line   becomes a paragraph: a list of errors needs a line each
a, b: two arguments       becomes two entries, the second of which refers to the first
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = normalised(obj.docstring.value)


def normalised(text: str) -> str:
    text = re.sub(r":(?:attr|class|func|meth|mod):`", "`", text)
    text = re.sub(r"^Example \((.*)\):$", r"Examples:\n    \1:\n", text, flags=re.M)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    text = re.sub(r"^(Raises|Returns): (\S.*(?:\n +\S.*)*)", paragraph, text, flags=re.M)
    return re.sub(r"^    (\w+(?:, \w+)+): (.*(?:\n {8}.*)*)", entries, text, flags=re.M)


def paragraph(match: re.Match[str]) -> str:
    return f"**{match[1]}**: {' '.join(match[2].split())}"


def entries(match: re.Match[str]) -> str:
    first, *others = match[1].split(", ")
    return "\n".join([f"    {first}: {match[2]}", *(f"    {name}: see `{first}`." for name in others)])
