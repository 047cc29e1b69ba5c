"""Pages that MkDocs builds from other sources: operators from their records and measurements, and files beside docs.

`mkdocs.yml` names this file as a hook. Nothing that it makes is written into the working tree.

    operators/<op>.md       fastiqa/ops/<op>.py: formula, gradient, bytes, arguments, backends; speed-ups of bench/data
    changelog.md ...        CHANGELOG.md, CONTRIBUTING.md, SECURITY.md
"""

from __future__ import annotations

import functools
import html
import inspect
import math
import posixpath
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe
import torch
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a build without an installation documents this tree

from fastiqa.bench.report.tables import caption, first, markdown  # noqa: E402
from fastiqa.bench.runner.rows import latest, machine, median_us, read, speedup, spread  # noqa: E402

from fastiqa.ops import OPERATORS, Map, Op  # noqa: E402

DATA = ROOT / "bench" / "data"
COPIED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
WIDEST = 72  # characters of a line of code that fits the page
DIRECTIONS = ("fwd", "bwd", "fwd_bwd")
ABOUT = """
Every operator takes float64, float32, bfloat16 and float16 in any strides, has gradients of every order, and works in
`torch.compile`, `torch.export`, autocast and `vmap`. `fastiqa.explain(name, *tensors)` names the backend that runs, and
why not another.
""".strip()
SPEEDUPS = """
× is the speed-up over the better of eager PyTorch and torch.compile, the geometric mean of all cases on each measured
machine. The pages show worst and best cases. Nothing was measured on a GPU yet.
""".strip()
CHARTED = """
A dot is a case (dtype, memory format, size, new or reused memory), the bar ends at their geometric mean. × is the
speed-up over the better of eager PyTorch and torch.compile.
""".strip()
CHARTED_PEERS = """
A dot is a case (convention, dtype), the bar ends at their geometric mean. × is the speed-up over the fastest other
library that computes the same score.
""".strip()
KERNELS = {"cpu": "C++ (AVX2, AVX-512)", "cuda": "CUDA", "triton": "Triton"}


def on_config(config: Any) -> Any:
    """Puts the generated pages into the navigation, and lets page URLs lead to what they are copied from."""
    pages = {"operators/": ["operators/index.md", *(f"operators/{name}.md" for name in families())]}
    found = (file.relative_to(ROOT / "docs").as_posix() for file in sorted((ROOT / "docs" / "benchmarks").glob("*.md")))
    pages["benchmarks/"] = sorted(found, key=lambda page: (not page.endswith("index.md"), page))
    for item in config.nav:
        for title, value in item.items():
            if isinstance(value, str) and value in pages:
                item[title] = pages[value]
    return config


def on_files(files: Files, config: Any) -> Files:
    for name, text in {"index": index(), **{name: operator(name) for name in families()}}.items():
        files.append(File.generated(config, f"operators/{name}.md", content=text))
    for source, page in COPIED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that work in the repository work on the site: files beside docs become their pages, or plain text."""
    source = page.file.src_uri
    origin = {page: name for name, page in COPIED.items()}
    folder = posixpath.dirname(origin.get(source, f"docs/{source}"))

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(folder, path))
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target in COPIED or target == "README.md":
            target = COPIED.get(target, "index.md")
        else:
            return text.lstrip("!")
        return f"{text}({posixpath.relpath(target, posixpath.dirname(source) or '.')}{anchor or ''})"

    return re.sub(r"(!?\[[^\]]*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


# ---- operators ----


def families() -> dict[str, list[Op]]:
    """Each operator with its gradients, which lie in its file: one page."""
    result: dict[str, list[Op]] = {}
    for op in OPERATORS.values():
        result.setdefault(op.__module__.rpartition(".")[2], []).append(op)
    return {name: sorted(ops, key=lambda op: op.name != name) for name, ops in sorted(result.items())}


def index() -> str:
    rows = []
    for name, (op, *_) in families().items():
        cells = [f"[`{name}`]({name}.md)", title(op), ", ".join(backend.name for backend in op.backends)]
        means = (spread(groups.get("fwd_bwd", ())) for _, _, groups in measured(name))
        rows.append([*cells, ", ".join(f"{mean.mean:.1f}" for mean in means if mean) or "–"])
    header = ("operator", "in words", "kernels", "× forward + backward")
    return f"# Operators\n\n{ABOUT}\n\n{markdown(header, rows, 3)}\n{SPEEDUPS}\n"


def operator(name: str) -> str:
    op, *gradients = families()[name]
    module = sys.modules[op.__module__]
    return "\n".join(
        [
            f"# {name}\n",
            f"```python\n{signature(op)}\n```\n",
            described(op),
            f"## Equivalent in plain PyTorch\n\n```python\n{body(op)}\n```\n",
            f"## Formula and gradient\n\n{documented(module)}\n",
            f"## Facts\n\n{facts(op, gradients)}\n",
            f"## Measured\n\n{measurements(name)}",
        ]
    )


def title(op: Op) -> str:
    """The summary of the operator's file, without its name."""
    summary = str(sys.modules[op.__module__].__doc__).partition("\n")[0].partition(": ")[2]
    return summary[:1].upper() + summary[1:].rstrip(". ")


def signature(op: Op) -> str:
    given = inspect.signature(op.reference)
    text = f"{op.name}{given.replace(return_annotation=inspect.Signature.empty)}"
    returns = str(given.return_annotation).replace("typing.", "")
    if len(text) + len(returns) > 90:
        text = f"{op.name}(\n" + "".join(f"    {parameter},\n" for parameter in given.parameters.values()) + ")"
    return f"{text} -> {returns}".replace("'", "").replace("torch.", "")


def body(op: Op) -> str:
    """The reference's code without its docstring: the definition of the operator, and its last backend."""
    source = textwrap.dedent(inspect.getsource(op.reference))
    source = re.sub(r'^    """.*?"""\n', "", source, count=1, flags=re.S | re.M)
    return re.sub(r"  # type: ignore.*", "", source).rstrip()


def documented(module: Any) -> str:
    """The file's docstring after its summary; what it indents, formulas above all, stays as it is printed."""
    text = inspect.cleandoc(module.__doc__).partition("\n")[2].strip("\n")
    text = re.sub(r"\n?^(Adjoint|Bytes|Exact|Saved|Source|Memory format)\b", r"\n\n**\1**", text, flags=re.M)
    text = re.sub(r"^    (?:cpu|cuda|triton)  .*(?:\n    .*)*", kernel_table, text, flags=re.M)
    return re.sub(rf"^    .{{{WIDEST + 1},}}$", packed, text, flags=re.M)


def packed(match: re.Match[str]) -> str:
    """A long line of formulas, which wide gaps separate, as lines that fit the page."""
    lines: list[str] = []
    for part in re.split(" {3,}", match[0].strip()):
        if lines and len(lines[-1]) + len(part) < WIDEST - 3:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return "\n".join(f"    {line}" for line in lines)


def kernel_table(match: re.Match[str]) -> str:
    """The list of kernels as a table: backend, file, how it works; a line that begins further right goes on."""
    rows: list[list[str]] = []
    for line in textwrap.dedent(match[0]).splitlines():
        found = re.match(r"(\w+) +(\S+)(?: +(.*))?$", line)
        if found is None:
            rows[-1][-1] += f" {line.strip()}"
        else:
            file = next((path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"csrc/ops/*/{found[2]}")), found[2])
            rows.append([f"`{found[1]}`", f"`{file}`", (found[3] or "").replace("|", "\\|")])
    return markdown(("backend", "how", "file"), ([name, how, file] for name, file, how in rows), 3)


def described(op: Op) -> str:
    """The public docstring as Markdown."""
    lines = []
    for section in griffe.Docstring(str(op.__doc__), lineno=1).parse("google", warnings=False):
        kind, value = section.kind.value, section.value
        if kind == "text":
            lines.append(str(value))
        elif kind in ("parameters", "raises"):
            names = ((item.name if kind == "parameters" else item.annotation, item.description) for item in value)
            lines.append(f"**{'Arguments' if kind == 'parameters' else 'Errors'}**\n")
            lines.append("\n".join(f"- `{name}`: {one_line(text)}" for name, text in names))
        elif kind == "returns":
            lines.append(
                "**Result**: " + one_line(" ".join(f"{item.annotation or ''} {item.description}" for item in value))
            )
        elif kind == "admonition" and value.kind == "example":
            lines.append(f"**Example**\n\n```pycon\n{value.description}\n```")
        else:
            lines.append(
                f"**{section.title or kind.capitalize()}**: {one_line(getattr(value, 'description', str(value)))}"
            )
    return "\n\n".join(lines) + "\n"


def one_line(text: Any) -> str:
    return " ".join(str(text).split())


def facts(op: Op, gradients: list[Op]) -> str:
    shape = (4, 64, 112, 112)
    kernels = [KERNELS[backend.name] for backend in op.backends]
    exact = "equals its plain PyTorch code bit for bit"
    close = "at most twice as far from float64 as eager PyTorch"
    lowered = "the autocast dtype, as convolutions"
    promoted = "the widest dtype given, as element-wise functions"
    batched = [name for name in op.signature.names if name in op.batched]
    traffic = (f"`{record.name}` {least_bytes(record, shape) / 1e6:.1f} MB" for record in (op, *gradients))
    rows = [
        ("kernels, in order of preference", ", ".join([*kernels, "plain PyTorch"])),
        ("accuracy", exact if op.exact else close),
        ("saved for the backward pass", names(op.saves) or "nothing"),
        ("under autocast", lowered if op.autocast == "lower" else promoted),
        ("`vmap` folds its dimension into", names(batched) or "nothing: one call a sample"),
        ("gradient operators", names(gradient.name for gradient in gradients) or "itself, or other operators"),
        (f"least traffic, float32, a sample of {'×'.join(map(str, shape))}", ", ".join(traffic)),
    ]
    return f"{markdown(('property', 'value'), rows, 2)}\nSchema:\n\n```text\n{op._overload._schema}\n```"


def names(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def least_bytes(op: Op, shape: tuple[int, int, int, int]) -> int:
    """Of the record's first sample of that size: each input read once and each output written once."""
    sample = next(op.samples(*shape))
    return op.bytes(*(torch.empty(x.shape, device="meta") if isinstance(x, Map) else x for x in sample))


# ---- measurements ----


@functools.cache
def cases_of(file: Path) -> dict[str, list[Any]]:
    """The measured cases of a CSV file, by operator."""
    result: dict[str, list[Any]] = {}
    for case in latest(read(file)).values():
        result.setdefault(str(first(case)["op"]), []).append(case)
    return result


def measured(op: str) -> Iterator[tuple[Path, list[Any], dict[str, list[float]]]]:
    """Files of bench/data with speed-ups of an operator: its cases, and their speed-ups by direction."""
    for file in sorted(DATA.glob("*.csv")):
        cases = [case for case in cases_of(file).get(op, []) if ratio(case)]
        ratios = {mode: [ratio(case) or 0 for case in cases if first(case)["mode"] == mode] for mode in DIRECTIONS}
        if cases:
            yield file, cases, {mode: values for mode, values in ratios.items() if values}


def ratio(case: Any) -> float | None:
    """fastiqa's speed-up: over eager and torch.compile, or where other libraries are measured over the fastest."""
    mine = median_us(case.get("fastiqa"))
    if mine is None:
        return speedup(case)
    others = [time for name, row in case.items() if name != "fastiqa" and (time := median_us(row)) is not None]
    return min(others) / mine if others else None


def measurements(name: str) -> str:
    header = ("direction", "cases", "×, geometric mean", "worst", "best")
    kinds = ((name, CHARTED, f"fastiqa bench {name}"),)
    kinds += ((f"{name}_peers", CHARTED_PEERS, f"python -m fastiqa.bench.peers {name}"),)
    parts = []
    for op, explained, command in kinds:
        for file, cases, groups in measured(op):
            spreads = {direction: spread(values) for direction, values in groups.items()}
            rows = [[f"`{direction}`", f"{found.cases}", *(f"{x:.2f}" for x in found[1:])]
                    for direction, found in spreads.items() if found]  # fmt: skip
            device = machine(first(cases[0]))
            about = caption(cases).removeprefix(f"{device}, ")
            parts += [f"### {device}", f"Measured with {about}. {explained}", chart(groups), markdown(header, rows, 1)]
            parts += [f"[Every case](../benchmarks/{file.stem}.md). Command: `{command}`."]
    return "\n\n".join([*parts, "[How to read a benchmark](../guides/read_a_benchmark.md).\n"])


def chart(groups: dict[str, list[float]]) -> str:
    """Speed-ups on a logarithmic axis, as an SVG in the page's own colours."""
    left, right, row = 62, 450, 30
    every = [value for values in groups.values() for value in values]
    low, high = min(0.5, *every), max(2.0, *every)

    def x(ratio: float) -> float:
        return left + (right - left) * math.log(ratio / low) / math.log(high / low)

    bottom = row * len(groups) + 8
    label = ", ".join(f"{direction} {min(values):.2f} to {max(values):.2f}" for direction, values in groups.items())
    size = f'viewBox="0 0 480 {bottom + 22}"'
    lines = [f'<svg class="speedup" {size} role="img" aria-label="Speed-ups: {html.escape(label)}">']
    for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64):
        if low <= tick <= high:
            kind = "one" if tick == 1 else "tick"
            lines.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom}"/>')
            lines.append(f'<text x="{x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}×</text>')
    for k, (direction, values) in enumerate(groups.items()):
        middle = k * row + row / 2 + 4
        mean = x(math.exp(sum(map(math.log, values)) / len(values)))
        start, end = sorted((x(1), mean))
        lines.append(f'<text x="0" y="{middle + 4}">{direction}</text>')
        lines.append(f'<rect x="{start:.1f}" y="{middle - 8}" width="{max(end - start, 1):.1f}" height="16"/>')
        lines += [f'<circle cx="{x(value):.1f}" cy="{middle}" r="3"/>' for value in sorted(values)]
    return "\n".join([*lines, "</svg>"])
