"""`make test` and `make test-kernels` run each test once, the first a share of every operator's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import cases

ROOT = Path(__file__).resolve().parents[2]

# Whole files of `make test-kernels`.
KERNELS = {"test_codegen.py", "test_large.py", "test_machine_code.py", "test_sanitizers.py"}


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> list[pytest.Function]:
    """The tests in the files of this run, before `-m` or `-k` selects some."""
    return [item for item in request.config.stash[cases.COLLECTED] if isinstance(item, pytest.Function)]


def test_every_test_is_in_one_of_two_runs(collected: list[pytest.Function]) -> None:
    """One run takes tests marked `kernels`, slow, or with a later turn, the other takes the rest; CI runs both."""
    runs = re.findall(r"^\t\$\(PYTEST\) (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert runs == ['-m "not (kernels or slow)" tests', '-m "kernels or slow" tests']
    assert re.findall(r"^make (.*)$", (ROOT / ".ci" / "run").read_text(), re.M) == ["test", "test-kernels"]
    assert {file.name for file in (ROOT / "tests").glob("*/test_*.py")} >= KERNELS
    for item in collected:
        kernels = item.get_closest_marker("kernels") is not None
        assert kernels == (item.path.name in KERNELS) or item.get_closest_marker("turns"), item.nodeid


def test_every_skip_has_a_reason(collected: list[pytest.Function]) -> None:
    for item in collected:
        for mark in item.iter_markers():
            if mark.name in ("skip", "skipif", "xfail"):
                # `skip` takes its reason by position, too; a string condition of `skipif` is none.
                reason = mark.kwargs.get("reason") or (mark.args[0] if mark.name == "skip" and mark.args else "")
                assert len(str(reason).split()) > 2, item.nodeid


def test_every_operator_has_its_share_of_make_test(collected: list[pytest.Function]) -> None:
    """Values and gradients on every backend; derivatives of both orders unless interpreted or emulated."""
    ran = {
        (item.originalname, item.callspec.params["name"], item.callspec.params["backend"])
        for item in collected
        if item.path.name == "test_ops.py" and not any(map(item.get_closest_marker, ("kernels", "slow")))
    }
    if not ran:
        pytest.skip("test_ops.py is not among the files of this run")
    for test in ("test_values_and_layout", "test_gradients", "test_partial_gradients", "test_gradcheck"):
        backends = ("torch", "cpu") if test == "test_gradcheck" else cases.BACKENDS
        assert not {(test, name, backend) for name in cases.names() for backend in backends} - ran
