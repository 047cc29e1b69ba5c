"""Generated images, for tests of an installation and of the trainer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastiqa.reference import arguments
from fastiqa.training.datasets.kinds import Items


class Generated(Items):
    """Smooth colour patterns, of which a subclass makes items with noise.

    Args:
        items: number of items.
        height, width: pixels.
        noise: greatest standard deviation of the noise.
        seed: other seeds give other items.
    """

    def __init__(self, items: int = 64, height: int = 64, width: int = 64, noise: float = 0.2, seed: int = 0) -> None:
        for name, value in (("items", items), ("height", height), ("width", width)):
            arguments.integer(name, value)
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise <= 1:
            raise ValueError(f"noise: got {noise!r}, want a number in (0, 1]")
        self._items, self._size, self.noise, self._seed = items, (height, width), noise, seed

    @abstractmethod
    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, ...]:
        """The item of a pattern (3, H, W)."""

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not 0 <= index < self._items:
            raise IndexError(f"index: got {index}, want one of {self._items} items")
        random = torch.Generator().manual_seed(self._seed * self._items + index)
        colours = torch.rand(1, 3, 4, 4, generator=random)
        pattern = interpolate(colours, size=self._size, mode="bilinear", align_corners=False)[0]
        return self.item(pattern, random)


def noisy(pattern: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """The pattern with white noise of that standard deviation, in [0, 1]."""
    return (pattern + amount * torch.randn(pattern.shape, generator=random)).clamp_(0, 1)
