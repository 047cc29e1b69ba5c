"""ssim: structural similarity and its contrast term in one pass, without maps of moments in memory.

With w a size × size window that sums to 1, E[·] = Σ w · under it, and μ, σ² and σxy the moments,

    contrast = (2 σxy + c2) / (σx² + σy² + c2),   ssim = contrast · (2 μx μy + c1) / (μx² + μy² + c1)

at every window that lies wholly in the image. x, y: (N, C, H, W) → two means (N, C, 1, 1), or with map the values at
every window, (N, C, H−size+1, W−size+1). w is the outer product of exp(−d² / 2σ²) with itself, or uniform for sigma 0.

Adjoint, with g and h the gradients of ssim and contrast at a window, C and L = ssim / C its values, B = σx² + σy² + c2,
d = x − y and μd = μx − μy:

    R = 2 (g L + h) / B                                            that of E[xy]
    U = R (1 − C)                                                  R and twice that of E[x²], or of E[y²]
    P = 2 g C (μy − L μx) / (μx² + μy² + c1) + R μd − U μx         that of μx
    grad_x = w∗P + x (w∗U) − d (w∗R)                               w∗ spreads each window over its pixels

grad_y is the same with x and y exchanged, which changes the signs of d and μd.

All moments but L's are central: constants subtracted from x and y change neither variances nor gradients. Kernels
subtract constants near their pixels, so bright flat images lose no digits. Since

    σx² + σy² = 2 σxy + σd²,         μx² + μy² = 2 μx μy + μd²

equal images give exactly 1, and no value is greater. Saved: x and y; the backward pass recomputes the moments.

Bytes: 2|x| forward, 4|x| backward; eager PyTorch moves some 40 and 80.
Results are float32, or float64 with such images. Memory format of gradients: that of x.

    cpu     ssim.cpp          tiles of rows and columns, whose moments stay in the first-level cache
    cuda    ssim.cu           a tile and its halo in shared memory; means in two steps, without atomics
    triton  kernels/ssim.py   likewise, in registers

Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity,
IEEE TIP 13(4), 2004.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import (
    ACCUMULATION,
    Output,
    check_maps,
    check_pixels_fit_32_bits,
    check_same_shape,
    memory_format,
)
from fastiqa.runtime.op import Map, Op

LARGEST_SIZE = 33  # pixels of a window's side, whose halo fits beside a tile


def window(size: int, sigma: float) -> list[float]:
    """The window's row, which sums to 1: numbers, since compilers show tensors without values."""
    weights = [math.exp(-((k - size // 2) ** 2) / (2 * sigma**2)) if sigma > 0 else 1.0 for k in range(size)]
    return [weight / math.fsum(weights) for weight in weights]


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context for convolutions in the dtype of x. The meta device has no autocast."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else contextlib.nullcontext()


def _filtered(x: Tensor, size: int, sigma: float) -> Tensor:
    """Means under the windows in the image."""
    row = x.new_tensor(window(size, sigma))
    planes = x.reshape(-1, 1, *x.shape[2:])
    with _without_autocast(x):
        means: Tensor = conv2d(conv2d(planes, row.view(1, 1, -1, 1)), row.view(1, 1, 1, -1))
    return means.view(*x.shape[:2], *means.shape[2:])


def _shifted_sum(x: Tensor, size: int, sigma: float) -> Tensor:
    """As `_filtered`, without convolutions, whose strides Inductor 2.13 fails to order for unknown sizes."""
    for dim in (2, 3):
        means = x.shape[dim] - size + 1
        terms = (weight * x.narrow(dim, k, means) for k, weight in enumerate(window(size, sigma)))
        x = functools.reduce(torch.add, terms)
    return x


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """x less a constant of each channel, and that constant, which needs no gradient."""
    centre = x.detach().mean((2, 3), keepdim=True)
    return x - centre, centre


def _moments(x: Tensor, y: Tensor, filtered: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of x and y, the sum of their variances, and their covariance."""
    mean_x, mean_y = filtered(x), filtered(y)
    variances = (filtered(x * x) - mean_x * mean_x) + (filtered(y * y) - mean_y * mean_y)
    return mean_x, mean_y, variances, filtered(x * y) - mean_x * mean_y


def reference(
    x: Tensor, y: Tensor, size: int = 11, sigma: float = 1.5, c1: float = 1e-4, c2: float = 9e-4, map: bool = False
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
    wide = ACCUMULATION[x.dtype]
    (x, centre_x), (y, centre_y) = _centred(x.to(wide)), _centred(y.to(wide))
    mean_x, mean_y, variances, covariance = _moments(x, y, functools.partial(_filtered, size=size, sigma=sigma))
    contrast = (2 * covariance + c2) / (variances + c2)
    mean_x, mean_y = mean_x + centre_x, mean_y + centre_y
    similarity = contrast * (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    if map:
        return similarity, contrast
    return similarity.mean((2, 3), keepdim=True), contrast.mean((2, 3), keepdim=True)


def adjoint(saved: Any, grad_ssim: Tensor, grad_contrast: Tensor) -> tuple[Tensor, Tensor]:
    if not saved.map:
        windows = (saved.x.shape[2] - saved.size + 1) * (saved.x.shape[3] - saved.size + 1)
        grad_ssim, grad_contrast = grad_ssim / windows, grad_contrast / windows
    settings = saved.size, saved.sigma, saved.c1, saved.c2
    return ssim_backward(grad_ssim, grad_contrast, saved.x, saved.y, *settings)  # type: ignore[no-any-return]


def _windows(x: Tensor, y: Tensor, size: int, sigma: float, c1: float, c2: float) -> tuple[int, int]:
    """Check the arguments, and count the windows in a column and in a row of the image."""
    check_same_shape(("x", "y"), x, y)
    check_pixels_fit_32_bits("x", x)
    if size % 2 != 1 or not 1 <= size <= LARGEST_SIZE:
        raise ValueError(f"size: got {size}, want an odd number from 1 to {LARGEST_SIZE}")
    for name, value in (("sigma", sigma), ("c1", c1), ("c2", c2)):
        if not value >= 0:
            raise ValueError(f"{name}: got {value}, want at least 0")
    h, w = x.shape[2:]
    if h < size or w < size:
        raise ValueError(f"x: got shape {tuple(x.shape)}, want both sides at least {size}, the window")
    return h - size + 1, w - size + 1


def layout(
    x: Tensor, y: Tensor, size: int = 11, sigma: float = 1.5, c1: float = 1e-4, c2: float = 9e-4, map: bool = False
) -> tuple[Output, Output]:
    windows = _windows(x, y, size, sigma, c1, c2)
    output = Output((*x.shape[:2], *(windows if map else (1, 1))), ACCUMULATION[x.dtype], x.device)
    return output, output


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Any, ...]]:
    for size, sigma, map in ((11, 1.5, False), (3, 0.0, False), (5, 1.5, True)):
        image = Map((n, c, h + size - 1, w + size - 1))
        yield image, image, size, sigma, 0.1, 0.9, map


ssim = Op(
    "ssim(Tensor x, Tensor y, int size=11, float sigma=1.5, float c1=1e-4, float c2=9e-4, bool map=False)"
    " -> (Tensor ssim, Tensor contrast)",
    reference,
    adjoint,
    layout=layout,
    saves=("x", "y"),
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x, y, *_: 2 * x.nbytes,
)


def backward_reference(
    grad_ssim: Tensor, grad_contrast: Tensor, x: Tensor, y: Tensor, size: int, sigma: float, c1: float, c2: float
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
    filtered = functools.partial(_filtered, size=size, sigma=sigma)
    return _gradients(grad_ssim, grad_contrast, x, y, size, c1, c2, filtered)


def _gradients(
    g: Tensor, h: Tensor, x: Tensor, y: Tensor, size: int, c1: float, c2: float, filtered: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    dtype, wide = x.dtype, ACCUMULATION[x.dtype]
    (x, centre_x), (y, centre_y) = _centred(x.to(wide)), _centred(y.to(wide))
    mean_x, mean_y, variances, covariance = _moments(x, y, filtered)
    full_x, full_y = mean_x + centre_x, mean_y + centre_y
    b1, b2 = full_x * full_x + full_y * full_y + c1, variances + c2
    contrast, luminance = (2 * covariance + c2) / b2, (2 * full_x * full_y + c1) / b1
    r = 2 * (g * luminance + h) / b2
    q = -contrast * r / 2
    p = 2 * g * contrast / b1
    p_x = p * (full_y - luminance * full_x) - r * mean_y - 2 * q * mean_x
    p_y = p * (full_x - luminance * full_y) - r * mean_x - 2 * q * mean_y
    # The window is symmetric: filtering a map with zeros around it spreads each value over its window's pixels.
    p_x, p_y, q, r = (filtered(pad(part, (size - 1,) * 4)) for part in (p_x, p_y, q, r))
    return (p_x + 2 * x * q + y * r).to(dtype), (p_y + 2 * y * q + x * r).to(dtype)


def backward_adjoint(saved: Any, to_x: Tensor, to_y: Tensor) -> tuple[Tensor, ...]:
    filtered = functools.partial(_shifted_sum, size=saved.size, sigma=saved.sigma)

    def gradients(g: Tensor, h: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _gradients(g, h, x, y, saved.size, saved.c1, saved.c2, filtered)

    _, pull, *_ = torch.func.vjp(gradients, saved.grad_ssim, saved.grad_contrast, saved.x, saved.y)
    return pull((to_x, to_y))  # type: ignore[no-any-return]


def backward_layout(
    grad_ssim: Tensor, grad_contrast: Tensor, x: Tensor, y: Tensor, size: int, sigma: float, c1: float, c2: float
) -> tuple[Output, Output]:
    want = (*x.shape[:2], *_windows(x, y, size, sigma, c1, c2))
    check_maps(("x", "grad_ssim", "grad_contrast"), x, grad_ssim, grad_contrast)
    for name, grad in (("grad_ssim", grad_ssim), ("grad_contrast", grad_contrast)):
        if grad.shape not in (want, (*x.shape[:2], 1, 1)):
            raise ValueError(f"{name}: got shape {tuple(grad.shape)}, want {want} or {(*x.shape[:2], 1, 1)}")
    output = Output(x.shape, x.dtype, x.device, memory_format(x, y))
    return output, output


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Any, ...]]:
    for size, sigma, grads in ((11, 1.5, (1, 1)), (3, 0.0, (h, w))):
        grad, image = Map((n, c, *grads)), Map((n, c, h + size - 1, w + size - 1))
        yield grad, grad, image, image, size, sigma, 0.1, 0.9


ssim_backward = Op(
    "ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int size, float sigma, float c1,"
    " float c2) -> (Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    layout=backward_layout,
    saves=("grad_ssim", "grad_contrast", "x", "y"),
    wide=("grad_ssim", "grad_contrast"),
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad_ssim, grad_contrast, x, *_: 4 * x.nbytes + grad_ssim.nbytes + grad_contrast.nbytes,
)
