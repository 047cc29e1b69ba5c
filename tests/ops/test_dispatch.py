"""Choosing a backend: order, reasons, use(), the two environment variables, explain(), bad input."""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

import fastiqa
from fastiqa.ops import OPERATORS
from fastiqa.runtime import dispatch, native
from fastiqa.runtime.dispatch import Backend
from support import emulation

cross_difference = OPERATORS["cross_difference"]


@pytest.fixture
def args() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, 1, 2, 3, 4))


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTIQA_", "TRITON_INTERPRET"))}
    return subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)


CALL = "import torch; from fastiqa.ops import cross_difference as f; print(f(*torch.ones(3, 1, 2, 3, 4)).sum().item())"


def test_use_means_only_that_backend(args: tuple[torch.Tensor, ...]) -> None:
    with fastiqa.use("triton"):
        assert dispatch.choose(cross_difference, args).__module__ == "fastiqa.kernels.cross_difference"
    with fastiqa.use("torch"):
        assert dispatch.choose(cross_difference, args) is None
    assert dispatch._only is None


def test_an_old_triton_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("triton", reason="triton is not installed"), "__version__", "3.5.1")
    with pytest.raises(native.Unavailable, match=r"^triton: got 3\.5\.1, want 3\.6 or later; pip install"):
        dispatch._triton_kernel("cross_difference")
    asked = (emulation.ROOT / "pyproject.toml").read_text()
    assert f"triton>={'.'.join(map(str, dispatch.OLDEST_TRITON))}" in asked


def test_use_is_undone_by_an_error() -> None:
    with pytest.raises(KeyError), fastiqa.use("torch"):
        raise KeyError
    assert dispatch._only is None


def test_use_in_several_threads_that_end_in_any_order(args: tuple[torch.Tensor, ...]) -> None:
    """The open block entered last decides; after the last block has ended, the state is that before the first."""
    before = fastiqa.explain("high_pass", args[0])
    names = ("torch", "cpu", "triton")
    for entered, left in itertools.product(itertools.permutations(range(3)), repeat=2):
        turns = {(step, k): threading.Event() for step in ("enter", "leave") for k in range(3)}
        done = {turn: threading.Event() for turn in turns}

        def block(k: int, turns: Any = turns, done: Any = done) -> None:
            turns["enter", k].wait(10)
            with fastiqa.use(names[k]):
                done["enter", k].set()
                turns["leave", k].wait(10)
            done["leave", k].set()

        threads = [threading.Thread(target=block, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        still = []
        for turn in [("enter", k) for k in entered] + [("leave", k) for k in left]:
            turns[turn].set()
            assert done[turn].wait(10)
            still = [*still, turn[1]] if turn[0] == "enter" else [k for k in still if k != turn[1]]
            assert dispatch._only == (names[still[-1]] if still else None)
        for thread in threads:
            thread.join()
        assert fastiqa.explain("high_pass", args[0]) == before


def test_use_survives_many_threads() -> None:
    def work(name: str) -> None:
        for _ in range(300):
            with fastiqa.use(name), fastiqa.use("cpu"):
                pass

    threads = [threading.Thread(target=work, args=(name,)) for name in dispatch.NAMES * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatch._only is None
    assert not dispatch._blocks


def test_an_explicit_choice_that_cannot_run_gives_every_reason(args: tuple[torch.Tensor, ...]) -> None:
    with fastiqa.use("cuda"), pytest.raises(RuntimeError) as error:
        cross_difference(*args)
    message = str(error.value)
    assert "backend 'cuda' was asked for" in message
    assert "cuda    needs cuda tensors, got cpu" in message
    assert "\n  cpu     " in message


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="backend: got 'tpu', want one of cpu, cuda, triton"), fastiqa.use("tpu"):
        pass
    done = run("import fastiqa.ops", FASTIQA_BACKEND="tpu")
    assert done.returncode != 0
    assert "FASTIQA_BACKEND: got 'tpu'" in done.stderr
    done = run("from fastiqa.cli import main; main(['info'])", FASTIQA_BACKEND="tpu")
    expected = "error: FASTIQA_BACKEND: got 'tpu', want one of cpu, cuda, triton, torch\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def refusing(reason: str) -> tuple[Backend, ...]:
    return (Backend("cpu", "cpu", lambda name: native.kernel("cpu", name), lambda *args: reason),)


def test_a_fallback_is_an_error_when_strict(args: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_difference, "backends", refusing("the moon is full"))
    monkeypatch.setattr(dispatch, "_kernels", {("cpu", "cross_difference"): lambda *args: None})
    with pytest.raises(RuntimeError, match=r"FASTIQA_STRICT=1 forbids it(.|\n)*cpu     the moon is full"):
        cross_difference(*args)


def test_a_fallback_is_logged_once_a_reason(
    args: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "_strict", False)
    monkeypatch.setattr(dispatch, "_logged", set())
    monkeypatch.setattr(dispatch, "_kernels", {("cpu", "cross_difference"): lambda *args: None})
    with caplog.at_level(logging.WARNING, "fastiqa"):
        for reason in ("the moon is full", "the moon is full", "the moon is new"):
            monkeypatch.setattr(cross_difference, "backends", refusing(reason))
            assert torch.equal(cross_difference(*args), cross_difference.reference(*args))
    assert [record.args[2] for record in caplog.records] == ["the moon is full", "the moon is new"]


def test_a_missing_library_is_told_once_and_the_answer_is_right() -> None:
    missing = "native.path = lambda name: pathlib.Path('/none/lib.so')"
    code = f"import pathlib; from fastiqa.runtime import native; {missing}; {CALL}; {CALL}"
    done = run(code)
    assert done.stdout.split() == ["0.0", "0.0"]
    assert done.stderr.count("cross_difference runs through torch") == 1
    assert "was not built; reinstall where a C++ compiler can be found" in done.stderr


def test_environment_variables() -> None:
    assert run(CALL, FASTIQA_BACKEND="torch").stdout.strip() == "0.0"
    refused = run(CALL, FASTIQA_BACKEND="cuda")
    assert refused.returncode != 0
    assert "backend 'cuda' was asked for and cannot run" in refused.stderr


def test_explain_shows_the_decision(args: tuple[torch.Tensor, ...]) -> None:
    lines = fastiqa.explain("cross_difference", *args).splitlines()
    assert lines[0] == "cross_difference for torch.float32 tensors on cpu"
    assert [line.split()[0] for line in lines[1:]] == ["cuda", "triton", "cpu", "torch"]
    assert lines[3] == "  cpu     runs"
    with fastiqa.use("torch"):
        assert fastiqa.explain(cross_difference, *args).splitlines()[-1] == "  torch   runs"
    with pytest.raises(ValueError, match="op: no operator 'sharpen'"):
        fastiqa.explain("sharpen", *args)


@pytest.mark.parametrize(
    "code", ["import fastiqa.cli.info; fastiqa.cli.info.main()", "import fastiqa.cli; fastiqa.cli.main()"]
)
def test_info_says_what_is_built_and_what_runs(code: str) -> None:
    command = f"import sys; sys.argv = ['fastiqa', 'info']; {code}"
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert f"torch    {torch.__version__}" in done.stdout
    assert re.search(r"\n  cpu   built with torch .*, ", done.stdout)
    assert re.search(r"\n  cross_difference +cpu     \(cuda: needs cuda tensors, got cpu; ", done.stdout)
    refused = run(command, FASTIQA_BACKEND="cuda")
    assert refused.returncode == 0, refused.stderr
    assert re.search(r"\n  cross_difference +nothing ", refused.stdout)


def test_a_kernel_missing_from_the_library_is_a_reason() -> None:
    with pytest.raises(native.Unavailable, match="no kernel of that name"):
        native.kernel("cpu", "sharpen")


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (9, 0), (10, 3), (12, 1), (11, 0), (13, 0), (7, 5), (8, 0)])
def test_a_gpu_without_code_is_refused(capability: tuple[int, int]) -> None:
    """Code for 8.6, 9.0 and 10.0 runs on later minors of these, PTX for 10.0 on everything later."""
    reason = native._arch_reason([86, 90, 100], 100, capability)
    if capability in ((7, 5), (8, 0)):
        assert "FASTIQA_CUDA_ARCHS" in str(reason)
    else:
        assert reason is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.long(), TypeError, "a: got dtype torch.int64, want float64, float32, bfloat16 or float16"),
        (lambda x: x.to(torch.complex64), TypeError, "a: got dtype torch.complex64"),
        (lambda x: x[0], ValueError, r"a: got shape \(2, 3, 4\), want four dimensions"),
        (lambda x: x[:, :1], ValueError, r"a: got shape \(1, 1, 3, 4\), want that of ref, \(1, 2, 3, 4\)"),
        (lambda x: x.to("meta"), ValueError, "a: got a tensor on meta, want cpu, where ref is"),
        (lambda x: x.numpy(), TypeError, "a: got ndarray, want a tensor"),
        (lambda x: None, TypeError, "a: got NoneType, want a tensor"),
    ],
)
def test_bad_input_names_the_argument(args, change, error, message) -> None:
    ref, a, b = args
    with pytest.raises(error, match=message):
        cross_difference(ref, change(a), b)
    with pytest.raises(error, match=message), fastiqa.use("torch"):
        cross_difference(ref, change(a), b)


def test_calls_by_name(args: tuple[torch.Tensor, ...]) -> None:
    ref, a, b = args
    assert torch.equal(cross_difference(ref, b=b, a=a), cross_difference(ref, a, b))
    with pytest.raises(TypeError, match="b: missing in the call of cross_difference"):
        cross_difference(ref, a)
    with pytest.raises(TypeError, match="a: given twice"):
        cross_difference(ref, a, a=b)
    with pytest.raises(TypeError, match="c: cross_difference has no such argument"):
        cross_difference(ref, a, c=b)
    with pytest.raises(TypeError, match="takes 3 arguments, got 4"):
        cross_difference(ref, a, b, b)


def test_out(args: tuple[torch.Tensor, ...]) -> None:
    out = torch.empty(1, 4, 3, 4)
    assert cross_difference(*args, out=out) is out
    assert torch.equal(out, cross_difference.reference(*args))
    with pytest.raises(ValueError, match=r"out: got \(1, 4, 3, 3\)"):
        cross_difference(*args, out=out[..., :3])
    with pytest.raises(ValueError, match=r"out: .* torch.float64 .* want .* torch.float32"):
        cross_difference(*args, out=out.double())
    with pytest.raises(ValueError, match=r"out: .* has no gradient"):
        cross_difference(args[0].requires_grad_(), *args[1:], out=out)


def test_mixed_dtypes_promote_as_in_eager(args: tuple[torch.Tensor, ...]) -> None:
    ref, a, b = args
    for dtypes in ((torch.bfloat16, torch.float32, torch.float16), (torch.bfloat16, torch.float16, torch.bfloat16)):
        mixed = [x.to(d).requires_grad_() for x, d in zip((ref, a, b), dtypes, strict=True)]
        got = cross_difference(*mixed)
        assert got.dtype == cross_difference.reference(*mixed).dtype == torch.float32
        # Eager rounds ref - b to bfloat16 and widens then; here everything is computed in the result's dtype.
        assert torch.equal(got, cross_difference.reference(*(x.float() for x in mixed)))
        gradients = torch.autograd.grad(got.sum(), mixed)
        assert [g.dtype for g in gradients] == list(dtypes)


@pytest.mark.parametrize("formats", [(p, q, r) for p in (0, 1) for q in (0, 1) for r in (0, 1)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 8, 8, 8)])
def test_strides_are_those_of_eager(formats: tuple[int, ...], shape: tuple[int, ...]) -> None:
    both = (torch.contiguous_format, torch.channels_last)
    maps = [torch.randn(shape).contiguous(memory_format=both[k]) for k in formats]
    for backend in ("torch", "cpu", "triton"):
        with fastiqa.use(backend):
            assert cross_difference(*maps).stride() == cross_difference.reference(*maps).stride()


def test_every_kernel_file_belongs_to_an_operator() -> None:
    """One word names an operator everywhere, and each backend of a record finds its kernel."""
    root = emulation.ROOT
    words = {name.removesuffix("_backward") for name in OPERATORS}
    for pattern in ("csrc/ops/*/*.cpp", "csrc/ops/*/*.cu"):
        assert {path.stem for path in root.glob(pattern)} <= words
    triton = {path.stem: path.read_text() for path in (root / "kernels").glob("*.py")}
    shared = set(re.findall(r"from fastiqa\.kernels\.(\w+) import", "".join(triton.values())))
    assert set(triton) - shared <= words
    for op in OPERATORS.values():
        for backend in op.backends:
            if backend.name == "triton":
                assert callable(backend.load(op.name))
