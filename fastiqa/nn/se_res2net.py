"""SE-Res2Net with fused normalisation, activation and bottleneck tails, and with less memory in training."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

from fastiqa import reference
from fastiqa.nn import recomputation
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.squeeze_excitation import SqueezeExcitation
from fastiqa.reference import arguments

MEMORY = ("off", "lean", "least")


class SERes2Block(reference.SERes2Block):
    """Equivalent to `fastiqa.reference.SERes2Block`, with a choice of what is kept for the backward pass.

    Attributes:
        memory: see `SERes2Net.set_memory`.
    """

    se_block: ClassVar[type[reference.SqueezeExcitation]] = SqueezeExcitation
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    memory: str = "off"

    def forward(self, x: Tensor) -> Tensor:
        recomputes = self.memory != "off" and self.training and torch.is_grad_enabled()
        if not recomputes or torch.compiler.is_compiling():  # which decides for itself what it computes again
            return super().forward(x)
        policy = self._keeps if self.memory == "lean" else None
        result: Tensor = checkpoint(
            super().forward,
            x,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=functools.partial(recomputation.contexts, policy),
        )
        return result

    def _keeps(self, ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Results of convolutions narrower than the block's own result; the last and the shortcut's are made again."""
        if op is torch.ops.aten.convolution.default and args[1].shape[0] < self.conv3.out_channels:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE


class SERes2Net(reference.SERes2Net):
    """Equivalent to `fastiqa.reference.SERes2Net`: same constructor, parameters, keys and results.

    Every bottleneck ends in `fastiqa.nn.SqueezeExcitation`: gate, shortcut and ReLU in one pass. Every normalisation,
    with the ReLU after it where there is one, is `fastiqa.nn.BatchNormAct2d`.

    Example:
        >>> import torch
        >>> network = SERes2Net(layers=(1, 1, 1, 1), width=8).eval()
        >>> [tuple(features.shape) for features in network(torch.rand(1, 3, 64, 64))]
        [(1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4)]

    Sources: arXiv 1904.01169 (Res2Net), 1709.01507 (squeeze and excitation).
    """

    block: ClassVar[type[reference.SERes2Block]] = SERes2Block
    norm_block: ClassVar[type[reference.BatchNormAct2d]] = BatchNormAct2d

    def set_memory(self, level: str) -> None:
        """What the bottlenecks keep for the backward pass. Results and gradients differ by rounding.

        Args:
            level: "off" keeps what autograd saves. "lean" keeps a bottleneck's input and the results of its narrow
                convolutions, and computes norms, sums and the last convolution again; "least" keeps the input alone.

        Raises: ValueError for another level.
        """
        arguments.one_of("level", level, MEMORY)
        for module in self.modules():
            if isinstance(module, SERes2Block):
                module.memory = level
