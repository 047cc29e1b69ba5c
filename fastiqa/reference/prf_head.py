"""PRFNet's head: from the feature maps of a reference and two candidates to a logit.

    D^i   = cat([conv_i(F_ref^i − F_a^i), conv_i(F_ref^i − F_b^i)], 1)                       i = 1 (finest) … stages
    G     = fusion of the D^i, at the finest size (fusion.py)
    logit = W₂ dropout(relu(W₁ mean_hw(G) + b₁)) + b₂

An antisymmetric head computes (logit(ref, a, b) − logit(ref, b, a)) / 2 from the same maps and weights.

Source: arXiv 2401.06992, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.cross_subtraction import CrossSubtraction
from fastiqa.reference.fusion import FPN, BiFPN, ProgressiveFusion


class PRFHead(nn.Module):
    """Feature maps of three images → logit of "b is closer to the reference than a".

    Args:
        channels: of each stage's feature maps, finest first.
        cross_channels: output channels of the cross convolutions: one number, one for each stage, or None for a quarter
            of each stage.
        cross_kernel: odd size of the cross convolutions.
        gate_kernel: odd size of the gates' convolutions, used by fusion "prf".
        upsample: "bilinear" or "nearest" enlargement of the gates, used by fusion "prf".
        hidden: width of the MLP.
        dropout: probability of dropping a hidden unit in training mode.
        cross_norm: batch normalisation and ReLU after the cross convolutions.
        fusion: "prf", or "fpn" or "bifpn" of the paper's ablation.
        symmetric: compute (f(ref, a, b) − f(ref, b, a)) / 2, where f is the head without this option. Exchanged
            candidates then give exactly the negative logit, and equal ones exactly 0. Both orders share the dropped
            hidden units; norms inside the head see both orders.

    Raises: ValueError or TypeError naming the argument.
    """

    cross_block: ClassVar[type[CrossSubtraction]] = CrossSubtraction
    fusion_block: ClassVar[type[ProgressiveFusion]] = ProgressiveFusion

    fusion: ProgressiveFusion | FPN | BiFPN

    def __init__(
        self,
        channels: Sequence[int],
        cross_channels: int | Sequence[int] | None = None,
        cross_kernel: int = 3,
        gate_kernel: int = 1,
        upsample: str = "bilinear",
        hidden: int = 128,
        dropout: float = 0.5,
        cross_norm: bool = False,
        fusion: str = "prf",
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.channels = arguments.integers("channels", channels)
        arguments.integer("cross_kernel", cross_kernel, odd=True)
        arguments.integer("gate_kernel", gate_kernel, odd=True)
        arguments.one_of("upsample", upsample, ("bilinear", "nearest"))
        arguments.integer("hidden", hidden)
        arguments.fraction("dropout", dropout)
        arguments.flag("cross_norm", cross_norm)
        arguments.one_of("fusion", fusion, ("prf", "fpn", "bifpn"))
        self.symmetric = arguments.flag("symmetric", symmetric)
        if cross_channels is None:
            self.cross_channels = tuple(max(1, c // 4) for c in self.channels)
        elif isinstance(cross_channels, Sequence):
            self.cross_channels = arguments.integers("cross_channels", cross_channels, len(self.channels))
        else:
            self.cross_channels = (arguments.integer("cross_channels", cross_channels),) * len(self.channels)
        self.cross = nn.ModuleList(
            self.cross_block(c, k, cross_kernel, cross_norm)
            for c, k in zip(self.channels, self.cross_channels, strict=True)
        )
        doubled = [2 * k for k in self.cross_channels]
        if fusion == "prf":
            self.fusion = self.fusion_block(doubled, gate_kernel, upsample)
        else:
            self.fusion = FPN(doubled) if fusion == "fpn" else BiFPN(doubled)
        self.mlp = nn.Sequential(
            nn.Linear(self.fusion.out_channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(
        self,
        ref_features: Sequence[Tensor],
        a_features: Sequence[Tensor] | None = None,
        b_features: Sequence[Tensor] | None = None,
        return_gates: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Three lists of maps (N, channels[i], H_i, W_i), finest first, or one list of (3N, channels[i], H_i, W_i), the
        reference, a and b one after the other → logits (N,).

        `return_gates`, for fusion "prf" alone, also returns where the network looks: for each stage but the finest the
        gate (N, 1, H_i, W_i), between 0 and 1, that weighs the stage above it; finest first. A symmetric head returns
        the gates of f(ref, a, b).
        """
        ref, a, b = self._unpacked(ref_features, a_features, b_features)
        if return_gates and not isinstance(self.fusion, ProgressiveFusion):
            raise ValueError(f"return_gates: got True, want False where {type(self.fusion).__name__} has no gates")
        pooled, gates = self._pooled(ref, a, b, return_gates)
        logits: Tensor = (
            self._odd_part(pooled, self._pooled(ref, b, a, False)[0]) if self.symmetric else self.mlp(pooled)
        )
        logits = logits.squeeze(1)
        return (logits, gates) if return_gates else logits

    def _odd_part(self, pooled: Tensor, exchanged: Tensor) -> Tensor:
        """(mlp(pooled) − mlp(exchanged)) / 2, (N, 1); one draw of dropped units for both."""
        first, relu, dropout, last = self.mlp
        hidden = dropout(relu(first(pooled)) - relu(first(exchanged))) / 2
        # The last bias cancels. Called twice instead of read once, the layer may be an adapter, and its bias gets a
        # gradient (of 0), without which DistributedDataParallel would wait for it.
        odd: Tensor = (last(hidden) - last(-hidden)) / 2
        return odd

    def _pooled(
        self, ref: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor], return_gates: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The mean of the fused map (N, fusion.out_channels), and the gates if requested."""
        maps = [cross(*of_stage) for cross, *of_stage in zip(self.cross, ref, a, b, strict=True)]
        if return_gates:
            assert isinstance(self.fusion, ProgressiveFusion)
            fused, gates = self.fusion.with_gates(maps)
            return fused.mean((2, 3)), gates
        return self.fusion(maps).mean((2, 3)), []

    def _unpacked(
        self, ref: Sequence[Tensor], a: Sequence[Tensor] | None, b: Sequence[Tensor] | None
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        if (a is None) != (b is None):
            missing = "a_features" if a is None else "b_features"
            raise TypeError(f"{missing}: got None, want feature maps, as of the other candidate")
        first = arguments.parameter_of(self)
        if a is not None and b is not None:
            arguments.check_pyramids(first, self.channels, ref_features=ref, a_features=a, b_features=b)
            return ref, a, b
        arguments.check_pyramids(first, self.channels, ref_features=ref)
        if ref[0].shape[0] % 3 != 0:
            raise ValueError(f"ref_features[0]: got shape {tuple(ref[0].shape)}, want three images one after the other")
        parts = [self._thirds(maps) for maps in ref]
        return [p[0] for p in parts], [p[1] for p in parts], [p[2] for p in parts]

    def _thirds(self, packed: Tensor) -> tuple[Tensor, ...]:
        """(3N, C, H, W) → the maps of the reference, of a and of b."""
        # chunk would decide by sizes, which may be symbols
        thirds: tuple[Tensor, ...] = packed.unflatten(0, (3, packed.shape[0] // 3)).unbind()
        return thirds
