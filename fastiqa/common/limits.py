"""Limits on the contents of a file: depth and number of its values, and size of the network that they describe.

A file of a few bytes can name a network of terabytes, or nest lists until the interpreter's stack ends. Counting while
reading and building ends in a `ValueError` of one line before memory is spent.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

MOST_CHARACTERS = 1 << 20  # of a recipe, or of JSON in metadata; ours have 2,000
MOST_VALUES = 100_000
DEEPEST = 16
MOST_BITS = 64


def read_json(text: str) -> Any:
    """Parse a JSON text.

    Raises: ValueError for a text that is not JSON or beyond the limits; the caller puts its name before the message.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, want at most {MOST_CHARACTERS:,}")
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(f"is nested more than {DEEPEST} deep") from None
    except ValueError as error:  # Python's limit on digits raises it too
        raise ValueError(f"is not JSON: {error}") from None
    check_values(values)
    return values


def check_values(values: object) -> None:
    """Raise ValueError unless mappings, lists and numbers from a file are within the limits; aliases are followed.

    Keys that do not print on one line are refused, since messages name them. The caller puts its name before the
    message.
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
    """Limit the modules that this thread makes in the block to so many parameters, and so many numbers in all.

    A parameter counts before it is initialised, when its memory is reserved but not yet touched.

    Raises: ValueError beyond the limits, and if even the reservation fails.
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
