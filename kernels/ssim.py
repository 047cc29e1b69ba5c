"""ssim: sums under windows, along rows and then down columns, and its gradients.

    forward     x, y -> values, or each program's sums of them, and then their totals
    backward    grads, x, y -> four maps of the windows -> grad_x, grad_y

A thread has a column of windows and goes down the rows. It sums the part of each row under its windows, whose pixels
the cache also hands to its neighbours, and adds it to the sums of every window with that row, which stay in registers:
22 loads and 88 multiplications for a window of 11, and nothing goes through memory. The maps of the backward pass do,
since there windows of other columns meet: 16 bytes a pixel written and read, which CUDA's kernel saves. Sums of windows
far larger than 11 do not fit the registers: as exact, but slow.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from fastiqa.kernels.lib.launch import TILE, WARPS, on_device_of
from fastiqa.kernels.lib.tiles import widened
from torch import Tensor

from fastiqa.ops.ssim import window

# For tests: how many maps a kernel reads and writes 16 bytes at a time, and which accesses may be narrower.
NARROW = {
    "ssim_kernel": (0, 0, "neighbours in a window, which start anywhere; a column of windows a thread"),
    "ssim_mean_kernel": (0, 0, "sums of programs"),
    "ssim_maps_kernel": (0, 0, "as ssim_kernel; the four maps are side by side"),
    "ssim_spread_kernel": (0, 0, "images and gradients, a column a thread; not the four maps"),
}

# For tests: kernels that compute in float64 for every dtype.
FLOAT64 = {"ssim_mean_kernel": "once a program of the others; in float32 2^24 windows of equal images would not give 1"}

LANES = 32 * WARPS  # columns of windows for a program
ROWS, FEWEST_ROWS = 64, 32  # of windows; a program starts with the other rows of the first window
FILL = 1024  # programs; with fewer, a program takes fewer rows

# ---- where a program works ----


@triton.jit
def locate_windows(planes, high, wide, rows, BLOCK_PLANES: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """This program's planes and which exist, its columns x, its first row and the number of rows."""
    across, down = tl.cdiv(wide, BLOCK_COLUMNS), tl.cdiv(high, rows)
    program = tl.program_id(0)
    plane = ((program // across // down).to(tl.int64) * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES))[:, None]
    x = ((program % across).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    y = program // across % down * rows
    return plane, plane < planes, x, y.to(tl.int64), tl.minimum(rows, high - y)


@triton.jit
def pixel_at(pointer, strides, n, c, y, x):
    return pointer + (n * strides[0] + c * strides[1] + y * strides[2]) + x * strides[3]


@triton.jit
def steps(strides):
    """Elements from a row to the next, and from a column to the next."""
    one = tl.full((), 1, tl.int64)
    return one * strides[2], one * strides[3]


@triton.jit
def mean_of_some(pointer, strides, n, c, known, y, x, high, wide):
    """The mean of eight pixels of `high` x `wide` in each plane, no two in a row or column.

    0 if that is not finite, so that no other pixel suffers.
    """
    lane = tl.arange(0, 8).to(tl.int64)[None, :]
    pixels = pixel_at(pointer, strides, n, c, y + (high - 1) * lane // 7, x + (wide - 1) * (3 * lane % 8) // 7)
    mean = tl.sum(widened(tl.load(pixels, known, other=0.0)), 1, keep_dims=True) / 8
    return tl.where(mean - mean == 0, mean, 0.0)


@triton.jit
def centre(x_ptr, y_ptr, x_strides, y_strides, n, c, known, y, x, high, wide):
    """Numbers near the pixels of x and of x - y in a part of each plane."""
    of_x = mean_of_some(x_ptr, x_strides, n, c, known, y, x, high, wide)
    return of_x, of_x - mean_of_some(y_ptr, y_strides, n, c, known, y, x, high, wide)


# ---- sums ----


@triton.jit
def packed(a, b, c, d):
    """Join four tiles to one, whose last dimension lies in one thread."""
    both = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(both, (a.shape[0], a.shape[1], 4))


@triton.jit
def unpacked(x):
    first, second = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], 2, 2)))
    a, c = tl.split(first)
    b, d = tl.split(second)
    return a, b, c, d


@triton.jit
def image_row(x_at, y_at, x_step, y_step, inside, middle, zero, WEIGHTS: tl.constexpr):
    """The part of a row in E[x], E[d], E[d^2] and E[xy] under windows from these pixels on, x and d less `middle`."""
    sum_x, sum_d, sum_dd, sum_xy = zero, zero, zero, zero
    for k in tl.static_range(len(WEIGHTS)):
        x = tl.load(x_at, inside, other=0.0).to(zero.dtype)
        d = (x - tl.load(y_at, inside, other=0.0).to(zero.dtype)) - middle[1]
        x -= middle[0]
        weighted_x, weighted_d = WEIGHTS[k] * x, WEIGHTS[k] * d
        sum_x += weighted_x
        sum_d += weighted_d
        sum_dd += weighted_d * d
        sum_xy += weighted_x * (x - d)
        x_at += x_step
        y_at += y_step
    return packed(sum_x, sum_d, sum_dd, sum_xy)


@triton.jit
def pushed(sums, row, WEIGHTS: tl.constexpr):
    """Add a row to the sums of windows that begin here, one row before, two before, ...; the last are complete."""
    result = (WEIGHTS[0] * row,)
    for k in tl.static_range(1, len(WEIGHTS)):
        result += (sums[k - 1] + WEIGHTS[k] * row,)
    return result


@triton.jit
def quotient(x, y):
    """Rounded to nearest, so that equal numbers give 1."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def similarity(sums, middle, C1: tl.constexpr, C2: tl.constexpr):
    """Luminance and contrast, and for gradients the full means of x and d, both divisors, and the excess of contrast's
    divisor over its dividend."""
    mean_x, mean_d, square_d, product = unpacked(sums)
    twice = 2 * (product - mean_x * (mean_x - mean_d))
    excess = square_d - mean_d * mean_d
    excess = tl.where(excess < 0, 0.0, excess)  # rounding may make variances negative; NaN stays
    excess = tl.where(excess < -2 * twice, -2 * twice, excess)
    x, d = mean_x + middle[0], mean_d + middle[1]
    contrast, luminance = twice + C2, 2 * x * (x - d) + C1
    contrast_divisor, luminance_divisor = contrast + excess, luminance + d * d
    luminance, contrast = quotient(luminance, luminance_divisor), quotient(contrast, contrast_divisor)
    return luminance, contrast, x, d, luminance_divisor, contrast_divisor, excess


# ---- forward ----


@triton.jit
def ssim_kernel(
    x_ptr, y_ptr, ssim_ptr, contrast_ptr, x_strides, y_strides, ssim_strides, contrast_strides,
    planes, channels, high, wide, rows,
    WEIGHTS: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, MAP: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Values at every window, or their sums: (planes, programs of a plane)."""
    HALO: tl.constexpr = len(WEIGHTS) - 1
    plane, known, x, top, count = locate_windows(planes, high, wide, rows, BLOCK_PLANES, BLOCK_COLUMNS)
    n, c, exists, left = plane // channels, plane % channels, known & (x < wide), tl.min(x)
    middle = centre(
        x_ptr, y_ptr, x_strides, y_strides, n, c, known, top, left,
        count + HALO, tl.minimum(wide - left, BLOCK_COLUMNS) + HALO,
    )  # fmt: skip
    x_at, y_at = pixel_at(x_ptr, x_strides, n, c, top, x), pixel_at(y_ptr, y_strides, n, c, top, x)
    zero = tl.zeros(exists.shape, tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32)
    sums = (packed(zero, zero, zero, zero),) * (HALO + 1)
    x_steps, y_steps = steps(x_strides), steps(y_strides)
    total_ssim, total_contrast = zero, zero
    for row in range(count + HALO):
        parts = image_row(x_at, y_at, x_steps[1], y_steps[1], exists, middle, zero, WEIGHTS)
        sums = pushed(sums, parts, WEIGHTS)
        x_at += x_steps[0]
        y_at += y_steps[0]
        if row >= HALO:
            here = similarity(sums[HALO], middle, C1, C2)
            if MAP:
                y = top + (row - HALO)
                tl.store(pixel_at(ssim_ptr, ssim_strides, n, c, y, x), here[0] * here[1], exists)
                tl.store(pixel_at(contrast_ptr, contrast_strides, n, c, y, x), here[1], exists)
            else:
                total_ssim += here[0] * here[1]
                total_contrast += here[1]
    if not MAP:
        programs = tl.cdiv(wide, BLOCK_COLUMNS) * tl.cdiv(high, rows)
        to = plane * programs + tl.program_id(0) % programs
        tl.store(ssim_ptr + to, tl.sum(tl.where(exists, total_ssim, 0.0), 1, keep_dims=True), known)
        tl.store(contrast_ptr + to, tl.sum(tl.where(exists, total_contrast, 0.0), 1, keep_dims=True), known)


@triton.jit
def ssim_mean_kernel(
    parts_ptr, ssim_ptr, contrast_ptr, ssim_strides, contrast_strides, planes, channels, parts, windows,
    BLOCK_PLANES: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """Means from the programs' sums: (2, planes, parts)."""
    plane = (tl.program_id(0).to(tl.int64) * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES))[:, None]
    n, c, known = plane // channels, plane % channels, plane < planes
    ssim = tl.zeros((BLOCK_PLANES, BLOCK_PARTS), tl.float64)
    contrast = ssim
    for start in range(0, parts, BLOCK_PARTS):
        part = (start + tl.arange(0, BLOCK_PARTS))[None, :]
        from_ptr, inside = parts_ptr + plane * parts + part, known & (part < parts)
        ssim += tl.load(from_ptr, inside, other=0.0)
        contrast += tl.load(from_ptr + tl.full((), 1, tl.int64) * planes * parts, inside, other=0.0)
    count = (tl.full((), 0, tl.int64) + windows).to(tl.float64)
    ssim, contrast = tl.sum(ssim, 1, keep_dims=True) / count, tl.sum(contrast, 1, keep_dims=True) / count
    tl.store(pixel_at(ssim_ptr, ssim_strides, n, c, 0, 0), ssim.to(ssim_ptr.dtype.element_ty), known)
    tl.store(pixel_at(contrast_ptr, contrast_strides, n, c, 0, 0), contrast.to(contrast_ptr.dtype.element_ty), known)


# ---- backward ----


@triton.jit
def ssim_maps_kernel(
    g_ptr, h_ptr, x_ptr, y_ptr, maps_ptr, g_strides, h_strides, x_strides, y_strides,
    planes, channels, high, wide, rows,
    WEIGHTS: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The values that each window spreads over its pixels: P_x, P_y, U, R of csrc/ops/ssim, (planes, high, wide, 4)."""
    HALO: tl.constexpr = len(WEIGHTS) - 1
    plane, known, x, top, count = locate_windows(planes, high, wide, rows, BLOCK_PLANES, BLOCK_COLUMNS)
    n, c, exists, left = plane // channels, plane % channels, known & (x < wide), tl.min(x)
    middle = centre(
        x_ptr, y_ptr, x_strides, y_strides, n, c, known, top, left,
        count + HALO, tl.minimum(wide - left, BLOCK_COLUMNS) + HALO,
    )  # fmt: skip
    whole = centre(x_ptr, y_ptr, x_strides, y_strides, n, c, known, 0, 0, high + HALO, wide + HALO)
    x_at, y_at = pixel_at(x_ptr, x_strides, n, c, top, x), pixel_at(y_ptr, y_strides, n, c, top, x)
    zero = tl.zeros(exists.shape, maps_ptr.dtype.element_ty)
    sums = (packed(zero, zero, zero, zero),) * (HALO + 1)
    x_steps, y_steps = steps(x_strides), steps(y_strides)
    map_at = maps_ptr + ((plane * high + top) * wide + x)[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    for row in range(count + HALO):
        parts = image_row(x_at, y_at, x_steps[1], y_steps[1], exists, middle, zero, WEIGHTS)
        sums = pushed(sums, parts, WEIGHTS)
        x_at += x_steps[0]
        y_at += y_steps[0]
        if row >= HALO:
            y = top + (row - HALO)
            luminance, contrast, of_x, of_d, luminance_divisor, contrast_divisor, excess = similarity(
                sums[HALO], middle, C1, C2
            )
            g = tl.load(pixel_at(g_ptr, g_strides, n, c, y, x), exists, other=0.0)
            h = tl.load(pixel_at(h_ptr, h_strides, n, c, y, x), exists, other=0.0)
            r = 2 * (g * luminance + h) / contrast_divisor
            u = r * (excess / contrast_divisor)
            # mean y - L mean x = -mean d (1 - mean x mean d / divisor), and likewise mean x - L mean y
            tilt = of_d / luminance_divisor
            p = 2 * g * contrast * tilt
            mean_x, mean_d = of_x - whole[0], of_d - whole[1]
            p_x = r * mean_d - u * mean_x - p * (1 - of_x * tilt)
            p_y = p * (1 + (of_x - of_d) * tilt) - r * mean_d - u * (mean_x - mean_d)
            tl.store(map_at, packed(p_x, p_y, u, r), exists[:, :, None])
            map_at += tl.full((), 4, tl.int64) * wide


@triton.jit
def ssim_spread_kernel(
    maps_ptr, x_ptr, y_ptr, grad_x_ptr, grad_y_ptr, x_strides, y_strides, grad_x_strides, grad_y_strides,
    planes, channels, high, wide, rows,
    WEIGHTS: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_x = w*P_x + x w*U - d w*R and grad_y = w*P_y + (x - d) w*U + d w*R; high x wide is the image."""
    HALO: tl.constexpr = len(WEIGHTS) - 1
    plane, known, x, top, count = locate_windows(planes, high, wide, rows, BLOCK_PLANES, BLOCK_COLUMNS)
    n, c, exists = plane // channels, plane % channels, known & (x < wide)
    whole = centre(x_ptr, y_ptr, x_strides, y_strides, n, c, known, 0, 0, high, wide)
    windows_high, windows_wide = high - HALO, wide - HALO
    zero = tl.zeros((BLOCK_PLANES, BLOCK_COLUMNS, 4), maps_ptr.dtype.element_ty)
    sums = (zero,) * (HALO + 1)
    first = tl.maximum(top - HALO, 0)  # there is nothing above
    map_at = maps_ptr + ((plane * windows_high + first) * windows_wide + x)[:, :, None] * 4
    map_at += tl.arange(0, 4)[None, None, :]
    column = tl.broadcast_to(x.to(tl.int32), (BLOCK_PLANES, BLOCK_COLUMNS))[:, :, None]
    for row in range(first - (top - HALO), count + HALO):
        parts = zero
        if top + (row - HALO) < windows_high:
            for k in tl.static_range(HALO + 1):
                inside = exists[:, :, None] & (
                    (column - k).to(tl.uint32) < windows_wide
                )  # negative numbers become large
                parts += WEIGHTS[k] * tl.load(map_at - 4 * k, inside, other=0.0)
        sums = pushed(sums, parts, WEIGHTS)
        map_at += tl.full((), 4, tl.int64) * windows_wide
        if row >= HALO:
            y = top + (row - HALO)
            of_x = tl.load(pixel_at(x_ptr, x_strides, n, c, y, x), exists, other=0.0).to(zero.dtype)
            of_y = tl.load(pixel_at(y_ptr, y_strides, n, c, y, x), exists, other=0.0).to(zero.dtype)
            of_x, d = of_x - whole[0], (of_x - of_y) - whole[1]
            p_x, p_y, u_sum, r_sum = unpacked(sums[HALO])
            to_x = p_x + of_x * u_sum - d * r_sum
            to_y = p_y + (of_x - d) * u_sum + d * r_sum
            tl.store(pixel_at(grad_x_ptr, grad_x_strides, n, c, y, x), to_x.to(grad_x_ptr.dtype.element_ty), exists)
            tl.store(pixel_at(grad_y_ptr, grad_y_strides, n, c, y, x), to_y.to(grad_y_ptr.dtype.element_ty), exists)


# ---- launches ----


class WindowWalk:
    """How programs walk the windows, or the pixels, of the planes of maps."""

    def __init__(self, x: Tensor, high: int, wide: int) -> None:
        self.planes, self.channels, self.high, self.wide = x.shape[0] * x.shape[1], x.shape[1], high, wide
        columns = min(triton.next_power_of_2(wide), LANES)
        planes = min(triton.next_power_of_2(self.planes), LANES // columns)
        self.blocks = {"BLOCK_PLANES": planes, "BLOCK_COLUMNS": columns}
        across = triton.cdiv(self.planes, planes) * triton.cdiv(wide, columns)
        self.rows = ROWS
        while self.rows > FEWEST_ROWS and across * triton.cdiv(high, self.rows) < FILL:
            self.rows //= 2
        self.parts = triton.cdiv(wide, columns) * triton.cdiv(high, self.rows)  # programs for a plane
        self.grid = (across * triton.cdiv(high, self.rows),)

    def run(self, kernel: Any, *args: Any, **constants: Any) -> None:
        with on_device_of(args[0]):
            kernel[self.grid](
                *args, self.planes, self.channels, self.high, self.wide, self.rows,
                **constants, **self.blocks, num_warps=WARPS, enable_fp_fusion=True,
            )  # fmt: skip


def ssim(
    x: Tensor, y: Tensor, size: int, sigma: float, c1: float, c2: float, map: bool, out: Tensor, contrast: Tensor
) -> None:
    walk = WindowWalk(x, x.shape[2] - size + 1, x.shape[3] - size + 1)
    constants = {"WEIGHTS": tuple(window(size, sigma)), "C1": c1, "C2": c2, "MAP": map}
    to = (out, contrast) if map else out.new_empty((2, walk.planes, walk.parts)).unbind()
    strides = [(z.stride() if map else (0, 0, 0, 0)) for z in (out, contrast)]
    walk.run(ssim_kernel, x, y, *to, x.stride(), y.stride(), *strides, **constants)
    if map:
        return
    block_parts = min(triton.next_power_of_2(walk.parts), TILE)
    block_planes = min(triton.next_power_of_2(walk.planes), TILE // block_parts)
    with on_device_of(x):
        ssim_mean_kernel[(triton.cdiv(walk.planes, block_planes),)](
            to[0], out, contrast, out.stride(), contrast.stride(),
            walk.planes, walk.channels, walk.parts, walk.high * walk.wide,
            BLOCK_PLANES=block_planes, BLOCK_PARTS=block_parts, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def ssim_backward(
    grad_ssim: Tensor, grad_contrast: Tensor, x: Tensor, y: Tensor,
    size: int, sigma: float, c1: float, c2: float, grad_x: Tensor, grad_y: Tensor,
) -> None:  # fmt: skip
    high, wide = x.shape[2] - size + 1, x.shape[3] - size + 1
    weights = tuple(window(size, sigma))
    grads = [grad.expand(*x.shape[:2], high, wide) for grad in (grad_ssim, grad_contrast)]
    maps = grads[0].new_empty((*x.shape[:2], high, wide, 4))
    WindowWalk(x, high, wide).run(
        ssim_maps_kernel, *grads, x, y, maps, *(z.stride() for z in (*grads, x, y)), WEIGHTS=weights, C1=c1, C2=c2
    )
    WindowWalk(x, *x.shape[2:]).run(
        ssim_spread_kernel, maps, x, y, grad_x, grad_y, *(z.stride() for z in (x, y, grad_x, grad_y)), WEIGHTS=weights
    )
