"""`fastiqa bench` at the terminal: progress, a line for each case, a summary; Ctrl-C keeps the measured rows."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .rows import CASE, FASTIQA, Row, bad, machine, median_us, ours, speedup, spread
from .run import Options, Session

INTERRUPTED = 130
BUSY = 0.4  # load a core; this process has hardly added to the last minute's yet


def run(options: Options) -> int:
    """Exit status: 0, 1 if a kernel of fastiqa is wrong or raises, 2 for bad options, 130 after Ctrl-C."""
    try:
        session = Session(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False, soft_wrap=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console if console.is_terminal else Console(stderr=True),
    )
    _introduce(console, session)
    measured: list[dict[str, Row]] = []
    status = 0
    header = ""
    try:
        with progress, _interruptions() as interrupted:
            task = progress.add_task("", total=session.cases, completed=session.done)
            for rows in session.measure():
                if header != (header := _header(rows[0])):
                    console.print(f"\n{header}", markup=False)
                measured.append({row["provider"]: row for row in rows})
                for line in _lines(measured[-1]):
                    console.print(line, markup=False)
                progress.update(task, advance=1, description=rows[0]["op"])
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        status = INTERRUPTED
    if any(bad(row) for providers in measured for row in providers.values()):
        status = status or 1
    _conclude(console, session, measured, status)
    return status


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed: its exception is lost in a finalizer or a callback from C++."""
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _introduce(console: Console, session: Session) -> None:
    about, options = session.about, session.options
    console.print(f"{machine(about)}, torch {about['torch']}, commit {about['commit']}")
    rivals = "eager and torch.compile" if options.compiled else "eager (--compile adds torch.compile)"
    console.print(
        f"{session.cases} cases: {len(options.names)} operators and blocks, {', '.join(options.dtypes)}, "
        f"{', '.join(options.layouts)}, {', '.join(options.modes)}, "
        f"{', '.join(session.shapes())}, against {rivals}"
    )
    if session.done:
        console.print(f"{session.done} of them are measured already")
    if session.options.budget is not None:
        console.print(f"at most {session.options.budget:.0f} s; cases that do not fit are left out")
    if warning := busy():
        console.print(f"warning: {warning}")
    console.print(f"rows go to {session.csv}")
    console.print("times are medians in ms; × is the speed-up over the better of eager and compile, losses included;")
    console.print("spread: the middle three fifths of fastiqa's times, from end to end, of their median")
    console.print("of copy: useful bandwidth beside that of a copy of as many bytes in the same rounds")


def busy() -> str | None:
    """A warning if, by the load average of the last minute, other processes use the machine."""
    try:
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Windows, macOS
        return None
    if load < BUSY * cores:
        return None
    return f"the load is {load:.1f} on {cores} cores: times are long and uncertain, ratios less so; see their spread"


def _header(row: Row) -> str:
    case = f"{row['op']} {row['arguments']}".strip()
    times = "".join(f"{provider:>9}" for provider in ("eager", "compile", "fastiqa"))
    return f"{case:<46}{times} {'':<7}{'×':>6}{'spread':>8}{'GB/s':>8}{'of copy':>9}{'error/eager':>13}"


def _lines(providers: dict[str, Row]) -> list[str]:
    first = next(iter(providers.values()))
    mine = ours(providers)
    case = f"  {first['mode']:<8}{first['memory']:<7}{first['dtype']:<9}{first['layout']:<5}{first['shape']}"
    cells = [_ms(providers.get("eager")), _ms(providers.get("compile")), _ms(mine)]
    ratio = speedup(providers)
    line = f"{case:<46}{''.join(f'{cell:>9}' for cell in cells)} {mine['provider'] if mine else '':<7}"
    line += f"{'' if ratio is None else f'{ratio:.2f}':>6}"
    if mine is not None and mine["status"] == "ok":
        line += f"{_relative_spread(mine):>8.0%}"
        line += f"{mine['gbps']:>8.1f}{mine['pct_copy_peak']:>8.0f}%{mine['err_ratio_to_eager']:>13}"
    failures = [row for row in providers.values() if row["status"] in ("wrong", "failed")]
    return [line, *(f"    {row['provider']} {row['status']}: {row['note']}" for row in failures)]


def _relative_spread(row: Row) -> float:
    return float((row["t_p80_us"] - row["t_p20_us"]) / row["t_p50_us"])


def _ms(row: Row | None) -> str:
    if row is None:
        return ""
    median = median_us(row)
    return str(row["status"]) if median is None else f"{median / 1e3:.3g}"


def _conclude(console: Console, session: Session, measured: list[dict[str, Row]], status: int) -> None:
    if measured:
        table = Table(box=box.SIMPLE_HEAD, title="speed-up of fastiqa over the better of eager and compile")
        for title in ("operator", "mode", "cases", "mean", "worst", "best"):
            table.add_column(title, justify="left" if title in ("operator", "mode") else "right", no_wrap=True)
        for op, mode in dict.fromkeys((_case(p)["op"], _case(p)["mode"]) for p in measured):
            mine = [p for p in measured if (_case(p)["op"], _case(p)["mode"]) == (op, mode)]
            found = spread(ratio for p in mine if (ratio := speedup(p)) is not None)
            cells = (str(found.cases), *(f"{x:.2f}" for x in found[1:])) if found else ("0", "", "", "")
            table.add_row(op, mode, *cells)
        console.print(table, soft_wrap=False)
    notes = dict.fromkeys(
        f"{row['provider']}: {row['note']}"
        for providers in measured
        for row in providers.values()
        if row["note"] and (row["status"] == "absent" or (row["status"] == "ok" and row["provider"] == FASTIQA[-1]))
    )
    for note in notes:
        console.print(f"note: {note}", markup=False)
    if session.left_out:
        seconds = f"{session.options.budget:.0f} s"
        console.print(f"{session.left_out} of {session.cases} cases did not fit into {seconds}: --resume measures them")
    rows = sum(len(providers) for providers in measured)
    count = f"{rows} rows of {len(measured)} cases"
    if status == INTERRUPTED:
        console.print(f"interrupted: {count} are in {session.csv}; the same command with --resume goes on from there")
    else:
        console.print(f"{count} are in {session.csv}")
    if status == 1:
        console.print("a kernel of fastiqa is wrong or broke: see the lines above and the column note")


def _case(providers: dict[str, Row]) -> dict[str, str]:
    first = next(iter(providers.values()))
    return {column: first[column] for column in CASE}
