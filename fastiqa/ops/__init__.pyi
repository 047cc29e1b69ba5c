"""The operators' signatures, for editors and type checkers. Generated from the records; do not edit:

python -m fastiqa.ops > fastiqa/ops/__init__.pyi
"""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from torch import Tensor

from fastiqa.runtime.op import Map as Map
from fastiqa.runtime.op import Op as Op

_P = ParamSpec("_P")
_R = TypeVar("_R", covariant=True)

class _Operator(Op, Generic[_P, _R]):
    """A record that is called as the function beneath it."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...  # type: ignore[override]

def _operator(function: Callable[_P, _R]) -> _Operator[_P, _R]: ...

OPERATORS: dict[str, Op]

@_operator
def attentional_blend(
    x: Tensor,
    y: Tensor,
    local_logits: Tensor,
    global_logits: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Weighted mean of two maps in one pass; the weight is the sigmoid of local plus global attention.

    Equivalent to ``m * x + (1 - m) * y`` with ``m = torch.sigmoid(local_logits + global_logits)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        y: as `x`.
        local_logits: as `x`, before the sigmoid.
        global_logits: (N, C, 1, 1), before the sigmoid.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import attentional_blend
        >>> x, y, local = torch.randn(3, 1, 8, 4, 4)
        >>> out = attentional_blend(x, y, 0 * local, torch.zeros(1, 8, 1, 1))
        >>> torch.equal(out, x / 2 + y / 2)
        True
    """

@_operator
def attentional_blend_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    local_logits: Tensor,
    global_logits: Tensor,
    *,
    out: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `attentional_blend` for x, y, local_logits and global_logits.

    Equivalent to what autograd computes from ``m * x + (1 - m) * y``.

    Args:
        grad, x, y, local_logits: (N, C, H, W).
        global_logits: (N, C, 1, 1).

    Returns:
        Three of (N, C, H, W) and one of (N, C, 1, 1). Dtypes and strides as in `attentional_blend`.

    Raises:
        TypeError, ValueError: as `attentional_blend`.
    """

@_operator
def batch_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    negative_slope: float = 0.0,
    eps: float = 1e-05,
    *,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every channel by its mean and variance in this batch, and rectify.

    Equivalent to ``leaky_relu(batch_norm(x, None, None, weight, bias, training=True, eps=eps), negative_slope)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        weight, bias: (C,); computed in float32, or float64 with such an `x`.
        negative_slope: of the activation: 0 is ReLU, 1 none.
        eps: added to the variance, at least 0.

    Returns:
        The activation (N, C, H, W) in `x`'s dtype; mean and 1/√(variance + eps) (C,) in float32, or float64. Only the
        activation has a gradient. An empty `x` has mean 0 and 1/√eps.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, a negative eps.

    Example:
        >>> import torch
        >>> from fastiqa.ops import batch_norm_act
        >>> x, weight, bias = torch.randn(2, 8, 4, 4), torch.ones(8), torch.zeros(8)
        >>> out, mean, rstd = batch_norm_act(x, weight, bias)
        >>> torch.allclose(out, torch.relu((x - mean[:, None, None]) * rstd[:, None, None]), atol=1e-6)
        True
    """

@_operator
def batch_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    negative_slope: float,
    *,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `batch_norm_act` for x, weight and bias.

    Equivalent to what autograd computes from PyTorch's batch normalisation and leaky ReLU, given the statistics.

    Args:
        grad, x: (N, C, H, W).
        weight, bias, mean, rstd: (C,); computed in float32, or float64 with such an `x`.
        negative_slope: as in `batch_norm_act`.

    Returns:
        (N, C, H, W), (C,) and (C,). The last two in float32, or float64.

    Raises:
        TypeError, ValueError: as `batch_norm_act`.
    """

@_operator
def cross_difference(ref: Tensor, a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Differences of a reference's feature maps from those of two candidates, along the channels, in one pass.

    Equivalent to ``torch.cat([ref - a, ref - b], 1)``.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.

    Returns:
        (N, 2C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that differ, or not four dimensions.

    Example:
        >>> import torch
        >>> from fastiqa.ops import cross_difference
        >>> ref, a, b = torch.rand(3, 1, 8, 4, 4)
        >>> torch.equal(cross_difference(ref, a, b), torch.cat([ref - a, ref - b], 1))
        True
    """

@_operator
def cross_difference_backward(
    grad: Tensor,
    *,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `cross_difference` for ref, a and b.

    Equivalent to ``ga, gb = grad.chunk(2, 1)`` and ``(ga + gb, -ga, -gb)``.

    Args:
        grad: (N, 2C, H, W), the gradient of the result; dtypes and strides as in `cross_difference`.

    Returns:
        Three of (N, C, H, W) in `grad`'s dtype.

    Raises:
        TypeError, ValueError: as `cross_difference`.
    """

@_operator
def difference_pool(
    ref: Tensor,
    a: Tensor,
    b: Tensor,
    gate: Tensor,
    kernel_size: int = 1,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Sum a reference's gated differences from two candidates over the pixels, for each tap of a small kernel.

    Equivalent to ``torch.stack([gate * (ref - a), gate * (ref - b)], 1).sum((-2, -1))`` for one tap; tap (i, j) of a
    larger kernel takes the differences (i, j) − k // 2 away, zero beyond the border.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.
        gate: (N, 1, H, W).
        kernel_size: k, 1 or 3.

    Returns:
        (N, 2, C, k, k) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, another kernel size.

    Example:
        >>> import torch
        >>> from fastiqa.ops import difference_pool
        >>> ref, a, b = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1, 1, 1)
        >>> difference_pool(ref, a, b, torch.full((1, 1, 1, 1), 0.5)).flatten().tolist()
        [1.0, 2.0]
    """

@_operator
def difference_response(
    ref: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve the differences of a reference's feature maps from those of two candidates, to a few channels.

    Equivalent to ``conv2d(torch.cat([ref - a, ref - b], 1), weight, bias, padding=weight.shape[-1] // 2)``.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.
        weight: (K, 2C, k, k) with K at most 16 and k 1 or 3; or (N, K, 2C, k, k), one for each sample.
        bias: (K,).

    Returns:
        (N, K, H, W) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, more than 16 outputs, a kernel other than 1x1 and 3x3,
            2**31 pixels.

    Example:
        >>> import torch
        >>> from fastiqa.ops import difference_response
        >>> ref, a, b = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1, 1, 1)
        >>> difference_response(ref, a, b, torch.tensor([10.0, 1.0]).view(1, 2, 1, 1)).item()
        24.0
    """

@_operator
def difference_response_backward(
    grad: Tensor,
    weight: Tensor,
    channels_last: bool,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gradients of `difference_response` for ref, a and b, one after the other in one tensor.

    Args:
        grad: (N, K, H, W), the gradient of the result; dtypes and strides as in `difference_response`.
        weight: (K, 2C, k, k) or (N, K, 2C, k, k).
        channels_last: memory format of the result: channels-last, or NCHW.

    Returns:
        (3N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `difference_response`.
    """

@_operator
def difference_response_weight_backward(
    ref: Tensor,
    a: Tensor,
    b: Tensor,
    grad: Tensor,
    kernel_size: int,
    each: bool,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `difference_response` for the weight, one for each sample or their sum.

    Args:
        ref, a, b: (N, C, H, W), as in `difference_response`.
        grad: (N, K, H, W), the gradient of the result.
        kernel_size: k, 1 or 3.
        each: whether every sample gets a gradient of its own.

    Returns:
        (N, K, 2C, k, k) with `each`, else (K, 2C, k, k), in the widest dtype given.

    Raises:
        TypeError, ValueError: as `difference_response`.
    """

@_operator
def gated_upsample(features: Tensor, logits: Tensor, mode: str = "bilinear", *, out: Tensor | None = None) -> Tensor:
    """Multiply features by a gate, the sigmoid of a map of logits of any size, interpolated to the features' size.

    Equivalent to ``features * interpolate(logits.sigmoid(), size=features.shape[-2:], mode=mode)`` with
    ``align_corners=False``.

    Args:
        features: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        logits: (N, 1, h, w), one gate for all channels, or (N, C, h, w); dtypes and strides as `features`.
        mode: "bilinear" or "nearest".

    Returns:
        (N, C, H, W) in the wider dtype of the two.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, or an unknown mode.

    Example:
        >>> import torch
        >>> from fastiqa.ops import gated_upsample
        >>> features, logits = torch.rand(2, 8, 14, 14), torch.randn(2, 1, 7, 7)
        >>> gate = torch.nn.functional.interpolate(logits.sigmoid(), size=(14, 14), mode="bilinear")
        >>> torch.allclose(gated_upsample(features, logits), features * gate)
        True
    """

@_operator
def gated_upsample_backward(
    grad: Tensor,
    features: Tensor,
    logits: Tensor,
    mode: str,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `gated_upsample` for features and logits.

    Equivalent to autograd through its reference.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `gated_upsample`.
        features: (N, C, H, W).
        logits: (N, 1, h, w) or (N, C, h, w).
        mode: "bilinear" or "nearest".

    Returns:
        (N, C, H, W), and the shape of `logits`, in the widest dtype given.

    Raises:
        TypeError, ValueError: as `gated_upsample`.
    """

@_operator
def high_pass(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Subtract the average of each 2×2 block from feature maps.

    Equivalent to ``x - interpolate(avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False), x.shape[-2:])``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.

    Returns:
        As `x`.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: not four dimensions, no channel or no pixel.

    Example:
        >>> import torch
        >>> from fastiqa.ops import high_pass
        >>> high_pass(torch.tensor([[[[1.0, 2.0, 5.0], [3.0, 6.0, 7.0]]]])).tolist()
        [[[[-2.0, -1.0, -1.0], [0.0, 3.0, 1.0]]]]
    """

@_operator
def large_kernel_conv(
    x: Tensor,
    w5: Tensor,
    b5: Tensor,
    w7: Tensor,
    b7: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """A depthwise 5×5 convolution, then a depthwise 7×7 convolution of dilation 3, in one pass.

    Equivalent to ``t = conv2d(x, w5, b5, padding=2, groups=C)`` and ``conv2d(t, w7, b7, padding=9, dilation=3,
    groups=C)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        w5: (C, 1, 5, 5).
        b5: (C).
        w7: (C, 1, 7, 7).
        b7: (C).

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import large_kernel_conv
        >>> w5, w7 = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 7, 7)
        >>> w5[..., 2, 2], w7[..., 3, 3] = 2.0, 3.0
        >>> large_kernel_conv(torch.ones(1, 1, 1, 2), w5, torch.ones(1), w7, torch.zeros(1)).tolist()
        [[[[9.0, 9.0]]]]
    """

@_operator
def large_kernel_conv_backward(
    x: Tensor,
    w5: Tensor,
    b5: Tensor,
    w7: Tensor,
    grad: Tensor,
    *,
    out: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `large_kernel_conv` for x, w5, b5, w7 and b7.

    Args:
        x: (N, C, H, W); dtypes and strides as in `large_kernel_conv`.
        w5: (C, 1, 5, 5).
        b5: (C).
        w7: (C, 1, 7, 7).
        grad: (N, C, H, W), the gradient of the result.

    Returns:
        (N, C, H, W), (C, 1, 5, 5), (C), (C, 1, 7, 7) and (C) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `large_kernel_conv`.
    """

@_operator
def large_kernel_conv_input_backward(grad: Tensor, w5: Tensor, w7: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of `large_kernel_conv` for `x` alone, where no weight needs one.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `large_kernel_conv`.
        w5: (C, 1, 5, 5).
        w7: (C, 1, 7, 7).

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `large_kernel_conv`.
    """

@_operator
def mix_kernels(mix: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Sums of convolution kernels, weighted by the rows of a small matrix.

    Equivalent to ``torch.einsum("rsj,jcyx->rscyx", mix, weight).flatten(1, 2)``.

    Args:
        mix: (R, S, K) float64, float32, bfloat16 or float16, any strides; meant for few rows R·S.
        weight: (K, C, k, k), K kernels, of any size.

    Returns:
        (R, S·C, k, k) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, kernels of 2**31 elements.

    Example:
        >>> import torch
        >>> from fastiqa.ops import mix_kernels
        >>> kernels = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
        >>> mix_kernels(torch.tensor([[[2.0, 3.0, 4.0]]]), kernels).item()
        432.0
    """

@_operator
def mix_kernels_backward(
    grad: Tensor,
    mix: Tensor,
    weight: Tensor,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `mix_kernels` for mix and weight.

    Args:
        grad: (R, S·C, k, k), the gradient of the result; dtypes and strides as in `mix_kernels`.
        mix: (R, S, K).
        weight: (K, C, k, k).

    Returns:
        (R, S, K) and (K, C, k, k) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `mix_kernels`.
    """

@_operator
def octave_merge(high: Tensor, low: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Add a map of half the size, each value over its 2×2 block, to a map of full size, in one pass.

    Equivalent to ``high + interpolate(low, size=high.shape[-2:], mode="nearest")``.

    Args:
        high: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        low: (N, C, ⌈H/2⌉, ⌈W/2⌉), as `high`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: `low` has another size, devices differ, or there are not four dimensions.

    Example:
        >>> import torch
        >>> from fastiqa.ops import octave_merge
        >>> octave_merge(torch.zeros(1, 1, 2, 3), torch.tensor([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]]]
    """

@_operator
def octave_merge_backward(grad: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of `octave_merge` for `low`: sums over 2×2 blocks.

    Equivalent to ``avg_pool2d(grad, 2, ceil_mode=True, divisor_override=1)``.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `octave_merge`.

    Returns:
        (N, C, ⌈H/2⌉, ⌈W/2⌉) in `grad`'s dtype.

    Raises:
        TypeError, ValueError: as `octave_merge`.
    """

@_operator
def octave_split(
    x: Tensor,
    negative_slope: float = 1.0,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Leaky ReLU of feature maps and its average over 2×2 blocks, in one pass.

    Equivalent to ``act = leaky_relu(x, negative_slope)`` and
    ``avg_pool2d(act, 2, ceil_mode=True, count_include_pad=False)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        negative_slope: factor for values that are not positive, at least zero; 1 leaves `x` unchanged.

    Returns:
        act, as `x`, and pooled, (N, C, ⌈H/2⌉, ⌈W/2⌉).

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: `negative_slope` is negative, or there are not four dimensions, no channel or no pixel.

    Example:
        >>> import torch
        >>> from fastiqa.ops import octave_split
        >>> act, pooled = octave_split(torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]]), 0.5)
        >>> act.tolist(), pooled.tolist()
        ([[[[1.0, -1.0], [3.0, -2.0]]]], [[[[0.25]]]])
    """

@_operator
def octave_split_backward(
    act: Tensor,
    grad_act: Tensor,
    grad_pooled: Tensor,
    negative_slope: float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `octave_split` for `x`. It depends on the sign of `x` alone, which `act` has as well.

    Args:
        act: (N, C, H, W), the first result; dtypes and strides as in `octave_split`.
        grad_act: (N, C, H, W), the gradient of the first result.
        grad_pooled: (N, C, ⌈H/2⌉, ⌈W/2⌉), the gradient of the second.
        negative_slope: as in `octave_split`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `octave_split`.
    """

@_operator
def scale_residual_relu(x: Tensor, gate_logits: Tensor, residual: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gate channels, add the shortcut and rectify, in one pass.

    Equivalent to ``torch.relu(x * torch.sigmoid(gate_logits) + residual)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        gate_logits: (N, C, 1, 1), before the sigmoid.
        residual: as `x`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import scale_residual_relu
        >>> x, residual = torch.randn(2, 1, 8, 4, 4)
        >>> gate = torch.zeros(1, 8, 1, 1)
        >>> torch.equal(scale_residual_relu(x, gate, residual), torch.relu(x / 2 + residual))
        True
    """

@_operator
def scale_residual_relu_backward(
    grad: Tensor,
    x: Tensor,
    gate_logits: Tensor,
    out_: Tensor,
    /,
    *,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `scale_residual_relu` for x, gate_logits and residual.

    Equivalent to what autograd computes from ``torch.relu(x * torch.sigmoid(gate_logits) + residual)``, given its
    result. Only the sign of `out` counts; its gradient is zero.

    Args:
        grad, x, out: (N, C, H, W).
        gate_logits: (N, C, 1, 1).

    Returns:
        (N, C, H, W), (N, C, 1, 1) and (N, C, H, W). Dtypes and strides as in `scale_residual_relu`.

    Raises:
        TypeError, ValueError: as `scale_residual_relu`.
    """

@_operator
def ssim(
    x: Tensor,
    y: Tensor,
    size: int = 11,
    sigma: float = 1.5,
    c1: float = 0.0001,
    c2: float = 0.0009,
    map: bool = False,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Structural similarity of two batches of images, and its contrast term.

    Args:
        x, y: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, both sides at least `size`.
        size: pixels along a side of the window, odd, at most 33.
        sigma: of the Gaussian window, in pixels; 0 for a uniform window.
        c1, c2: stabilisers, (0.01 · data range)² and (0.03 · data range)² in the paper; at least 0.
        map: return the values at every window instead of their means.

    Returns:
        ssim and contrast: (N, C, 1, 1), or (N, C, H−size+1, W−size+1) with `map`. float32, or float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, images smaller than the window, an even or too large `size`, a
            negative number.

    Example:
        >>> import torch
        >>> from fastiqa.ops import ssim
        >>> x = torch.rand(1, 3, 32, 32)
        >>> value, contrast = ssim(x, x)
        >>> value.flatten().tolist()
        [1.0, 1.0, 1.0]
    """

@_operator
def ssim_backward(
    grad_ssim: Tensor,
    grad_contrast: Tensor,
    x: Tensor,
    y: Tensor,
    size: int,
    sigma: float,
    c1: float,
    c2: float,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `ssim` for x and y.

    Args:
        grad_ssim, grad_contrast: gradients of the values at every window, (N, C, H−size+1, W−size+1), or (N, C, 1, 1)
            where all windows have the same; float32, or float64 with such images.
        x, y: (N, C, H, W), as in `ssim`.
        size, sigma, c1, c2: as in `ssim`.

    Returns:
        Two of (N, C, H, W) in the images' dtype.

    Raises:
        TypeError, ValueError: as `ssim`.
    """

__all__ = [
    "OPERATORS",
    "Map",
    "Op",
    "attentional_blend",
    "attentional_blend_backward",
    "batch_norm_act",
    "batch_norm_act_backward",
    "cross_difference",
    "cross_difference_backward",
    "difference_pool",
    "difference_response",
    "difference_response_backward",
    "difference_response_weight_backward",
    "gated_upsample",
    "gated_upsample_backward",
    "high_pass",
    "large_kernel_conv",
    "large_kernel_conv_backward",
    "large_kernel_conv_input_backward",
    "mix_kernels",
    "mix_kernels_backward",
    "octave_merge",
    "octave_merge_backward",
    "octave_split",
    "octave_split_backward",
    "scale_residual_relu",
    "scale_residual_relu_backward",
    "ssim",
    "ssim_backward",
]
