"""PRFNet for inference: three images in one pass or in three, whichever is faster, and shorter bottlenecks.

A bottleneck of SE-Res2Net ends in one call. Its last norm is folded into the 1×1 convolution z = W y + b. Squeeze and
excitation needs no z: the mean of z is the same convolution of y's mean, and the gate s = σ(fc2(relu(fc1(W mean(y) +
b)))) scales the rows of W,

    out = relu(s · z + shortcut) = relu((s · W) y + s · b + shortcut),

one call of oneDNN, which Inductor makes for convolutions with constant weights. It writes onto the shortcut.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.models.inference.layers import OverwritesItsShortcut, conv_add_relu_, fold_relu6, is_plain, one_call
from fastiqa.models.inference.model import InferenceModel
from fastiqa.models.prfnet import PRFNet
from fastiqa.nn import SERes2Block
from fastiqa.nn.explanation import explain

PASSES = ("measure", "batch", "three")
ROUNDS = 3
MOST_KEYS = 256  # sizes may never come back

T = TypeVar("T")


def clock(device: torch.device) -> float:
    """The time in seconds, read when `device` has finished its work."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class Fastest:
    """Runs the fastest of several ways to a result; which one that is depends on sizes, caches and threads.

    The first call for a key runs every way once unmeasured, then `ROUNDS` times measured, in turns; medians decide.
    Beyond `MOST_KEYS` keys the oldest is forgotten.

    Args:
        clock: the time in seconds on a device.

    Attributes:
        times: the median time of each way in seconds, by key.
    """

    def __init__(self, clock: Callable[[torch.device], float] = clock) -> None:
        self.clock = clock
        self.times: dict[Hashable, dict[str, float]] = {}

    def __call__(self, key: Hashable, device: torch.device, ways: Mapping[str, Callable[[], T]]) -> T:
        """The result of the fastest way."""
        times = self.times.get(key)
        if times is None:
            times = self._measured(device, ways)
            # A new dictionary: threads may be reading this one. Of two keys measured at once, one is measured again.
            self.times = dict([*self.times.items(), (key, times)][-MOST_KEYS:])
        return ways[min(times, key=times.__getitem__)]()

    def _measured(self, device: torch.device, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for way in ways.values():
            way()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = self.clock(device)
                way()
                seconds[name].append(self.clock(device) - start)
        return {name: statistics.median(values) for name, values in seconds.items()}


class InferencePRFNet(InferenceModel, PRFNet):
    """A PRFNet made by `fastiqa.optimize_for_inference`: PRFNet's methods and errors, constant weights.

    Images have the given model's dtype or the weights' dtype, and are normalised in their own.

    Attributes:
        passes: "batch", "three" or "measure". Calls that torch.compile, torch.export or torch.func trace cannot be
            measured; they run one batch, whose graph has a third of the size.

    Source: arXiv 2401.06992.
    """

    def __init__(
        self,
        model: reference.PRFNet,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        compile: bool,
        passes: str,
    ) -> None:
        """Takes over the parts of `model`, which is then unusable."""
        nn.Module.__init__(self)  # not PRFNet's, which builds parts of its own
        self.backbone, self.head = model.backbone, model.head
        self.channels, self.strides = model.channels, model.strides
        self.image_mean, self.image_std = model.image_mean, model.image_std
        self.register_buffer("mean", model.mean, persistent=False)
        self.register_buffer("std", model.std, persistent=False)
        self.passes = passes
        self._fastest = Fastest()
        self._settle(dtype, memory_format, "backbone" if compile else None)

    @torch.no_grad()
    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N,), float32, of "b is closer to ref than a"."""
        self._check(ref=ref, a=a, b=b)
        ways = {
            "batch": lambda: self._compare(self._encode(torch.cat([ref, a, b]))),
            "three": lambda: self._compare(self._encode(ref), self._encode(a), self._encode(b)),
        }
        if self.passes != "measure":
            return ways[self.passes]()
        if not arguments.is_eager(ref):
            return ways["batch"]()
        key = (tuple(ref.shape), arguments.parameter_of(self.backbone).dtype, ref.device, torch.get_num_threads())
        return self._fastest(key, ref.device, ways)

    @torch.no_grad()
    def encode(self, image: Tensor) -> list[Tensor]:
        """Image (N, 3, H, W) → the backbone's feature maps, finest first, in the weights' dtype, for `compare`."""
        return super().encode(image)

    @torch.no_grad()
    def compare(
        self, ref_features: Sequence[Tensor], a_features: Sequence[Tensor], b_features: Sequence[Tensor]
    ) -> Tensor:
        """Feature maps from `encode` → logits (N,), float32: `forward` for images encoded once, compared often."""
        return super().compare(ref_features, a_features, b_features)

    def facts(self) -> dict[str, str]:
        """The facts of `InferenceModel`, the head's path, and the measured times of the passes."""
        facts = super().facts() | {"head": explain(self.head), "passes": self.passes}
        key: Any
        for key, times in self._fastest.times.items():
            (n, _, h, w), dtype, device, threads = key
            ways = ", ".join(f"{name} {1e3 * times[name]:.4g} ms" for name in sorted(times, key=times.__getitem__))
            facts["passes"] += f"; {n}x3x{h}x{w} {dtype} on {device}, {threads} threads: {ways}"
        return facts

    def _fold_rest(self) -> None:
        for block in self.backbone.modules():
            if type(block) is SERes2Block:
                make_inference_block(block)
        fold_relu6(self.backbone)
        head: Any = self.head
        if head.why_not() is None:
            head.fold()

    def _check(self, **images: Tensor) -> None:
        first = next(iter(images.values()))
        as_given = isinstance(first, Tensor) and first.dtype == self.mean.dtype
        parameter = self.mean if as_given else arguments.parameter_of(self.backbone)
        arguments.check_images(parameter, self.strides[-1], **images)

    def _encode(self, image: Tensor) -> list[Tensor]:
        # The mean stays out of the first convolution, which pads normalised images with zeros.
        dtype = arguments.parameter_of(self.backbone).dtype
        return list(self.backbone(self._normalised(image).to(dtype, memory_format=self.memory_format)))

    def _compare(self, *features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.head(*features)
        return logits.float()


class InferenceSERes2Block(OverwritesItsShortcut, SERes2Block):
    """A bottleneck with folded norms. On CPUs it overwrites its shortcut, which may be its own argument.

    Within a stage only hooks read that besides, and for them it is copied, see `OverwritesItsShortcut`. The first block
    of a stage has a convolution in the shortcut.
    """

    def _tail(self, y: Tensor, shortcut: Tensor) -> Tensor:
        conv = self.conv3
        if not one_call(y, conv.weight, y, shortcut):
            return super()._tail(y, shortcut)
        shortcut = self._own(shortcut)
        scales = torch.sigmoid(self.se.logits(conv(y.mean((2, 3), keepdim=True))))
        for i, scale in enumerate(scales):
            part = slice(i, i + 1)
            conv_add_relu_(shortcut[part], y[part], conv.weight * scale[:, None], conv.bias * scale.flatten())
        return shortcut


def make_inference_block(block: Any) -> None:
    """Turn a bottleneck, in place, into an `InferenceSERes2Block` if its last norm is folded and its end is plain."""
    if type(block.bn3) is nn.Identity and is_plain(block.conv3, block.bn3, block.se):
        block.__class__ = InferenceSERes2Block
