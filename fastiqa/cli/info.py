"""``fastiqa info``, or ``python -m fastiqa.cli.info``: installed packages, built libraries, backends of operators."""

from __future__ import annotations

import importlib
import platform
import sys
from typing import TYPE_CHECKING

from fastiqa import __version__
from fastiqa.common.extras import DISTRIBUTION

if TYPE_CHECKING:
    from fastiqa.ops import Op


def info_command() -> int:
    """Say what is installed and built, which backends run here, and why the others do not."""
    return main()


def main() -> int:
    """Print the report. Return 1 where a library was built and does not load, else 0."""
    from fastiqa.runtime import native

    print(report())
    return int(any(_does_not_load(library) for library in native.LIBRARIES))


def report() -> str:
    """Return the whole report as text. Initialises CUDA if there is a GPU, to name it."""
    import torch

    from fastiqa import ops
    from fastiqa.runtime import dispatch, native

    lines = [
        f"fastiqa  {__version__} (distribution {DISTRIBUTION})",
        f"python   {platform.python_version()} on {platform.machine()}, {platform.system()}",
        f"torch    {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        f"triton   {_version('triton')}",
        f"GPU      {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        "",
        "Compiled libraries",
        *(f"  {library:<5} {_library(library)}" for library in native.LIBRARIES),
        "",
        "Environment",
        f"  FASTIQA_BACKEND={dispatch._only or ''}  only this backend (cpu, cuda, triton, torch)",
        f"  FASTIQA_STRICT={int(dispatch._strict)}   1: a fallback to torch is an error",
    ]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        lines += ["", f"Operators on {device} tensors (float32, 1x8x8x8)"]
        lines += [f"  {name:<28} {_runs(op, device)}" for name, op in ops.OPERATORS.items()]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return str(importlib.import_module(package).__version__)
    except ImportError as error:
        return f"not importable: {error}"


def _library(library: str) -> str:
    import torch

    from fastiqa.runtime import native

    try:
        record = native.build_record(library)
    except native.Unavailable as error:
        return str(error)
    code = f", compute capabilities {' '.join(record['archs'])}" if "archs" in record else ""
    if record.get("clones") == "" and platform.machine() in ("x86_64", "AMD64"):
        code = ", without code for AVX, so slow: g++ 12 or later makes it"
    running = "" if record["torch"] == torch.__version__ else f" (running {torch.__version__}; the ABI is stable)"
    return f"built with torch {record['torch']}{running}, {record['compiler']}{code}"


def _runs(op: Op, device: str) -> str:
    import torch

    from fastiqa import ops
    from fastiqa.runtime import dispatch

    args = [
        torch.zeros(value.shape, device=device) if isinstance(value, ops.Map) else value
        for value in next(iter(op.samples(1, 8, 8, 8)))
    ]
    decisions = dispatch.decisions(op, args)
    chosen = next((name for name, verdict in decisions if verdict == "runs"), "nothing")
    others = "; ".join(f"{name}: {verdict}" for name, verdict in decisions if verdict not in ("runs", "could run"))
    return f"{chosen:<7} ({others})" if others else chosen


def _does_not_load(library: str) -> bool:
    from fastiqa.runtime import native

    try:
        native.build_record(library)
    except native.Unavailable as error:
        return isinstance(error, native.DoesNotLoad)
    return False


if __name__ == "__main__":
    sys.exit(main())
