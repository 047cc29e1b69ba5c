"""PRFNet's head in one pass over the feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.nn.cross_subtraction import CrossSubtraction
from fastiqa.nn.fused import Fused
from fastiqa.nn.progressive_fusion import ProgressiveFusion
from fastiqa.ops import difference_pool, difference_response, gated_upsample, mix_kernels
from fastiqa.ops.difference_response import KERNEL_SIZES, MOST_OUTPUTS
from fastiqa.reference.plain_layers import convolution_not_plain, not_plain


class GateKernel(NamedTuple):
    """A gate's convolution of the differences, which depends on the weights alone and gives its logits.

    Attributes:
        weight: (k², 2 C, κ, κ), one output for each tap of the gate; κ is the size of the cross convolution.
        bias: (k²,), one number for each tap.
        offset: (), added at the end.
    """

    weight: Tensor
    bias: Tensor
    offset: Tensor


class PRFHead(Fused, reference.PRFHead):
    """Equivalent to `fastiqa.reference.PRFHead`: same constructor, parameters, keys and results.

    Between the feature maps and the sigmoids the head is linear. A gate is the mean over the channels of a convolution
    of u · D, where u is the enlarged gate below and D = W ∗ (ref − s) + c for both candidates s. A mean over output
    channels is a convolution with the mean kernel g, so with a 1×1 gate

        logit = u · (Σ_s (g_sᵀ W) ∗ (ref − s) + Σ_s g_sᵀ c) + b̄

    is a convolution of the differences to *one* channel (`fastiqa.ops.difference_response`). A k×k gate takes k² of
    them, one for each tap, which are shifted and added after the product with u. The finest map is only averaged: the
    mean of u · D is W times the averages of u · (ref − s) at the offsets of its taps (`fastiqa.ops.difference_pool`).
    So no D exists. Each feature map is read once, and once more for each of its gradients. The backward pass keeps the
    feature maps and maps of one channel.

    With normalisation, another fusion, large kernels, or a block or convolution that is not a plain layer (hooks, an
    adapter around it, sharded weights, …) the blocks run one by one; `fastiqa.explain(head)` tells why.
    Every call computes the one-channel kernels from the weights, unless `fold` has made them constant.

    Example:
        >>> import fastiqa, torch
        >>> head = PRFHead(channels=(8, 16), gate_kernel=3)
        >>> ref, a, b = ([torch.randn(2, c, s, s) for c, s in ((8, 28), (16, 14))] for _ in range(3))
        >>> head(ref, a, b).shape
        torch.Size([2])
        >>> print(fastiqa.explain(head))
        PRFHead runs in one pass over the feature maps

    Source: arXiv 2401.06992, section 2.2.
    """

    cross_block: ClassVar[type[reference.CrossSubtraction]] = CrossSubtraction
    fusion_block: ClassVar[type[reference.ProgressiveFusion]] = ProgressiveFusion
    way = "in one pass over the feature maps"

    _folded = False

    def must_call(self) -> str | None:
        """Return why the blocks must be called, not read, or None."""
        fusion: Any = self.fusion
        cross: Any
        for i, cross in enumerate(self.cross):
            reason = not_plain(f"cross.{i}", cross, CrossSubtraction, reference.CrossSubtraction)
            if reason is None:
                reason = convolution_not_plain(f"cross.{i}.conv", cross.conv, bias=True)
            if reason is not None:
                return reason
        reason = not_plain("fusion", fusion, ProgressiveFusion, reference.ProgressiveFusion)
        if reason is not None:
            return reason
        for i, gate in enumerate(fusion.gates):
            reason = convolution_not_plain(f"fusion.gates.{i}", gate, bias=True)
            if reason is not None:
                return reason
        return None

    def why_not(self) -> str | None:
        """Return why the head cannot run in one pass, or None."""
        if self._folded:
            return None
        if not isinstance(self.fusion, reference.ProgressiveFusion):
            return f"{type(self.fusion).__name__} needs the difference maps"
        if any(getattr(cross, "bn", None) is not None for cross in self.cross):
            return "normalisation and ReLU after the cross convolutions are not linear"
        if (reason := self.must_call()) is not None:
            return reason
        cross: Any
        for cross in self.cross:
            if (size := cross.conv.kernel_size[0]) not in KERNEL_SIZES or cross.conv.kernel_size != (size, size):
                return f"cross convolutions of {size}x{size}, want 1x1 or 3x3"
        gate: Any
        for gate in self.fusion.gates:
            if (size := gate.kernel_size[0]) ** 2 > MOST_OUTPUTS or gate.kernel_size != (size, size):
                return f"gates of {size}x{size}, want 1x1 or 3x3"
        return None

    def explain(self) -> str:
        """Tell how the head runs, and why not in one pass."""
        return super().explain() + (", its kernels constant" if self._folded else "")

    @torch.no_grad()
    def fold(self) -> None:
        """Make the gates' kernels constant, and drop the weights that nothing else reads: for inference.

        Raises: ValueError if the head cannot run in one pass.
        """
        if self._folded:
            return
        if (reason := self.why_not()) is not None:
            raise ValueError(f"head: {reason}; want one that runs in one pass")
        for i in range(1, len(self.channels)):
            for name, value in self._gate_kernel(i)._asdict().items():
                self.register_buffer(f"gate{i}_{name}", value)
        self._folded = True
        self.cross = self.cross[:1]
        self.fusion.gates = torch.nn.ModuleList()

    def _pooled(
        self, ref: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor], return_gates: bool
    ) -> tuple[Tensor, list[Tensor]]:
        if self.why_not() is not None:
            return super()._pooled(ref, a, b, return_gates)
        logits: Tensor | None = None
        gates: list[Tensor] = []
        for i in reversed(range(1, len(ref))):
            logits = self._gate_logits(i, ref[i], a[i], b[i], logits)
            if return_gates:
                gates.insert(0, torch.sigmoid(logits))
        return self._averages(ref[0], a[0], b[0], logits), gates

    def _gate_logits(self, i: int, ref: Tensor, a: Tensor, b: Tensor, below: Tensor | None) -> Tensor:
        """Logits (N, 1, H_i, W_i) of the gate of stage i."""
        fusion: Any = self.fusion
        kernel = self._gate_kernel(i)
        maps = difference_response(ref, a, b, kernel.weight, kernel.bias)
        if below is not None:
            maps = gated_upsample(maps, below, fusion.upsample)
        taps = maps.shape[1]
        if taps > 1:
            k = math.isqrt(taps)
            shifts = torch.eye(taps, dtype=maps.dtype, device=maps.device).view(1, taps, k, k)
            maps = conv2d(maps, shifts, padding=k // 2)
        return maps + kernel.offset

    def _gate_kernel(self, i: int) -> GateKernel:
        """The kernel for stage i: the mean kernel of the gate times the weights of the cross convolution."""
        if self._folded:
            return GateKernel(*(self.get_buffer(f"gate{i}_{name}") for name in GateKernel._fields))
        fusion: Any = self.fusion
        cross: Any = self.cross[i]
        conv, gate = cross.conv, fusion.gates[i - 1]
        # One row for each tap and candidate: (k², 2, K).
        rows = gate.weight.mean(0).flatten(1).t().unflatten(1, (2, -1))
        return GateKernel(mix_kernels(rows, conv.weight), rows.sum(1) @ conv.bias, gate.bias.mean())

    def _averages(self, ref: Tensor, a: Tensor, b: Tensor, below: Tensor | None) -> Tensor:
        """The mean of the fused map, (N, 2 K)."""
        fusion: Any = self.fusion
        cross: Any = self.cross[0]
        conv = cross.conv
        n, _, h, w = ref.shape
        if below is None:
            gate = ref.new_ones(n, 1, h, w)
        else:
            corners = False if fusion.upsample == "bilinear" else None
            gate = interpolate(torch.sigmoid(below), size=(h, w), mode=fusion.upsample, align_corners=corners)
        part = 1.0 if gate.dtype != torch.float16 else _float16_scale(h * w)
        sums = difference_pool(ref, a, b, gate * part, conv.kernel_size[0])
        averages = sums.flatten(2) @ conv.weight.flatten(1).t() / (h * w * part)
        return (averages + gate.mean((2, 3))[..., None] * conv.bias).flatten(1)  # type: ignore[no-any-return]

    def _thirds(self, packed: Tensor) -> tuple[Tensor, ...]:
        traced = torch.compiler.is_compiling() or torch._C._is_tracing()
        eager = not (traced or torch._C._are_functorch_transforms_active())
        if eager and packed.requires_grad and torch.is_grad_enabled():
            return _Thirds.apply(packed)  # type: ignore[no-any-return]
        return super()._thirds(packed)


def _float16_scale(pixels: Any) -> Any:
    """A factor near 1/√pixels, by which the sums do not overflow float16 and the gates do not vanish.

    It is a power of two, which rounds nothing, unless `pixels` is a symbol of torch.compile or a tensor of
    torch.jit.trace.
    """
    known = not (torch.compiler.is_compiling() or torch._C._is_tracing())
    return 2.0 ** -(pixels.bit_length() // 2) if known else pixels**-0.5


class _Thirds(torch.autograd.Function):
    """`chunk(3)` that joins adjacent gradients, as the operators leave them, without a copy."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> tuple[Tensor, ...]:
        return packed.chunk(3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        first, size = grads[0], grads[0].numel()
        if not all(map(arguments.is_eager, grads)):
            return torch.cat(grads)
        dense = any(first.is_contiguous(memory_format=f) for f in (torch.contiguous_format, torch.channels_last))
        adjacent = dense and all(
            g.untyped_storage()._cdata == first.untyped_storage()._cdata
            and g.storage_offset() == first.storage_offset() + k * size
            and g.stride() == first.stride()
            for k, g in enumerate(grads)
        )
        if not adjacent or torch.is_grad_enabled():  # the derivative of as_strided reaches the first alone
            return torch.cat(grads)
        return first.as_strided((3 * first.shape[0], *first.shape[1:]), first.stride(), first.storage_offset())
