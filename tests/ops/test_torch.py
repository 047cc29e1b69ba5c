"""Operators inside PyTorch's machinery: opcheck, compile, export, vmap, autocast, functional transforms."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from typing import Any

import pytest
import test_ops
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import fastiqa
from support import cases
from support.cases import Case, outputs

NAMES = cases.names()
LAYOUTS = ("nchw", "nhwc", "some_channels", "transposed", "expanded_batch")

pytestmark = pytest.mark.parametrize("name", NAMES)


def example(name: str, case: Case, grad: bool = False) -> tuple[Any, tuple[Any, ...]]:
    op = cases.operators()[name]
    args = next(cases.arguments(op, case))
    return op, tuple(x.requires_grad_(grad) if isinstance(x, Tensor) else x for x in args)


def total(result: Any) -> Tensor:
    return sum(y.sum() for y in outputs(result))


def assert_equal(got: Any, want: Any) -> None:
    for g, w in zip(outputs(got), outputs(want), strict=True):
        assert torch.equal(g, w)


@pytest.mark.turns(3)
@pytest.mark.share(10)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(name: str, layout: str, grad: bool) -> None:
    small = int(name.startswith("ssim"))  # the sample with a window of 3: the graph for 11 takes 20 s
    op, args = example(name, Case((2, 3, 4, 5), torch.float32, (layout,), turn=small))
    args = tuple(x.detach().requires_grad_(grad) if isinstance(x, Tensor) else x for x in args)
    torch.library.opcheck(getattr(torch.ops.fastiqa, op.name).default, args)


@pytest.mark.turns(3)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_is_one_graph(name: str, dynamic: bool) -> None:
    torch.compiler.reset()
    op = cases.operators()[name]

    def step(*args: Any) -> Tensor:
        return total(op(*(2 * x if isinstance(x, Tensor) else x for x in args)))

    # The gradient of a backward operator consists of PyTorch's operations, whose C++ would take Inductor up to two
    # minutes; the backward operators go through Inductor as gradients of the others. Symbolic sizes are traced alike
    # for every backend; Inductor's C++ for them took four to nine minutes for all operators.
    backend = "aot_eager" if dynamic or name.endswith("_backward") else "inductor"
    turn = [*cases.operators()].index(name) // 2 % 2  # gradients mostly follow their operators
    if name.endswith("_backward") and (dynamic == (name == "ssim_backward") or turn) and not cases.ALL:
        pytest.skip("compiled as the gradient of its operator above; on its own by turns, in make test-all always")
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in ((2, 3, 4, 5), (3, 8, 6, 7)) if dynamic else ((2, 3, 4, 5),):
        # Inductor makes other code for each static layout; the operators take turns.
        for layout in ("nchw", "nhwc") if dynamic or cases.ALL else (("nchw", "nhwc")[turn],):
            _, args = example(name, Case(shape, torch.float64, (layout,)), grad=True)
            leaves = [x for x in args if isinstance(x, Tensor)]
            got, want = compiled(*args), step(*args)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            gradients = zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True)
            for g, w in gradients:
                torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)


def test_export(name: str) -> None:
    op, args = example(name, Case((2, 3, 4, 5)))

    class Module(torch.nn.Module):
        def forward(self, *args: Any) -> Any:
            return op(*args)

    program = torch.export.export(Module(), args)
    assert f"fastiqa.{op.name}" in str(program.graph)
    assert_equal(program.module()(*args), op(*args))


def test_vmap(name: str) -> None:
    """A mapped dimension at any place, and unmapped arguments."""
    op = cases.operators()[name]
    arguments = [next(cases.arguments(op, Case((2, 4, 3, 5), torch.float64))) for _ in range(3)]
    tensors = [k for k, x in enumerate(arguments[0]) if isinstance(x, Tensor)]
    for unmapped in (None, *tensors[1:]):
        in_dims = tuple(
            min(k % 3, x.dim()) if isinstance(x, Tensor) and k != unmapped else None for k, x in enumerate(arguments[0])
        )
        stacked = [
            torch.stack([args[k] for args in arguments], dim) if dim is not None else arguments[0][k]
            for k, dim in enumerate(in_dims)
        ]
        got = torch.vmap(op, in_dims)(*stacked)
        calls = [
            op(*(args[k] if dim is not None else arguments[0][k] for k, dim in enumerate(in_dims)))
            for args in arguments
        ]
        assert_equal(got, tuple(torch.stack(column) for column in zip(*map(outputs, calls), strict=True)))


def test_vmap_of_nothing(name: str) -> None:
    """A mapped dimension of size 0: shapes and dtypes of the results, and empty gradients."""
    op, args = example(name, Case((2, 4, 3, 5)))
    places = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
    for mapped in (places, places[:1], places[-1:]):
        in_dims = tuple(args[k].dim() if k in mapped else None for k in range(len(args)))
        empty = tuple(x.new_zeros(*x.shape, 0).requires_grad_() if k in mapped else x for k, x in enumerate(args))
        got = outputs(torch.vmap(op, in_dims)(*empty))
        assert [(y.shape, y.dtype) for y in got] == [((0, *y.shape), y.dtype) for y in outputs(op(*args))]
        leaves = [empty[k] for k in mapped]
        gradients = torch.autograd.grad(total(got), leaves)
        assert [g.shape for g in gradients] == [x.shape for x in leaves]


def test_vmap_of_a_gradient(name: str) -> None:
    op = cases.operators()[name]
    arguments = [next(cases.arguments(op, Case((2, 4, 3, 5), torch.float64))) for _ in range(3)]
    tensors = tuple(k for k, x in enumerate(arguments[0]) if isinstance(x, Tensor))

    def gradient(*args: Any) -> Any:
        return torch.func.grad(lambda *a: total(op(*a)) ** 2, argnums=tensors)(*args)

    in_dims = tuple(0 if k in tensors else None for k in range(len(arguments[0])))
    stacked = [torch.stack([a[k] for a in arguments]) if k in tensors else x for k, x in enumerate(arguments[0])]
    got = torch.vmap(gradient, in_dims)(*stacked)
    want = [gradient(*args) for args in arguments]
    for k, g in enumerate(got):
        torch.testing.assert_close(g, torch.stack([w[k] for w in want]), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch warns that it runs a batch sample by sample
def test_batched_gradients(name: str) -> None:
    """Autograd's batches, of both orders: is_grads_batched, on which jacobian(vectorize=True) rests."""
    op, args = example(name, Case((2, 2, 3, 2), torch.float64), grad=True)
    leaves = [x for x in args if isinstance(x, Tensor)]

    def check(values: Any) -> None:
        values = [y for y in values if y is not None and y.requires_grad]
        weights = [torch.randn(3, *y.shape, dtype=y.dtype) for y in values]
        settings = {"retain_graph": True, "allow_unused": True}
        got = torch.autograd.grad(values, leaves, weights, is_grads_batched=True, **settings)
        single = (torch.autograd.grad(values, leaves, [w[i] for w in weights], **settings) for i in range(3))
        for g, want in zip(got, zip(*single, strict=True), strict=True):
            assert (g is None) == (want[0] is None)
            if g is not None:
                torch.testing.assert_close(g, torch.stack(want), rtol=1e-12, atol=1e-12)

    results = outputs(op(*args))
    check(results)
    check(torch.autograd.grad(total(results) ** 2, leaves, create_graph=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorized_jacobians(name: str, strategy: str) -> None:
    op, args = example(name, Case((1, 2, 2, 2), torch.float64))

    def value(x: Tensor) -> Tensor:
        return total(op(x, *args[1:])) ** 2 * x.sum()

    got = torch.autograd.functional.jacobian(value, args[0], vectorize=True, strategy=strategy)
    torch.testing.assert_close(got, torch.autograd.functional.jacobian(value, args[0]), rtol=1e-11, atol=1e-11)


def test_functionalize(name: str) -> None:
    """The transform of torch.func without autograd functions, alone and around a graph of PyTorch's."""
    op, args = example(name, Case((2, 2, 3, 4)))
    want = op(*args)
    assert_equal(torch.func.functionalize(op)(*args), want)
    graph = make_fx(torch.func.functionalize(op))(*args)
    assert f"fastiqa.{op.name}" in str(graph.graph)
    assert_equal(graph(*args), want)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's warning in forward mode
@pytest.mark.parametrize("how", ["dual", "func", "vmap"])
def test_forward_mode(name: str, how: str) -> None:
    """Both modes agree in a product: outputs' gradients times tangents equal inputs' gradients times tangents."""
    op, args = example(name, Case((2, 3, 4, 5), torch.float64), grad=True)
    places = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
    leaves, rest = [args[k] for k in places], list(args)
    tangents = tuple(torch.randn_like(x) for x in leaves)

    def results(*tensors: Tensor) -> tuple[Tensor, ...]:
        for k, x in zip(places, tensors, strict=True):
            rest[k] = x
        named = zip(op.signature.results, outputs(op(*rest)), strict=True)
        return tuple(y for result, y in named if result not in op.statistics)

    values = results(*leaves)
    weights = [torch.randn_like(y) for y in values]
    gradients = torch.autograd.grad(values, leaves, weights)
    primals = tuple(x.detach() for x in leaves)
    if how == "dual":
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, primals, tangents)
            found = [forward_ad.unpack_dual(y).tangent for y in results(*duals)]
    elif how == "func":
        found = torch.func.jvp(results, primals, tangents)[1]
    else:
        twice = (torch.stack((t, 2 * t)) for t in tangents)
        mapped = torch.vmap(lambda *t: torch.func.jvp(results, primals, t)[1])(*twice)
        found = [y[1] / 2 for y in mapped]
    got = sum((w * t).sum() for w, t in zip(weights, found, strict=True))
    want = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_forward_mode_of_the_overload_is_refused(name: str) -> None:
    """Beneath the overload are kernels alone, which would lose the tangents silently."""
    op, args = example(name, Case((2, 3, 4, 5)))
    with forward_ad.dual_level():
        args = tuple(forward_ad.make_dual(x, torch.ones_like(x)) if isinstance(x, Tensor) else x for x in args)
        with pytest.raises(NotImplementedError, match=f"call fastiqa.ops.{op.name}"):
            getattr(torch.ops.fastiqa, op.name)(*args)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_gradients_of_mapped_gradients(name: str) -> None:
    op, args = example(name, Case((1, 2, 2, 2), torch.float64))
    places = [k for k, x in enumerate(args) if isinstance(x, Tensor)]

    def value(x: Tensor) -> Tensor:
        return total(op(x, *args[1:])) ** 2

    assert places[0] == 0
    reverse = torch.func.jacrev(torch.func.jacrev(value))(args[0])
    torch.testing.assert_close(torch.func.hessian(value)(args[0]), reverse, rtol=1e-10, atol=1e-10)


def test_autocast_keeps_the_dtype_of_eager(name: str) -> None:
    op, args = example(name, Case((2, 3, 4, 5)))
    with torch.autocast("cpu", torch.bfloat16):
        got, eager = op(*args), op.reference(*args)
    assert [y.dtype for y in outputs(got)] == [y.dtype for y in outputs(eager)]
    if op.exact:
        assert_equal(got, eager)


def test_inputs_survive_and_are_usable_twice(name: str) -> None:
    """Backward twice, two consumers, the inputs unchanged: nothing is written in place."""
    op, args = example(name, Case((2, 3, 4, 5), torch.float64), grad=True)
    leaves = [x for x in args if isinstance(x, Tensor)]
    before = [x.detach().clone() for x in leaves]
    loss = total(op(*args)) + total(op(*args)) ** 2
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves)
    assert_equal(first, again)
    assert_equal(tuple(x.detach() for x in leaves), tuple(before))


def test_out_is_not_written_behind_the_back_of_autograd(name: str) -> None:
    """As in PyTorch: autograd notices changes of saved tensors, and a tensor that requires a gradient is refused."""
    op, args = example(name, Case((2, 3, 4, 5), torch.float64))
    wanted = outputs(op(*args))

    def outs() -> list[Tensor]:
        return [torch.zeros_like(y) for y in wanted]

    for backend in ("cpu", "torch"):
        leaves = [x.requires_grad_() for x in outs()]
        saved = [x * 1 for x in leaves]
        loss = sum(x.square().sum() for x in saved)
        with fastiqa.use(backend):
            given = [x.detach() for x in saved]
            returned = op(*args, out=given)
            assert all(x is y for x, y in zip(returned, given, strict=True))
            assert all(x._version > 0 for x in saved)
            for got, y in zip(given, wanted, strict=True):
                torch.testing.assert_close(got, y, rtol=1e-12, atol=1e-12)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            for k in range(len(wanted)):
                given = outs()
                given[k].requires_grad_()
                with pytest.raises(ValueError, match="out: got a tensor that requires a gradient"):
                    op(*args, out=given)
                with torch.no_grad():
                    assert torch.equal(op(*args, out=given)[k], returned[k])


def test_out_overlaps_nothing(name: str) -> None:
    op, args = example(name, Case((2, 4, 4, 6)))
    wanted = outputs(op(*args))
    places = [k for k, x in enumerate(args) if isinstance(x, Tensor)]

    def outs(k: int, out: Tensor) -> list[Tensor]:
        return [out if i == k else torch.empty_like(y) for i, y in enumerate(wanted)]

    for k, y in enumerate(wanted):
        with pytest.raises(ValueError, match=r"out: .* of which elements share memory"):
            op(*args, out=outs(k, y[(slice(0, 1),) * y.dim()].clone().expand(y.shape)))
        for j in range(k):
            if wanted[j].shape == y.shape:
                with pytest.raises(ValueError, match=f"out: got tensors {j} and {k} with memory in common"):
                    op(*args, out=[out if i != j else y for i, out in enumerate(outs(k, y))])
        for at in places:
            x = args[at]
            # One buffer for both: they share its middle, or follow each other.
            buffer = torch.randn(x.numel() + y.numel())
            shared = (*args[:at], buffer[: x.numel()].view(x.shape).copy_(x), *args[at + 1 :])
            with pytest.raises(ValueError, match=rf"out: .* shares memory with {op.signature.names[at]}, want"):
                op(*shared, out=outs(k, buffer[x.numel() - 1 :][: y.numel()].view(y.shape)))
            assert torch.equal(shared[at], x)
            beside = outs(k, buffer[x.numel() :].view(y.shape))
            torch.testing.assert_close(outputs(op(*shared, out=beside)), wanted)


def test_out_takes_what_pytorch_takes(name: str) -> None:
    """Any strides, views of conjugates, slices between the input's elements; inside torch.compile too."""
    op, args = example(name, Case((2, 4, 4, 6)))
    wanted = outputs(op(*args))
    negative = [torch.view_as_complex(torch.zeros(*y.shape, 2)).conj().imag for y in wanted]
    torch.testing.assert_close(outputs(op(*args, out=negative)), wanted)
    both = torch.randn(*args[0].shape, 2)
    x = both[..., 0].copy_(args[0])
    between = [torch.empty_like(y) for y in wanted]
    for k, y in enumerate(wanted):
        if y.shape == x.shape:
            between[k] = both[..., 1]
            break
    torch.testing.assert_close(outputs(op(x, *args[1:], out=between)), wanted)
    assert torch.equal(x, args[0])
    if name.startswith(("high_pass", "octave_split")):  # one result and several
        compiled = torch.compile(lambda *a, out: op(*a, out=out), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(outputs(compiled(*args, out=between)), wanted)
    for transform in (torch.vmap, torch.func.grad):
        with pytest.raises(NotImplementedError, match=r"out: .* can be neither mapped nor transformed"):
            transform(lambda t: total(op(*args, out=between)) * t.sum())(torch.ones(1))
    with torch.inference_mode():
        foreign = [torch.empty_like(y) for y in wanted]
        assert_equal(op(*args, out=foreign), wanted)
    with pytest.raises(ValueError, match="out: got an inference tensor"):
        op(*args, out=foreign)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"out: .* forward mode"):
        op(forward_ad.make_dual(args[0], torch.ones_like(args[0])), *args[1:], out=between)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_another_default_device(name: str, backend: str) -> None:
    """Results and derivatives of two orders are on the arguments' device."""
    op, args = example(name, Case((2, 2, 4, 6), torch.float64), grad=True)
    leaves = [x for x in args if isinstance(x, Tensor)]

    def derivatives() -> tuple[Any, ...]:
        first = torch.autograd.grad(total(op(*args)) ** 2, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True)
        return (*first, *(g for g in second if g is not None))

    with fastiqa.use(backend):
        want = derivatives()
        with torch.device("meta"):
            got = derivatives()
    assert_equal(got, want)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_copy_on_write_stays_uncopied(name: str, layout: str) -> None:
    """Both passes only read inputs and output gradients; writing a tensor leaves its clone unchanged."""
    op, args = example(name, Case((2, 4, 6, 8), torch.float32, (layout,)), grad=True)

    def lazy(x: Any) -> Any:
        return torch._lazy_clone(x.detach()) if isinstance(x, Tensor) else x

    want = outputs(op(*args))
    inputs = [lazy(x).requires_grad_() if isinstance(x, Tensor) else x for x in args]
    results = outputs(op(*inputs))
    assert_equal(results, want)
    differentiable = [y for y in results if y.requires_grad]
    grads = [lazy(torch.randn_like(y)) for y in differentiable]
    torch.autograd.backward(differentiable, grads)
    assert all(torch._C._is_cow_tensor(x) for x in (*inputs, *grads) if isinstance(x, Tensor))
    source = args[0].detach().clone()
    inputs = [torch._lazy_clone(source), *map(lazy, args[1:])]
    outs = [source if y.shape == source.shape and k == 0 else torch.empty_like(y) for k, y in enumerate(want)]
    torch.testing.assert_close(outputs(op(*inputs, out=outs)), want)
    assert torch.equal(inputs[0], args[0])


def test_copies_and_pickles_are_the_operator(name: str) -> None:
    """Copies and pickles are the operator itself, also within a module; pickled by name."""
    op = cases.operators()[name]
    assert copy.deepcopy(op) is copy.copy(op) is pickle.loads(pickle.dumps(op)) is op
    module = torch.nn.Sequential(torch.nn.ReLU())
    module.op = op
    assert copy.deepcopy(module).op is op
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).op is op


def test_inference_mode_and_no_grad(name: str) -> None:
    op, args = example(name, Case((2, 3, 4, 5)))
    want = op.reference(*args)
    with torch.inference_mode():
        result = op(*args)
        assert torch.allclose(total(result), total(want), rtol=1e-5)
    with torch.no_grad():
        result = op(*(x.requires_grad_() if isinstance(x, Tensor) else x for x in args))
    assert not any(y.requires_grad for y in outputs(result))


@pytest.mark.turns(3)
@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("size", "layout"),
    [
        ((1, 32, 512, 512), "nchw"),
        ((1, 32, 512, 512), "nhwc"),
        ((1, 13, 727, 911), "nhwc"),
        ((1, 13, 727, 911), "some_channels"),
    ],
)
def test_large_maps(name: str, layout: str, size: tuple[int, int, int, int]) -> None:
    """Outputs larger than the caches, which CPU kernels write past them, with aligned and misaligned rows."""
    # These never write past the caches; their windows in float64 would take 10 to 36 s for all channels.
    if name.startswith(("ssim", "large_kernel_conv")) and not cases.ALL:
        size = (1, size[1] // 4, *size[2:])
    op, args = example(name, Case(size, torch.float32, (layout,), 1))
    # Unless exact, against float64: in a sum of many terms eager's error exceeds the default tolerance.
    wide = args if op.exact else tuple(x.double() if isinstance(x, Tensor) else x for x in args)
    with cases.threads(2):
        results = outputs(op(*args))
    for got, want in zip(results, outputs(op.reference(*wide)), strict=True):
        largest = float(want.abs().max())
        rtol, atol = (0.0, 0.0) if op.exact else (1.3e-6, 1e-6 * max(1.0, largest))
        torch.testing.assert_close(got, want.to(got.dtype), rtol=rtol, atol=atol)


@pytest.mark.turns(3)
@pytest.mark.share(4)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_batch_is_its_samples(name: str, layout: str, dtype: torch.dtype) -> None:
    """Results streamed past the caches, in one to three maps, equal those of samples small enough for the caches."""
    op, args = example(name, Case((6, 13, 401, 603), dtype, (layout,), 1))
    with cases.threads(2):
        whole = outputs(op(*args))
        for n in range(6) if cases.ALL else (0, 3, 5):
            batched = [
                x[n : n + 1] if key in op.batched else x for key, x in zip(op.signature.names, args, strict=True)
            ]
            for got, sample in zip(whole, outputs(op(*batched)), strict=True):
                if got.shape[0] == 6 and sample.shape[0] == 1:  # but not a weight's gradient
                    assert torch.equal(got[n : n + 1], sample)


def test_threads_agree(name: str) -> None:
    """One thread and two give the same bits, at a size that two threads share."""
    op, args = example(name, Case((2, 16, 64, 65)))
    with cases.threads(1):
        one = op(*args)
    with cases.threads(2):
        assert_equal(op(*args), one)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "every_other_column"])
def test_on_a_gpu(name: str, backend: str, layout: str) -> None:
    """Forward and backward on a side stream whose earlier work writes the arguments late, and a captured graph with a
    changed input, which only a GPU can show. `test_ops.py` has more cases of values."""
    op, args = example(name, Case((3, 17, 33, 40), torch.float32, (layout,), offset=1))
    values = [cases.to_device(x, "cuda") if isinstance(x, Tensor) else x for x in args]
    promised = op.layout(*args)[: len(op.signature.results) - len(op.statistics)]
    grads = [torch.randn(tuple(y.shape), dtype=y.dtype) for y in promised]
    late = [late_copy(x) if isinstance(x, Tensor) else x for x in values]
    grads_on_gpu = [y.cuda() for y in grads]
    late_grads = [late_copy(y) for y in grads_on_gpu]
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in late]
    with fastiqa.use(backend):
        op(*values)  # compiling and loading, which happen once, wait for the device
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            copy_late(late, values)
            results = outputs(op(*leaves))
            copy_late(late_grads, grads_on_gpu)
            got = torch.autograd.grad(
                [y for y in results if y.requires_grad], [x for x in leaves if isinstance(x, Tensor)], late_grads
            )
        stream.synchronize()
        assert_right(op, args, grads, tuple(y.detach() for y in results), got)

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = op(*values)
        values[0].mul_(3)
        graph.replay()
        assert_equal(captured, op(*values))


def late_copy(x: Tensor) -> Tensor:
    """A tensor of the same strides, without its values yet."""
    return cases.to_device(x, x.device).fill_(float("nan"))


def copy_late(late: list[Any], values: list[Any]) -> None:
    """Copy after some 20 ms of other work on the current stream."""
    busy = torch.ones(8192, 8192, device="cuda")
    busy @ busy
    for to, x in zip(late, values, strict=True):
        if isinstance(x, Tensor):
            to.copy_(x)


def assert_right(
    op: Any, args: tuple[Any, ...], grads: list[Tensor], results: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> None:
    """Equal bit for bit, or at most twice as far from float64 as eager PyTorch on the CPU."""

    def everything(values: tuple[Any, ...], output_gradients: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in values]
        made = outputs(op.reference(*leaves))
        inputs = [x for x in leaves if isinstance(x, Tensor)]
        backward = torch.autograd.grad([y for y in made if y.requires_grad], inputs, output_gradients)
        return (*(y.detach() for y in made), *backward)

    def usual(double: bool) -> tuple[Tensor, ...]:
        return everything(test_ops.redrawn(args, double), list(test_ops.redrawn(tuple(grads), double)))

    eager, exact = everything(args, grads), everything(test_ops.wide(args), [g.double() for g in grads])
    for k, (y, e, x) in enumerate(zip((*results, *gradients), eager, exact, strict=True)):
        of_many = functools.partial(test_ops.eager_error, usual, k)
        test_ops.assert_within_budget(y.cpu(), e, x, op.exact, of_many)
