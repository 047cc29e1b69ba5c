"""PRFNet in plain PyTorch, close to the paper: oracle of the tests, baseline of the benchmarks.

    F_x^i = map i of the backbone, SE-Res2Net-50, on x ∈ {ref, a, b}          shared weights, i = 1 … 4
    D^i   = cat([conv_i(F_ref^i − F_a^i), conv_i(F_ref^i − F_b^i)], 1)
    G⁴    = D⁴,   G^{i−1} = up(σ(mean_c(gate_i(G^i)))) · D^{i−1}
    logit = W₂ dropout(relu(W₁ mean_hw(G¹) + b₁)) + b₂           σ(logit): probability that b is closer to ref

Source: arXiv 2401.06992. The constructor has options for what the paper leaves open: width and kernel of the
convolutions, upsampling mode, size of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.backbone import facts_of
from fastiqa.reference.efficientnet_lite import EfficientNetLite
from fastiqa.reference.normalisation import NormalisedImages
from fastiqa.reference.prf_head import PRFHead
from fastiqa.reference.se_res2net import SERes2Net

# The default backbone's sizes, which no other has.
DEFAULT_SIZES: dict[str, Any] = {
    "layers": (3, 4, 6, 3),
    "width": 64,
    "base_width": 26,
    "scale": 4,
    "se_reduction": 16,
    "first_stage_stride": 2,
}


class PRFNet(NormalisedImages):
    """Which of two distorted images is closer to the reference?

    Images are RGB, (N, 3, H, W), floating point in [0, 1], in either memory format. The network normalises them by
    the mean and standard deviation that its backbone was trained with, ImageNet's by default. H and W are at least the
    largest stride of the backbone, 8 · `first_stage_stride` pixels by default. Results are float32 (N,) in any compute
    dtype.

    Args:
        layers, width, base_width, scale, se_reduction: of the backbone "se_res2net50" alone, see `SERes2Net`.
        first_stage_stride: pixels per element of a named backbone's finest map, 2 or 4. 2 is the paper's "minimum
            downsampled ratio".
        cross_channels: output channels of the cross convolutions: one number, one for each map, or None: a quarter of
            each map.
        cross_kernel: odd size of the cross convolutions.
        cross_norm: batch normalisation and ReLU after the cross convolutions.
        gate_kernel: odd size of the gates' convolutions, used by fusion "prf".
        upsample: "bilinear" or "nearest" enlargement of the gates, used by fusion "prf".
        fusion: "prf", or "fpn" or "bifpn" of the paper's ablation.
        hidden: width of the MLP.
        dropout: probability of dropping a hidden unit in training mode.
        symmetric: (f(ref, a, b) − f(ref, b, a)) / 2 instead of the logit f(ref, a, b), from one pass of the backbone:
            exchanged candidates give exactly the negative logit, equal ones exactly probability 0.5. Weights and keys
            are the same. See `PRFHead`.
        backbone: "se_res2net50", the paper's; "efficientnet_lite0", see `EfficientNetLite`, 1/13 of the parameters; or
            a module of your own, see `FeatureExtractor`, such as one of timm made with ``features_only=True``. A
            network with such a module has no name to be rebuilt by: `save_model` refuses it. Save its state dict, and
            load that into a `PRFNet` made the same way.

    Attributes:
        options: the constructor's arguments, ready for JSON; `symmetric` and `backbone` only where they are not the
            default.
        channels, strides: of the backbone's maps, finest first.

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
    backbone_blocks: ClassVar[Mapping[str, type[nn.Module]]] = {
        "se_res2net50": SERes2Net,
        "efficientnet_lite0": EfficientNetLite,
    }
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
        symmetric: bool = False,
        backbone: str | nn.Module = "se_res2net50",
    ) -> None:
        super().__init__()
        sizes = {
            "layers": layers,
            "width": width,
            "base_width": base_width,
            "scale": scale,
            "se_reduction": se_reduction,
        }
        self.backbone: Any = self._built(backbone, sizes, first_stage_stride)
        self.channels, self.strides, self.image_mean, self.image_std = facts_of(self.backbone)
        self.head = self.head_block(
            self.channels,
            cross_channels,
            cross_kernel,
            gate_kernel,
            upsample,
            hidden,
            dropout,
            cross_norm,
            fusion,
            symmetric,
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
        # Absent by default: files of networks without them stay as they were.
        if symmetric:
            self.options["symmetric"] = True
        if isinstance(backbone, nn.Module):
            self.why_not_saved = (
                "whose backbone is a module of your own, which no name rebuilds; want its state_dict saved, to be "
                "loaded into a PRFNet made with the same backbone"
            )
        elif backbone != "se_res2net50":
            self.options["backbone"] = backbone

    @classmethod
    def _built(cls, backbone: str | nn.Module, sizes: dict[str, Any], first_stage_stride: int) -> nn.Module:
        """The backbone of a name, or the given module. Raises ValueError for options that it does not have."""
        if backbone == "se_res2net50":
            return cls.backbone_blocks[backbone](**sizes, first_stage_stride=first_stage_stride)
        if isinstance(backbone, str):
            arguments.one_of("backbone", backbone, tuple(cls.backbone_blocks))
        else:
            sizes = {**sizes, "first_stage_stride": first_stage_stride}
        for name, value in sizes.items():
            default = DEFAULT_SIZES[name]
            if (list(value) != list(default)) if isinstance(default, tuple) else value != default:
                raise ValueError(f"{name}: got {value!r}, want {default!r}: the backbone is not se_res2net50")
        if isinstance(backbone, str):
            return cls.backbone_blocks[backbone](first_stage_stride=first_stage_stride)
        return backbone

    @property
    def symmetric(self) -> bool:
        """Whether exchanged candidates give exactly the negative logit."""
        return self.head.symmetric

    def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N,), float32, of "b is closer to ref than a"."""
        self._check(ref=ref, a=a, b=b)
        return self._compare(self._encode(ref), self._encode(a), self._encode(b))

    def probability(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, 3, H, W) → probability (N,), float32, that b is closer to ref than a."""
        return torch.sigmoid(self(ref, a, b))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image (N, 3, H, W) → the backbone's feature maps, finest first, in the compute dtype, for `compare`."""
        self._check(image=image)
        return self._encode(image)

    def compare(
        self, ref_features: Sequence[Tensor], a_features: Sequence[Tensor], b_features: Sequence[Tensor]
    ) -> Tensor:
        """Feature maps of `encode` → logits (N,), float32: encode an image once, compare it often."""
        arguments.check_pyramids(
            arguments.parameter_of(self.backbone),
            self.channels,
            ref_features=ref_features,
            a_features=a_features,
            b_features=b_features,
        )
        return self._compare(ref_features, a_features, b_features)

    def _check(self, **images: Tensor) -> None:
        arguments.check_images(arguments.parameter_of(self.backbone), self.strides[-1], **images)

    def _encode(self, image: Tensor) -> list[Tensor]:
        return list(self.backbone(self._normalised(image)))

    def _compare(self, ref: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.head(ref, a, b)
        return logits.float()
