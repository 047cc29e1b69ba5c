"""What a file may ask for: how deep its values are nested, how many there are, and how large a network they describe.

A file of a few bytes can name a network of terabytes, or nest lists until the interpreter's stack ends. All is counted
while it is read or built, and ends in a `ValueError` of one line before memory is spent.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

MOST_CHARACTERS = 1 << 20  # of a recipe or of JSON in metadata: ours have 2,000
MOST_VALUES = 100_000
DEEPEST = 16
MOST_BITS = 64


def read_json(text: str) -> Any:
    """The values of a JSON text.

    Raises: ValueError for one that is not JSON or beyond the limits; the message follows the name of what was read.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, want at most {MOST_CHARACTERS:,}")
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(f"is nested more than {DEEPEST} deep") from None
    except ValueError as error:  # also of Python's limit on digits
        raise ValueError(f"is not JSON: {error}") from None
    check_values(values)
    return values


def check_values(values: object) -> None:
    """ValueError unless mappings, lists and numbers from a file, aliases followed, are within the limits.

    Keys that cannot be printed on one line are refused, as messages name them. The message follows the name of what was
    read.
    """
    found, waiting = 0, [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ValueError(f"has an integer of {value.bit_length():,} bits, want at most {MOST_BITS}")
        inner: list[Any] = []
        if isinstance(value, Mapping):
            if any(isinstance(key, str) and not key.isprintable() for key in value):
                raise ValueError("has a key that is not printable")
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            inner = list(value)
        if inner and depth == DEEPEST:
            raise ValueError(f"is nested more than {DEEPEST} deep, or within itself")
        found += len(inner)
        if found > MOST_VALUES:
            raise ValueError(f"has more than {MOST_VALUES:,} values")
        waiting += [(item, depth + 1) for item in inner]


@contextlib.contextmanager
def limited(tensors: int, numbers: int) -> Iterator[None]:
    """Within the block this thread makes modules of at most so many parameters, and of so many numbers in all.

    A parameter is counted before it is initialised, when its memory has been reserved and not yet been touched.

    Raises: ValueError for what is beyond, and where even the reservation fails.
    """
    thread, counted = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, parameter: Tensor) -> None:
        if threading.get_ident() == thread and parameter is not None:
            counted[0] += 1
            counted[1] += parameter.numel()
            for found, most, what in zip(counted, (tensors, numbers), ("tensors", "numbers"), strict=True):
                if found > most:
                    raise ValueError(f"options ask for weights of more than {most:,} {what}")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"options cannot be met: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    finally:
        hook.remove()
