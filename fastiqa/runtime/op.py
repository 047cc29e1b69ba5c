"""The operator record, and how it registers an operator with PyTorch.

A file in `fastiqa/ops` writes one `Op` (and one more for its backward pass). The record provides the schema
`fastiqa::<name>`, the fake kernel, the choice of a backend, the gradient, the autocast rule and the batching rule. Only
this file touches `torch.library`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastiqa.runtime import dispatch, out_arguments
from fastiqa.runtime.layout import Output
from fastiqa.runtime.memory import prefer_huge_pages
from fastiqa.runtime.plan import Plans, any_empty
from fastiqa.runtime.signature import PLAIN, Signature

_library = torch.library.Library("fastiqa", "FRAGMENT")

Layout = Callable[..., tuple[Output, ...]]


class Map(NamedTuple):
    """A tensor argument in a sample: tests and benchmarks choose dtype, memory format and values for its `shape`."""

    shape: tuple[int, ...]


class Op:
    """One operator: callable, and the source of its tests, its benchmark and its registration.

    Args:
        schema: PyTorch's notation, as `high_pass(Tensor x) -> Tensor`. No argument is written to.
        reference: the definition in plain PyTorch, for any floating dtype: specification, oracle and last backend.
        adjoint: `(saved, *output_gradients) -> gradients`, one (or None) for each tensor argument. `saved` holds the
            arguments named in `saves`, every argument that is not a tensor, and `needs`, which says for each tensor
            argument whether it needs a gradient. Only registered operators are called, so the adjoint is itself
            differentiable.
        layout: `(*args) -> outputs`. It also checks the arguments, see layout.py.
        samples: `(n, c, h, w) -> argument tuples` that exercise the operator at that size, `Map` standing for tensors.
        bytes: the least traffic for given arguments, in bytes: each input read once and each output written once.
        saves: names of the tensor arguments, or of results named in the schema, that the adjoint needs. A result that
            the next layer saves too costs no memory.
        statistics: names of results without a gradient, as in the schema.
        wide: names of tensor arguments that kernels take in the accumulation type, whatever the others' dtype: numbers
            of a channel that must not be rounded.
        backends: in order of preference; PyTorch's composite reference comes last.
        autocast: "promote" computes in the widest dtype given, as PyTorch's element-wise functions do; "lower" in the
            autocast dtype, as its convolutions do.
        batched: names of the arguments whose first dimension is the batch; `vmap` folds its dimension into theirs.
            Default: every tensor argument.
        exact: whether every backend equals the reference bit for bit; if not, tests allow twice the reference's error.
    """

    def __init__(
        self,
        schema: str,
        reference: Callable[..., Any],
        adjoint: Callable[..., Any],
        *,
        layout: Layout,
        samples: Callable[[int, int, int, int], Iterator[tuple[Any, ...]]],
        bytes: Callable[..., int],
        saves: Sequence[str] = (),
        statistics: Sequence[str] = (),
        wide: Sequence[str] = (),
        backends: Sequence[dispatch.Backend] = (),
        autocast: str = "promote",
        batched: Sequence[str] | None = None,
        exact: bool = False,
    ) -> None:
        self.name = schema.partition("(")[0]
        self.reference, self.adjoint, self.layout = reference, adjoint, layout
        self.samples, self.bytes, self.saves, self.backends = samples, bytes, tuple(saves), tuple(backends)
        self.statistics, self.autocast, self.exact = tuple(statistics), autocast, exact
        self.__doc__ = reference.__doc__
        self.__module__ = reference.__module__
        self._overload = self._register(schema)
        self.schema = self._overload._schema
        self.signature = Signature(self.schema, wide)
        self._plans = Plans(self.signature, layout)
        tensors = (self.signature.names[k] for k in self.signature.tensors)
        self.batched = frozenset(batched if batched is not None else tensors)

    # ---- calling ----

    def __call__(self, *args: Any, out: Tensor | Sequence[Tensor] | None = None, **kwargs: Any) -> Any:
        """Run the operator; with `out`, write into existing tensors, without a gradient.

        `out` is one tensor, or one for each result, with the result's shape, dtype and device and any strides. As in
        PyTorch it may not require a gradient; if autograd saved it before, the backward pass raises an error. It may
        not share memory with an input, another output or itself.
        """
        values = self.signature.bind(args, kwargs)
        if out is not None:
            return self._write_into(values, out)
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            if torch.onnx.is_in_onnx_export():  # ONNX lacks the operator, but has those of its reference
                values = self.signature.promote(values)
                self.layout(*values)
                return self.reference(*values)
            return self._overload(*values)
        if forward_ad._current_level >= 0:
            # Kernels know no tangents: in forward mode the reference runs, whose operations have theirs.
            self._plans(self.signature.complete(values))
            return self.reference(*self.signature.promote(values))
        if torch._C._are_functorch_transforms_active():
            # torch.func knows autograd functions alone, no registered gradient. A tensor hidden in a batch may require
            # one.
            self.signature.check_strided(values)
            return self._overload(*values) if _only_functionalizes() else self._transformed.apply(*values)
        if self._is_eager(values):
            return self._eager.apply(*values) if self.signature.requires_grad(values) else self._run(*values)
        self.signature.check_strided(values)
        return self._overload(*values)

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """Report for each backend, a line each, whether it runs for these arguments, and why not.

        Raises: TypeError and ValueError for arguments that a call would refuse.
        """
        values = self.signature.promote(self.signature.bind(args, kwargs))
        self.layout(*values)
        x: Tensor = values[0]
        return f"{self.name} for {x.dtype} tensors on {x.device}\n{dispatch.decision_table(self, values)}"

    def _is_eager(self, values: tuple[Any, ...]) -> bool:
        """Whether the call may bypass the dispatcher: no mode, subclass, autocast rule or batch has to see it.

        The dispatcher takes 4 us without a gradient and 6 us with one; everything else takes 8 us.
        """
        return (
            torch._C._len_torch_dispatch_stack() == 0
            and self.signature.is_plain(values)
            and (self.autocast == "promote" or not _autocasts(values[0].device.type))
            and not _batches()
        )

    def _write_into(self, values: tuple[Any, ...], out: Tensor | Sequence[Tensor]) -> Any:
        outs = (out,) if isinstance(out, Tensor) or not isinstance(out, Sequence) else tuple(out)
        named = [(self.signature.names[k], values[k]) for k in self.signature.tensors if values[k] is not None]
        values = self.signature.promote(values)
        outputs = self.layout(*values)
        out_arguments.check_outputs(self.name, named, outs, outputs)
        if not torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active() or _batches():
                raise NotImplementedError(f"out: {self.name} with out= can be neither mapped nor transformed")
            if self._is_eager(values) and all(type(given) in PLAIN for given in outs):
                out_arguments.check_overlap(named, outs)
                negative = any(given.is_neg() for given in outs)  # the imaginary part of a conjugate is such a view
                empty = any_empty(self.signature, values, outputs)
                kernel = None if negative or empty else dispatch.choose(self, values)
                if kernel is not None:
                    kernel(*values, *outs)
                    torch.autograd.graph.increment_version(outs)
                    return out
        for given, result in zip(outs, _tuple(self(*values)), strict=True):
            given.copy_(result)
        return out

    def _run(self, *args: Any) -> Any:
        args = self.signature.complete(args)
        if forward_ad._current_level >= 0 and self.signature.has_tangents(args):
            raise NotImplementedError(
                f"torch.ops.fastiqa.{self.name} has no derivative in forward mode: call fastiqa.ops.{self.name}"
            )
        plan = self._plans(args)
        if plan.promotes:
            args = self.signature.promote(args)
        elif plan.may_be_sparse:
            self.signature.check_strided(args)
        kernel = None if plan.empty else dispatch.choose(self, args)
        if kernel is None:
            results = self._run_reference(args, plan.outputs)
        else:
            results = tuple([prefer_huge_pages(allocate()) for allocate in plan.allocators])
            kernel(*args, *results)
        return results[0] if len(results) == 1 else results

    def _run_reference(self, args: tuple[Any, ...], outputs: Sequence[Output]) -> tuple[Tensor, ...]:
        """The reference's results, copied where they view an argument or differ from the promised layout."""
        storages = {args[k].untyped_storage()._cdata for k in self.signature.tensors if args[k] is not None}
        return tuple(
            result
            if result.stride() == output.strides() and result.untyped_storage()._cdata not in storages
            else output.empty().copy_(result)
            for result, output in zip(_tuple(self.reference(*args)), outputs, strict=True)
        )

    # ---- registration ----

    def _register(self, schema: str) -> Any:
        # Exact strides: the layout rule reads them, so Inductor must pass those that the fake kernel saw.
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
        qualified = f"fastiqa::{self.name}"
        _library.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, self._fake, lib=_library)
        torch.library.register_autograd(qualified, self._backward, setup_context=self._setup_context, lib=_library)
        torch.library.register_vmap(qualified, lambda *args: self._vmap(self._overload, *args), lib=_library)
        if self.autocast == "lower":
            for device in ("CPU", "CUDA"):
                _library.impl(self.name, functools.partial(self._autocast, device), f"Autocast{device}")
        self._eager, self._transformed = self._autograd_functions()
        return getattr(torch.ops.fastiqa, self.name).default

    def _autograd_functions(self) -> tuple[Any, Any]:
        """The registered gradient as autograd functions: for eager calls, which get cheaper, and for torch.func."""

        def forward(ctx: Any, *args: Any) -> Any:
            result = self._run(*args)
            self._setup_context(ctx, args, result)
            return result

        def below_autograd(*args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return self._overload(*args)

        backward = staticmethod(self._backward)
        eager = {"forward": staticmethod(forward), "backward": backward}
        vmap = staticmethod(functools.partial(self._vmap, self))
        context = {"setup_context": staticmethod(self._setup_context), "vmap": vmap}
        transformed = {"forward": staticmethod(below_autograd), "backward": backward, **context}
        base = (torch.autograd.Function,)
        return type(self.name, base, eager), type(self.name, base, transformed)

    def _fake(self, *args: Any) -> Any:
        args = self.signature.promote(self.signature.complete(args))
        results = tuple(output.empty() for output in self.layout(*args))
        return results[0] if len(results) == 1 else results

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        names, tensors = self.signature.names, self.signature.tensors
        inputs = self.signature.complete(inputs)
        values = dict(zip((*names, *self.signature.results), (*inputs, *_tuple(output)), strict=True))
        ctx.save_for_backward(*(values[name] for name in self.saves))
        ctx.mark_non_differentiable(*(values[name] for name in self.statistics))
        ctx.constants = {name: inputs[k] for k, name in enumerate(names) if k not in tensors}

    def _backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        names, tensors = self.signature.names, self.signature.tensors
        wanted = ctx.needs_input_grad  # shorter where the dispatcher left out defaults
        needs = tuple([k < len(wanted) and wanted[k] for k in tensors])
        kept = dict(zip(self.saves, ctx.saved_tensors, strict=True))
        gradients = _tuple(self.adjoint(SimpleNamespace(needs=needs, **kept, **ctx.constants), *grads))
        if len(tensors) == len(names):
            return gradients
        by_position = dict(zip(tensors, gradients, strict=True))
        return tuple([by_position.get(k) for k in range(len(names))])

    def _vmap(
        self, call: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[Any, Any]:
        size = info.batch_size
        if size == 0:
            return self._vmap_of_nothing(call, in_dims, args)
        mapped = [k for k, dim in enumerate(in_dims) if dim is not None]
        batched = [k for k, name in enumerate(self.signature.names) if name in self.batched]
        if set(mapped) <= set(batched):
            folded = list(args)
            for k in batched:
                if args[k] is not None:
                    x = args[k].movedim(in_dims[k], 0) if k in mapped else args[k].expand(size, *args[k].shape)
                    folded[k] = x.flatten(0, 1)
            results = tuple(y.unflatten(0, (size, y.shape[0] // size)) for y in _tuple(call(*folded)))
        else:
            calls = []
            for i in range(size):
                ith = (x.select(in_dims[k], i) if k in mapped else x for k, x in enumerate(args))
                calls.append(_tuple(call(*ith)))
            results = tuple(torch.stack(column) for column in zip(*calls, strict=True))
        return (results[0], 0) if len(results) == 1 else (results, (0,) * len(results))

    def _vmap_of_nothing(
        self, call: Callable[..., Any], in_dims: tuple[int | None, ...], args: tuple[Any, ...]
    ) -> tuple[Any, Any]:
        """Results of an empty batch, whose shapes and dtypes a sample of zeros tells."""
        zeros = (x if dim is None else x.sum(dim) for x, dim in zip(args, in_dims, strict=True))
        results = tuple(y[None][:0] for y in _tuple(call(*zeros)))
        return (results[0], 0) if len(results) == 1 else (results, (0,) * len(results))

    def _autocast(self, device: str, *args: Any) -> Any:
        key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))
        with torch._C._ExcludeDispatchKeyGuard(key):
            return self._overload(*self.signature.cast(args, torch.get_autocast_dtype(device.lower())))

    def __reduce__(self) -> str:
        """Copy as itself and pickle by name: the import of its module makes the only record."""
        return self.name

    def __repr__(self) -> str:
        return f"<fastiqa operator {self.schema}>"


# Batches of autograd itself, older than torch.func's (jacobian(vectorize=True), is_grads_batched, check_batched_grad),
# are tensors of the plain type; only this question tells them from single ones.
_batches = functools.partial(torch._C._dispatch_tls_is_dispatch_key_included, torch._C._dispatch_key_parse("VmapMode"))


def _only_functionalizes() -> bool:
    """Whether `functionalize`, which refuses autograd functions, is the only active transform of torch.func."""
    stack = torch._C._functorch.get_interpreter_stack()
    return all(level.key() == torch._C._functorch.TransformType.Functionalize for level in stack)


def _autocasts(device: str) -> bool:
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _tuple(results: Any) -> tuple[Any, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)
