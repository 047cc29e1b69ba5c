"""docs/pitfalls.md: numbered, each with a test or a reason, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pitfalls.md"


def defined(file: str) -> set[str]:
    """The functions that a file defines."""
    tree = ast.parse(next((ROOT / "tests").glob(f"*/{file}")).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def rows() -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()
            if re.match(r"\| *\d+ *\|", line)]  # fmt: skip


def test_every_pitfall_has_a_test_or_a_reason() -> None:
    table = rows()
    assert [int(row[0]) for row in table] == list(range(1, len(table) + 1))
    assert len(table) >= 80
    for row in table:
        assert len(row) == 3, row
        assert "::test_" in row[2] or row[2].startswith("Cannot occur: ") or row[2].startswith("Not tested: "), row


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text())
    assert len(named) > 100
    assert [f"{file}::{test}" for file, test in named if test not in defined(file)] == []


# ---- docs/architecture.md ----


def paths_of_the_tree(text: str) -> list[str]:
    """Paths of the tree: its lines are indented by the depth of their folder, and words behind that end in a slash are
    folders in it, on the next line too."""
    found, folders = [], [""]
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first, *words = line.split()
        if depth < len(folders):
            folders[depth + 1 :] = [folders[depth] + first]
            found.append(folders[-1])
        else:
            words = [first, *words]
        found += [folders[-1] + word for word in words if word.endswith("/")]
    return found


def test_every_path_of_the_architecture_exists() -> None:
    """<op>, <family> and <subject> stand for any name; what has no slash and no ending of a source is no path."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^```{.text .tree}\n(.*?)^```", text, re.S | re.M)
    assert tree is not None
    named = paths_of_the_tree(tree[1]) + re.findall(r'<text class="path"[^>]*>([^<]+)<', text)
    named += [word for word in re.findall(r"`([^`\s]+)`", text) if re.search(r"/|\.(py|cpp|cu|h|md)$", word)]
    named = [name for name in named if name != "__init__.py"]
    assert len(named) > 60
    missing = [name for name in named if not [*ROOT.glob(re.sub(r"<\w+>", "*", name.rstrip("/")))]]
    assert missing == []
