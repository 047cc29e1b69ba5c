"""Writes the tables of README.md from the measurements in bench/data; no figure in them is typed by hand.

    python bench/report.py            rewrite the tables
    python bench/report.py --check    exit 1 if a table is not what the measurements say

A table stands between `<!-- bench: OP FILE -->` and `<!-- /bench -->`: operator and CSV file. Where a case was measured
more than once, the last run counts.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- bench: (\S+) (\S+) -->\n).*?(<!-- /bench -->)", re.S)

HEAD = ("eager", "compile", "fastiqa", "×")

Case = tuple[str, str, str, str]


def table(op: str, file: Path) -> str:
    """Markdown: a row a case, fastiqa beside eager and compile, with reused and with fresh memory."""
    times: dict[Case, dict[tuple[str, str], float]] = {}
    about: dict[str, str] = {}
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["op"] == op:
                case = (row["mode"], row["dtype"], row["layout"], row["shape"])
                times.setdefault(case, {})[row["memory"], row["provider"]] = float(row["t_p50_us"])
                about = row
    lines = [
        f"`{op}` on {about['device']}, {about['threads']} threads, torch {about['torch']}, {about['date']}; medians in "
        "milliseconds; × is the speed-up over the better of eager and compile, losses included.",
        "",
        f"| direction | dtype | layout | shape | {' | '.join([*HEAD, *(f'{name}, new' for name in HEAD)])} |",
        "| --- | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for case, measured in times.items():
        cells = [*case]
        for memory in ("reused", "fresh"):
            eager, compiled = measured[memory, "eager"], measured[memory, "compile"]
            ours = min(
                t for (m, provider), t in measured.items() if m == memory and provider not in ("eager", "compile")
            )
            cells += [*(f"{t / 1000:.3g}" for t in (eager, compiled, ours)), f"{min(eager, compiled) / ours:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Command: `python bench/run.py {op} --memory reused`, and `--memory fresh`."]
    return "\n".join(lines) + "\n"


def main() -> int:
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = BLOCK.sub(lambda m: m[1] + table(m[2], ROOT / "bench" / "data" / m[3]) + m[4], before)
    if "--check" in sys.argv[1:]:
        return int(after != before)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
