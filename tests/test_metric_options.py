"""Options of the metrics beside the presets: code values, masks, maps, bands, losses; and what low precision, flat and
opposite images must not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa.metrics import MSSSIM, PSNR, SSIM, MetricLoss, _windows, luma, ms_ssim, psnr, ssim
from fastiqa.metrics.registry import METRICS

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
    """The images are read for the message alone, after a score that is not finite."""
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
    """Where other libraries are off by up to 0.07, and give 1.1 for flat bright images."""
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
    changed[:, :, 320:] = 0  # coarser windows reach further: of the fifth scale 80 pixels
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
@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_padding_is_that_of_the_map(padding: Any, size: tuple[int, int]) -> None:
    """Images that are large enough are not padded for the mean, their borders are."""
    x, y = pair(2, 2, *size)
    values = ssim(x, y, padding=padding, return_map=True)[1]
    torch.testing.assert_close(ssim(x, y, padding=padding), values.mean((1, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(ssim(x.requires_grad_(), y, padding=padding), values.mean((1, 2, 3)), rtol=1e-13, atol=0)


def test_the_least_sides() -> None:
    for padding, least in (("valid", 11), ("reflect", 6), ("zero", 1)):
        x, y = pair(1, 1, least, 20)
        assert ssim(x, y, padding=padding).shape == (1,)
        if least > 1:
            with pytest.raises(
                ValueError, match=rf"want both sides at least {least}, (the window|for padding '{padding}')$"
            ):
                ssim(x[:, :, 1:], y[:, :, 1:], padding=padding)


# ---- bands ----


BANDED = [(metric, options) for metric in (psnr, ssim, ms_ssim) for options in ({}, {"channels": "luma"})]
BANDED += [(metric, {"padding": padding}) for metric in (ssim, ms_ssim) for padding in ("reflect", "zero")]


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
    """Without a kernel too, a large image takes less than its pair holds."""
    from fastiqa.bench.memory import peak_bytes

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
    with pytest.raises(ValueError, match=r"^name: got 'niqe', want one of "):
        fastiqa.create_metric("niqe")


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
    assert MetricLoss(MSSSIM())(x, y) > MetricLoss(MSSSIM())(x, (x + y) / 2) > MetricLoss(MSSSIM())(x, x) == 0
