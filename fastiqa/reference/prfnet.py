"""PRFNet in plain PyTorch, close to the paper: oracle of the tests, baseline of the benchmarks.

    F_x^i = stage i of SE-Res2Net-50 on x ∈ {ref, a, b}          shared weights, i = 1 … 4
    D^i   = cat([conv_i(F_ref^i − F_a^i), conv_i(F_ref^i − F_b^i)], 1)
    G⁴    = D⁴,   G^{i−1} = up(σ(mean_c(gate_i(G^i)))) · D^{i−1}
    logit = W₂ dropout(relu(W₁ mean_hw(G¹) + b₁)) + b₂           σ(logit): probability that b is closer to ref

Source: arXiv 2401.06992. The constructor has options for what the paper leaves open: width and kernel of the
convolutions, upsampling mode, size of the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastiqa.common import arguments
from fastiqa.reference.normalisation import ImageNetNormalised
from fastiqa.reference.prf_head import PRFHead
from fastiqa.reference.se_res2net import SERes2Net


class PRFNet(ImageNetNormalised):
    """Which of two distorted images is closer to the reference?

    Images are RGB, (N, 3, H, W), floating point in [0, 1], in either memory format. The network normalises them by
    ImageNet's mean and standard deviation. H and W are at least 8 · `first_stage_stride` pixels. Results are float32
    (N,) in any compute dtype.

    Args:
        layers, width, base_width, scale, se_reduction, first_stage_stride: see `SERes2Net`. `first_stage_stride` 2 is
            the paper's "minimum downsampled ratio", 4 the stock backbone.
        cross_channels: output channels of the cross convolutions: one number, four, or None: a quarter of each stage.
        cross_kernel: odd size of the cross convolutions.
        cross_norm: batch normalisation and ReLU after the cross convolutions.
        gate_kernel: odd size of the gates' convolutions, used by fusion "prf".
        upsample: "bilinear" or "nearest" enlargement of the gates, used by fusion "prf".
        fusion: "prf", or "fpn" or "bifpn" of the paper's ablation.
        hidden: width of the MLP.
        dropout: probability of dropping a hidden unit in training mode.

    Attributes:
        options: the constructor's arguments, ready for JSON.

    Raises: the constructor ValueError; the methods TypeError (wrong type or dtype) or ValueError (wrong shape, size,
        device or value). Messages name the argument, its value and the demand. Values are checked only on CPU tensors
        in eager mode, since reading them on another device would synchronise it.

    Example:
        >>> model = PRFNet(layers=(1, 1, 1, 1), width=8).eval()
        >>> ref, a, b = torch.rand(3, 2, 3, 64, 64)
        >>> model.probability(ref, a, b).shape
        torch.Size([2])

    Source: arXiv 2401.06992.
    """

    model_name: ClassVar[str] = "prfnet"
    backbone_block: ClassVar[type[SERes2Net]] = SERes2Net
    head_block: ClassVar[type[PRFHead]] = PRFHead

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        base_width: int = 26,
        scale: int = 4,
        se_reduction: int = 16,
        first_stage_stride: int = 2,
        cross_channels: int | Sequence[int] | None = None,
        cross_kernel: int = 3,
        cross_norm: bool = False,
        gate_kernel: int = 1,
        upsample: str = "bilinear",
        fusion: str = "prf",
        hidden: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = self.backbone_block(layers, width, base_width, scale, se_reduction, first_stage_stride)
        self.head = self.head_block(
            self.backbone.channels,
            cross_channels,
            cross_kernel,
            gate_kernel,
            upsample,
            hidden,
            dropout,
            cross_norm,
            fusion,
        )
        self._make_statistics()
        self.options: dict[str, Any] = {
            "layers": list(layers),
            "width": width,
            "base_width": base_width,
            "scale": scale,
            "se_reduction": se_reduction,
            "first_stage_stride": first_stage_stride,
            "cross_channels": list(self.head.cross_channels),
            "cross_kernel": cross_kernel,
            "cross_norm": cross_norm,
            "gate_kernel": gate_kernel,
            "upsample": upsample,
            "fusion": fusion,
            "hidden": hidden,
            "dropout": dropout,
        }

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N,), float32, of "b is closer to ref than a"."""
        self._check(ref=ref, a=a, b=b)
        return self._compare(self._encode(ref), self._encode(a), self._encode(b))

    def probability(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) → probability (N,), float32, that b is closer to ref than a."""
        return torch.sigmoid(self(ref, a, b))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image (N, 3, H, W) → four feature maps, finest first, in the compute dtype, for `compare`."""
        self._check(image=image)
        return self._encode(image)

    def compare(
        self, ref_features: Sequence[Tensor], a_features: Sequence[Tensor], b_features: Sequence[Tensor]
    ) -> Tensor:
        """Feature maps of `encode` → logits (N,), float32: encode an image once, compare it often."""
        arguments.check_pyramids(
            arguments.parameter_of(self.backbone),
            self.backbone.channels,
            ref_features=ref_features,
            a_features=a_features,
            b_features=b_features,
        )
        return self._compare(ref_features, a_features, b_features)

    def _check(self, **images: Tensor) -> None:
        arguments.check_images(arguments.parameter_of(self.backbone), self.backbone.strides[-1], **images)

    def _encode(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.backbone(self._normalised(image))
        return features

    def _compare(self, ref: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.head(ref, a, b)
        return logits.float()
