"""PRFNet for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.models.inference.fastest import Fastest
from fastiqa.models.inference.model import InferenceModel
from fastiqa.models.inference.se_res2net import make_inference_block
from fastiqa.models.prfnet import PRFNet
from fastiqa.nn import SERes2Block
from fastiqa.nn.explanation import explain

PASSES = ("measure", "batch", "three")


class InferencePRFNet(InferenceModel, PRFNet):
    """A PRFNet that `fastiqa.optimize_for_inference` made: the methods and errors of PRFNet, constant weights.

    Images have the dtype of the model that was given or that of the weights, and are normalised in their own.

    Attributes:
        passes: "batch", "three" or "measure". Calls that torch.compile, torch.export or torch.func trace cannot be
            measured: they run one batch, whose graph is a third.

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
        """Takes the parts of `model`, which is lost."""
        nn.Module.__init__(self)  # not PRFNet's, which builds parts of its own
        self.backbone, self.head = model.backbone, model.head
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
        """Image (N, 3, H, W) → four feature maps, finest first, in the dtype of the weights: what `compare` takes."""
        return super().encode(image)

    @torch.no_grad()
    def compare(
        self, ref_features: Sequence[Tensor], a_features: Sequence[Tensor], b_features: Sequence[Tensor]
    ) -> Tensor:
        """Feature maps of `encode` → logits (N,), float32: `forward` for images encoded once and compared often."""
        return super().compare(ref_features, a_features, b_features)

    def facts(self) -> dict[str, str]:
        """What was done, by title; of the passes, what was measured."""
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
        head: Any = self.head
        if head.why_not() is None:
            head.fold()

    def _check(self, **images: Tensor) -> None:
        first = next(iter(images.values()))
        as_given = isinstance(first, Tensor) and first.dtype == self.mean.dtype
        parameter = self.mean if as_given else arguments.parameter_of(self.backbone)
        arguments.check_images(parameter, self.backbone.strides[-1], **images)

    def _encode(self, image: Tensor) -> list[Tensor]:
        # The mean stays out of the first convolution, which pads normalised images with zeros.
        dtype = arguments.parameter_of(self.backbone).dtype
        features: list[Tensor] = self.backbone(self._normalised(image).to(dtype, memory_format=self.memory_format))
        return features

    def _compare(self, *features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.head(*features)
        return logits.float()
