"""Measures one setting: the competitors, their equality, times and memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from fastiqa.ops import Op

from . import memory as allocator
from .equality import Truth
from .rows import Row
from .settings import DTYPES, Function, Setting, Subject, call, least_bytes, leaves_of, output_gradients, results
from .timing import COPY_PEAK_BYTES, Plan, Run, Timer, copy_run, interleaved, launches, quantiles, spec_gbps


@dataclass(frozen=True)
class Provider:
    """A competitor: a function, or the reason that there is none; fastiqa's names the backend to use."""

    name: str
    function: Function | None
    backend: str | None = None
    note: str = ""


def providers(op: Subject, args: Sequence[Any], compiled: bool) -> Iterator[Provider]:
    """Yields eager PyTorch, torch.compile if `compiled`, and the record's backends for the arguments' device.

    Where none of these backends runs, fastiqa's fallback competes.
    """
    yield Provider("eager", op.reference)
    if compiled:
        yield Provider("compile", torch.compile(op.reference, fullgraph=True, dynamic=False))
    refusals = []
    candidates = [backend for backend in op.backends if backend.device == args[0].device.type]
    for backend in candidates:
        reason = backend.reason(op if isinstance(op, Op) else op.op, args)
        if reason is None:
            yield Provider(backend.name, op, backend.name)
        else:
            refusals.append(reason)
            yield Provider(backend.name, None, note=reason)
    if len(refusals) == len(candidates):
        note = "fastiqa falls back to torch: " + ("; ".join(refusals) or "the record names no kernel")
        yield Provider("torch", op, "torch", note=note)


class Bench:
    """Measures settings on one device; caches copies and host times, which cases share."""

    def __init__(self, device: str, plan: Plan, compiled: bool, about: Row) -> None:
        self.device, self.plan, self.compiled, self.about = device, plan, compiled, about
        self.timer = Timer(device)
        self.spec = spec_gbps() if device == "cuda" else None
        self._copies: dict[str, Run] = {}
        self._host: dict[tuple[Any, ...], float] = {}
        self._no_compiler = ""

    def cases(self, setting: Setting, chosen: Iterable[tuple[str, str]]) -> Iterator[list[Row]]:
        """Yields the rows of each (mode, memory)."""
        modes: dict[str, list[str]] = {}
        for mode, memory in chosen:
            modes.setdefault(mode, []).append(memory)
        args = setting.arguments()
        grads = output_gradients(setting.op, args)
        truth = Truth(setting, args, grads, gradients=any(mode != "fwd" for mode in modes))
        for mode, memories in modes.items():
            # The graph is kept for another backward pass: torch.compile must not write into saved tensors.
            kept = torch._functorch.config.patch(donated_buffer=False) if mode == "bwd" else contextlib.nullcontext()
            with kept:
                if self.compiled:
                    torch.compiler.reset()
                entries = [
                    self._entry(provider, setting, mode, args, grads, truth)
                    for provider in providers(setting.op, args, self.compiled)
                ]
                moved = least_bytes(setting.op, args, mode)
                for memory in memories:
                    yield self._timed(entries, setting, mode, memory, moved)

    def _entry(
        self, provider: Provider, setting: Setting, mode: str, args: Sequence[Any], grads: list[Tensor], truth: Truth
    ) -> tuple[Run | None, Row]:
        """A provider's run, None unless it passes the equality check, and the columns that need no timing."""
        row: Row = {"provider": provider.name, "status": "absent", "note": provider.note}
        f = provider.function
        if provider.name == "compile" and self._no_compiler:
            return None, row | {"note": self._no_compiler}
        if f is None:
            return None, row
        try:
            start = time.perf_counter()
            with Run(lambda: None, provider.backend).chosen():
                got = results(f, args, grads, mode)
                self._wait()
                first = time.perf_counter() - start
                verdict = truth.judge(got, bitwise=setting.op.exact and provider.name not in ("eager", "compile"))
                del got
                row |= {"err_vs_fp64": f"{verdict.error:.3g}", "err_ratio_to_eager": f"{verdict.ratio:.3g}"}
                row |= {"first_call_ms": round(first * 1e3, 2)}
                if verdict.wrong:
                    return None, row | {"status": "wrong", "note": verdict.wrong}
                run = Run(call(f, args, grads, mode), provider.backend)
                run.call()
                row["peak_mem_mb"] = round(allocator.peak_bytes(run.call, self.device) / 1e6, 3)
                if mode != "fwd":
                    row["saved_mb"] = round(allocator.saved_bytes(f, leaves_of(args)) / 1e6, 3)
                if self.device == "cuda":
                    row["launches"] = launches(run)
            if provider.name != "compile":  # a tiny tensor would compile it once more
                row["host_us"] = round(self._host_seconds(provider, setting, mode) * 1e6, 2)
        except Exception as error:  # a competitor's failure is a row, whatever it raises
            reason = _first_line(error)
            if "C++ compiler" in reason:
                self._no_compiler = reason
                return None, row | {"note": reason}
            return None, row | {"status": "failed", "note": reason}
        return run, row | {"status": "ok"}

    def _timed(
        self, entries: list[tuple[Run | None, Row]], setting: Setting, mode: str, memory: str, moved: int
    ) -> list[Row]:
        if self.device == "cpu":
            allocator.choose(memory)
        runs = {row["provider"]: run for run, row in entries if run is not None}
        if runs:
            copies = {"copy": copy_run(moved, DTYPES[setting.dtype], self.device), "copy peak": self._copy(setting)}
            times = interleaved(runs | copies, self.timer, self.plan)
            copied = moved / statistics.median(times["copy"]) / 1e9
            peak = COPY_PEAK_BYTES / statistics.median(times["copy peak"]) / 1e9
        case = {
            "op": setting.op.name,
            "arguments": setting.label,
            "mode": mode,
            "memory": memory,
            "dtype": setting.dtype,
            "layout": setting.layout,
            "shape": setting.shape,
        }
        rows = []
        for run, about in entries:
            row = {**self.about, **case, **about, "bytes_model": moved}
            if run is not None:
                seconds = times[row["provider"]]
                median = statistics.median(seconds)
                row |= {
                    "samples": len(seconds),
                    **quantiles(seconds),
                    "gbps": _short(moved / median / 1e9),
                    "copy_gbps": _short(copied),
                    "copy_peak_gbps": _short(peak),
                    "pct_copy_peak": round(100 * moved / median / 1e9 / copied, 1),
                }
                if self.spec:
                    row["pct_spec_peak"] = round(100 * moved / median / 1e9 / self.spec, 1)
            rows.append(row)
        return rows

    def _copy(self, setting: Setting) -> Run:
        if setting.dtype not in self._copies:
            self._copies[setting.dtype] = copy_run(COPY_PEAK_BYTES, DTYPES[setting.dtype], self.device)
        return self._copies[setting.dtype]

    def _host_seconds(self, provider: Provider, setting: Setting, mode: str) -> float:
        key = (setting.op.name, setting.sample, provider.name, mode, setting.dtype, setting.layout)
        if key not in self._host:
            args = setting.tiny().arguments()
            assert provider.function is not None
            with Run(lambda: None, provider.backend).chosen():
                run = Run(call(provider.function, args, output_gradients(setting.op, args), mode), provider.backend)
            self._host[key] = self.timer.host_seconds(run)
        return self._host[key]

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
