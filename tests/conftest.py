"""Every test is seeded, strict about fallbacks, and has poisoned fresh memory (poison.py): an element that a kernel
forgets is a NaN, not yesterday's right answer.

`pytest -m gpu` is a separate run: Triton compiles, operators run on the GPU, and only files with such tests are read,
which need PyTorch, Triton, NumPy and pytest alone. In every other run Triton interprets, and tests marked `gpu` are
removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["FASTIQA_STRICT"] = "1"

import pytest
import torch

from support import cases, interpreter, poison

poison.install()
# torch.compile's disk cache knows operators by name: without a new key, a changed gradient would be the old one.
_ops = sorted((Path(__file__).parents[1] / "fastiqa" / "ops").glob("*.py"))
torch.compiler.config.cache_key_tag = hashlib.sha256(b"".join(file.read_bytes() for file in _ops)).hexdigest()
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one core a worker: two workers on shared cores took half as long again


def pytest_configure(config: pytest.Config) -> None:
    """Choose the backends of this run before test files, which ask `cases` for them, are imported."""
    passed_by = [folder.name for folder in Path(__file__).parent.iterdir() if folder.is_dir()
                 for pattern in config.getini("norecursedirs") if fnmatch(folder.name, pattern)]  # fmt: skip
    assert set(passed_by) <= {"__pycache__"}, f"pytest reads no tests in {passed_by}"
    if asks_for_gpu(config) and torch.cuda.is_available():
        cases.run_on_gpu()
    else:
        interpreter.interpret()


def asks_for_gpu(config: pytest.Config) -> bool:
    expression = str(config.getoption("markexpr"))
    return re.search(r"\bgpu\b", expression) is not None and re.search(r"\bnot\s+gpu\b", expression) is None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether to leave a file unread: importing all files for a few tests took minutes and needs every oracle."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if is_test and asks_for_gpu(config) and b"mark.gpu" not in collection_path.read_bytes() else None


@pytest.hookimpl(tryfirst=True)  # before -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = set() if cases.ALL else set(not_their_turn(items))
    if not cases.on_gpu():
        left_out |= {item for item in items if item.get_closest_marker("gpu")}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    for item in later_turns(items):
        item.add_marker(pytest.mark.kernels)
    config.stash[cases.COLLECTED] = [*items]


def not_their_turn(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Tests marked `share` that are left to `make test-all`. Each operator keeps, on each backend, one case in so many;
    the case changes from operator to operator, so together they meet every case."""
    groups: dict[tuple[object, ...], list[pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("share"):
            given = item.callspec.params
            groups.setdefault((item.function, given.get("backend"), given.get("name")), []).append(item)
    turns: Counter[object] = Counter()
    for (function, backend, _), group in groups.items():
        mark = group[0].get_closest_marker("share")
        assert mark is not None
        share = mark.kwargs.get(backend, mark.args[0] if mark.args else 1)
        if cases.on_gpu():
            share = mark.kwargs.get(f"{backend}_on_gpu", share)
        if not share:  # none of them
            yield from group
            continue
        share = min(share, len(group))
        turn = turns[function, backend]
        turns[function, backend] += 1
        for k, item in enumerate(group):
            # k // share: cases come dtype by dtype, and each dtype should meet other layouts than the one before.
            if (k + k // share + turn) % share:
                yield item


def later_turns(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Tests marked `turns` that `make test` leaves to `make test-kernels`. The length of a test's name decides which
    operators it keeps, so tests keep different ones."""
    names = cases.names()
    for item in items:
        mark = item.get_closest_marker("turns")
        if isinstance(item, pytest.Function) and mark is not None:
            given = item.callspec.params
            turns = mark.kwargs.get(given.get("backend"), mark.args[0] if mark.args else 1)
            if (names.index(given["name"]) + len(item.originalname)) % turns:
                yield item


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_on_gpu() -> None:
    """Poison memory that kernels take from PyTorch's allocator: deterministic algorithms make PyTorch fill it."""
    if cases.on_gpu():
        torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """No weights are published but those of `support.published.stand_ins`."""
    import fastiqa.models.published
    from support.published import stand_ins

    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setattr(fastiqa.models.published, "FOLDER", folder)
    return stand_ins(folder)


@pytest.fixture
def fastiqa_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Run the command line in this process: exit status, stdout, stderr (of file descriptors, native code included)."""
    from fastiqa.cli import main

    def run(*arguments: object) -> tuple[object, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return (exit_.value.code, *capfd.readouterr())

    return run
