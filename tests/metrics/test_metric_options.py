"""Metric options beside presets: code values, masks, maps, bands, losses; low precision, flat and opposite images."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

import fastiqa
from fastiqa.metrics import LPIPS, MSSSIM, PSNR, SSIM, MetricLoss, _windows, luma, ms_ssim, psnr, ssim
from fastiqa.metrics.registry import METRICS
from fastiqa.ops.ssim import window

METRIC = pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(shape, dtype=torch.float64)
    return x.to(dtype), (x + 0.1 * torch.randn_like(x)).clamp(0, 1).to(dtype)


# ---- images ----


@METRIC
def test_code_values_are_images_of_range_255(metric: Any) -> None:
    x, y = (image.mul(255).round() for image in pair(1, 3, 162, 165))
    codes = [image.to(torch.uint8) for image in (x, y)]
    want = metric(x.float(), y.float(), data_range=255)
    assert torch.equal(metric(*codes), want)
    assert torch.equal(metric(*codes, data_range=255), want)
    with pytest.raises(ValueError, match=r"^data_range: got 1.0, want 255 \(or None\) for uint8 images$"):
        metric(*codes, data_range=1.0)


@METRIC
def test_grey(metric: Any) -> None:
    x, y = (image.mul(255).round().div(255) for image in pair(1, 3, 162, 165))
    torch.testing.assert_close(metric(x, y, channels="luma"), metric(luma(x), luma(y)), rtol=1e-12, atol=0)
    unrounded = metric(x, y, channels="unrounded_luma")
    torch.testing.assert_close(unrounded, metric(luma(x), luma(y)), rtol=0.01, atol=0)
    x.requires_grad_()
    assert metric(x, y, channels="unrounded_luma").requires_grad
    with pytest.raises(ValueError, match=r"^channels: got 'luma' and images that require a gradient, want 'unround"):
        metric(x, y, channels="luma")
    with pytest.raises(ValueError, match=r"^x: got shape \(1, 1, 162, 165\), want three channels for channels='luma'"):
        metric(x[:, :1], y[:, :1], channels="luma")


@METRIC
def test_only_scores_are_checked(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are read only for the message, after a non-finite score."""
    x, y = pair(2, 1, 161, 161)
    sizes: list[int] = []
    isfinite = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda t: sizes.append(t.numel()) or isfinite(t))
    metric(x, y)
    assert sizes == [2]
    for value in (float("nan"), float("inf"), float("-inf")):
        bad = y.clone()
        bad[1, 0, 80, 3] = value
        with pytest.raises(ValueError, match=r"^y: got NaN or infinity, want finite values in \[0, 1.0\]$"):
            metric(x, bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_right_and_never_above_one(dtype: torch.dtype) -> None:
    """Other libraries are off by up to 0.07 here, and give 1.1 for flat bright images."""
    x, y = pair(2, 3, 256, 256, dtype=dtype)
    for metric in (ssim, ms_ssim):
        assert (metric(x, y).double() - metric(x.double(), y.double())).abs().max() < 2e-6
    flat = torch.full((1, 1, 64, 64), 0.95).to(dtype)
    other = flat - torch.tensor(0.04).to(dtype)
    p, q = flat[0, 0, 0, 0].double(), other[0, 0, 0, 0].double()
    want = (2 * p * q + 1e-4) / (p * p + q * q + 1e-4)
    assert want < 0.9995
    torch.testing.assert_close(ssim(flat, other).double()[0], want, rtol=0, atol=1e-6)
    for image in (flat, x):
        assert ssim(image, image, return_map=True)[1].max() <= 1


CASES = {
    "equal": lambda x: (x, x.clone()),
    "flat": lambda x: (torch.full_like(x, 0.7), torch.full_like(x, 0.2)),
    "equal and flat": lambda x: (torch.full_like(x, 0.7), torch.full_like(x, 0.7)),
    "opposite": lambda x: (x, 1 - x),
    "zero": lambda x: (torch.zeros_like(x), torch.zeros_like(x)),
    "black and white": lambda x: (torch.zeros_like(x), torch.ones_like(x)),
}


@METRIC
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite(metric: Any, case: str) -> None:
    x, y = (image.requires_grad_() for image in CASES[case](torch.rand(1, 1, 161, 161)))
    score = metric(x, y)
    gradients = torch.autograd.grad(score.sum(), (x, y))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert score.item() <= 1 or metric is psnr


@METRIC
def test_scores_are_the_same_alone_in_a_batch_and_in_channels_last(metric: Any) -> None:
    x, y = pair(3, 3, 165, 161, dtype=torch.float32)
    score = metric(x, y)
    assert torch.equal(torch.cat([metric(x[k : k + 1], y[k : k + 1]) for k in range(3)]), score)
    torch.testing.assert_close(metric(x.contiguous(memory_format=torch.channels_last), y), score, rtol=3e-7, atol=0)
    assert metric(x.to("meta"), y.to("meta")).shape == score.shape


# ---- ranges and dtypes ----


def by_lpips(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """LPIPS with random weights, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        score: Tensor = LPIPS("squeeze", pretrained=False, **options)(x, y)
    return score


RANGED = pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, by_lpips])


@RANGED
def test_values_outside_the_range_are_refused(metric: Any) -> None:
    """Also in a large image, of which only some rows are checked, and in either image."""
    x, y = pair(2, 3, 161, 163, dtype=torch.float32)
    large = pair(1, 3, 400, 500, dtype=torch.float32)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for p, q in ((x, y), large):
            with pytest.raises(
                ValueError, match=r"^x: got values from \S+ to 2\d\d\S*, want \[0, 1.0\], or another data_"
            ):
                metric((255 * p).to(dtype), (255 * q).to(dtype))
            with pytest.raises(
                ValueError, match=r"^y: got values from -\S+ to \S+, want \[0, 1.0\], or another data_range$"
            ):
                metric(p.to(dtype), (2 * q - 1).to(dtype))
    with pytest.raises(ValueError, match=r"^x: got values from \S+ to \S+, want \[0, 0.5\], or another data_range$"):
        metric(x, y, data_range=0.5)
    with pytest.raises(ValueError, match=r"^x: got values from \S+ to \S+, want \[0.5, 1\], or another data_range$"):
        metric(x, y, data_range=(0.5, 1))
    # 0.1 % of the range is rounding
    assert metric(1.0009 * x.clamp(0, 1), y).isfinite().all()


@RANGED
def test_every_value_is_looked_at_on_demand(metric: Any) -> None:
    x, y = pair(1, 3, 400, 500, dtype=torch.float32)
    x[0, 1, 7, 9] = 1.5
    with pytest.raises(ValueError, match=r"^x: got values from \S+ to 1.5, want \[0, 1.0\], or another data_range$"):
        metric(x, y, check_range=True)
    unchecked = metric(255 * x, 255 * y, data_range=255, check_range=False)
    torch.testing.assert_close(unchecked, metric(x, y, check_range=False), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"^check_range: got 1, want True or False$"):
        metric(x, y, check_range=1)


@RANGED
def test_what_a_network_learns_may_leave_the_range(metric: Any) -> None:
    """As in every loss: a generated image in another range warns, a given one is still refused."""
    x, y = pair(1, 3, 161, 163, dtype=torch.float32)
    learnt = (3 * x - 1).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(learnt, y).sum().backward()
    codes = (255 * x).requires_grad_()
    with pytest.warns(
        UserWarning, match=r"^x: got values outside \[-1.0, 2.0\], want \[0, 1.0\], or another data_range$"
    ):
        metric(codes, y)
    with pytest.raises(ValueError, match=r"^y: got values from"):
        metric(learnt, 255 * y)
    with torch.no_grad(), pytest.raises(ValueError, match=r"^x: got values from"):
        metric(codes, y)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_values_steer_nothing_that_is_traced(metric: Any) -> None:
    """One graph and no error for any values; numbers that change between calls break no graph."""
    x, y = pair(2, 3, 24, 26, dtype=torch.float32)
    want = metric(255 * x, 255 * y, check_range=False)
    compiled = torch.compile(metric, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(255 * x, 255 * y), want)
    for white in (2.0, 3.0, 4.0):
        torch.testing.assert_close(compiled(x, y, data_range=white), metric(x, y, data_range=white))

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            score: Tensor = metric(x, y)
            return score

    exported = torch.export.export(Module(), (x, y), strict=False).module()
    torch.testing.assert_close(exported(255 * x, 255 * y), want)
    mapped = torch.vmap(lambda p, q: metric(p[None], q[None])[0])(255 * x, 255 * y)
    torch.testing.assert_close(mapped, want)
    assert metric(x.to("meta"), y.to("meta"), check_range=True).shape == (2,)


@RANGED
def test_black_and_white(metric: Any) -> None:
    x, y = pair(2, 3, 161, 163)
    want = metric(x, y)
    for low, high in ((-1, 1), (-0.5, 0.5), (16, 235)):
        scaled = [low + (high - low) * image for image in (x, y)]
        torch.testing.assert_close(metric(*scaled, data_range=(low, high)), want, rtol=1e-9, atol=0)
    assert torch.equal(metric(x, y, data_range=(0, 1)), want)
    codes = [image.mul(255).round().to(torch.uint8) for image in (x, y)]
    assert torch.equal(metric(*codes, data_range=(0, 255)), metric(*codes))


@RANGED
@pytest.mark.parametrize(
    ("dtypes", "computed"),
    [
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
        ((torch.float16, torch.bfloat16), torch.float32),
    ],
)
def test_two_floating_dtypes(metric: Any, dtypes: tuple[torch.dtype, torch.dtype], computed: torch.dtype) -> None:
    """Like a prediction under autocast and its target; the gradient has the image's dtype."""
    x, y = (image.to(dtype) for image, dtype in zip(pair(2, 3, 161, 163), dtypes, strict=True))
    for p, q in ((x, y), (y, x)):
        torch.testing.assert_close(metric(p, q), metric(p.to(computed), q.to(computed)), rtol=0, atol=0)
        assert metric(p, q).dtype == computed
    x.requires_grad_()
    metric(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtypes[0]
    assert x.grad.any()


# ---- arguments ----

NOT_NUMBERS = ("1", None, True, (1.0, 2.0), torch.tensor(1.0), [1.0])
IMAGE = torch.rand(1, 3, 170, 170)


@pytest.mark.parametrize("metric", [ssim, ms_ssim, SSIM, MSSSIM], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("preset", ["fastiqa", "torchmetrics"])
def test_bad_conventions(metric: Any, preset: str) -> None:
    """Functions refuse them when called, modules when constructed."""

    def call(**options: Any) -> None:
        if isinstance(metric, type):
            metric(preset=preset, **options)
        else:
            metric(IMAGE, IMAGE, preset=preset, **options)

    for name in ("k1", "k2", "sigma"):
        for value in (-0.01, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"^{name}: got {value}, want a finite number of at least 0$"):
                call(**{name: value})
        for value in NOT_NUMBERS:
            with pytest.raises(TypeError, match=rf"^{name}: got {type(value).__name__}, want a number$"):
                call(**{name: value})
    for size in ((11, 11), 11.0, "11", True, torch.tensor(11)):
        with pytest.raises(TypeError, match=r"^size: got .*, want an odd number from 1 to 33$"):
            call(size=size)
    for size in (0, -1, 10, 35):
        with pytest.raises(ValueError, match=rf"^size: got {size}, want an odd number from 1 to 33$"):
            call(size=size)
    for choice in ("padding", "channels", "covariance", "black"):
        for value in ("same", 1, torch.zeros(2), ["valid"]):
            with pytest.raises(ValueError, match=rf"^{choice}: got .*, want '"):
                call(**{choice: value})
    call(size=np.int64(9), k1=np.float32(0.02))
    with pytest.raises(ValueError, match=r"^sigma: got 5.0 with truncate=3.5, want a window of at most 33 pixels"):
        call(sigma=5.0, truncate=3.5)


@pytest.mark.parametrize("metric", [ms_ssim, MSSSIM], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ((math.inf, 1.0), ValueError, r"^weights\[0\]: got inf, want a finite number of at least 0$"),
        ((1.0, math.nan), ValueError, r"^weights\[1\]: got nan, want a finite number of at least 0$"),
        ((1.0, -0.1), ValueError, r"^weights\[1\]: got -0.1, want a finite number of at least 0$"),
        ((0.0, 0), ValueError, r"^weights: got \(0.0, 0\), want at least one and not all zero$"),
        (torch.ones(5), TypeError, r"^weights: got Tensor, want a tuple or list of numbers$"),
        ([torch.tensor(1.0)], TypeError, r"^weights\[0\]: got Tensor, want a number$"),
        ("11", TypeError, r"^weights: got str, want a tuple or list of numbers$"),
        (0.5, TypeError, r"^weights: got float, want a tuple or list of numbers$"),
    ],
)
def test_bad_weights(metric: Any, weights: Any, error: type[Exception], message: str) -> None:
    images = () if isinstance(metric, type) else (IMAGE, IMAGE)
    with pytest.raises(error, match=message):
        metric(*images, weights=weights)


CALLED = [psnr, ssim, ms_ssim, by_lpips, PSNR, SSIM, MSSSIM, LPIPS]


@pytest.mark.parametrize("metric", CALLED, ids=lambda metric: metric.__name__)
def test_bad_arguments_of_every_metric(metric: Any) -> None:
    images = () if isinstance(metric, type) else (IMAGE, IMAGE)
    for value in (torch.tensor(1.0), "1", True, [0, 1]):
        with pytest.raises(TypeError, match=rf"^data_range: got {type(value).__name__}, want a number or two"):
            metric(*images, data_range=value)
    for value in ((1,), (0, 1, 2), (0, None), (torch.tensor(0.0), 1)):
        with pytest.raises(TypeError, match=r"^data_range: got \(.*, want a number or two, \(black, white\)$"):
            metric(*images, data_range=value)
    for value in ((1, 1), (1, 0), (0, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match=r"^data_range: got \(.*, want \(black, white\), finite and black less"):
            metric(*images, data_range=value)
    with pytest.raises(ValueError, match=r"^reduction: got 'median', want one of 'none', 'mean', 'sum'$"):
        metric(*images, reduction="median")
    assert metric(*images, data_range=np.float32(1)) is not None


@pytest.mark.parametrize("metric", [psnr, PSNR], ids=["psnr", "PSNR"])
def test_bad_channels_of_psnr(metric: Any) -> None:
    images = () if isinstance(metric, type) else (IMAGE, IMAGE)
    with pytest.raises(ValueError, match=r"^channels: got 'grey', want one of 'rgb', 'luma', 'unrounded_luma'$"):
        metric(*images, channels="grey")


# ---- masks, maps, reduction ----


def test_a_mask_weights_the_windows_at_its_pixels() -> None:
    x, y = pair(2, 3, 21, 19)
    mask = torch.rand(2, 1, 21, 19, dtype=torch.float64)
    score, values = ssim(x, y, return_map=True, mask=mask)
    weights = mask[..., 5:-5, 5:-5]
    want = (values * weights).sum((2, 3)).div(weights.sum((2, 3))).mean(1)
    torch.testing.assert_close(score, want)
    torch.testing.assert_close(ssim(x, y, mask=mask), want)
    torch.testing.assert_close(ssim(x, y, mask=torch.ones(1, 1, 21, 19)), ssim(x, y))
    score, values = ssim(x, y, return_map=True, mask=mask > 0.5, padding="zero")
    assert values.shape == x.shape
    torch.testing.assert_close(score[0], values[0][:, (mask > 0.5)[0, 0]].mean())
    torch.testing.assert_close(
        psnr(x, y, mask=mask > 0.5)[1], psnr(*(i[1:, :, (mask > 0.5)[1, 0], None] for i in (x, y)))[0]
    )


def test_a_mask_of_ms_ssim_and_of_smaller_images() -> None:
    x, y = pair(1, 1, 400, 390)
    torch.testing.assert_close(ms_ssim(x, y, mask=torch.ones(1, 1, 400, 390)), ms_ssim(x, y))
    half = torch.zeros(1, 1, 400, 390)
    half[:, :, :224] = 1
    changed = y.clone()
    changed[:, :, 320:] = 0  # coarser windows reach further, 80 pixels at the fifth scale
    masked = [ms_ssim(x, image, mask=half) for image in (y, changed)]
    torch.testing.assert_close(*masked, rtol=1e-13, atol=0)
    assert ms_ssim(x, y) - ms_ssim(x, changed) > 0.1
    for downsample in ("matlab", "blocks"):
        masked = [ssim(x, image, mask=half, downsample=downsample) for image in (y, changed)]
        torch.testing.assert_close(*masked, rtol=1e-13, atol=0)


@METRIC
def test_bad_masks(metric: Any) -> None:
    x, y = pair(2, 3, 161, 161)
    for mask, error, message in (
        (torch.ones(161, 161), ValueError, r"^mask: got shape \(161, 161\), want \(2 or 1, 1, 161, 161\)$"),
        (torch.ones(2, 3, 161, 161), ValueError, r"^mask: got shape \(2, 3, 161, 161\)"),
        (torch.ones(2, 1, 161, 161).int(), TypeError, r"^mask: got torch.int32, want bool or a floating dtype$"),
        ([1.0], TypeError, r"^mask: got list, want a torch.Tensor$"),
        (torch.zeros(1, 1, 161, 161), ValueError, r"^mask: got no weight at any window of an image, want some$"),
        (
            torch.ones(1, 1, 161, 161) - 1.5,
            ValueError,
            r"^mask: got weights from -0.5 to -0.5, want finite ones of at ",
        ),
        (
            torch.ones(1, 1, 161, 161) / 0,
            ValueError,
            r"^mask: got weights from inf to inf, want finite ones of at leas",
        ),
        (torch.ones(1, 1, 161, 161).log().neg().sqrt() * math.nan, ValueError, r"^mask: got weights from nan to nan, "),
    ):
        with pytest.raises(error, match=message):
            metric(x, y, mask=mask)


@METRIC
def test_reduction(metric: Any) -> None:
    x, y = pair(2, 1, 161, 161)
    assert torch.equal(metric(x, y, reduction="mean"), metric(x, y).mean())
    assert torch.equal(metric(x, y, reduction="sum"), metric(x, y).sum())
    with pytest.raises(ValueError, match=r"^reduction: got 'median', want one of 'none', 'mean', 'sum'$"):
        metric(x, y, reduction="median")


@pytest.mark.parametrize("size", [(21, 40), (22, 25), (37, 30)])
@pytest.mark.parametrize("padding", ["reflect", "symmetric", "replicate", "zero"])
def test_padding_is_that_of_the_map(padding: Any, size: tuple[int, int]) -> None:
    """For the mean, large images are not padded; strips along their borders are."""
    x, y = pair(2, 2, *size)
    values = ssim(x, y, padding=padding, return_map=True)[1]
    torch.testing.assert_close(ssim(x, y, padding=padding), values.mean((1, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(ssim(x.requires_grad_(), y, padding=padding), values.mean((1, 2, 3)), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("padding", "mode"), [("symmetric", "reflect"), ("replicate", "nearest"), ("reflect", "mirror")]
)
def test_padding_as_scipy_names_it(padding: Any, mode: str) -> None:
    x, y = pair(1, 1, 14, 17)
    weights = np.array(window(11, 1.5))

    def mean(image: Any) -> Any:
        for axis in (0, 1):
            image = scipy.ndimage.correlate1d(image, weights, axis, mode=mode)
        return image

    p, q = x[0, 0].numpy(), y[0, 0].numpy()
    mp, mq = mean(p), mean(q)
    contrast = (2 * (mean(p * q) - mp * mq) + 9e-4) / (mean(p * p) - mp**2 + mean(q * q) - mq**2 + 9e-4)
    want = contrast * (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
    score, values, of_contrast = ssim(x, y, padding=padding, return_map=True, return_contrast=True)
    np.testing.assert_allclose(values[0, 0].numpy(), want, rtol=0, atol=1e-12)
    assert score.item() == pytest.approx(want.mean(), abs=1e-12)
    assert of_contrast.item() == pytest.approx(contrast.mean(), abs=1e-12)


def test_the_contrast_term_is_ssim_without_luminance() -> None:
    """Equal with a map, a mask of ones and bands; differentiable."""
    x, y = pair(2, 3, 40, 41)
    score, contrast = ssim(x, y, return_contrast=True)
    assert torch.equal(score, ssim(x, y))
    assert contrast.shape == (2,)
    for options in ({"return_map": True}, {"mask": torch.ones(1, 1, 40, 41)}):
        torch.testing.assert_close(ssim(x, y, return_contrast=True, **options)[-1], contrast)
    flat = x[:, :, :1, :1].expand_as(x)
    luminance = ssim(flat, flat / 2, return_contrast=True)
    assert torch.equal(luminance[1], torch.ones_like(luminance[1]))
    assert luminance[0].max() < 0.9
    for reduction in ("mean", "sum"):
        both = ssim(x, y, return_contrast=True, reduction=reduction)
        torch.testing.assert_close(both[1], getattr(contrast, reduction)())
    x.requires_grad_()
    assert torch.autograd.grad(ssim(x, y, return_contrast=True)[1].sum(), x)[0].any()
    with pytest.raises(ValueError, match=r"^return_contrast: got 1, want True or False$"):
        ssim(x, y, return_contrast=1)  # type: ignore[call-overload]


def test_the_least_sides() -> None:
    for padding, least in (("valid", 11), ("reflect", 6), ("symmetric", 5), ("replicate", 1), ("zero", 1)):
        x, y = pair(1, 1, least, 20)
        assert ssim(x, y, padding=padding).shape == (1,)
        if least > 1:
            with pytest.raises(
                ValueError, match=rf"want both sides at least {least}, (the window|for padding '{padding}')$"
            ):
                ssim(x[:, :, 1:], y[:, :, 1:], padding=padding)


# ---- bands ----


BANDED = [(metric, options) for metric in (psnr, ssim, ms_ssim) for options in ({}, {"channels": "luma"})]
BANDED += [(metric, {"padding": padding}) for metric in (ssim, ms_ssim) for padding in ("reflect", "symmetric", "zero")]


@pytest.mark.parametrize(("metric", "options"), BANDED)
def test_large_images_go_in_bands(metric: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 1e-6)):
        x, y = pair(2, 3, 178, 162, dtype=dtype)
        want = metric(x, y, **options)
        with monkeypatch.context() as patched:
            for band in ("BAND_PIXELS", "CACHED_PIXELS"):
                patched.setattr(_windows, band, 3 * 162 * 20)
            torch.testing.assert_close(metric(x, y, **options), want, rtol=tolerance, atol=0)


def test_bands_hold_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a kernel, a large image takes less memory than its pair."""
    from fastiqa.bench.runner.memory import peak_bytes

    x, y = pair(1, 3, 320, 320, dtype=torch.float32)
    for band in ("BAND_PIXELS", "CACHED_PIXELS"):
        monkeypatch.setattr(_windows, band, x.numel() // 16)
    with fastiqa.use("torch"):
        for metric in (psnr, ssim, ms_ssim):
            assert peak_bytes(lambda metric=metric: metric(x, y), "cpu") < 1.2 * 2 * x.nbytes


# ---- modules ----


def test_metrics_by_name() -> None:
    assert {"ms_ssim", "psnr", "ssim"} <= {*fastiqa.list_metrics()}
    assert fastiqa.list_metrics("*ssim") == ["ms_ssim", "ssim"]
    assert all(name == getattr(metric, "name", name) for name, metric in METRICS.items())
    for name in ("niqe", ["ssim"]):
        with pytest.raises(ValueError, match=r"^name: got .*, want one of "):
            fastiqa.create_metric(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "function", "options"),
    [
        (PSNR, psnr, {"data_range": 2.0}),
        (SSIM, ssim, {"preset": "skimage", "padding": "zero"}),
        (MSSSIM, ms_ssim, {"method": "wtd_sum", "reduction": "mean"}),
    ],
)
def test_modules_are_functions_with_options(module: Any, function: Any, options: Any) -> None:
    x, y = pair(2, 1, 161, 161)
    metric = fastiqa.create_metric(module.name, **options)
    assert type(metric) is module
    assert torch.equal(metric(x, y), function(x, y, **options))
    mask = torch.rand(1, 1, 161, 161)
    assert torch.equal(metric(x, y, mask), function(x, y, mask=mask, **options))
    assert metric.higher_is_better
    low, high = metric.score_range
    assert low <= metric(x, 1 - x).min() <= metric(x, y).max() <= high
    assert all(f"{name}={value!r}" in repr(metric) for name, value in options.items())
    with pytest.raises((TypeError, ValueError)):
        module(preset="another")


def test_losses_fall_as_images_get_closer() -> None:
    x, y = pair(2, 1, 161, 161)
    for metric, want in ((SSIM(), 1 - ssim(x, y).mean()), (PSNR(), -psnr(x, y).mean())):
        torch.testing.assert_close(MetricLoss(metric)(x, y), want)
    torch.testing.assert_close(MetricLoss(SSIM(reduction="mean"))(x, y), 1 - ssim(x, y).mean())
    with pytest.raises(ValueError, match=r"^metric: got one with reduction='sum', want 'none' or 'mean'$"):
        MetricLoss(SSIM(reduction="sum"))
    with pytest.raises(ValueError, match=r"^metric: got one with reduction='sum', want 'none' or 'mean'$"):
        MetricLoss(LPIPS("squeeze", pretrained=False, reduction="sum"))
    with pytest.raises(TypeError, match=r"^metric: got function, want a module with higher_is_better and score_range"):
        MetricLoss(ssim)  # type: ignore[arg-type]
    assert MetricLoss(MSSSIM())(x, y) > MetricLoss(MSSSIM())(x, (x + y) / 2) > MetricLoss(MSSSIM())(x, x) == 0
