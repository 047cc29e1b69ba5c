"""Markdown tables and figures from the measurements in bench/data; nothing in them is typed by hand.

    python -m fastiqa.bench.report               rewrite every generated table in README.md and docs
    python -m fastiqa.bench.report --check       exit 1 if a table differs from the measurements
    python -m fastiqa.bench.report --figures     draw the figures of docs/benchmarks too (needs matplotlib)
    python -m fastiqa.bench.report FILE ...      a page beside each of these CSV files
    python -m fastiqa.bench.report --base COMMIT [FILE]   the file's last commit beside COMMIT; exit 1 where slower

Every CSV file of bench/data has a page in docs/benchmarks. README.md and pages of docs have tables between
`<!-- bench: OP FILE -->` and `<!-- /bench -->`. OP is an operator, or `all` for a summary; FILE is a CSV file of
bench/data. `<!-- bench: results -->` stands before the table of results.py. The last measurement of a case counts.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..runner.rows import FASTIQA, ROOT, Row, case_of, latest, read
from .results import results_table
from .tables import first, markdown, summary, table

DATA = ROOT / "bench" / "data"
PAGES = ROOT / "docs" / "benchmarks"
BLOCK = re.compile(r"(<!-- bench: (\S+)(?: (\S+))? -->\n).*?(<!-- /bench -->)", re.S)
SLOWER = 0.05  # a regression is slower by more than this and by more than three times the spread of its rounds


def measurements_page(file: Path) -> str:
    """All tables of a CSV file: the summary and every operator's; and the file's figures, where they are drawn."""
    cases = list(latest(read(file)).values())
    parts = [f"# {file.stem}\n\nFrom `{file.name}`; made by `python -m fastiqa.bench.report`.\n"]
    for name, words in (("speedup", "speed-ups by operator"), ("bandwidth", "useful bandwidth by size")):
        if (figure := figure_of(file, name)).exists() and file.parent == DATA:
            parts.append(f"![{words}]({figure.relative_to(PAGES).as_posix()})\n")
    parts += filter(None, [summary(cases)])
    parts += [f"## {op}\n\n{table(op, cases)}" for op in dict.fromkeys(first(case)["op"] for case in cases)]
    return "\n".join(parts)


def page_of(file: Path) -> Path:
    """The page of a CSV file: in docs/benchmarks for those of bench/data, else beside it."""
    return (PAGES / file.name if file.resolve().parent == DATA else file).with_suffix(".md")


def figure_of(file: Path, name: str) -> Path:
    """The PNG file of a CSV file's figure, below its page's folder or beside the file."""
    folder = PAGES / "figures" if file.resolve().parent == DATA else file.parent
    return folder / f"{file.stem}-{name}.png"


def block(op: str, file: str | None) -> str:
    """The text of one block.

    Raises:
        ValueError: no measurement of `op` in the file.
    """
    if op == "results":
        return results_table(sorted(DATA.glob("*.csv")))
    cases = list(latest(read(DATA / str(file))).values())
    return summary(cases) if op == "all" else table(op, cases)


def pages() -> dict[Path, str]:
    """Every generated text, by its file."""
    files = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    texts = {file: text for file in files if BLOCK.search(text := file.read_text())}
    blocks = {file: BLOCK.sub(lambda m: m[1] + block(m[2], m[3]) + m[4], text) for file, text in texts.items()}
    return blocks | {page_of(file): measurements_page(file) for file in sorted(DATA.glob("*.csv")) if read(file)}


def regressions(file: Path, base: str) -> tuple[str, bool]:
    """fastiqa's medians at two commits as Markdown, and whether a case became slower than noise explains.

    Raises:
        ValueError: no case was measured at both commits.
    """
    now: dict[tuple[str, ...], Row] = {}
    before: dict[tuple[str, ...], Row] = {}
    rows = [row for row in read(file) if row["provider"] in FASTIQA and row["status"] == "ok"]
    last = rows[-1]["commit"] if rows else ""
    for row in rows:
        key = (*case_of(row), row["provider"])
        if row["commit"] == base:
            before[key] = row
        elif row["commit"] == last:
            now[key] = row
    lines, slower = [], False
    for key in (key for key in now if key in before):
        old, new = (float(rows[key]["t_p50_us"]) for rows in (before, now))
        noise = max(float(r[key]["t_p80_us"]) - float(r[key]["t_p20_us"]) for r in (before, now))
        worse = new > old * (1 + SLOWER) and new - old > 3 * noise
        slower |= worse
        lines.append([" ".join(filter(None, key)), f"{old:.1f}", f"{new:.1f}", f"{new / old:.2f}{' slower' * worse}"])
    if not lines:
        raise ValueError(f"{file}: no case was measured at both {base} and {last}")
    return markdown(("case", f"{base}, us", f"{last}, us", "ratio"), lines, 1), slower


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastiqa.bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="*", type=Path, help="CSV files; all of bench/data by default")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--base", metavar="COMMIT")
    options = parser.parse_args(arguments)
    files = options.file or sorted(DATA.glob("*.csv"))
    try:
        if options.base:
            compared = [regressions(file, options.base) for file in files]
            print("\n".join(text for text, _ in compared))
            return int(any(slower for _, slower in compared))
        if options.figures:
            # First: a page shows the figures that exist. Imported here, since matplotlib may be absent.
            from .figures import draw

            if status := draw({file: (figure_of(file, "speedup"), figure_of(file, "bandwidth")) for file in files}):
                return status
        chosen = [] if options.check else options.file
        texts = {page_of(file): measurements_page(file) for file in chosen} or pages()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        stale = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
        for file in stale:
            print(f"{file}: differs from bench/data; run python -m fastiqa.bench.report", file=sys.stderr)
        return int(bool(stale))
    for file, text in texts.items():
        file.write_text(text)
    return 0
