"""Presets: the values of other programs to 1e-6 in float64, and their conventions one by one from the definition."""

from __future__ import annotations

from typing import Any

import kornia
import numpy as np
import pytest
import pytorch_msssim
import scipy.ndimage
import skimage.metrics
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fastiqa.metrics import luma, ms_ssim, ssim
from fastiqa.metrics.presets import MS_SSIM_PRESETS, SSIM_PRESETS
from fastiqa.ops.ssim import window
from support.oracles import import_oracle


def images(height: int, width: int, n: int = 2) -> tuple[Tensor, Tensor]:
    """Smooth, with different noise in each channel, in [0.05, 1]: kornia's epsilon matters in black."""
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 9, 11, dtype=torch.float64), (height, width), mode="bilinear")
    noise = torch.tensor([0.02, 0.08, 0.2], dtype=torch.float64).view(3, 1, 1) * torch.randn_like(x)
    return x.clamp(0.05, 1), (x + noise).clamp(0.05, 1)


def from_torchmetrics(x: Tensor, y: Tensor) -> Tensor:
    functional = import_oracle("torchmetrics.functional.image")
    score: Tensor = functional.structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    return score


def from_piq(x: Tensor, y: Tensor) -> Tensor:
    score: Tensor = import_oracle("piq").ssim(x, y, data_range=1.0, reduction="none")
    return score if score.ndim == 1 else score.mean(1)


def from_skimage(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    pairs = zip(x.numpy(), y.numpy(), strict=True)
    compare = skimage.metrics.structural_similarity
    return torch.tensor([compare(p, q, channel_axis=0, data_range=1.0, **options) for p, q in pairs])


def by_definition(x: Tensor, y: Tensor) -> Tensor:
    """fused-ssim, from its formula, since it needs a GPU: zeros around the image, a window at every pixel."""
    row = torch.tensor(window(11, 1.5), dtype=torch.float64).expand(3, 1, 1, 11)

    def mean(image: Tensor) -> Tensor:
        return conv2d(conv2d(pad(image, (5, 5, 5, 5)), row, groups=3), row.mT, groups=3)

    mx, my = mean(x), mean(y)
    variances, covariance = mean(x * x) - mx * mx + mean(y * y) - my * my, mean(x * y) - mx * my
    luminance = (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean((1, 2, 3))


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
ORACLES = {
    "fused_ssim": by_definition,
    "kornia": lambda x, y: kornia.metrics.ssim(x, y, 11).mean((1, 2, 3)),
    "piq": from_piq,
    "pytorch_msssim": lambda x, y: pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False),
    "skimage": from_skimage,
    "skimage_gaussian": lambda x, y: from_skimage(x, y, **GAUSSIAN),
    "torchmetrics": from_torchmetrics,
}


def test_every_ssim_preset_is_compared() -> None:
    assert {*ORACLES, "fastiqa", "matlab", "matlab_downsampled"} == {*SSIM_PRESETS}
    assert {*MS_ORACLES, "fastiqa", "matlab", "matlab_wtd_sum"} == {*MS_SSIM_PRESETS}


@pytest.mark.parametrize("preset", ORACLES)
def test_ssim_of_other_libraries(preset: str) -> None:
    x, y = images(40, 53)
    score = ssim(x, y, preset=preset)
    # pytorch-msssim's window is rounded to float32: its sum is not 1, and its variances are off by 1e-7 of the mean²
    tolerance = 1e-6 if preset == "pytorch_msssim" else 1e-9
    torch.testing.assert_close(score, ORACLES[preset](x, y), rtol=0, atol=tolerance)
    if SSIM_PRESETS[preset] and preset not in ("piq", "skimage_gaussian"):  # it differs from the default
        assert (score - ssim(x, y)).abs().min() > 1e-3


def test_piq_averages_blocks_of_large_images() -> None:
    x, y = images(386, 391, n=1)  # blocks of 2 × 2, one row and column left over
    torch.testing.assert_close(ssim(x, y, preset="piq"), from_piq(x, y), rtol=0, atol=1e-9)
    assert (ssim(x, y, preset="piq") - ssim(x, y)).abs().item() > 1e-2


@pytest.mark.parametrize(("side", "factor"), [(640, 3), (897, 4)])
def test_matlab_averages_around_every_fth_pixel_of_mirrored_grey(side: int, factor: int) -> None:
    x, y = images(side, side + 5, n=1)
    small = []
    for image in (x, y):
        grey = luma(image)[0, 0].numpy()
        # imfilter's centre of an even kernel is left of its middle, scipy's right of it
        weights, origin = np.full((factor, factor), factor**-2.0), -((factor + 1) % 2)
        filtered = scipy.ndimage.correlate(grey, weights, mode="reflect", origin=origin)
        small.append(torch.from_numpy(filtered[::factor, ::factor].copy())[None, None])
    score = ssim(x, y, preset="matlab_downsampled")
    torch.testing.assert_close(score, ssim(*small), rtol=0, atol=1e-12)
    assert (score - ssim(x, y, preset="matlab")).abs().item() > 1e-2
    torch.testing.assert_close(ssim(x, y, preset="matlab"), ssim(luma(x), luma(y)), rtol=0, atol=0)


def ms_from_torchmetrics(x: Tensor, y: Tensor) -> Tensor:
    functional = import_oracle("torchmetrics.functional.image")
    compare = functional.multiscale_structural_similarity_index_measure
    score: Tensor = compare(x, y, data_range=1.0, reduction="none", normalize="relu")
    return score


def ms_from_piq(x: Tensor, y: Tensor) -> Tensor:
    score: Tensor = import_oracle("piq").multi_scale_ssim(x, y, data_range=1.0, reduction="none")
    return score


MS_ORACLES = {
    "piq": ms_from_piq,
    "pytorch_msssim": lambda x, y: pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False),
    "torchmetrics": ms_from_torchmetrics,
}


@pytest.mark.parametrize("preset", MS_ORACLES)
@pytest.mark.parametrize("size", [(177, 190), (181, 183)])
def test_ms_ssim_of_other_libraries_at_odd_sides(preset: str, size: tuple[int, int]) -> None:
    x, y = images(*size, n=1)
    score = ms_ssim(x, y, preset=preset)
    torch.testing.assert_close(score, MS_ORACLES[preset](x, y), rtol=0, atol=1e-6)
    assert (score - ms_ssim(x, y)).abs().item() > 1e-5


@pytest.mark.parametrize("sigma", [0.8, 2.0, 4.5])
def test_windows_that_follow_sigma(sigma: float) -> None:
    """In torchmetrics and scikit-image they do; a given size, or another library's window, stays."""
    x, y = images(60, 53)
    functional = import_oracle("torchmetrics.functional.image")
    structural = functional.structural_similarity_index_measure
    want, contrast = structural(x, y, sigma=sigma, data_range=1.0, reduction="none", return_contrast_sensitivity=True)
    score = ssim(x, y, preset="torchmetrics", sigma=sigma)
    torch.testing.assert_close(score, want, rtol=0, atol=1e-9)
    # torchmetrics averages windows inside the image only
    of_valid = ssim(x, y, preset="torchmetrics", sigma=sigma, padding="valid", return_contrast=True)[1]
    torch.testing.assert_close(of_valid, contrast, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        ssim(x, y, preset="skimage_gaussian", sigma=sigma),
        from_skimage(x, y, gaussian_weights=True, sigma=sigma, use_sample_covariance=False),
        rtol=0,
        atol=1e-9,
    )
    for options in ({"preset": "torchmetrics", "size": 11}, {"preset": "kornia"}):
        assert torch.equal(ssim(x, y, sigma=sigma, **options), ssim(x, y, sigma=sigma, size=11, padding="reflect"))


def test_scales_of_torchmetrics_with_another_sigma() -> None:
    x, y = images(180, 193, n=1)
    functional = import_oracle("torchmetrics.functional.image")
    want = functional.multiscale_structural_similarity_index_measure(x, y, sigma=1.0, data_range=1.0)
    torch.testing.assert_close(ms_ssim(x, y, preset="torchmetrics", sigma=1.0)[0], want, rtol=0, atol=1e-6)


def test_black_of_torchmetrics_is_kept() -> None:
    """torchmetrics' pair of numbers gives the distance of black and white, not their places."""
    x, y = (2 * image - 1 for image in images(180, 193, n=1))
    functional = import_oracle("torchmetrics.functional.image")
    want = functional.structural_similarity_index_measure(x, y, data_range=(-1.0, 1.0))
    score = ssim(x, y, preset="torchmetrics", data_range=(-1.0, 1.0), reduction="mean")
    torch.testing.assert_close(score, want, rtol=0, atol=1e-9)
    subtracted = ssim(x, y, preset="torchmetrics", data_range=(-1, 1), black="subtracted", reduction="mean")
    torch.testing.assert_close(subtracted, ssim((x + 1) / 2, (y + 1) / 2, padding="reflect", reduction="mean"))
    assert abs(score - subtracted) > 1e-3
    want = functional.multiscale_structural_similarity_index_measure(x, y, data_range=(-1.0, 1.0))
    score = ms_ssim(x, y, preset="torchmetrics", data_range=(-1.0, 1.0), reduction="mean")
    torch.testing.assert_close(score, want, rtol=0, atol=1e-6)


def test_scikit_image_s_map_is_that_of_symmetric_padding() -> None:
    x, y = images(20, 23, n=1)
    for preset, options in (("skimage", {}), ("skimage_gaussian", GAUSSIAN)):
        compare = skimage.metrics.structural_similarity
        want = compare(x[0].numpy(), y[0].numpy(), channel_axis=0, data_range=1.0, full=True, **options)[1]
        values = ssim(x, y, preset=preset, padding="symmetric", return_map=True)[1]
        np.testing.assert_allclose(values[0].numpy(), want, rtol=0, atol=1e-9)


def test_a_preset_with_another_option() -> None:
    x, y = images(30, 31)
    want = ssim(x, y, size=7, sigma=0.0, covariance="sample", padding="reflect")
    assert torch.equal(ssim(x, y, preset="skimage", padding="reflect"), want)
    assert want.shape == (2,)


@pytest.mark.parametrize(
    ("metric", "options", "error", "message"),
    [
        (ssim, {"preset": "matlib"}, ValueError, r"^preset: got 'matlib', want one of fastiqa, fused_ssim, kornia"),
        (
            ssim,
            {"padding": "same"},
            ValueError,
            r"^padding: got 'same', want 'valid' or 'reflect' or 'symmetric' or 'replicate' or 'zero'$",
        ),
        (ssim, {"window": 7}, TypeError, r"^window: not a convention of this metric, which are size, sigma"),
        (ms_ssim, {"downsample": "matlab"}, TypeError, r"^downsample: not a convention of this metric"),
        (ms_ssim, {"weights": ()}, ValueError, r"^weights: got \(\), want at least one"),
        (ssim, {"size": 8}, ValueError, r"^size: got 8, want an odd number"),
        (ssim, {"size": 33}, ValueError, r"^x: got height 30 and width 31, want both sides at least 33, the window$"),
    ],
)
def test_conventions_that_do_not_exist(metric: Any, options: Any, error: type[Exception], message: str) -> None:
    x, y = images(30, 31)
    with pytest.raises(error, match=message):
        metric(x, y, **options)
