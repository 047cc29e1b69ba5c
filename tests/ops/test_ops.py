"""Every operator on every backend: values against float64, layouts, gradients of both orders, memory around outputs.

Driven by the operator records: every operator in the folder is tested. `triton` runs under its interpreter and `cuda`
through the CPU emulation of its sources, so all four lanes run without a GPU. `pytest -m gpu` runs those two on a GPU,
to which arguments go and from which results return (`cases.placed`). Triton takes a smaller share there
(`triton_on_gpu`; 0: none), since it compiles anew for most cases.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from support import cases, poison
from support.cases import Case, outputs

GRID = cases.grid()

pytestmark = [
    pytest.mark.parametrize("backend", cases.BACKENDS),
    pytest.mark.parametrize("name", cases.names()),
    *([pytest.mark.gpu] if cases.on_gpu() else []),
]


@pytest.fixture(autouse=True)
def _poisoned_scratch() -> Iterator[None]:
    with poison.host_memory():
        yield


def wide(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if isinstance(x, Tensor) else x for x in args)


DRAWS = 64  # with 16, PyTorch's fallback once exceeded its budget by 2 %: some 10^5 results are compared


def worst(results: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """The largest error of each result against float64."""
    pairs = zip(results, exact, strict=True)
    return [float((r.double() - x).abs().max()) if r.numel() else 0.0 for r, x in pairs]


def eager_error(run: Callable[[bool], tuple[Tensor, ...]], k: int) -> tuple[float, float]:
    """Eager's error for result k, the worst of several draws of the arguments.

    One draw of a small case may be lucky, even exact, and then tells little about eager. The error comes as a number,
    because sums cancel, and as a share of the largest number in the result.
    """
    errors, shares = [], []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        eager = run(False)
        torch.manual_seed(seed)
        exact = run(True)
        errors.append(worst(eager, exact)[k])
        shares.append(errors[-1] / max(float(exact[k].abs().max()), 1e-30) if errors[-1] else 0.0)
    return max(errors), max(shares)


def redrawn(values: tuple[Any, ...], double: bool) -> tuple[Any, ...]:
    """Other values with the same shapes and dtypes, or with float64."""
    fresh = tuple(torch.randn(x.shape).to(x.dtype) if isinstance(x, Tensor) else x for x in values)
    return wide(fresh) if double else fresh


def usual_error(op: Any, args: tuple[Any, ...]) -> Callable[[int], tuple[float, float]]:
    return functools.partial(eager_error, lambda double: outputs(op.reference(*redrawn(args, double))))


def assert_within_budget(
    got: Tensor, eager: Tensor, exact: Tensor, bitwise: bool, usual: Callable[[], tuple[float, float]] | None = None
) -> None:
    """Equal bit for bit, or at most twice eager PyTorch's error against float64, here or in the usual case."""
    assert got.dtype == eager.dtype
    assert got.shape == eager.shape
    if bitwise:
        assert torch.equal(got, eager), f"differs from eager by {(got - eager).abs().max()}"
        return
    if got.dtype == torch.float64:
        torch.testing.assert_close(got, exact, rtol=1e-13, atol=1e-13)
        return
    (error, own) = worst((got, eager), (exact, exact))
    if error > 2 * own and usual is not None:
        number, share = usual()
        own = max(own, number, share * float(exact.abs().max()))
    assert error <= 2 * own, f"error {error} against float64, eager's own is {own}"


@pytest.mark.share(triton=8, cuda=4, triton_on_gpu=16)
@pytest.mark.parametrize("case", GRID, ids=str)
def test_values_and_layout(name: str, backend: str, case: Case) -> None:
    op = cases.operators()[name]
    for args in cases.arguments(op, case):
        with cases.backend(backend):
            results = outputs(cases.placed(op)(*args))
        eager, exact = outputs(op.reference(*args)), outputs(op.reference(*wide(args)))
        for k, (got, e, x, promised) in enumerate(zip(results, eager, exact, op.layout(*args), strict=True)):
            assert_within_budget(got, e, x, op.exact, functools.partial(usual_error(op, args), k))
            assert got.is_contiguous(memory_format=promised.memory_format)
            assert not any(got.untyped_storage().data_ptr() == a.untyped_storage().data_ptr() for a in args
                           if isinstance(a, Tensor) and got.numel())  # fmt: skip


@pytest.mark.share(triton=8, cuda=4, torch=4, cpu=2)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_gradients(name: str, backend: str, dtype: torch.dtype, layout: str) -> None:
    """Against autograd through the reference, for dense, channels-last and expanded output gradients."""
    op = cases.operators()[name]
    shapes = ((2, 6, 5, 7), (1, 16, 8, 8), (1, 1, 1, 1), (0, 4, 3, 3))
    grad_layouts = ("nchw", "nhwc", "expanded_everywhere")
    first = cases.DTYPES.index(dtype)
    for turn, (shape, grad_layout) in enumerate(itertools.product(shapes, grad_layouts)):
        if backend == "triton" and (turn + turn // 3 + first) % (6 if name.startswith(("large_kernel", "ssim")) else 3):
            continue  # the interpreter takes a hundred times as long: each shape once, or half of them, by turns
        for args in cases.arguments(op, Case(shape, dtype, (layout,), turn=turn + first)):
            _check_gradients(op, backend, args, grad_layout)


def _check_gradients(op: Any, backend: str, args: tuple[Any, ...], grad_layout: str) -> None:
    def gradients(f: Any, values: tuple[Any, ...], grads: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in values]
        results = [result for result in outputs(f(*leaves)) if result.requires_grad]
        return torch.autograd.grad(results, [x for x in leaves if isinstance(x, Tensor)], grads)

    promised = op.layout(*args)[: len(op.signature.results) - len(op.statistics)]
    grads = [cases.tensor(tuple(o.shape), o.dtype, grad_layout) for o in promised]
    with cases.backend(backend):
        got = gradients(cases.placed(op), args, grads)
    eager = gradients(op.reference, args, grads)
    exact = gradients(op.reference, wide(args), [g.double() for g in grads])

    def usual(double: bool) -> tuple[Tensor, ...]:
        return gradients(op.reference, redrawn(args, double), list(redrawn(tuple(grads), double)))

    for k, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        assert_within_budget(g, e, x, op.exact, functools.partial(eager_error, usual, k))


def test_gradcheck(name: str, backend: str) -> None:
    """Gradients of both orders: every derivative, or, where that takes long, random directions for one sample."""
    if backend in ("triton", "cuda"):
        # All backends share the formulas. test_partial_gradients finds a gradient that is one millionth off: tried in
        # gated_upsample and mix_kernels.
        pytest.skip("minutes interpreted or emulated; test_partial_gradients has every gradient, to 1e-13")
    op = cases.operators()[name]
    # Not everywhere: PyTorch's fast mode fails for gradients that are zero by definition, as octave_split's for act.
    slow = name.startswith("ssim") or (name.startswith("large_kernel_conv") and not cases.ALL)
    for args in itertools.islice(cases.arguments(op, Case((2, 2, 3, 2), torch.float64)), 1 if slow else None):
        leaves = [x.requires_grad_() if isinstance(x, Tensor) else x for x in args]
        with cases.backend(backend):
            assert torch.autograd.gradcheck(op, leaves, fast_mode=slow)
            assert torch.autograd.gradgradcheck(op, leaves, fast_mode=slow)


def test_partial_gradients(name: str, backend: str) -> None:
    """Each input alone gets the right gradient, and no other gradient is computed."""
    op = cases.operators()[name]
    # The interpreter takes 12 s for all samples of some; the formulas are those of the other backends.
    turn = 0 if backend == "triton" and not cases.ALL else None
    for args in cases.arguments(op, Case((2, 4, 3, 5), torch.float64, turn=turn)):
        tensors = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
        for k in tensors:
            values = [x.detach().requires_grad_(j == k) if isinstance(x, Tensor) else x for j, x in enumerate(args)]
            with cases.backend(backend):
                got = torch.autograd.grad(sum(y.square().sum() for y in outputs(cases.placed(op)(*values))), values[k])[
                    0
                ]
            want = torch.autograd.grad(sum(y.square().sum() for y in outputs(op.reference(*values))), values[k])[0]
            torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.turns(triton=3)
@pytest.mark.share(triton=2, cuda=2, cpu=2, triton_on_gpu=0)
@pytest.mark.parametrize("dtype", cases.DTYPES[1:3], ids=str)
def test_nothing_around_the_outputs_is_touched(name: str, backend: str, dtype: torch.dtype) -> None:
    """Lengths from 1 to 40 at every misalignment of a vector; the guard elements keep their values."""
    op = cases.operators()[name]
    # The interpreter takes a hundred times as long, 2 s a length of ssim: fewer lengths, but every offset.
    step = 1 if backend != "triton" else 7 if name.startswith("ssim") else 3
    for length in range(1, 41, step):
        offset = length % 8
        for args in cases.arguments(
            op, Case((1, 1 + length % 3, 1, length), dtype, ("nchw",), offset, length + length // 8)
        ):
            outs = []
            for promised in op.layout(*args):
                elements = torch.Size(promised.shape).numel()
                guarded = torch.full((offset + elements + 16,), 7.0, dtype=promised.dtype)
                outs.append(
                    (guarded, guarded[offset : offset + elements].view(tuple(promised.shape)).fill_(float("nan")))
                )
            with cases.backend(backend):
                cases.placed(op)(*args, out=[out for _, out in outs])
            eager, exact = outputs(op.reference(*args)), outputs(op.reference(*wide(args)))
            for k, ((guarded, out), e, x) in enumerate(zip(outs, eager, exact, strict=True)):
                assert_within_budget(out, e, x, op.exact, functools.partial(usual_error(op, args), k))
                assert (guarded[:offset] == 7).all()
                assert (guarded[offset + out.numel() :] == 7).all()


@pytest.mark.turns(triton=3)
def test_repeats_bit_for_bit(name: str, backend: str) -> None:
    op = cases.operators()[name]
    torch.use_deterministic_algorithms(True)
    try:
        samples = cases.arguments(op, Case((2, 5, 9, 7)))
        # The interpreter runs one program after another: only unwritten memory remains to be found.
        for args in itertools.islice(samples, 1 if backend == "triton" and not cases.ALL else None):
            with cases.backend(backend):
                first = outputs(cases.placed(op)(*args))
                for _ in range(3):
                    again = outputs(cases.placed(op)(*args))
                    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.turns(triton=3)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter computes with numpy
@pytest.mark.share(triton=2, cuda=2, triton_on_gpu=4)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_special_values(name: str, backend: str, dtype: torch.dtype) -> None:
    """Infinities, NaN, zeros, the largest and smallest numbers: eager's result, or float64's, which overflows later.

    If results are rounded sums, finite ones are close to either. Large numbers are chosen so that no product or sum of
    them overflows: whether a sum overflows halfway depends on its order, which nobody promises.
    """
    op = cases.operators()[name]
    info = torch.finfo(dtype)
    infinity = float("inf")
    large = info.max if op.exact else info.max**0.5 / 64
    values = [infinity, -infinity, float("nan"), 0.0, -0.0, large, -large, info.tiny, info.tiny / 4, 1.0, -2.5]
    special = torch.tensor(values, dtype=dtype)
    for args in cases.arguments(op, Case((1, 4, 11, 5), dtype)):
        for x in args:
            if isinstance(x, Tensor) and x.numel():
                x.copy_(special[torch.randint(len(special), x.shape)])
        with cases.backend(backend):
            results = outputs(cases.placed(op)(*args))
        eager, exact = outputs(op.reference(*args)), outputs(op.reference(*wide(args)))
        for got, e, x in zip(results, eager, exact, strict=True):
            same = (got == e) | (got.isnan() & e.isnan())
            if not op.exact:
                narrowed = x.to(dtype)
                same |= (got == narrowed) | (got.isnan() & narrowed.isnan())
                for near in (e.double(), x):
                    finite = got.isfinite() & near.to(dtype).isfinite()
                    largest = near[finite].abs().max() if finite.any() else 0
                    same |= finite & ((got.double() - near).abs() <= 16 * info.eps * largest)
            assert same.all(), f"got {got[~same]}, eager {e[~same]}, float64 {x[~same]}"


@pytest.mark.turns(triton=3)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.share(triton=2, cuda=2, triton_on_gpu=0)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_infinity_at_a_border_stays_where_it_is(name: str, backend: str, layout: str) -> None:
    """An infinity meets no zero beyond the border or at a vector's end: results are finite where eager's are.

    An infinite weight of a convolution, though, meets the zeros that pad the map.
    """
    op = cases.operators()[name]
    for args in cases.arguments(op, Case((1, 4, 5, 7), torch.float32, (layout,))):
        for argument, x in zip(op.signature.names, args, strict=True):
            if not isinstance(x, Tensor) or argument in ("w5", "w7"):
                continue
            before = x.clone()
            x[(0,) * x.dim()] = float("inf")
            with cases.backend(backend):
                results = outputs(cases.placed(op)(*args))
            for got, eager in zip(results, outputs(op.reference(*args)), strict=True):
                finite = eager.isfinite()
                torch.testing.assert_close(got[finite], eager[finite], rtol=1e-5, atol=1e-5)
            x.copy_(before)
