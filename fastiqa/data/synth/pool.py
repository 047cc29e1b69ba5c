"""outcomes: the work on photographs, spread over processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from fastiqa.data.synth.photo import Outcome, Task, work


def outcomes(tasks: Sequence[Task], workers: int) -> Generator[Outcome, None, None]:
    """The outcome of every task, in the order in which they finish.

    Raises: what :func:`work` raises; ``BrokenProcessPool`` where a process was killed. When the iterator is closed
        early, tasks that have begun are finished, the others dropped.
    """
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: sums of other parts round otherwise
        try:
            yield from map(work, tasks)
        finally:
            torch.set_num_threads(threads)
        return
    # spawned: a fork of a process that has run PyTorch's threads may deadlock
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_begin)
    try:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """One thread a process; die with the parent, however it ended, and on Ctrl-C without a traceback."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
