"""The operator record, and everything PyTorch is told of an operator.

A file in `fastiqa/ops` writes one `Op` (and one more for its backward pass); from it come the schema
`fastiqa::<name>`, the fake kernel, the choice of backend, the gradient, the autocast rule and the batching rule. This
file alone touches `torch.library`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiqa import _dispatch
from fastiqa._layout import Output

_library = torch.library.Library("fastiqa", "FRAGMENT")

Layout = Callable[..., tuple[Output, ...]]


class Map(NamedTuple):
    """A tensor argument in a sample: its shape; tests and benchmarks choose dtype, memory format and values."""

    shape: tuple[int, ...]


class Op:
    """One operator: callable, and the source of its tests, its benchmark and its registration.

    Args:
        schema: in PyTorch's notation, as `high_pass(Tensor x) -> Tensor`. Functional: no argument is written.
        reference: the definition in plain PyTorch, for any floating dtype; specification, oracle and last backend.
        adjoint: `(saved, *output_gradients) -> gradients`, one (or None) for each tensor argument. `saved` has the
            arguments named in `saves`, every argument that is no tensor, and `needs`: for each tensor argument whether
            a gradient is wanted. It calls registered operators only, so it is differentiable itself.
        layout: `(*args) -> outputs`, which also checks the arguments (see _layout.py).
        samples: `(n, c, h, w) -> argument tuples`, with `Map` in place of tensors, that exercise the operator at that
            size.
        bytes: least traffic in bytes, each input read once and each output written once, for those arguments.
        saves: names of the tensor arguments that the adjoint needs.
        backends: in order of preference; PyTorch's composite reference comes after them.
        autocast: "promote" computes in the widest dtype given, as PyTorch's element-wise functions; "lower" in the
            autocast dtype, as its convolutions.
        batched: names of the arguments whose first dimension is the batch; `vmap` folds its dimension into theirs.
            Default: every tensor argument.
        exact: every backend equals the reference bit for bit; otherwise tests allow twice the reference's own error.
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
        backends: Sequence[_dispatch.Backend] = (),
        autocast: str = "promote",
        batched: Sequence[str] | None = None,
        exact: bool = False,
    ) -> None:
        self.name = self.kernel_name = schema.partition("(")[0]
        self.reference, self.adjoint, self.layout = reference, adjoint, layout
        self.samples, self.bytes, self.saves, self.backends = samples, bytes, tuple(saves), tuple(backends)
        self.exact = exact
        self.__doc__ = reference.__doc__
        self._register(schema, autocast)
        arguments = self._overload._schema.arguments
        self.arguments = tuple(argument.name for argument in arguments)
        self.tensors = tuple(k for k, argument in enumerate(arguments) if "Tensor" in str(argument.type))
        self._optional = frozenset(k for k in self.tensors if "Optional" in str(arguments[k].type))
        self.batched = frozenset(batched if batched is not None else (self.arguments[k] for k in self.tensors))

    # ---- calling ----

    def __call__(self, *args: Any, out: Tensor | Sequence[Tensor] | None = None, **kwargs: Any) -> Any:
        """Runs the operator; with `out` into tensors that exist, which must not overlap the inputs (no gradient)."""
        values = self.bind(args, kwargs)
        if out is None:
            # A registered gradient is invisible to torch.func, an autograd.Function costs 7 us more a call.
            if torch._C._are_functorch_transforms_active() and self._requires_grad(values):
                return self._function.apply(*values)
            return self._overload(*values)
        if torch.is_grad_enabled() and self._requires_grad(values):
            raise ValueError(f"out: {self.name} with out= has no gradient, but an input requires one")
        outs = (out,) if isinstance(out, Tensor) else tuple(out)
        values = self.promote(values)
        self._check_out(outs, self.layout(*values))
        self._run_into(values, outs)
        return out

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Positional arguments in the schema's order, defaults filled in; TypeError where a tensor is none."""
        if kwargs or len(args) != len(self.arguments):
            args = self._bind_named(args, kwargs)
        for k in self.tensors:
            if not isinstance(args[k], Tensor) and not (args[k] is None and k in self._optional):
                raise TypeError(f"{self.arguments[k]}: got {type(args[k]).__name__}, want a tensor")
        return tuple(args)

    def _bind_named(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if len(args) > len(self.arguments):
            raise TypeError(f"{self.name} takes {len(self.arguments)} arguments, got {len(args)}")
        named = dict(zip(self.arguments, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.arguments or name in named:
                raise TypeError(f"{name}: {'given twice' if name in named else f'{self.name} has no such argument'}")
            named[name] = value
        for argument in self._overload._schema.arguments:
            if argument.name not in named:
                if not argument.has_default_value():
                    raise TypeError(f"{argument.name}: missing in the call of {self.name}")
                named[argument.name] = argument.default_value
        return tuple(named[name] for name in self.arguments)

    def promote(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Tensor arguments in their common dtype."""
        dtypes = {args[k].dtype for k in self.tensors if args[k] is not None}
        if len(dtypes) == 1 or not all(dtype.is_floating_point for dtype in dtypes):
            return tuple(args)
        return self._cast(args, functools.reduce(torch.promote_types, dtypes))

    def _cast(self, args: Sequence[Any], dtype: torch.dtype) -> tuple[Any, ...]:
        cast = (k in self.tensors and args[k] is not None for k in range(len(args)))
        return tuple(value.to(dtype) if tensor else value for value, tensor in zip(args, cast, strict=True))

    def _requires_grad(self, args: Sequence[Any]) -> bool:
        return any(args[k].requires_grad for k in self.tensors if args[k] is not None)

    # ---- running ----

    def _run(self, *args: Any) -> Any:
        args = self.promote(args)
        outputs = self.layout(*args)
        if any(0 in output.shape for output in outputs) or (kernel := _dispatch.choose(self, args)) is None:
            results = self._reference(args, outputs)
        else:
            results = tuple(output.empty() for output in outputs)
            kernel(*args, *results)
        return results[0] if len(results) == 1 else results

    def _run_into(self, args: Sequence[Any], outs: tuple[Tensor, ...]) -> None:
        kernel = _dispatch.choose(self, args)
        if kernel is not None:
            kernel(*args, *outs)
            return
        for out, result in zip(outs, self._tuple(self.reference(*args)), strict=True):
            out.copy_(result)

    def _reference(self, args: Sequence[Any], outputs: Sequence[Output]) -> tuple[Tensor, ...]:
        results = []
        for result, output in zip(self._tuple(self.reference(*args)), outputs, strict=True):
            # A view of an argument, or strides other than the layout rule promised, would break the contract.
            aliases = any(result.untyped_storage()._cdata == args[k].untyped_storage()._cdata for k in self.tensors)
            wanted = output.empty() if aliases or not self._agrees(result, output) else None
            results.append(result if wanted is None else wanted.copy_(result))
        return tuple(results)

    @staticmethod
    def _agrees(result: Tensor, output: Output) -> bool:
        return result.stride() == torch.empty(output.shape, device="meta", memory_format=output.memory_format).stride()

    def _check_out(self, outs: tuple[Tensor, ...], outputs: tuple[Output, ...]) -> None:
        if len(outs) != len(outputs):
            raise ValueError(f"out: got {len(outs)} tensors, want {len(outputs)}")
        for out, output in zip(outs, outputs, strict=True):
            got = (tuple(out.shape), out.dtype, out.device)
            want = (tuple(output.shape), output.dtype, output.device)
            if got != want:
                raise ValueError(f"out: got {got[0]} {got[1]} on {got[2]}, want {want[0]} {want[1]} on {want[2]}")

    @staticmethod
    def _tuple(results: Any) -> tuple[Tensor, ...]:
        return (results,) if isinstance(results, Tensor) else tuple(results)

    # ---- registration ----

    def _register(self, schema: str, autocast: str) -> None:
        # Exact strides: the layout rule reads them, so Inductor must hand over those that it showed the fake kernel.
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
        qualified = f"fastiqa::{self.name}"
        self._overload = getattr(torch.ops.fastiqa, self.name).default
        _library.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, self._fake, lib=_library)
        torch.library.register_autograd(qualified, self._backward, setup_context=self._setup_context, lib=_library)
        torch.library.register_vmap(qualified, self._vmap, lib=_library)
        self._function = self._autograd_function()
        if autocast == "lower":
            for device in ("CPU", "CUDA"):
                _library.impl(self.name, functools.partial(self._autocast, device), f"Autocast{device}")

    def _autograd_function(self) -> Any:
        """The registered gradient once more, for torch.func."""

        class Function(torch.autograd.Function):
            forward = staticmethod(self._below_autograd)
            setup_context = staticmethod(self._setup_context)
            backward = staticmethod(self._backward)
            vmap = staticmethod(self._vmap)

        Function.__name__ = self.name
        return Function

    def _below_autograd(self, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self._overload(*args)

    def _fake(self, *args: Any) -> Any:
        results = tuple(output.empty() for output in self.layout(*self.promote(args)))
        return results[0] if len(results) == 1 else results

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(inputs[self.arguments.index(name)] for name in self.saves))
        ctx.constants = {name: inputs[k] for k, name in enumerate(self.arguments) if k not in self.tensors}

    def _backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = dict(zip(self.saves, ctx.saved_tensors, strict=True))
        needs = tuple(ctx.needs_input_grad[k] for k in self.tensors)
        saved = SimpleNamespace(needs=needs, **tensors, **ctx.constants)
        gradients = self.adjoint(saved, *grads)
        by_position = dict(zip(self.tensors, gradients if isinstance(gradients, tuple) else (gradients,), strict=True))
        return tuple(by_position.get(k) for k in range(len(self.arguments)))

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        mapped = [k for k, dim in enumerate(in_dims) if dim is not None]
        if all(self.arguments[k] in self.batched for k in mapped):
            folded = list(args)
            for k in self.tensors:
                if self.arguments[k] in self.batched and args[k] is not None:
                    x = args[k].movedim(in_dims[k], 0) if k in mapped else args[k].expand(size, *args[k].shape)
                    folded[k] = x.flatten(0, 1)
            results = tuple(y.unflatten(0, (size, y.shape[0] // size)) for y in self._tuple(self._overload(*folded)))
        else:
            calls = [
                self._tuple(
                    self._overload(*(x.select(in_dims[k], i) if k in mapped else x for k, x in enumerate(args)))
                )
                for i in range(size)
            ]
            results = tuple(torch.stack(column) for column in zip(*calls, strict=True))
        return (results[0], 0) if len(results) == 1 else (results, (0,) * len(results))

    def _autocast(self, device: str, *args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device.lower())
        key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))
        with torch._C._ExcludeDispatchKeyGuard(key):
            return self._overload(*self._cast(args, dtype))

    def __repr__(self) -> str:
        return f"<fastiqa operator {self._overload._schema}>"
