"""Arguments that an operator refuses, by name and with one text everywhere, and the smallest that it takes.

Driven by the operator records. "Everywhere" means the call, the backend "torch", a call that needs gradients,
`torch.ops`, `explain`, fake tensors and meta tensors: the user gets the same message whenever the mistake is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fastiqa
from fastiqa.ops import Op
from support import cases
from support.cases import Case, outputs

SIZE = Case((2, 4, 6, 6))
ARGUMENTS = [(name, cases.operators()[name].signature.names[k])
             for name in cases.names() for k in cases.operators()[name].signature.tensors]  # fmt: skip


def fake(args: tuple[Any, ...]) -> tuple[FakeTensorMode, tuple[Any, ...]]:
    mode = FakeTensorMode()
    return mode, tuple(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in args)


def with_gradient(x: Any) -> Any:
    wanted = isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
    return x.detach().requires_grad_() if wanted else x


def routes(op: Op, args: tuple[Any, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every way to the same mistake."""
    registered = getattr(torch.ops.fastiqa, op.name)

    def through_torch() -> Any:
        with fastiqa.use("torch"):
            return op(*args)

    def as_fake(call: Callable[..., Any]) -> Any:
        mode, values = fake(args)
        with mode:
            return call(*values)

    yield "call", lambda: op(*args)
    yield "torch", through_torch
    yield "gradient", lambda: op(*map(with_gradient, args))
    yield "explain", lambda: fastiqa.explain(op, *args)
    yield "fake call", lambda: as_fake(op)
    kinds = [(k, (Tensor, type(None))) for k in op.signature.tensors] + [
        (k, kind) for k, kind, _ in op.signature._plain
    ]
    if all(
        isinstance(args[k], kind) for k, kind in kinds
    ):  # the dispatcher refuses all others, by name and in its words
        yield "registered", lambda: registered(*args)
        yield "fake", lambda: as_fake(registered)
        if len({x.device for x in args if isinstance(x, Tensor)}) == 1:
            yield "meta", lambda: registered(*(x.to("meta") if isinstance(x, Tensor) else x for x in args))


def refusal(op: Op, args: tuple[Any, ...]) -> tuple[type[BaseException], str]:
    """The error that all routes share."""
    found = {}
    for route, call in routes(op, args):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        found[route] = (error.type, str(error.value))
    assert len(set(found.values())) == 1, found
    return found["call"]


def refuses(op: Op, args: tuple[Any, ...]) -> bool:
    try:
        op.layout(*args)
    except ValueError:
        return True
    return False


def with_changed(op: Op, argument: str, change: Callable[[Tensor], Any]) -> Iterator[tuple[Any, ...]]:
    """Every sample with one argument changed."""
    k = op.signature.names.index(argument)
    for args in cases.arguments(op, SIZE):
        if isinstance(args[k], Tensor):
            yield (*args[:k], change(args[k]), *args[k + 1 :])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.long(), TypeError, "got dtype torch.int64, want float64, float32, bfloat16 or float16"),
        (lambda x: x.bool(), TypeError, "got dtype torch.bool, want float64"),
        (lambda x: x.to(torch.complex64), TypeError, "got dtype torch.complex64, want float64"),
        (lambda x: x.to(torch.float8_e4m3fn), TypeError, "got dtype torch.float8_e4m3fn, want float64"),
        (lambda x: x[0], ValueError, r"got shape \([\d, ]*\), want "),
        (lambda x: x[None], ValueError, r"got shape \([\d, ]*\), want "),
        (lambda x: x.flatten(), ValueError, r"got shape \(\d+,\), want "),
        (lambda x: x.numpy(), TypeError, "got ndarray, want a tensor"),
        (lambda x: 1.0, TypeError, "got float, want a tensor"),
    ],
    ids=["int64", "bool", "complex64", "float8", "rank 3", "rank 5", "rank 1", "ndarray", "number"],
)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_wrong_kind(
    name: str, argument: str, change: Callable[[Tensor], Any], error: type[BaseException], message: str
) -> None:
    """An argument of a wrong kind is refused by name, or has a rank for which the reference's result comes out."""
    op = cases.operators()[name]
    for args in with_changed(op, argument, change):
        if error is ValueError and not refuses(op, args):
            for got, want in zip(outputs(op(*args)), outputs(op.reference(*args)), strict=True):
                torch.testing.assert_close(got, want)
            continue
        kind, text = refusal(op, args)
        assert kind is error
        assert re.match(f"{argument}: {message}", text), text


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|nested tensors|quantized tensor creation)")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_sparse(), "got a tensor of layout sparse_coo, want strided"),
        (lambda x: x.flatten(1).to_sparse_csr() if x.dim() > 1 else x.to_sparse(), "got a tensor of layout sparse_c"),
        (lambda x: x.to_mkldnn(), "got a tensor of layout mkldnn, want strided"),
        (lambda x: torch.nested.nested_tensor([x, x]), "got a tensor of layout nested, want strided"),
        (lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged), "got a tensor of layout nested"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "got dtype torch.qint8, want float64"),
    ],
    ids=["coo", "csr", "mkldnn", "nested", "jagged", "quantised"],
)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_no_grid_of_numbers(name: str, argument: str, change: Callable[[Tensor], Any], message: str) -> None:
    op = cases.operators()[name]
    k = op.signature.names.index(argument)
    args = next(args for args in cases.arguments(op, SIZE) if isinstance(args[k], Tensor))
    # A sparse tensor claims the strides of one expanded number, whose plan must not serve it.
    op(*(x.flatten()[0].expand(x.shape) if j == k else x for j, x in enumerate(args)))
    args = (*args[:k], change(args[k]), *args[k + 1 :])
    calls = [route for route in routes(op, args) if route[0] in ("call", "torch", "gradient", "explain")]
    for route, call in calls[:2] + calls[-1:] if message.startswith("got dtype") else calls:
        with pytest.raises(TypeError) as error:
            call()
        assert str(error.value).startswith(f"{argument}: {message}"), route


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_no_tensor(name: str, argument: str) -> None:
    """None is the default of an optional argument, and an error for every other."""
    op = cases.operators()[name]
    optional = op.signature.names.index(argument) in op.signature._optional
    for args in with_changed(op, argument, lambda x: None):
        if optional:
            op(*args)
        else:
            assert refusal(op, args) == (TypeError, f"{argument}: got NoneType, want a tensor")


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_another_device(name: str, argument: str) -> None:
    op = cases.operators()[name]
    for args in with_changed(op, argument, lambda x: x.to("meta")):
        if sum(isinstance(x, Tensor) for x in args) > 1:
            kind, text = refusal(op, args)
            assert kind is ValueError
            assert re.match(r"\w+: got a tensor on (cpu|meta), want (cpu|meta), where \w+ is", text), text
            assert re.search(rf"\b{argument}\b", text), text


@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_one_size_differs(name: str, argument: str, dim: int) -> None:
    """A tensor with one other size is refused by name, or gives the reference's result."""
    op = cases.operators()[name]

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, x.narrow(dim, 0, 1)], dim) if dim < x.dim() else x

    for args in with_changed(op, argument, longer):
        try:
            results = outputs(op(*args))
        except ValueError:
            kind, text = refusal(op, args)
            assert kind is ValueError
            assert re.match(r"\w+: got shape \(", text), text
            assert text.partition(":")[0] in op.signature.names
        else:
            for got, want in zip(results, outputs(op.reference(*args)), strict=True):
                torch.testing.assert_close(got, want)
            mode, values = fake(args)
            with mode:
                promised = outputs(op(*values))
            assert [(y.shape, y.stride()) for y in promised] == [(y.shape, y.stride()) for y in results]
            maps = sum(isinstance(args[op.signature.names.index(name)], Tensor) for name in op.batched)
            assert dim > 0 or maps < 2, "batches of different sizes were accepted"


@pytest.mark.parametrize("size", [(0, 4, 6, 5), (2, 0, 6, 5), (2, 4, 0, 5), (2, 4, 6, 0), (0, 0, 6, 5)], ids=str)
@pytest.mark.parametrize("name", cases.names())
def test_empty_maps(name: str, size: tuple[int, int, int, int]) -> None:
    """An empty batch works; maps without channels or pixels give the reference's result or an error with a name."""
    op = cases.operators()[name]
    for args in cases.arguments(op, Case(size)):
        try:
            want = outputs(op.reference(*args))
            refused = 0 in size[1:] and refuses(op, args)
        except RuntimeError:
            refused = True
        if refused:
            assert 0 in size[1:]
            kind, text = refusal(op, args)
            assert kind is ValueError
            assert re.match(r"\w+: got shape \(.*\), want (at least one|both sides at least) ", text), text
            continue
        leaves = tuple(map(with_gradient, args))
        results = outputs(op(*leaves))
        outs = [torch.empty(y.shape, dtype=y.dtype) for y in want]
        op(*args, out=outs)
        for got, out, y, promised in zip(results, outs, want, op.layout(*args), strict=True):
            assert (got.shape, got.dtype, got.stride()) == (y.shape, y.dtype, promised.strides())
            assert torch.equal(got, y)
            assert torch.equal(out, y)
        differentiable = [y for y in results if y.requires_grad]
        torch.autograd.backward(differentiable, [torch.ones_like(y) for y in differentiable])
        for x in leaves:
            if isinstance(x, Tensor):
                assert x.grad is not None
                assert x.grad.shape == x.shape
                assert not x.grad.any()
        mode, values = fake(args)
        with mode:
            faked = outputs(op(*values))
        assert [y.shape for y in faked] == [y.shape for y in want]


def maps(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape) for shape in shapes)


FULL, HALF, GATE, CHANNEL = (2, 4, 6, 6), (2, 4, 3, 3), (2, 1, 3, 3), (2, 4, 1, 1)

# Errors of single operators, by name.
PARTICULAR: list[tuple[str, tuple[Any, ...], type[BaseException], str]] = [
    ("octave_split", (*maps(FULL), -0.1), ValueError, "negative_slope: got -0.1, want at least 0"),
    ("octave_split", (*maps(FULL), float("nan")), ValueError, "negative_slope: got nan, want at least 0"),
    ("octave_split", (*maps(FULL), "0.1"), TypeError, "negative_slope: got str, want a number"),
    ("octave_split_backward", (*maps(FULL, FULL, HALF), -0.1), ValueError, "negative_slope: got -0.1, want at least 0"),
    (
        "octave_split_backward",
        (*maps(FULL, FULL, FULL), 0.1),
        ValueError,
        r"grad_pooled: got shape .*, want \(2, 4, 3, 3\)",
    ),
    ("octave_merge", maps(FULL, FULL), ValueError, r"low: got shape .*, want \(2, 4, 3, 3\), half of high's"),
    ("octave_merge", maps((2, 4, 5, 5), (2, 4, 2, 2)), ValueError, r"low: got shape .*, want \(2, 4, 3, 3\)"),
    (
        "gated_upsample",
        (*maps(FULL, GATE), "bicubic"),
        ValueError,
        "mode: got 'bicubic', want one of nearest, bilinear",
    ),
    ("gated_upsample", (*maps(FULL, GATE), 2), TypeError, "mode: got int, want a string"),
    ("gated_upsample", (*maps(FULL, (2, 1, 0, 3)), "nearest"), ValueError, "logits: .*, want at least one channel"),
    ("gated_upsample", (*maps(FULL, (2, 2, 3, 3)), "nearest"), ValueError, r"logits: .*, want \(2, 1 or 4, h, w\)"),
    ("gated_upsample_backward", (*maps(FULL, FULL, GATE), "area"), ValueError, "mode: got 'area'"),
    ("gated_upsample_backward", (*maps(HALF, FULL, GATE), "nearest"), ValueError, r"features: .*, want that of grad"),
    ("cross_difference_backward", maps((2, 5, 6, 6)), ValueError, "grad: .*, want an even number of channels"),
    ("attentional_blend", maps(FULL, FULL, FULL, FULL), ValueError, r"global_logits: .*, want .*\(2, 4, 1, 1\)"),
    ("scale_residual_relu", maps(FULL, (2, 1, 1, 1), FULL), ValueError, r"gate_logits: .*, want .*\(2, 4, 1, 1\)"),
    ("scale_residual_relu", maps(FULL, CHANNEL, HALF), ValueError, r"residual: .*, want that of x"),
]


@pytest.mark.parametrize(("name", "args", "error", "message"), PARTICULAR, ids=[f"{p[0]}-{p[3]}" for p in PARTICULAR])
def test_particular_mistakes(name: str, args: tuple[Any, ...], error: type[BaseException], message: str) -> None:
    kind, text = refusal(cases.operators()[name], args)
    assert kind is error
    assert re.match(message, text), text
