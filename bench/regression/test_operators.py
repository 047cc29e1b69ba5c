"""The regression suite: every operator and block, memory format and direction, at a size that fits into a cache.

    pytest bench                                   a table of times, by the backend that fastiqa chooses
    pytest bench --benchmark-save=before           into .benchmarks; then, after a change:
    pytest bench --benchmark-compare --benchmark-compare-fail=median:10%
    pytest bench --benchmark-disable               each case once, as in `make test`: a smoke test

The operator records drive it, so a new operator needs no entry. `fastiqa bench` compares with eager PyTorch and
torch.compile; this suite compares fastiqa with an earlier fastiqa on the same machine.
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
