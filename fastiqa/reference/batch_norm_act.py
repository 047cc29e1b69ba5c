"""Batch normalisation and the activation after it.

    y = act((x − mean) / √(var + eps) · weight + bias)      act: leaky ReLU; slope 0, the default, is ReLU, slope 1 none

`torch.nn.SyncBatchNorm.convert_sync_batchnorm` replaces every batch normalisation by one without an activation. Blocks
of this package are `NormHolder`s, which give the new norm the activation of the old one; elsewhere the conversion
raises an error.

Source: Ioffe and Szegedy, arXiv 1502.03167; parameters and buffers are named as in `torch.nn.BatchNorm2d`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu

from fastiqa.common import arguments
from fastiqa.common.tracing import Leaf


class BatchNormAct2d(Leaf, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` and leaky ReLU. Training uses the statistics of the batch, eval mode the running ones.

    Args:
        num_features: C, channels of the feature maps.
        negative_slope: of the activation: 0 is ReLU, 1 none.
        eps: added to the variance.
        momentum: share of the newest batch in the running statistics; None averages all batches.

    Inside this package's blocks `torch.nn.SyncBatchNorm.convert_sync_batchnorm` turns it into a `SyncBatchNormAct2d`.

    Raises: ValueError or TypeError naming the argument. RuntimeError if a norm with an activation is converted outside
        these blocks.
    """

    is_held = False  # set by a NormHolder
    scripted: ClassVar[type[nn.Module]]  # see fastiqa.common.tracing.Scriptable
    __jit_unused_properties__: ClassVar[list[str]] = ["qconfig"]

    def __init__(
        self, num_features: int, negative_slope: float = 0.0, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__(arguments.integer("num_features", num_features), eps, momentum)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return _activated(super().forward(x), self.negative_slope)

    @property
    def qconfig(self) -> Any:
        """The configuration of eager quantisation, if set."""
        if "_qconfig" in self.__dict__:
            return self._qconfig
        # The conversion asks each norm for it, which is the only sign to a norm that it is about to be replaced.
        if not self.is_held and self.negative_slope != 1:
            wanted = "it inside a block of fastiqa, or negative_slope=1 and the activation in a module of its own"
            raise RuntimeError(
                f"convert_sync_batchnorm: got a BatchNormAct2d, whose activation would be lost, want {wanted}"
            )
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        self._qconfig = value

    @qconfig.deleter
    def qconfig(self) -> None:
        del self._qconfig


class SyncBatchNormAct2d(Leaf, nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` and leaky ReLU: a converted `BatchNormAct2d` inside a `NormHolder`."""

    negative_slope: float

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return _activated(super().forward(x), self.negative_slope)


class ScriptedBatchNormAct2d(BatchNormAct2d):
    """`BatchNormAct2d` for TorchScript, which has no `super`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        share = 0.0 if self.momentum is None else self.momentum
        updates = self.training and self.track_running_stats
        if updates and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        kept = updates or not self.training
        mean, variance = self.running_mean if kept else None, self.running_var if kept else None
        batch = self.training or (self.running_mean is None and self.running_var is None)
        normalised = batch_norm(x, mean, variance, self.weight, self.bias, batch, share, self.eps)
        return _activated(normalised, self.negative_slope)


BatchNormAct2d.scripted = ScriptedBatchNormAct2d


class NormHolder(nn.Module):
    """Base of blocks whose norms keep their activation in a conversion to `torch.nn.SyncBatchNorm`."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._held(name, value))

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(name, self._held(name, module))

    def _held(self, name: str, value: Any) -> Any:
        if isinstance(value, BatchNormAct2d):
            value.is_held = True
        elif type(value) is nn.SyncBatchNorm and isinstance(before := self._modules.get(name), BatchNormAct2d):
            value.__class__, value.__dict__["negative_slope"] = SyncBatchNormAct2d, before.negative_slope
        return value


class NormSequential(NormHolder, nn.Sequential):
    """A sequence with norms."""


class NormList(NormHolder, nn.ModuleList):
    """A list of norms."""


def _activated(normalised: Tensor, negative_slope: float) -> Tensor:
    """Leaky ReLU in place."""
    if negative_slope == 1:
        return normalised
    if negative_slope == 0:
        return torch.relu_(normalised)
    return leaky_relu(normalised, negative_slope, inplace=True)
