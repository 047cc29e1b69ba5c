"""Which pass of a checkpointed block is running: modules with side effects have them in the first alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

Pass = Literal["first", "again"]
Policy = Callable[..., CheckpointPolicy]

_running: ContextVar[Pass | None] = ContextVar("fastiqa_pass", default=None)


def running_pass() -> Pass | None:
    """The forward pass of a checkpointed block, "first", or its repetition in the backward pass, "again"."""
    return _running.get()


def contexts(policy: Policy | None) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Both passes' contexts for `torch.utils.checkpoint`; `policy` says which results are kept, None keeps none."""
    if policy is None:
        return _during("first"), _during("again")
    first, again = create_selective_checkpoint_contexts(policy)
    return _during("first", first), _during("again", again)


@contextlib.contextmanager
def _during(name: Pass, *inner: AbstractContextManager[Any]) -> Iterator[None]:
    token = _running.set(name)
    # Weights that autocast has cast before would be cast in one pass only, and both must run the same operations.
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            for context in inner:
                stack.enter_context(context)
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        _running.reset(token)
