"""The documentation's site: it builds strictly, loads nothing from a network, and has a page for every operator."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import fastiqa
from fastiqa.ops import OPERATORS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'fastiqa-kernels[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Loads(HTMLParser):
    """Addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(given.get("href") or "")
        assert "mermaid" not in (given.get("class") or ""), "the theme would fetch mermaid from a network"


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert [address for address in loads.addresses if "//" in address] == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^)]*""", style.read_text()) == [], style


def test_every_operator_has_a_page(site: Path) -> None:
    """With its definition and its measured speed-ups."""
    index = (site / "operators" / "index.html").read_text()
    for name in {op.__module__.rpartition(".")[2] for op in OPERATORS.values()}:
        page = (site / "operators" / f"{name}.html").read_text()
        assert f'href="{name}.html"' in index
        assert "Equivalent in plain PyTorch" in page
        assert '<svg class="speedup"' in page, name


def test_every_public_name_is_in_the_api(site: Path) -> None:
    """Classes and functions of the public packages; the operators have pages of their own."""
    for name in ("nn", "reference", "models", "metrics", "data", "training"):
        package = importlib.import_module(f"fastiqa.{name}")
        page = (site / "api" / f"{name}.html").read_text()
        names = [public for public in package.__all__ if callable(getattr(package, public))]
        entry = r'<h[234] id="fastiqa[\w.]*\.{}"'
        assert [public for public in names if not re.search(entry.format(public), page)] == [], name


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == fastiqa.__version__
    release = f"## [{fastiqa.__version__}] - {citation['date-released']}"
    assert release in (ROOT / "CHANGELOG.md").read_text().splitlines()
