"""Three ways to fuse the difference maps of four stages into one map of the finest size.

- ProgressiveFusion, of PRFNet: a one-channel gate, computed from the deeper stage, multiplies each stage.
- FPN (Lin et al., arXiv 1612.03144) and BiFPN (Tan et al., arXiv 1911.09070), the ablation of PRFNet's Table 2. The
  paper gives no sizes; these are the customary ones. Parts that cannot reach the finest output are left out, so every
  parameter has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from fastiqa.common import arguments


def _resize(x: Tensor, like: Tensor, mode: str) -> Tensor:
    return interpolate(x, size=like.shape[-2:], mode=mode, align_corners=False if mode == "bilinear" else None)


class ProgressiveFusion(nn.Module):
    """PRFNet's fusion: G⁴ = D⁴, G^{i−1} = up(σ(mean_c(conv(G^i)))) · D^{i−1}; the result is G¹.

    Args:
        channels: widths of the maps, finest first; any number of stages.
        gate_kernel: odd size of the gates' convolutions (C → C).
        upsample: "bilinear" (align_corners=False) or "nearest", to the size of the finer map.

    Raises: ValueError naming the argument.

    Source: PRFNet, arXiv 2401.06992, equations (3) and (4). The gate has one channel by the words "average
    pooling in channel dimension"; the equations do not tell.
    """

    def __init__(self, channels: Sequence[int], gate_kernel: int = 1, upsample: str = "bilinear") -> None:
        super().__init__()
        self.channels = arguments.integers("channels", channels)
        arguments.integer("gate_kernel", gate_kernel, odd=True)
        arguments.one_of("upsample", upsample, ("bilinear", "nearest"))
        self.upsample = upsample
        self.out_channels = channels[0]
        # gates[i] reads the map of stage i + 1 and weighs the map of stage i.
        self.gates = nn.ModuleList(nn.Conv2d(c, c, gate_kernel, padding=gate_kernel // 2) for c in channels[1:])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first → (N, channels[0], H_0, W_0)."""
        return self.with_gates(maps)[0]

    def with_gates(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The result, and the gates (N, 1, H_i, W_i) of all stages but the finest, before their enlargement."""
        self._check(maps)
        fused = maps[-1]
        gates: list[Tensor] = []
        for i in reversed(range(len(maps) - 1)):
            gates.insert(0, torch.sigmoid(self.gates[i](fused).mean(1, keepdim=True)))
            fused = _resize(gates[0], maps[i], self.upsample) * maps[i]
        return fused, gates

    def _check(self, maps: Sequence[Tensor]) -> None:
        if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
            raise TypeError(f"maps: got {type(maps).__name__}, want a list of {len(self.channels)} feature maps")
        if len(maps) != len(self.channels):
            raise ValueError(f"maps: got {len(maps)}, want {len(self.channels)}")
        for i, (features, width) in enumerate(zip(maps, self.channels, strict=True)):
            arguments.check_map(f"maps[{i}]", features, maps[0].shape[0] if i else None, width, None, None)


class FPN(nn.Module):
    """Feature pyramid: 1×1 lateral convolutions, nearest top-down sums, 3×3 smoothing of the finest map."""

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first → (N, width, H_0, W_0)."""
        laterals = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        top = laterals[-1]
        for lateral in reversed(laterals[:-1]):
            top = lateral + _resize(top, lateral, "nearest")
        smoothed: Tensor = self.smooth(top)
        return smoothed


class WeightedNode(nn.Module):
    """Fast normalised sum Σ relu(w_i) x_i / (Σ relu(w_i) + 1e-4), then depthwise 3×3, pointwise 1×1, BN and SiLU."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs))
        self.reset_parameters()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.SiLU()  # not in place: hooks of bn may keep its result

    def reset_parameters(self) -> None:
        """Set the weights before training, also for networks that get their memory later."""
        nn.init.ones_(self.weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        weight = torch.relu(self.weight)
        weight = weight / (weight.sum() + 1e-4)
        total = inputs[0] * weight[0]
        for i in range(1, len(inputs)):
            total = total + inputs[i] * weight[i]
        node: Tensor = self.act(self.bn(self.pointwise(self.depthwise(total))))
        return node


class BiFPNLayer(nn.Module):
    """A top-down pass and, except in the last layer, a bottom-up pass with a skip from the layer's input."""

    def __init__(self, levels: int, width: int, bottom_up: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(WeightedNode(2, width) for _ in range(levels - 1))
        # The deepest level has no top-down node, hence two inputs instead of three.
        self.up = nn.ModuleList(
            WeightedNode(3 if i < levels - 2 else 2, width) for i in range(levels - 1 if bottom_up else 0)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        middle = list(maps)
        for i in reversed(range(len(maps) - 1)):
            middle[i] = self.down[i](maps[i], _resize(middle[i + 1], maps[i], "nearest"))
        outputs = middle[:1]
        for i, node in enumerate(self.up, start=1):
            finer = max_pool2d(outputs[-1], 3, 2, padding=1)
            outputs.append(node(maps[i], middle[i], finer) if i < len(maps) - 1 else node(maps[i], finer))
        return outputs


class BiFPN(nn.Module):
    """Weighted bidirectional pyramid; every map must be half the size of the finer one, rounded up."""

    def __init__(self, channels: Sequence[int], width: int = 64, repeats: int = 3) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.layers = nn.ModuleList(BiFPNLayer(len(channels), width, bottom_up=i < repeats - 1) for i in range(repeats))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first → (N, width, H_0, W_0)."""
        levels: list[Tensor] = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        for layer in self.layers:
            levels = layer(levels)
        return levels[0]
