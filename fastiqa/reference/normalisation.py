"""Normalisation of a network's images by a mean and a standard deviation, ImageNet's unless the network says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NormalisedImages(nn.Module):
    """Base of networks that normalise images (N, 3, H, W) by the statistics of the images that they were trained with.

    Both are buffers, so they move with the network, but not part of the state dict, which holds trained values only. So
    no file restores them in new memory: they survive `to_empty`, and appear when a network built on the meta device
    gets its memory.

    Attributes:
        image_mean, image_std: three numbers each, of images in [0, 1].
        mean, std: the same as buffers, (3, 1, 1).
    """

    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD

    mean: Tensor
    std: Tensor

    def _make_statistics(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        for name, values in (("mean", self.image_mean), ("std", self.image_std)):
            constant = torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = self.mean, self.std
        result = super()._apply(fn, recurse)
        if before[0].is_meta and not self.mean.is_meta:
            self._make_statistics(self.mean.device, self.mean.dtype)
        elif not self.mean.is_meta:
            with torch.no_grad():  # the result of `fn` has this dtype and device, but maybe other values
                self.mean.copy_(before[0])
                self.std.copy_(before[1])
        return result

    def _normalised(self, image: Tensor) -> Tensor:
        if (
            self.mean.is_meta and not image.is_meta
        ):  # load_state_dict(assign=True) gives memory only to the tensors it loads
            self._make_statistics(image.device, self.mean.dtype)
        return (image - self.mean) / self.std
