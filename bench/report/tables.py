"""Tables of measurements as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from ..runner.rows import Row, machine, median_us, ours, speedup, spread

# Tables that `fastiqa bench` does not make, and the commands that do.
PEERS = tuple(f"{metric}_peers" for metric in ("ssim", "ms_ssim", "psnr", "lpips"))
COMMANDS = {f"{name}_step": f"python -m fastiqa.bench.training {name}" for name in ("prfnet", "mfenet")}
COMMANDS |= {f"{name}_parts": f"python -m fastiqa.bench.parts {name}" for name in ("mfenet", "octave")}

Case = dict[str, Row]


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int) -> str:
    names = list(header)
    rule = [*["---"] * text_columns, *["--:"] * (len(names) - text_columns)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *rows)) + "\n"


def first(case: Case) -> Row:
    """A row of the case, for the columns that all of them share."""
    return next(iter(case.values()))


def milliseconds(row: Row | None) -> str:
    """The median with three digits, or the reason that there is none."""
    if row is None:
        return "–"
    median = median_us(row)
    return str(row["status"]) if median is None else f"{median / 1000:.3g}"


def digits(text: str, form: str) -> str:
    return format(float(text), form) if text else "–"


def caption(cases: Iterable[Case]) -> str:
    """Machine, version, dates and commits of the measurements."""
    rows = [first(case) for case in cases]
    dates, commits = (list(dict.fromkeys(row[column] for row in rows)) for column in ("date", "commit"))
    return f"{machine(rows[0])}, torch {rows[-1]['torch']}, {', '.join(dates)}, commit {', '.join(commits)}"


def table(op: str, cases: Iterable[Case]) -> str:
    """A row for each case: times, speed-up over the better rival, useful bandwidth beside a copy's, memory, error.

    Raises:
        ValueError: no case of `op`.
    """
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
    """A row for each library: time, its ratio to fastiqa's, memory, error; and why some have no time."""
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
    """A row for each operator and direction: geometric mean, worst and best speed-up; "" where there is none."""
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
