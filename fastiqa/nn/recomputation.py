"""Less memory in training: blocks that keep little for the backward pass and compute the rest again (checkpointing).

Modules with side effects must have them in the first pass alone: `running_pass` says which pass is running. The running
statistics of norms that do not ask (`torch.nn.SyncBatchNorm`, say) are put back after the second.
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
    """Comes before the class of a block from tensors to a tensor, whose `forward` it repeats in the backward pass.

    Attributes:
        memory: see `CheckpointedNetwork.set_memory`.
    """

    memory: str = "off"

    def forward(self, *inputs: Tensor) -> Tensor:
        recomputes = self.memory != "off" and self.training and torch.is_grad_enabled()
        # A compiler decides for itself what it computes again; torch.func's gradients have no hooks for what they save.
        if recomputes and (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
            recomputes = False
        if not recomputes or tracer_of(inputs) is not None:  # nor has a graph of torch.fx
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
        """Whether level "lean" keeps the result of the convolution with these weights."""
        raise NotImplementedError

    def _is_narrow(self, weight: Tensor, last: nn.Module) -> bool:
        """Whether a convolution has fewer outputs than the block's last one; not known where an adapter wraps that."""
        widest = getattr(last, "out_channels", None)
        return widest is None or weight.shape[0] < widest

    def _uses_random_numbers(self) -> bool:
        """Whether the block takes random numbers, which must be the same in both passes."""
        return False

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Both passes' contexts for `torch.utils.checkpoint`."""
        kept = functools.partial(_kept_statistics, self)
        # Hooks inside, as FSDP's around each layer, may run other operations in one pass than in the other.
        hooked = any(has_hooks(layer) for layer in self.modules() if layer is not self)
        if self.memory == "least" or hooked:
            return _PassContext("first"), _PassContext("again", kept)
        first, again = create_selective_checkpoint_contexts(self._policy)
        return _PassContext("first", lambda: first), _PassContext("again", kept, lambda: again)

    def _policy(self, ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = op is torch.ops.aten.convolution.default and self._keeps(args[1])
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class CheckpointedNetwork(FusedNetwork):
    """Comes before the class of a network with `CheckpointedBlock`s anywhere inside."""

    def set_memory(self, level: str) -> None:
        """What the blocks keep for the backward pass. Results and gradients differ by rounding.

        Args:
            level: "off" keeps what autograd saves. "lean" keeps a block's inputs and the results of the convolutions
                that its class names, and computes norms, activations, sums and products again; "least" keeps the
                inputs alone, and so does "lean" of a block with hooks inside. Inside `torch.func`'s transforms, which
                cannot compute anything again, all levels are "off". Level "lean" allows one backward pass through a
                graph, as PyTorch's selective checkpoints do.

        Raises: ValueError for another level.
        """
        arguments.one_of("level", level, MEMORY)
        for module in self.modules():
            if isinstance(module, CheckpointedBlock):
                module.memory = level


def running_pass() -> Pass | None:
    """The forward pass of a checkpointed block, "first", or its repetition in the backward pass, "again"."""
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
    """Around a pass. Entered anew in every backward pass through a graph that is kept."""

    def __init__(self, name: Pass, *inner: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._inner = name, inner
        self._open: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(_running.reset, _running.set(self._name))
            # Weights that autocast has cast before would be cast in one pass only; both must run the same operations.
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            for context in self._inner:
                stack.enter_context(context())
            self._open.append(stack.pop_all())

    def __exit__(self, *exception: Any) -> None:
        self._open.pop().__exit__(*exception)
