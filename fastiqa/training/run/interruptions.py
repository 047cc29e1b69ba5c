"""Ctrl-C and SIGTERM during a run: the update in progress ends, a checkpoint is written, and then the run stops."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SAME = 2.0  # seconds within which a signal counts as the one before: torchrun hands the terminal's Ctrl-C on once more


class Stopped(Exception):
    """A run that a signal ended after its checkpoint was written. The message is one line.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[type[Stopped], tuple[int, str]]:
        return type(self), (self.number, str(self))


class Interruptions:
    """The signal that came last, if any.

    Attributes:
        number: of the signal, 0 while there is none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Keep the signal. A second Ctrl-C raises KeyboardInterrupt at once."""
        again = self.number and time.monotonic() - self._since > SAME
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._since = number, time.monotonic()
            if number == signal.SIGINT:
                print("stopping after this batch with a checkpoint; Ctrl-C again stops at once", file=sys.stderr)


@contextlib.contextmanager
def interruptions() -> Iterator[Interruptions]:
    """Collect SIGINT and SIGTERM instead of ending the process, where this is the main thread.

    A signal that the process was started to ignore stays ignored, such as Ctrl-C by what a shell runs behind it.
    """
    found = Interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield found  # only the main thread may have handlers
        return
    # None: a handler that was not installed by Python, which could not be put back.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, found.note) for number in heard}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
