"""MFENet in plain PyTorch: oracle of the tests, baseline of the benchmarks.

    q_i = stage_i of VAN on q̃_{i−1},  h_i = HFEN,  d_i = stage_i of ResNet on the image          i = 1 … 4
    q̃_i = AFF(FFM(q_i, P h_i), P' d_i)                                  P, P': 1×1 convolutions to the widths of VAN
    quality = MLP([mean_hw(q̃_1); …; mean_hw(q̃_4)])

VAN is the quality estimation network (QEN); EfficientNet-Lite0 can take its place. HFEN extracts high frequencies.
The ResNet, pre-trained by contrastive learning, is the distortion-aware network (DAN). The next stage of QEN reads the
fused map of a stage.

Source: arXiv 2411.07556 for the branches and their fusion. Its sizes could not be read: they come from sister papers by
the same group, HFCG-CNN (VCIP 2022) and MAMIQA (IEEE SPL 2023), and are options of the constructor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from fastiqa.common import arguments
from fastiqa.reference.attentional_fusion import AttentionalFeatureFusion
from fastiqa.reference.backbone import facts_of
from fastiqa.reference.efficientnet_lite import EfficientNetLite
from fastiqa.reference.feature_fusion import FeatureFusion
from fastiqa.reference.guidance import Addition, Guidance
from fastiqa.reference.high_frequency import STRIDES, HighFrequencyNet
from fastiqa.reference.luminance import luminance_high_pass
from fastiqa.reference.normalisation import NormalisedImages
from fastiqa.reference.resnet import ResNet
from fastiqa.reference.van import SIZES, VAN

FUSIONS = ("attention", "add")


class MFENetOutputs(NamedTuple):
    """The result of `MFENet.outputs` for N images.

    Attributes:
        quality: (N,), float32.
        high_frequency: (N, 1, H, W), an estimate of `MFENet.high_frequency_target`, or None without a head for it.
        distortion_logits: (N, distortion_types), or None without a head for them.
    """

    quality: Tensor
    high_frequency: Tensor | None
    distortion_logits: Tensor | None


class MFENet(NormalisedImages):
    """How good is this image? A larger number is better, on the scale of the training scores.

    Images are RGB, (N, 3, H, W), floating point in [0, 1], in either memory format, H and W of at least 32 pixels. QEN
    and HFEN get them normalised by the mean and standard deviation that QEN's kind was trained with (VAN: ImageNet's),
    the DAN as they are, as in its contrastive pre-training. Results are float32 (N,) in any compute dtype; in eval mode
    they do not depend on the batch. With `AttentionalFeatureFusion` in the network, training mode refuses a batch of
    one.

    Args:
        backbone: the kind of QEN, "van", or "efficientnet_lite0", whose ImageNet weights the extra `weights` brings and
            which has one size: it takes no `qen`, `depths`, `widths`, `mlp_ratios` and `drop_path`.
        qen: size of VAN, "b0" to "b6".
        depths, widths, mlp_ratios: four numbers each that replace those of `qen`, see `VAN`.
        drop_path: VAN's, in training.
        hfen: False leaves the high-frequency branch out (ablation).
        hfen_width: see `HighFrequencyNet`.
        dan: False leaves the distortion-aware branch out (ablation).
        dan_layers, dan_width: see `ResNet`.
        fusion: "attention": FFM for high-frequency, then AFF for distortion-aware features; "add": sums instead of both
            (ablation).
        hidden: widths of the hidden layers of the MLP.
        dropout: probability of dropping a hidden unit in training mode.
        predict_high_frequency: a head on the finest map of HFEN, for a loss.
        distortion_types: classes of a head for a loss, on the deepest map of the DAN, or without DAN on the last hidden
            layer of the MLP; 0 for none.

    Attributes:
        qen, hfen, dan: the branches; None where left out.
        options: the constructor's arguments, ready for JSON.

    Raises: the constructor ValueError; the methods TypeError (wrong type or dtype) or ValueError (wrong shape, size,
        device or value). Messages name the argument, its value and the demand. Values are checked as in `PRFNet`.

    Example (1.0 M parameters):
        >>> small = {"depths": (1, 1, 2, 1), "widths": (16, 32, 64, 96), "mlp_ratios": (4, 4, 4, 4), "hidden": (64,)}
        >>> model = MFENet(**small, hfen_width=16, dan_layers=(1, 1, 1, 1), dan_width=16).eval()
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2])

    Source: arXiv 2411.07556.
    """

    model_name: ClassVar[str] = "mfenet"
    backbone_blocks: ClassVar[Mapping[str, type[nn.Module]]] = {"van": VAN, "efficientnet_lite0": EfficientNetLite}
    hfen_block: ClassVar[type[HighFrequencyNet]] = HighFrequencyNet
    dan_block: ClassVar[type[ResNet]] = ResNet
    ffm_block: ClassVar[type[FeatureFusion]] = FeatureFusion
    aff_block: ClassVar[type[AttentionalFeatureFusion]] = AttentionalFeatureFusion
    guidance_block: ClassVar[type[Guidance]] = Guidance

    def __init__(
        self,
        *,
        backbone: str = "van",
        qen: str = "b2",
        depths: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        mlp_ratios: Sequence[int] | None = None,
        drop_path: float = 0.0,
        hfen: bool = True,
        hfen_width: int = 64,
        dan: bool = True,
        dan_layers: Sequence[int] = (3, 4, 6, 3),
        dan_width: int = 64,
        fusion: str = "attention",
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.5,
        predict_high_frequency: bool = False,
        distortion_types: int = 0,
    ) -> None:
        super().__init__()
        arguments.one_of("backbone", backbone, tuple(self.backbone_blocks))
        of_van = {"depths": depths, "widths": widths, "mlp_ratios": mlp_ratios}
        if backbone == "van":
            sizes = _van_sizes(qen, of_van, drop_path)
        else:
            sizes = {"first_stage_stride": 4}
            _refuse_van_sizes({**of_van, "qen": qen, "drop_path": drop_path})
        for name, value in (("hfen", hfen), ("dan", dan), ("predict_high_frequency", predict_high_frequency)):
            arguments.flag(name, value)
        arguments.one_of("fusion", fusion, FUSIONS)
        hidden = arguments.integers("hidden", hidden)
        arguments.fraction("dropout", dropout)
        arguments.integer("distortion_types", distortion_types, minimum=0)
        if predict_high_frequency and not hfen:
            raise ValueError("predict_high_frequency: got True, want False without hfen")

        self.qen: Any = self.backbone_blocks[backbone](**sizes)
        facts = facts_of(self.qen)
        self.image_mean, self.image_std = facts.image_mean, facts.image_std
        self.hfen = self.hfen_block(hfen_width) if hfen else None
        self.dan = self.dan_block(dan_layers, dan_width) if dan else None
        attention = fusion == "attention"
        self.hfen_guidance = self._guidance(self.hfen, self.ffm_block if attention else None)
        self.dan_guidance = self._guidance(self.dan, self.aff_block if attention else None)
        self.head = _mlp(sum(facts.channels), hidden, dropout)
        self.high_frequency_head: nn.Conv2d | None = None
        if self.hfen is not None and predict_high_frequency:
            self.high_frequency_head = nn.Conv2d(self.hfen.channels[0], STRIDES[0] ** 2, 1)
        self.distortion_head: nn.Linear | None = None
        if distortion_types > 0:
            inputs = hidden[-1] if self.dan is None else self.dan.channels[-1]
            self.distortion_head = nn.Linear(inputs, distortion_types)
        self._make_statistics()
        if backbone == "van":
            own = {"qen": qen, **{name: list(sizes[name]) for name in of_van}, "drop_path": drop_path}
        else:
            own = {"backbone": backbone}
        self.options: dict[str, Any] = {
            **own,
            "hfen": hfen,
            "hfen_width": hfen_width,
            "dan": dan,
            "dan_layers": list(dan_layers),
            "dan_width": dan_width,
            "fusion": fusion,
            "hidden": list(hidden),
            "dropout": dropout,
            "predict_high_frequency": predict_high_frequency,
            "distortion_types": distortion_types,
        }

    @property
    def backbone(self) -> Any:
        """The main branch, `qen`, into which `fastiqa.models.load_backbone` loads a file."""
        return self.qen

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, 3, H, W) → quality (N,), float32."""
        return self._rate(self._stages(image)[0])

    def encode(self, image: Tensor) -> Tensor:
        """Images (N, 3, H, W) → the means that the head reads, (N, C), in the compute dtype, for `rate`."""
        return self._stages(image)[0]

    def rate(self, means: Tensor) -> Tensor:
        """Means (N, C) of `encode` → quality (N,), float32."""
        return self.outputs_of(means).quality

    def outputs_of(self, means: Tensor) -> MFENetOutputs:
        """Means (N, C) of `encode` → what `outputs` returns of the head alone: it is trained without the rest."""
        width = self.head[0].in_features
        if not isinstance(means, Tensor) or means.dim() != 2 or means.shape[1] != width:
            got = tuple(means.shape) if isinstance(means, Tensor) else type(means).__name__
            raise ValueError(f"means: got {got}, want (N, {width})")
        quality, logits = self._rate_and_name(means)
        return MFENetOutputs(quality, None, logits)

    def outputs(self, image: Tensor) -> MFENetOutputs:
        """Images (N, 3, H, W) → quality, and the predictions of the heads for further losses."""
        means, high, distorted = self._stages(image)
        estimate = None
        if self.high_frequency_head is not None:
            # Each value of the map estimates its block of pixels; the last blocks reach beyond the border.
            blocks = pixel_shuffle(self.high_frequency_head(high[0]), STRIDES[0])
            estimate = blocks[..., : image.shape[-2], : image.shape[-1]]
        quality, logits = self._rate_and_name(means)
        if self.distortion_head is not None and distorted:
            logits = self.distortion_head(distorted[-1].mean((2, 3)))
        return MFENetOutputs(quality, estimate, logits)

    @staticmethod
    def high_frequency_target(image: Tensor) -> Tensor:
        """The target of `outputs(image).high_frequency`: the luminance less its Gaussian blur of σ = 1.5 pixels.

        (N, 3, H, W) → (N, 1, H, W).
        """
        return luminance_high_pass(image)

    def _stages(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Means of the fused maps, the maps of HFEN and those of the DAN; no maps of a branch that is left out."""
        x, plain = self._inputs(image)
        high = [] if self.hfen is None else self.hfen(x)
        distorted = [] if self.dan is None else self.dan(plain)
        if not isinstance(self.qen, VAN):  # whose first stage takes the image
            x = self.qen.stem(x)
        means: list[Tensor] = []
        for i, stage in enumerate(self.qen.stages):
            x = stage(x)
            if high:
                x = self.hfen_guidance[i](x, high[i])
            if distorted:
                x = self.dan_guidance[i](x, distorted[i])
            means.append(x.mean((2, 3)))
        return torch.cat(means, 1), high, distorted

    def _rate(self, means: Tensor) -> Tensor:
        quality: Tensor = self.head(means).squeeze(1)
        return quality.float()

    def _rate_and_name(self, means: Tensor) -> tuple[Tensor, Tensor | None]:
        """Quality, and the types' logits where the head gives them."""
        if self.distortion_head is None or self.dan is not None:
            return self._rate(means), None
        *layers, last = self.head
        hidden = means
        for layer in layers:
            hidden = layer(hidden)
        quality: Tensor = last(hidden).squeeze(1)
        return quality.float(), self.distortion_head(hidden)

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image for QEN and HFEN, and the image for the DAN."""
        arguments.check_images(arguments.parameter_of(self.head), self.qen.strides[-1], image=image)
        return self._normalised(image), image

    def _guidance(self, branch: HighFrequencyNet | ResNet | None, attention: type[nn.Module] | None) -> nn.ModuleList:
        """A guidance for each stage, none without the branch; sums without `attention`."""
        if branch is None:
            return nn.ModuleList()
        return nn.ModuleList(
            self.guidance_block(guide, channels, Addition() if attention is None else attention(channels))
            for guide, channels in zip(branch.channels, self.qen.channels, strict=True)
        )


def _van_sizes(qen: str, given: Mapping[str, Sequence[int] | None], drop_path: float) -> dict[str, Any]:
    arguments.one_of("qen", qen, tuple(SIZES))
    own = {name: arguments.integers(name, values, 4) for name, values in given.items() if values is not None}
    return {**SIZES[qen], **own, "drop_path": drop_path}


def _refuse_van_sizes(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        default = {"qen": "b2", "drop_path": 0.0}.get(name)
        if value != default:
            raise ValueError(f"{name}: got {value!r}, want {default!r}: the backbone is not van")


def _mlp(inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.PReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))
