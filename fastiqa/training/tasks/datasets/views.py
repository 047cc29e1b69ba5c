"""Two views of one photograph, for contrastive pre-training: (views, class), (2, 3, H, W) and int64."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiqa.data.distortions.contrastive import ContrastiveDataset
from fastiqa.training.tasks.datasets.kinds import Kind, from_files
from fastiqa.training.tasks.datasets.photographs import read_photographs
from fastiqa.training.tasks.shared_data import Generated, noisy

LEVELS = 4


class RandomViews(Generated):
    """Generated views: the pattern and its mirror image, with noise of one of four amounts, which is the class.

    Example:
        >>> views, number = RandomViews(items=4, height=48, width=32)[0]
        >>> views.shape, int(number) in range(4)
        (torch.Size([2, 3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        number = torch.randint(LEVELS, (), generator=random, device="cpu")
        both = torch.stack((pattern, pattern.flip(-1)))
        return noisy(both, self.noise * float(number) / (LEVELS - 1), random), number


KINDS: dict[str, Kind] = {
    "random": RandomViews,
    "distorted": from_files(read_photographs, ContrastiveDataset),
}
