"""The C++ kernel of `ssim` beyond the generic tests: bounds, symmetry, threads, images of several tiles and bands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastiqa.ops import ssim
from fastiqa.ops.ssim import reference
from support import cases

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def pair(*shape: int, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """A smooth image and a noisy copy, in float64, between 0 and 1."""
    rough = torch.rand(*shape[:2], 6, 6, dtype=torch.float64)
    x = torch.nn.functional.interpolate(rough, shape[2:], mode="bicubic").clamp(0, 1)
    return x, (x + noise * torch.randn_like(x)).clamp(0, 1)


def results(x: Tensor, y: Tensor, *, map: bool = False) -> tuple[Tensor, ...]:
    """ssim, contrast and the gradients of a sum of both, by the kernel."""
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    with cases.backend("cpu"):
        values = ssim(*leaves, map=map)
        return (*(v.detach() for v in values), *torch.autograd.grad(sum(v.sum() for v in values), leaves))


@pytest.mark.parametrize("map", [False, True])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_equal_images_are_exactly_one(dtype: torch.dtype, map: bool) -> None:
    """Equal images are exactly 1, and no pixel has a gradient, so a loss stays at its best."""
    x = (255 * pair(1, 2, 45, 61)[1]).to(dtype)
    value, contrast, *gradients = results(x, x.clone(), map=map)
    assert (value == 1).all()
    assert (contrast == 1).all()
    assert not any(gradient.count_nonzero() for gradient in gradients)


@pytest.mark.parametrize("step", [0.0, 2.0**-12])
def test_flat_bright_images_lose_no_digits(step: float) -> None:
    x = 0.999 + step * torch.randn(1, 1, 40, 70, dtype=torch.float64)
    y = x + step * torch.randn_like(x)
    x, y = x.float(), y.float()
    exact = reference(x.double(), y.double(), map=True)
    for got, want in zip(results(x, y, map=True), exact, strict=False):
        assert (got - want).abs().max() < 1e-6
        assert got.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 17, 33])
@pytest.mark.parametrize("width", [33, 40, 48, 49, 59, 64, 65, 96, 113])
def test_windows_and_widths_of_every_kind(size: int, width: int, dtype: torch.dtype) -> None:
    """Moments in registers that end in the middle of a window, and windows over several tiles."""
    x, y = pair(1, 1, 34, width)
    terms = (size, 1.5, 0.01, 0.02, True)
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    want = reference(*leaves, *terms)
    weights = [torch.randn_like(v) for v in want]
    gradients = torch.autograd.grad(want, leaves, weights)
    leaves = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    with cases.backend("cpu"):
        got = ssim(*leaves, *terms)
        found = torch.autograd.grad(got, leaves, [w.to(dtype) for w in weights])
    tolerance = 1e-12 if dtype == torch.float64 else 2e-4
    for a, b in zip((*got, *found), (*want, *gradients), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_gradients_of_a_map_by_its_sum() -> None:
    """Every window has the same gradient, stored once."""
    x, y = (image.float().requires_grad_() for image in pair(1, 2, 50, 70))
    with cases.backend("cpu"):
        expanded = torch.autograd.grad(ssim(x, y, map=True)[0].sum(), (x, y))
        written = torch.autograd.grad(ssim(x, y, map=True)[0], (x, y), torch.ones(1, 2, 40, 60))
    for a, b in zip(expanded, written, strict=True):
        assert torch.equal(a, b)


def test_never_above_one_and_symmetric() -> None:
    for noise in (1e-4, 1e-2, 1.0):
        x, y = (image.float() for image in pair(1, 3, 50, 60, noise=noise))
        value, contrast, *_ = results(x, y, map=True)
        assert value.max() <= 1
        assert contrast.max() <= 1
        for one, other in zip((value, contrast), results(y, x, map=True), strict=False):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_threads_change_no_bit() -> None:
    x, y = (image.float() for image in pair(1, 3, 150, 130))
    runs = []
    for count in (1, 3):
        with cases.threads(count):
            runs.append(results(x, y))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_large_image_is_within_the_budget() -> None:
    """Several bands and strips: at most twice the error of eager PyTorch against float64."""
    x, y = (image.float() for image in pair(1, 1, 540, 960))

    def by_reference(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        values = reference(x, y)
        return (*(v.detach() for v in values), *torch.autograd.grad(sum(v.sum() for v in values), (x, y)))

    eager, exact = by_reference(x, y), by_reference(x.double(), y.double())
    got = results(x, y)
    for mine, theirs, want in zip(got, eager, exact, strict=True):
        rounding = torch.finfo(torch.float32).eps * want.abs().max()  # of a mean: eager's error may be zero by luck
        assert (mine - want).abs().max() <= 2 * (theirs - want).abs().max() + rounding
    last = results(*(image.contiguous(memory_format=torch.channels_last) for image in (x, y)))
    assert all(torch.equal(one, other) for one, other in zip(got, last, strict=True))


@pytest.mark.parametrize("dtype", cases.DTYPES[1:3], ids=str)
def test_channels_last_is_the_same(dtype: torch.dtype) -> None:
    """RGB, whose pixels shuffles take apart, and more channels."""
    for channels in (3, 5):
        images = [image.to(dtype) for image in pair(2, channels, 37, 70)]
        one, other = (results(*(image.contiguous(memory_format=f) for image in images)) for f in LAYOUTS)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_special_pixel_touches_its_windows_alone(value: float) -> None:
    x, y = (image.float() for image in pair(1, 1, 44, 70))
    clean = results(x, y, map=True)
    x[0, 0, 20, 30] = value
    values = results(x, y, map=True)
    for k, around in enumerate((((10, 21), (20, 31)),) * 2 + (((10, 31), (20, 41)),) * 2):
        (top, bottom), (left, right) = around
        inside = torch.zeros_like(values[k], dtype=torch.bool)
        inside[..., top:bottom, left:right] = True
        assert not values[k][inside].isfinite().any()
        torch.testing.assert_close(values[k][~inside], clean[k][~inside], rtol=1e-4, atol=1e-4)
