"""The regression suite: every operator and block, memory format and direction at a size that a cache holds.

    pytest bench                                   table of times, the backend that fastiqa chooses
    pytest bench --benchmark-save=before           kept in .benchmarks; then, after a change:
    pytest bench --benchmark-compare --benchmark-compare-fail=median:10%
    pytest bench --benchmark-disable               each once, as `make test` does: a smoke test

Driven by the operator records: a new operator is measured by being in the folder. `fastiqa bench` compares with eager
PyTorch and torch.compile; this suite compares fastiqa with itself, earlier, on the same machine.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastiqa.bench.runner.run import forward_names
from fastiqa.bench.runner.settings import CACHE_SIZE, LAYOUTS, MODES, Setting, call, output_gradients, subject, tensors

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: pip install 'fastiqa-kernels[bench]'")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", forward_names())
def test_operator(name: str, layout: str, mode: str, benchmark: Any) -> None:
    op = subject(name)
    args = Setting(op, 0, CACHE_SIZE, "float32", layout, DEVICE).arguments()
    run = call(op, args, output_gradients(op, args), mode)

    def finished() -> Any:
        result = run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark.group = f"{name} {mode}"
    assert all(x.isfinite().all() for x in tensors(benchmark(finished)))
