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
