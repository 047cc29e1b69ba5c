"""Less memory in training: blocks that keep little for the backward pass and recompute the rest (checkpointing).

Side effects of a module belong to the first pass alone; `running_pass` tells which pass runs. The running statistics of
norms that do not ask, such as `torch.nn.SyncBatchNorm`, are restored after the second pass.
Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from fastiqa.common import arguments
from fastiqa.common.tracing import tracer_of
from fastiqa.nn.fused import FusedNetwork
from fastiqa.reference.plain_layers import has_hooks

MEMORY = ("off", "lean", "least")

Pass = Literal["first", "again"]

_running: ContextVar[Pass | None] = ContextVar("fastiqa_pass", default=None)


class CheckpointedBlock(nn.Module):
    """Base, listed first, of a block from tensors to a tensor; the backward pass repeats the block's `forward`.

    Attributes:
        memory: see `CheckpointedNetwork.set_memory`.
    """

    memory: str = "off"

    def forward(self, *inputs: Tensor) -> Tensor:
        recomputes = self.memory != "off" and self.training and torch.is_grad_enabled()
        # A compiler decides itself what to recompute; torch.func's gradients have no hooks for saved tensors.
        if recomputes and (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
            recomputes = False
        if not recomputes or tracer_of(inputs) is not None:  # nor does a graph of torch.fx
            result: Tensor = super().forward(*inputs)
        else:
            result = checkpoint(
                super().forward,
                *inputs,
                use_reentrant=False,
                preserve_rng_state=self._uses_random_numbers(),
                context_fn=self._contexts,
            )
        return result

    def _keeps(self, weight: Tensor) -> bool:
        """Whether level "lean" keeps the result of the convolution with this weight."""
        raise NotImplementedError

    def _is_narrow(self, weight: Tensor, last: nn.Module) -> bool:
        """Whether a convolution has fewer outputs than the block's last one; true if an adapter hides these."""
        widest = getattr(last, "out_channels", None)
        return widest is None or weight.shape[0] < widest

    def _uses_random_numbers(self) -> bool:
        """Whether the block draws random numbers, which both passes must share."""
        return False

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """The contexts of both passes for `torch.utils.checkpoint`."""
        kept = functools.partial(_kept_statistics, self)
        # Hooks inside, such as FSDP's around each layer, may run different operations in the two passes.
        hooked = any(has_hooks(layer) for layer in self.modules() if layer is not self)
        if self.memory == "least" or hooked:
            return _PassContext("first"), _PassContext("again", kept)
        first, again = create_selective_checkpoint_contexts(self._policy)
        return _PassContext("first", lambda: first), _PassContext("again", kept, lambda: again)

    def _policy(self, ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = op is torch.ops.aten.convolution.default and self._keeps(args[1])
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class CheckpointedNetwork(FusedNetwork):
    """Base, listed first, of a network with `CheckpointedBlock`s anywhere inside."""

    def set_memory(self, level: str) -> None:
        """Choose how much the blocks keep for the backward pass. Results and gradients differ by rounding.

        Args:
            level: "off" keeps everything that autograd saves. "lean" keeps a block's inputs and the results of the
                convolutions that its class names, and recomputes norms, activations, sums and products. "least" keeps
                the inputs alone, as "lean" does for a block with hooks inside. Inside `torch.func`'s transforms, which
                cannot recompute, all levels are "off". "lean" allows one backward pass through a graph, as PyTorch's
                selective checkpoints do.

        Raises: ValueError for another level.
        """
        arguments.one_of("level", level, MEMORY)
        for module in self.modules():
            if isinstance(module, CheckpointedBlock):
                module.memory = level


def running_pass() -> Pass | None:
    """The running pass of a checkpointed block: "first", "again" in the backward pass, or None outside."""
    return None if torch.compiler.is_compiling() else _running.get()


@contextlib.contextmanager
def _kept_statistics(block: nn.Module) -> Iterator[None]:
    norms = (norm for norm in block.modules() if isinstance(norm, _BatchNorm) and not getattr(norm, "asks_pass", False))
    kept = [(buffer, buffer.clone()) for norm in norms if norm.training for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


class _PassContext:
    """The context of one pass. Every backward pass through a retained graph enters it anew."""

    def __init__(self, name: Pass, *inner: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._inner = name, inner
        self._open: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(_running.reset, _running.set(self._name))
            # Both passes must run the same operations, so neither may find weights that autocast has cast before.
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            for context in self._inner:
                stack.enter_context(context())
            self._open.append(stack.pop_all())

    def __exit__(self, *exception: Any) -> None:
        self._open.pop().__exit__(*exception)
