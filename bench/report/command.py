"""Markdown tables and figures from the measurements in bench/data; nothing in them is typed by hand.

    python -m fastiqa.bench.report               rewrite the tables of README.md and docs, and beside CSV files theirs
    python -m fastiqa.bench.report --check       exit 1 if a table is not what the measurements say
    python -m fastiqa.bench.report --figures     the figures in bench/figures too (needs matplotlib)
    python -m fastiqa.bench.report --base COMMIT [FILE]   the file's last commit beside COMMIT; exit 1 where slower

In README.md and docs a table stands between `<!-- bench: OP FILE -->` and `<!-- /bench -->`. OP is an operator, or
`all` for a summary; FILE is a CSV file of bench/data. The last measurement of a case counts.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from ..runner.rows import ROOT, Row, case_of, latest, machine, read
from ..runner.summary import FASTIQA, median_us, ours, speedup, spread

DATA = ROOT / "bench" / "data"
BLOCK = re.compile(r"(<!-- bench: (\S+) (\S+) -->\n).*?(<!-- /bench -->)", re.S)
# Of tables that fastiqa bench does not make.
PEERS = tuple(f"{metric}_peers" for metric in ("ssim", "ms_ssim", "psnr", "lpips"))
COMMANDS = {f"{name}_step": f"python -m fastiqa.bench.training {name}" for name in ("prfnet", "mfenet")}
COMMANDS |= {f"{name}_parts": f"python -m fastiqa.bench.parts {name}" for name in ("mfenet", "octave")}
SLOWER = 0.05  # a regression is slower by more than this and by more than three times the spread of its rounds

Case = dict[str, Row]


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int) -> str:
    names = list(header)
    rule = [*["---"] * text_columns, *["--:"] * (len(names) - text_columns)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *rows)) + "\n"


def first(case: Case) -> Row:
    return next(iter(case.values()))


def milliseconds(row: Row | None) -> str:
    """Three digits, or why there is no time."""
    if row is None:
        return "–"
    median = median_us(row)
    return str(row["status"]) if median is None else f"{median / 1000:.3g}"


def digits(text: str, form: str) -> str:
    return format(float(text), form) if text else "–"


def caption(cases: Iterable[Case]) -> str:
    rows = [first(case) for case in cases]
    dates, commits = (list(dict.fromkeys(row[column] for row in rows)) for column in ("date", "commit"))
    return f"{machine(rows[0])}, torch {rows[-1]['torch']}, {', '.join(dates)}, commit {', '.join(commits)}"


def table(op: str, cases: Iterable[Case]) -> str:
    """A row a case: times, speed-up over the better rival, useful bandwidth beside a copy's, memory, error."""
    chosen = [case for case in cases if first(case)["op"] == op]
    if not chosen:
        raise ValueError(f"no measurement of {op}")
    if op in PEERS:
        return peers_table(op, chosen)
    several = len({first(case)["arguments"] for case in chosen}) > 1
    header = [*(["arguments"] if several else []), "direction", "dtype", "layout", "shape", "memory"]
    lines = []
    for case in chosen:
        row, mine, ratio = first(case), ours(case) or {}, speedup(case)
        cells = [*([row["arguments"]] if several else [])]
        cells += [row[column] for column in ("mode", "dtype", "layout", "shape", "memory")]
        cells += [milliseconds(case.get("eager")), milliseconds(case.get("compile")), milliseconds(mine or None)]
        cells += ["–" if ratio is None else f"{ratio:.2f}"]
        cells += [digits(mine.get(column, ""), ".1f") for column in ("gbps", "copy_gbps")]
        for column in ("peak_mem_mb", "saved_mb"):
            cells.append(" / ".join(digits(r.get(column, ""), ".3g") for r in (case.get("eager", {}), mine)))
        cells.append(digits(mine.get("err_ratio_to_eager", ""), ".2f"))
        lines.append(cells)
    numbers = ["eager", "compile", "fastiqa", "×", "GB/s", "copy GB/s", "peak MB", "saved MB", "error"]
    return (
        f"`{op}` on {caption(chosen)}; medians in milliseconds. × is the speed-up over the better of eager and "
        "compile, losses included; GB/s is the least traffic over fastiqa's time, beside a copy of as many bytes; MB "
        "are eager's / fastiqa's; error is fastiqa's against float64 over eager's.\n\n"
        + markdown([*header, *numbers], lines, len(header))
        + f"\nCommand: `{COMMANDS.get(op, f'fastiqa bench {op}')}`.\n"
    )


def peers_table(op: str, cases: Iterable[Case]) -> str:
    """A row a library: time, how many times fastiqa's it is, memory, error; who has no time, and why."""
    chosen = list(cases)
    lines, reasons = [], []
    for case in chosen:
        fastest = median_us(case.get("fastiqa"))
        for provider, row in case.items():
            median = median_us(row)
            cells = [str(row[column]) for column in ("arguments", "mode", "dtype", "shape")] + [provider]
            cells += [milliseconds(row), f"{median / fastest:.1f}" if median and fastest else "–"]
            cells += [digits(str(row.get(column, "")), ".3g") for column in ("peak_mem_mb", "err_vs_fp64")]
            lines.append(cells)
            if row["status"] != "ok":
                reasons.append(f"{provider} is {row['status']}: {row['note']}.")
    header = ("convention", "direction", "dtype", "shape", "library", "ms", "× fastiqa", "peak MB", "error")
    notes = "".join(f"{reason}\n" for reason in dict.fromkeys(reasons))
    return (
        f"`{op.removesuffix('_peers')}` beside other libraries on {caption(chosen)}; medians. Libraries of one "
        "convention compute the same score, checked in float64; error is the mean score's, in the table's dtype. "
        "Peak MB are beyond the images.\n\n"
        + markdown(header, lines, 5)
        + (f"\n{notes}" if notes else "")
        + f"\nCommand: `python -m fastiqa.bench.peers {op.removesuffix('_peers')}`.\n"
    )


def summary(cases: Iterable[Case]) -> str:
    """A row an operator and direction: geometric mean, worst and best speed-up. Nothing where there is no speed-up."""
    every = list(cases)
    lines = []
    for op, mode in dict.fromkeys((first(case)["op"], first(case)["mode"]) for case in every):
        mine = [case for case in every if (first(case)["op"], first(case)["mode"]) == (op, mode)]
        found = spread(ratio for case in mine if (ratio := speedup(case)) is not None)
        if found:
            lines.append([f"`{op}`", mode, str(found.cases), *(f"{x:.2f}" for x in found[1:])])
    if not lines:
        return ""
    header = ("operator", "direction", "cases", "×, geometric mean", "worst", "best")
    return (
        f"{caption(every)}; × is fastiqa's speed-up over the better of eager and compile in each case.\n\n"
        + markdown(header, lines, 2)
        + "\nCommand: `fastiqa bench`.\n"
    )


def page(file: Path) -> str:
    """The full table of a file: the summary and every operator's table."""
    cases = list(latest(read(file)).values())
    parts = [f"# {file.stem}\n\nFrom `{file.name}`; made by `python -m fastiqa.bench.report`.\n"]
    parts += filter(None, [summary(cases)])
    parts += [f"## {op}\n\n{table(op, cases)}" for op in dict.fromkeys(first(case)["op"] for case in cases)]
    return "\n".join(parts)


def block(op: str, file: Path) -> str:
    cases = list(latest(read(file)).values())
    return summary(cases) if op == "all" else table(op, cases)


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Every generated text, by its file."""
    data = root / "bench" / "data"
    texts = {file: file.read_text() for file in (root / "README.md", *sorted((root / "docs").rglob("*.md")))}
    wanted = {
        file: BLOCK.sub(lambda m: m[1] + block(m[2], data / m[3]) + m[4], text)
        for file, text in texts.items()
        if BLOCK.search(text)
    }
    return wanted | {file.with_suffix(".md"): page(file) for file in sorted(data.glob("*.csv")) if read(file)}


def regressions(file: Path, base: str) -> tuple[str, bool]:
    """Markdown of fastiqa's medians at two commits, and whether a case became slower than noise explains."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="*", type=Path, help="CSV files; all of bench/data by default")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--base", metavar="COMMIT")
    options = parser.parse_args(arguments)
    files = options.file or sorted(DATA.glob("*.csv"))
    try:
        if options.base:
            results = [regressions(file, options.base) for file in files]
            print("\n".join(text for text, _ in results))
            return int(any(slower for _, slower in results))
        texts = {file: page(file) for file in options.file} if options.file and not options.check else pages()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        stale = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
        for file in stale:
            print(f"{file}: not what bench/data says; run python -m fastiqa.bench.report", file=sys.stderr)
        return int(bool(stale))
    for file, text in texts.items():
        (file.with_suffix(".md") if file.suffix == ".csv" else file).write_text(text)
    if options.figures:
        from .figures import draw

        return draw(files)
    return 0
