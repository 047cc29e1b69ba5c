"""Every test: seeded, strict about fallbacks, and with fresh memory poisoned, so that an element that a kernel forgets
is a NaN and not yesterday's right answer. Tests that need a GPU are removed where there is none."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["FASTIQA_STRICT"] = "1"

import cases
import interpreter
import pytest
import torch
from torch.utils._device import _device_constructors

interpreter.mend_bfloat16()
# torch.compile's cache on disk knows operators by their names: a gradient that has changed since would be yesterday's.
_ops = sorted((Path(__file__).parents[1] / "fastiqa" / "ops").glob("*.py"))
torch.compiler.config.cache_key_tag = hashlib.sha256(b"".join(file.read_bytes() for file in _ops)).hexdigest()
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # a core a worker: two that share theirs took half as long again

_device_constructors()  # cached on first use, so before torch.empty is replaced below


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = set() if cases.ALL else set(not_their_turn(items))
    if not torch.cuda.is_available():
        left_out |= {item for item in items if item.get_closest_marker("gpu")}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def not_their_turn(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Of tests marked `share`, what is left to `make test-all`: of each operator on each backend one case in so many is
    kept, another one from operator to operator, so that together they meet every case."""
    groups: dict[tuple[object, ...], list[pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("share"):
            given = item.callspec.params
            groups.setdefault((item.function, given.get("backend"), given.get("name")), []).append(item)
    turns: Counter[object] = Counter()
    for (function, backend, _), group in groups.items():
        mark = group[0].get_closest_marker("share")
        assert mark is not None
        share = min(mark.kwargs.get(backend, mark.args[0] if mark.args else 1), len(group))
        turn = turns[function, backend]
        turns[function, backend] += 1
        for k, item in enumerate(group):
            # k // share: cases come dtype by dtype, and each is to meet other layouts than the one before it.
            if (k + k // share + turn) % share:
                yield item


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def poisoned(*args, **kwargs):
        result = empty(*args, **kwargs)
        return result.fill_(float("nan")) if result.is_floating_point() and result.device.type != "meta" else result

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def fastiqa_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """The command line run in this process: exit status, stdout, stderr (file descriptors, so native code counts)."""
    from fastiqa.cli import main

    def run(*arguments: object) -> tuple[object, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return (exit_.value.code, *capfd.readouterr())

    return run
