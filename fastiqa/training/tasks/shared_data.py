"""Generated images, for tests of an installation and of the trainer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.training.tasks.datasets.kinds import Items

MOST_ITEMS, MOST_PIXELS = 10_000_000, 1 << 26


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
        if items > MOST_ITEMS:
            raise ValueError(f"items: got {items}, want at most {MOST_ITEMS:,}")
        if height * width > MOST_PIXELS:
            raise ValueError(f"height, width: got {height} and {width}, want at most {MOST_PIXELS:,} pixels")
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
        colours = torch.rand(3, 4, 4, generator=random, device="cpu")
        pattern = _stretched(_stretched(colours, 1, self._size[0]), 2, self._size[1])
        return self.item(pattern, random)


def _stretched(x: Tensor, dim: int, size: int) -> Tensor:
    """Linear interpolation along one side to `size` pixels, as PyTorch's interpolate, and the same to the last bit with
    any number of threads: interpolate's last bits depend on where its loops are cut, seen on an Intel Xeon."""
    n = x.shape[dim]
    at = ((torch.arange(size, device="cpu") + 0.5) * (n / size) - 0.5).clamp(0, n - 1)
    low = at.floor().to(torch.int64)
    share = (at - low).view(*(-1 if k == dim else 1 for k in range(x.dim())))
    first, second = (x.index_select(dim, k) for k in (low, (low + 1).clamp_max(n - 1)))
    return first * (1 - share) + second * share


def noisy(pattern: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """The pattern with white noise of that standard deviation, in [0, 1]."""
    return (pattern + amount * torch.randn(pattern.shape, generator=random, device="cpu")).clamp_(0, 1)
