"""Kinds of data sets: functions from options to a data set, whose signatures say what a recipe may set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from fastiqa.training.config.yaml_text import booleans

Items = Dataset[tuple[Tensor, ...]]
Kind = Callable[..., Items]


def blocks_of(dataset: Items) -> Sequence[Sequence[int]]:
    """The indices of a data set's items, those together that it says stay together, in its attribute `blocks`."""
    length: int = len(dataset)  # type: ignore[arg-type]  # Dataset itself has no length
    return getattr(dataset, "blocks", [[index] for index in range(length)])


def build(kinds: Mapping[str, Kind], kind: str, seed: int, options: Mapping[str, Any]) -> Items:
    """A data set, as of `fastiqa.training.tasks.datasets.datasets`."""
    if kind not in kinds:
        raise ValueError(f"kind: got {kind!r}, want one of {', '.join(kinds)}")
    known = inspect.signature(kinds[kind]).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"{name}: unknown option of kind {kind!r}, want one of {', '.join(known)}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options and name != "seed":
            raise ValueError(f"{name}: missing, kind {kind!r} needs it")
    return kinds[kind](**booleans(options, kinds[kind]), **({"seed": seed} if "seed" in known else {}))


def from_files(read: Callable[..., Sequence[Any]], dataset: Kind) -> Kind:
    """A kind that takes the options of a reader and those of a data set, whose first argument is what was read."""
    of_reader = inspect.signature(read).parameters
    of_dataset = dict(list(inspect.signature(dataset).parameters.items())[1:])

    def build_from_files(**options: Any) -> Items:
        reading = {name: value for name, value in options.items() if name in of_reader}
        return dataset(read(**reading), **{name: value for name, value in options.items() if name in of_dataset})

    keywords = {**of_reader, **of_dataset}  # an option of both, as a seed, goes to both
    signature = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in keywords.values()])
    build_from_files.__signature__ = signature  # type: ignore[attr-defined]
    return build_from_files
