"""The block of VAN for inference: no norms, no layer scales.

With norm1(x) = a x + b, layer scales s and 1×1 convolutions P = proj and F = fc of matrices and biases, a block is

    x' = x + s_1 (P_2(u) + norm1(x)) = k x + P_2'(u)        k = 1 + s_1 a,   P_2' = s_1 P_2 + s_1 b
    u = g · LKA(g),   g = gelu(P_1'(x))                     P_1' = P_1 ∘ norm1
    out = x' + F_2'(gelu(dwconv(F_1'(x'))))                 F_1' = F_1 ∘ norm2,   F_2' = s_2 F_2

in which the sums and the product with g are part of the convolutions.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.models.inference.layers import is_plain, scale_and_shift
from fastiqa.models.inference.onednn import with_activation
from fastiqa.nn import VANBlock
from fastiqa.ops import large_kernel_conv
from fastiqa.reference.plain_layers import has_hooks
from fastiqa.runtime.memory import LARGE


class InferenceVANBlock(VANBlock):
    """A block of VAN that `fold_van_block` made.

    Attributes:
        shortcut_scale: k of the formulas above, (C, 1, 1).
    """

    attn: Any
    mlp: Any
    shortcut_scale: Tensor

    def attention(self, x: Tensor) -> Tensor:
        """x' of the formulas above."""
        gate: Any = self.attn.spatial_gating_unit
        near, far = gate.conv0, gate.conv_spatial
        g = self.attn.proj_1(x)
        u = gate.conv1.times(large_kernel_conv(g, near.weight, near.bias, far.weight, far.bias), g)
        attended: Tensor = self.attn.proj_2.add_to_(x * self.shortcut_scale, u)
        return attended

    def perceptron(self, x: Tensor) -> Tensor:
        """x' → the block's result, written onto x'."""
        parts: tuple[Tensor, ...] = (x,)
        if arguments.is_eager(x):
            hidden = x.nbytes * self.mlp.fc1.out_channels // x.shape[1]
            parts = x.chunk(1 + hidden // LARGE)  # so that hidden maps are in memory that is used again
        for part in parts:
            self.mlp.fc2.add_to_(part, self.mlp.dwconv(self.mlp.fc1(part)))
        return x


def fold_van_block(block: Any) -> int:
    """Makes a block of plain layers, in place, one for inference; returns the number of norms folded."""
    if not is_plain(block.norm1, block.attn, block.norm2, block.mlp) or has_hooks(block.drop_path):
        return 0
    attn, mlp = block.attn, block.mlp
    scale, shift = scale_and_shift(block.norm1)
    block.register_buffer("shortcut_scale", (1 + block.layer_scale_1 * scale)[:, None, None])
    attn.proj_2.bias.add_(shift)
    for conv, norm in ((attn.proj_1, block.norm1), (mlp.fc1, block.norm2)):
        scale, shift = scale_and_shift(norm)
        conv.bias.add_(conv.weight[:, :, 0, 0] @ shift)
        conv.weight.mul_(scale[:, None, None])
    for conv, scale in ((attn.proj_2, block.layer_scale_1), (mlp.fc2, block.layer_scale_2)):
        conv.bias.mul_(scale)
        conv.weight.mul_(scale[:, None, None, None])
    for conv in (attn.proj_1, mlp.dwconv.dwconv):
        with_activation(conv, "gelu")
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    del block.layer_scale_1, block.layer_scale_2
    block.__class__ = InferenceVANBlock
    return 2
