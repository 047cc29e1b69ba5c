"""Blocks of networks, measured like operators: a module of `fastiqa.nn` beside its twin of `fastiqa.reference`.

Arguments are the feature maps, then the parameters, so that modes with a backward pass include every gradient. A new
block is an entry of `BLOCKS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

import fastiqa.nn
from fastiqa import ops, reference
from fastiqa.runtime.dispatch import Backend
from fastiqa.runtime.layout import Output

STAGES = 4
IMAGES = ("ref", "a", "b")

Size = tuple[int, int, int, int]
Make = Callable[[tuple[int, ...]], nn.Module]


class Weight(ops.Map):
    """A parameter, whose values are small enough that a network's maps keep their size."""

    def drawn(self, x: Tensor) -> Tensor:
        return x * (math.prod(self.shape[1:]) ** -0.5 if len(self.shape) > 1 else 0.1)


class Names(NamedTuple):
    """Names of arguments and results, as in an operator's signature."""

    names: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A block from three images' pyramids of feature maps to one number a sample.

    Args:
        name, label: columns op and arguments of its rows.
        plain, fused: make the module from the stages' channels, finest first.
        op: one of its operators, whose backends are measured.
        sizes: of the finest map; every further stage has twice the channels and half the rows and columns.
    """

    name: str
    label: str
    plain: Make
    fused: Make
    op: ops.Op
    sizes: tuple[Size, ...]
    made: dict[tuple[int, ...], tuple[nn.Module, nn.Module]] = field(default_factory=dict, init=False)
    exact: bool = field(default=False, init=False)
    statistics: tuple[str, ...] = field(default=(), init=False)

    def samples(self, n: int, c: int, h: int, w: int) -> Iterator[tuple[ops.Map, ...]]:
        stages = [ops.Map((n, c << i, max(1, h >> i), max(1, w >> i))) for i in range(STAGES)]
        plain, _ = self._modules(tuple(c << i for i in range(STAGES)))
        yield (*stages * len(IMAGES), *(Weight(tuple(p.shape)) for p in plain.parameters()))

    def _modules(self, channels: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
        if channels not in self.made:  # not in `_call`: torch.compile traces no constructor
            self.made[channels] = (self.plain(channels), self.fused(channels))
        return self.made[channels]

    @property
    def saves(self) -> tuple[str, ...]:
        return tuple(f"{image}{i}" for image in IMAGES for i in range(STAGES))

    @property
    def signature(self) -> Names:
        plain, _ = self._modules(tuple(1 << i for i in range(STAGES)))
        return Names((*self.saves, *(name for name, _ in plain.named_parameters())), ("result",))

    @property
    def backends(self) -> tuple[Backend, ...]:
        return self.op.backends

    def reference(self, *args: Any) -> Tensor:
        return self._call(0, args)

    def __call__(self, *args: Any) -> Tensor:
        return self._call(1, args)

    def _call(self, which: int, args: Sequence[Any]) -> Tensor:
        maps, parameters = args[: STAGES * len(IMAGES)], args[STAGES * len(IMAGES) :]
        module = self.made[tuple(x.shape[1] for x in maps[:STAGES])][which]
        names = (name for name, _ in module.named_parameters())
        images = tuple(maps[i : i + STAGES] for i in range(0, len(maps), STAGES))
        return functional_call(module, dict(zip(names, parameters, strict=True)), images)  # type: ignore[no-any-return]

    def layout(self, *args: Any) -> tuple[Output]:
        return (Output((args[0].shape[0],), args[0].dtype, args[0].device),)

    def bytes(self, *args: Any) -> int:
        return sum(x.nbytes for x in args)


def _head(module: type[reference.PRFHead], **options: Any) -> Make:
    return lambda channels: module(channels, dropout=0, **options)


BLOCKS = {
    block.name: block
    for block in (
        # 448x448 pixels, the first stage at stride 4 and 2.
        Block(
            "prf_head",
            "",
            _head(reference.PRFHead),
            _head(fastiqa.nn.PRFHead),
            ops.OPERATORS["difference_response"],
            ((1, 256, 112, 112), (1, 256, 224, 224)),
        ),
    )
}
