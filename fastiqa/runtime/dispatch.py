"""Which backend runs an operator, and why not another.

CUDA tensors try cuda, triton, torch; CPU tensors try cpu, torch (and triton under its interpreter, when asked for). A
backend that refuses gives a reason, which is logged once, and the next one is tried. `use(name)` and
FASTIQA_BACKEND=name allow only that backend; FASTIQA_STRICT=1 turns every fallback into an error. Both errors list all
reasons.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fastiqa.common.extras import install_command
from fastiqa.runtime import native
from fastiqa.runtime.layout import FLOATING

NAMES = ("cpu", "cuda", "triton", "torch")
OLDEST_TRITON = (3, 6)

_log = logging.getLogger("fastiqa")
_logged: set[tuple[str, str]] = set()

WhyNot = Callable[..., "str | None"]


class Operator(Protocol):
    """The part of an operator that decides on a backend; `fastiqa.runtime.op.Op` has it."""

    name: str
    backends: tuple[Backend, ...]


class BackendError(RuntimeError):
    """The requested backend cannot run an operator. The message gives every backend's reason, a line each."""


@dataclass(frozen=True)
class Backend:
    """One way to run an operator: `load` finds its kernel by name; `why_not` may reject specific arguments."""

    name: str
    device: str
    load: Callable[[str], Callable[..., None]]
    why_not: WhyNot | None = None
    dtypes: tuple[torch.dtype, ...] = FLOATING

    def reason(self, op: Operator, args: Sequence[Any]) -> str | None:
        """Return why this backend cannot take these arguments, or None."""
        first = args[0]
        if not self.accepts(first.device.type):
            return f"needs {self.device} tensors, got {first.device.type}"
        if first.dtype not in self.dtypes:
            return f"does not take {first.dtype}"
        kernel = _kernel(self, op.name)
        if isinstance(kernel, str):
            return kernel
        if self.name == "cuda" and (refusal := native.device_reason(first.device)):
            return refusal
        return self.why_not(*args) if self.why_not else None

    def accepts(self, device: str) -> bool:
        return device == self.device or (self.name == "triton" and device == "cpu" and _interpreting())


def cpu(why_not: WhyNot | None = None) -> Backend:
    """Vectorised C++: csrc/ops/<op>/<op>.cpp."""
    return Backend("cpu", "cpu", lambda name: native.kernel("cpu", name), why_not)


def cuda(why_not: WhyNot | None = None) -> Backend:
    """CUDA C++: csrc/ops/<op>/<op>.cu."""
    return Backend("cuda", "cuda", lambda name: native.kernel("cuda", name), why_not)


def triton(why_not: WhyNot | None = None) -> Backend:
    """Triton: kernels/<op>.py."""
    return Backend("triton", "cuda", _triton_kernel, why_not)


def _triton_kernel(name: str) -> Callable[..., None]:
    try:
        version = str(importlib.import_module("triton").__version__)
    except ImportError as error:
        raise native.Unavailable(f"triton cannot be imported ({error}); {install_command('triton')}") from None
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:  # 3.4 and 3.5 do not compile every kernel
        wanted = ".".join(map(str, OLDEST_TRITON))
        raise native.Unavailable(f"triton: got {version}, want {wanted} or later; {install_command('triton')}")
    file = re.sub("(_input|_weight)?_backward$", "", name)  # a gradient lies in its operator's file
    module = importlib.import_module(f"fastiqa.kernels.{file}")
    return getattr(module, name)  # type: ignore[no-any-return]


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


_kernels: dict[tuple[str, str], Callable[..., None] | str] = {}


def _kernel(backend: Backend, name: str) -> Callable[..., None] | str:
    """The kernel, or the reason why there is none. Looks once and remembers."""
    key = (backend.name, name)
    if key not in _kernels:
        try:
            _kernels[key] = backend.load(name)
        except native.Unavailable as error:
            _kernels[key] = str(error)
    return _kernels[key]


def _from_environment() -> str | None:
    name = os.environ.get("FASTIQA_BACKEND") or None
    if name is not None and name not in NAMES:
        raise ValueError(f"FASTIQA_BACKEND: got {name!r}, want one of {', '.join(NAMES)}")
    return name


# Process-wide, not per thread: PyTorch runs the backward pass of CUDA tensors on other threads.
_only: str | None = _from_environment()
_blocks: list[_Block] = []  # open blocks of `use`, in order of entry; the last one's backend is `_only`
_blocks_lock = threading.Lock()
_strict: bool = os.environ.get("FASTIQA_STRICT", "0") == "1"


@dataclass(eq=False)
class _Block:
    """One block of `use`. Closing it leaves the blocks alone that other threads have opened since."""

    backend: str
    outside: str | None  # the backend when no block is open


@contextlib.contextmanager
def use(backend: str) -> Iterator[None]:
    """Run every operator in the block through this backend alone, backward passes included.

    Args:
        backend: "cpu", "cuda", "triton" or "torch".

    Raises:
        ValueError: unknown backend.
        BackendError: a RuntimeError, from an operator that the backend refuses; the message gives every reason.

    The choice holds for the whole process, not for one thread, since PyTorch may run a backward pass on other threads.
    Blocks may be open in several threads and end in any order. The block entered last decides for all threads until it
    ends; then the last block still open decides, and after the last one whatever held before the first. So the end of
    a block undoes it, but while another thread's later block is open, a thread runs through that block's backend: let
    threads agree on one backend, or choose before they start. Example::

        with fastiqa.use("torch"):
            loss = model(ref, a, b).sum()
    """
    global _only
    if backend not in NAMES:
        raise ValueError(f"backend: got {backend!r}, want one of {', '.join(NAMES)}")
    with _blocks_lock:
        block = _Block(backend, _blocks[0].outside if _blocks else _only)
        _blocks.append(block)
        _only = backend
    try:
        yield
    finally:
        with _blocks_lock:
            _blocks.remove(block)
            _only = _blocks[-1].backend if _blocks else block.outside


def choose(op: Operator, args: Sequence[Any]) -> Callable[..., None] | None:
    """Return the kernel to call, or None for PyTorch's composite reference."""
    only = _only  # read once: another thread may change it
    if only == "torch":
        return None
    device = args[0].device.type
    fallbacks: list[tuple[str, str]] = []
    for backend in op.backends:
        if (backend.device == device) if only is None else (backend.name == only):
            reason = backend.reason(op, args)
            if reason is None:
                return _kernels[backend.name, op.name]  # type: ignore[return-value]
            fallbacks.append((backend.name, reason))
    if only is not None:
        raise BackendError(f"{op.name}: backend {only!r} was asked for and cannot run.\n{decision_table(op, args)}")
    if fallbacks:
        _report_fallback(op, args, fallbacks)
    return None


def _report_fallback(op: Operator, args: Sequence[Any], fallbacks: list[tuple[str, str]]) -> None:
    if _strict:
        raise BackendError(
            f"{op.name}: fell back to torch and FASTIQA_STRICT=1 forbids it.\n{decision_table(op, args)}"
        )
    for name, reason in fallbacks:
        if (op.name, reason) not in _logged:
            _logged.add((op.name, reason))
            _log.warning("%s runs through torch, which is slower, because %s: %s", op.name, name, reason)


def decisions(op: Operator, args: Sequence[Any]) -> list[tuple[str, str]]:
    """(backend, "runs" | "could run" | why not) for each backend, in the order of preference; torch comes last."""
    rows: list[tuple[str, str]] = []
    only, taken = _only, False
    for backend in op.backends:
        reason = backend.reason(op, args)
        eligible = backend.name == only if only is not None else backend.device == args[0].device.type
        if reason is None and eligible and not taken:
            taken = True
            rows.append((backend.name, "runs"))
        else:
            rows.append((backend.name, reason or "could run"))
    rows.append(("torch", "could run" if taken or only not in (None, "torch") else "runs"))
    return rows


def decision_table(op: Operator, args: Sequence[Any]) -> str:
    rows = decisions(op, args)
    return "\n".join(f"  {name:<7} {verdict}" for name, verdict in rows)
