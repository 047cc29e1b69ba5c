"""Whole networks in inference: `fastiqa.optimize_for_inference` beside the network of `fastiqa.reference`.

Arguments are the images. Weights are initial ones, but norms have the statistics of noise and the last layer is larger,
so that maps are of order 1 and results depend on the images. A network's time is that of its convolutions; GB/s say
little. A new network is an entry of `NETWORKS`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, Linear
from torch.nn.functional import interpolate

from fastiqa import ops, reference
from fastiqa.models.inference import optimize_for_inference
from fastiqa.runtime.dispatch import Backend
from fastiqa.runtime.layout import Output

from .blocks import Names, Size


class Image(ops.Map):
    """RGB in [0, 1]: noise on patches of one colour."""

    def drawn(self, x: Tensor) -> Tensor:
        return (x + interpolate(2 * x[..., ::32, ::32], size=x.shape[2:])).sigmoid()


@dataclass(frozen=True)
class Network:
    """A network from images to one number for each item of a batch.

    Args:
        name, label: columns op and arguments of its rows.
        kind: the network's class.
        method: the method that is called.
        signature: names of the images and of the result.
        op: one of its operators, whose backends are measured.
        sizes: N, 3, H, W of the images.
        tolerance: the largest difference of a result from float64's, by dtype.
    """

    name: str
    label: str
    kind: type[reference.PRFNet | reference.MFENet]
    method: str
    signature: Names
    op: ops.Op
    sizes: tuple[Size, ...]
    tolerance: dict[str, float]
    made: dict[tuple[str, torch.dtype], Any] = field(default_factory=dict, init=False)
    tiny: Size = field(default=(1, 3, 64, 64), init=False)
    modes: tuple[str, ...] = field(default=("fwd",), init=False)
    exact: bool = field(default=False, init=False)
    statistics: tuple[str, ...] = field(default=(), init=False)
    saves: tuple[str, ...] = field(default=(), init=False)

    def samples(self, n: int, c: int, h: int, w: int) -> Iterator[tuple[ops.Map, ...]]:
        if c != 3:
            raise ValueError(f"--size: got {n}x{c}x{h}x{w}, want images of three channels for {self.name}")
        yield (Image((n, c, h, w)),) * len(self.signature.names)

    @property
    def backends(self) -> tuple[Backend, ...]:
        return self.op.backends

    def reference(self, *images: Tensor) -> Tensor:
        return self._answer("plain", images)

    def __call__(self, *images: Tensor) -> Tensor:
        return self._answer("fast", images)

    def _answer(self, which: str, images: tuple[Tensor, ...]) -> Tensor:
        answer: Tensor = getattr(self._made(which, images[0]), self.method)(*images)
        return answer

    def _made(self, which: str, image: Tensor) -> Any:
        key = (which, image.dtype)
        if key not in self.made:  # before torch.compile, whose first calls come after eager's
            with torch.random.fork_rng():
                torch.manual_seed(0)
                plain = with_statistics(self.kind(), len(self.signature.names))
            fast = which == "fast"
            made = optimize_for_inference(plain, image.dtype) if fast else copy.deepcopy(plain).to(image.dtype)
            self.made[key] = made.to(image.device)
        return self.made[key]

    def layout(self, *images: Tensor) -> tuple[Output]:
        return (Output((images[0].shape[0],), torch.float32, images[0].device),)

    def bytes(self, *images: Tensor) -> int:
        """Bytes of the images."""
        return sum(image.nbytes for image in images)


@torch.no_grad()
def with_statistics(network: Any, images: int) -> Any:
    """Set eval mode, norms with the statistics of noise, for maps of order 1, and larger weights in the last layer."""
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = 1.0
    network.train()(*torch.rand(images, 2, 3, 128, 128))
    *_, last = (module for module in network.modules() if isinstance(module, Linear))
    last.weight *= 16
    return network.eval()


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "prfnet",
            "",
            reference.PRFNet,
            "probability",
            Names(("ref", "a", "b"), ("probability",)),
            ops.OPERATORS["difference_response"],
            ((1, 3, 448, 448),),
            {"float32": 1e-4, "bfloat16": 5e-3},
        ),
        Network(
            "mfenet",
            "",
            reference.MFENet,
            "forward",
            Names(("image",), ("quality",)),
            ops.OPERATORS["large_kernel_conv"],
            ((1, 3, 224, 224), (8, 3, 224, 224)),
            {"float32": 1e-4, "bfloat16": 5e-2},
        ),
    )
}
