"""Blocks that write onto their shortcut, and the hooks that may still want what is there."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from fastiqa.reference.plain_layers import has_hooks
from fastiqa.reference.residual_network import ResidualNetwork


class OverwritesItsShortcut(nn.Module):
    """Comes before the class of a bottleneck whose result takes the memory of its shortcut.

    Hooks keep what they see: where one has seen the shortcut, the block gets a copy. That may be a hook of the block
    itself, of its first convolution and its shortcut's, or of the block before it, whose result it is.

    Attributes:
        before: the block before this one in its stage, in a tuple, so that it is no part of this one.
    """

    before: tuple[nn.Module, ...] = ()
    conv1: Any
    downsample: Any

    def _own(self, shortcut: Tensor) -> Tensor:
        """The shortcut, or a copy where a hook may have kept it."""
        witnesses = [self, self.conv1, *self.before]
        if self.downsample is not None:
            witnesses += self.downsample.modules()
        return shortcut.clone() if any(map(has_hooks, witnesses)) else shortcut


def introduce_neighbours(network: nn.Module) -> None:
    """Tells each block of a residual network's stages which one comes before it."""
    for module in network.modules():
        for stage in module.stages if isinstance(module, ResidualNetwork) else ():
            blocks = list(stage)
            for before, block in itertools.pairwise(blocks):
                if isinstance(block, OverwritesItsShortcut):
                    block.before = (before,)


def overwriting(network: nn.Module) -> list[str]:
    """Names of the blocks whose argument is overwritten where no hook has seen it."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, OverwritesItsShortcut) and module.downsample is None
    ]
