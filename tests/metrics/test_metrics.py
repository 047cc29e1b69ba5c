"""PSNR, SSIM, MS-SSIM and luma: published values, three independent implementations, gradients, precision, errors."""

from __future__ import annotations

import kornia
import numpy as np
import pytest
import pytorch_msssim
import skimage.filters
import skimage.metrics
import torch

from fastiqa.data import read_image
from fastiqa.metrics import luma, ms_ssim, psnr, ssim
from support.shared_data import shared_file

METRICS = [psnr, ssim, ms_ssim]
HALVES = [torch.bfloat16, torch.float16]


def pair(*shape, dtype=torch.float64, noise=0.1, seed=0):
    """A smooth random image in [0, 1], and a noisy copy, both rounded to 8-bit code values."""
    generator = torch.Generator().manual_seed(seed)
    n, c, height, width = shape
    coarse = torch.rand(n, c, height // 8 + 2, width // 8 + 2, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    y = x + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    return tuple((image.clamp(0, 1) * 255).round().div(255).to(dtype) for image in (x, y))


def skimage_ssim(x, y, data_range=1.0):
    """scikit-image's SSIM map, float64, cut to the windows that lie inside the image: (C, H-10, W-10)."""
    maps = [
        skimage.metrics.structural_similarity(
            p.double().numpy(),
            q.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            full=True,
        )[1][5:-5, 5:-5]
        for p, q in zip(x, y, strict=True)
    ]
    return np.stack(maps)


TID2013 = {
    "I04": ("20.99", "0.9978", "0.9996"),
    "I06": ("27.01", "0.9989", "0.9998"),
    "I19": ("21.62", "0.6519", "0.8462"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", TID2013)
def test_published_values_to_their_last_digit(name, dtype):
    x, y = (read_image(shared_file(f"tid2013/{name}_{kind}.png")).tensor(dtype) for kind in ("ref", "dist"))
    grey_x, grey_y = luma(x), luma(y)
    scores = (psnr(x, y).item(), ssim(grey_x, grey_y).item(), ms_ssim(grey_x, grey_y, method="wtd_sum").item())
    assert tuple(f"{score:.{digits}f}" for score, digits in zip(scores, (2, 4, 4), strict=True)) == TID2013[name]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (12, 40), (67, 45)])
def test_skimage_psnr_and_ssim(channels, size):
    x, y = pair(2, channels, *size)
    score, values = ssim(x, y, return_map=True)
    assert values.shape == (2, channels, size[0] - 10, size[1] - 10)
    for k in range(2):
        expected = skimage_ssim(x[k], y[k])
        np.testing.assert_allclose(values[k].numpy(), expected, rtol=0, atol=1e-12)
        assert score[k].item() == pytest.approx(expected.mean(), abs=1e-12)
        expected = skimage.metrics.peak_signal_noise_ratio(x[k].numpy(), y[k].numpy(), data_range=1.0)
        assert psnr(x, y)[k].item() == pytest.approx(expected, abs=1e-10)


def test_skimage_on_a_photograph():
    x, y = (read_image(shared_file(f"tid2013/I19_{kind}.png")).tensor(torch.float64) for kind in ("ref", "dist"))
    assert ssim(x, y).item() == pytest.approx(skimage_ssim(x[0], y[0]).mean(), abs=1e-10)
    grey_x, grey_y = luma(x), luma(y)
    assert ssim(grey_x, grey_y).item() == pytest.approx(skimage_ssim(grey_x[0], grey_y[0]).mean(), abs=1e-10)


def test_pytorch_msssim_values_and_gradients():
    x, y = pair(1, 2, 192, 176)
    distance = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(distance**2) / (2 * 1.5**2))  # its own window is float32
    window = (window / window.sum()).expand(2, 1, 1, 11)
    for ours, theirs in ((ssim, pytorch_msssim.ssim), (ms_ssim, pytorch_msssim.ms_ssim)):
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        value, expected = ours(mine, y), theirs(other, y, data_range=1.0, size_average=False, win=window)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
        value.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10 * other.grad.abs().max().item())


def test_kornia_ssim_map():
    # kornia adds eps = 1e-12 to a denominator of at least C1 C2 = 9e-8: 1.1e-5 at worst, where both images are black
    x, y = pair(2, 3, 64, 80)
    expected = kornia.metrics.ssim(x, y, window_size=11, max_val=1.0, padding="valid")
    torch.testing.assert_close(ssim(x, y, return_map=True)[1], expected, rtol=0, atol=1.2e-5)


def blurred(image):
    return skimage.filters.gaussian(image, 1.5, truncate=3.5)[5:-5, 5:-5]


def halved(image):
    """Every second pixel of 2×2 averages with a symmetric border: the authors' imfilter and subsampling."""
    padded = np.pad(image, (0, 1), mode="symmetric")
    return ((padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]) / 4)[::2, ::2]


@pytest.mark.parametrize("size", [(176, 192), (161, 170), (161, 165)])
def test_ms_ssim_as_the_authors_code_joins_single_scales(size):
    x, y = pair(1, 1, *size)
    p, q = x[0, 0].numpy(), y[0, 0].numpy()
    scores = []
    for scale in range(5):
        if scale > 0:
            p, q = halved(p), halved(q)
        mean_p, mean_q = blurred(p), blurred(q)
        variances = blurred(p * p) - mean_p**2 + blurred(q * q) - mean_q**2
        values = (2 * (blurred(p * q) - mean_p * mean_q) + 0.03**2) / (variances + 0.03**2)
        if scale == 4:
            values *= (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
        scores.append(values.mean())
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    assert ms_ssim(x, y).item() == pytest.approx(np.prod(scores**weights), abs=1e-12)
    assert ms_ssim(x, y, method="wtd_sum").item() == pytest.approx(np.average(scores, weights=weights), abs=1e-12)


def test_luma_is_matlabs_grey():
    codes = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 20, 30], [0, 0, 0]])
    image = codes.double().T.reshape(1, 3, 1, 6)
    for depth, grey in ((8, [76, 150, 29, 255, 18, 0]), (16, [76, 150, 29, 255, 18, 0])):
        white = 2**depth - 1
        for dtype in (torch.float64, torch.float32):
            result = luma((image / white).to(dtype), bit_depth=depth)
            assert result.shape == (1, 1, 1, 6)
            assert result.dtype == dtype
            assert (result.double() * white).round().flatten().tolist() == grey
    # every grey code value stays itself, at both depths and in both dtypes
    for depth in (8, 16):
        ramp = (torch.arange(2**depth, dtype=torch.float64) / (2**depth - 1)).expand(1, 3, 1, -1)
        assert torch.equal(luma(ramp, bit_depth=depth), ramp[:, :1])
        assert torch.equal(luma(ramp.float(), bit_depth=depth), ramp[:, :1].float())


@pytest.mark.parametrize("padding", ["valid", "reflect", "symmetric", "replicate", "zero"])
def test_gradcheck(padding):
    """With respect to both images, each value of an odd 5×4 image by itself, with a 3×3 window."""
    x, y = (image.requires_grad_() for image in pair(1, 1, 5, 4))
    mask = torch.rand(1, 1, 5, 4, dtype=torch.float64)

    def score(p, q):
        return ssim(p, q, size=3, padding=padding)

    assert torch.autograd.gradcheck(score, (x, y))
    assert torch.autograd.gradgradcheck(score, (x, y))
    assert torch.autograd.gradcheck(lambda p, q: ssim(p, q, size=3, padding=padding, return_map=True)[1], (x, y))
    assert torch.autograd.gradcheck(lambda p, q: ssim(p, q, size=3, padding=padding, mask=mask), (x, y))
    assert torch.autograd.gradcheck(lambda p, q: psnr(p, q, mask=mask, channels="rgb"), (x, y))


@pytest.mark.parametrize("options", [{}, {"method": "wtd_sum", "odd": "zero"}, {"odd": "replicate"}], ids=str)
def test_gradcheck_of_ms_ssim_on_two_scales(options):
    x, y = (image.requires_grad_() for image in pair(1, 1, 7, 6))

    def score(p, q):
        return ms_ssim(p, q, size=3, weights=(0.4, 0.6), **options)

    assert torch.autograd.gradcheck(score, (x, y))
    assert torch.autograd.gradgradcheck(score, (x, y), fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by PyTorch itself, in forward mode
def test_opposite_structure_scores_zero_with_finite_derivatives():
    x = pair(1, 3, 176, 176)[0].requires_grad_()
    value = ms_ssim(x, 1 - x.detach())
    assert value.item() == 0
    value.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    x = x.detach()
    assert torch.func.jvp(lambda image: ms_ssim(image, 1 - x), (x,), (torch.ones_like(x),))[1].item() == 0
    assert ms_ssim(x, 1 - x, method="wtd_sum").item() < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize("grey", [0.0, 0.1, 0.7, 1.0])
def test_flat_images(dtype, grey):
    flat = torch.full((2, 1, 161, 163), grey, dtype=dtype)
    assert ssim(flat, flat).tolist() == [1, 1]
    assert ms_ssim(flat, flat).tolist() == [1, 1]
    assert psnr(flat, flat).tolist() == [float("inf")] * 2
    assert ssim(flat, flat, padding="reflect").tolist() == [1, 1]
    other = torch.full_like(flat, 0.5)
    p, q = flat[0, 0, 0, 0].double(), other[0, 0, 0, 0].double()
    expected = (2 * p * q + 1e-4) / (p * p + q * q + 1e-4)  # luminance alone: the contrast of flat images is 1
    # PyTorch's float32 mean of equal values was off by up to 4.8e-7
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert ssim(flat, other)[0].item() == pytest.approx(expected.item(), abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("metric", METRICS)
def test_precision_against_float64_of_the_same_values(metric, dtype):
    x, y = pair(2, 3, 176, 192, dtype=dtype, noise=0.05)
    value, exact = metric(x, y), metric(x.double(), y.double())
    assert value.dtype == torch.float32
    assert exact.dtype == torch.float64
    tolerance = 2e-5 if metric is psnr else 1e-6  # dB; a unit in the last place of 25 dB is 1.9e-6
    torch.testing.assert_close(value.double(), exact, rtol=0, atol=tolerance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(metric(x, y), value)


def test_bright_images_lose_no_digits():
    # variances of 1e-6 around a mean of 0.9: E[x²] − E[x]² in float32 is off by 5e-8 and SSIM by 1e-4
    generator = torch.Generator().manual_seed(0)
    x = (0.9 + 1e-3 * torch.randn(1, 1, 64, 64, generator=generator)).clamp(0, 1)
    y = (0.9 + 1e-3 * torch.randn(1, 1, 64, 64, generator=generator)).clamp(0, 1)
    assert abs(ssim(x, y).double() - ssim(x.double(), y.double())).item() < 5e-7


@pytest.mark.parametrize("metric", METRICS)
def test_symmetry_batches_layouts_and_ranges(metric):
    x, y = pair(2, 2, 170, 163)
    value = metric(x, y)
    assert value.shape == (2,)
    torch.testing.assert_close(metric(y, x), value, rtol=1e-14, atol=0)
    alone = torch.cat([metric(x[k : k + 1], y[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(alone, value, rtol=1e-14, atol=0)
    channels_last = [image.contiguous(memory_format=torch.channels_last) for image in (x, y)]
    torch.testing.assert_close(metric(*channels_last), value, rtol=1e-14, atol=0)
    torch.testing.assert_close(metric(x.transpose(2, 3), y.transpose(2, 3)), value, rtol=1e-13, atol=0)
    torch.testing.assert_close(metric(255 * x, 255 * y, data_range=255), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(metric(x[:0], y[:0]), value[:0])


def test_vmap_and_compile():
    x, y = pair(3, 1, 32, 32)
    torch.testing.assert_close(torch.vmap(lambda p, q: ssim(p[None], q[None])[0])(x, y), ssim(x, y))
    compiled = torch.compile(ssim, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), ssim(x, y))


def test_ms_ssim_in_vmap_and_compiled():
    """With gradients: here those of an image and of its half join elsewhere than in eager calls."""
    x, y = pair(2, 1, 176, 180)
    x.requires_grad_()
    want = torch.autograd.grad(ms_ssim(x, y).sum(), x)[0]
    mapped = torch.vmap(lambda p, q: ms_ssim(p[None], q[None])[0])(x, y)
    torch.testing.assert_close(torch.autograd.grad(mapped.sum(), x)[0], want)
    compiled = torch.compile(ms_ssim, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, y).sum(), x)[0], want)
    halves = x.detach().bfloat16().requires_grad_(), y.bfloat16()
    low = torch.autograd.grad(ms_ssim(*halves).sum(), halves[0])[0]
    exact = halves[0].detach().double().requires_grad_()
    torch.testing.assert_close(low, torch.autograd.grad(ms_ssim(exact, halves[1].double()).sum(), exact)[0].bfloat16())


def test_tensor_subclasses():
    """MS-SSIM's gradient; its joint node for an image and its half cannot take a subclass."""

    class Subclass(torch.Tensor):
        pass

    x, y = pair(1, 1, 176, 176)
    for metric in METRICS:
        plain, other = x.clone().requires_grad_(), x.clone().as_subclass(Subclass).requires_grad_()
        for image in (plain, other):
            metric(image, y).sum().backward()
        torch.testing.assert_close(other.grad.as_subclass(torch.Tensor), plain.grad)


IMAGE = torch.rand(1, 3, 176, 176)
BAD_PAIRS = {
    "list": ([0.5], IMAGE, TypeError, r"^x: got list, want a torch.Tensor$"),
    "int16": (IMAGE.to(torch.int16), IMAGE, TypeError, r"^x: got torch.int16, want a floating dtype or uint8$"),
    "uint8": (IMAGE, IMAGE.to(torch.uint8), TypeError, r"^y: got torch.uint8, want that of x, torch.float32$"),
    "complex": (IMAGE, IMAGE.to(torch.complex64), TypeError, r"^y: got torch.complex64, want a floating dtype"),
    "rank": (IMAGE, IMAGE[0], ValueError, r"^y: got shape \(3, 176, 176\), want \(N, C, H, W\)$"),
    "shape": (IMAGE, IMAGE[..., 1:], ValueError, r"^y: got shape \(1, 3, 176, 175\), want that of x, \(1, 3, 176, "),
    "broadcast": (IMAGE, IMAGE[:, :1], ValueError, r"^y: got shape \(1, 1, 176, 176\), want that of x"),
    "device": (IMAGE, IMAGE.to("meta"), ValueError, r"^y: got a tensor on meta, want the device of x, cpu$"),
    "empty": (IMAGE[:, :0], IMAGE[:, :0], ValueError, r"^x: got shape \(1, 0, 176, 176\), want at least one channel"),
    "float8": (
        IMAGE.to(torch.float8_e4m3fn),
        IMAGE,
        TypeError,
        r"^x: got torch.float8_e4m3fn, want a floating dtype of",
    ),
    "sparse": (IMAGE, IMAGE.to_sparse(), TypeError, r"^y: got torch.sparse_coo, want a dense tensor$"),
    "mkldnn": (IMAGE.to_mkldnn(), IMAGE, TypeError, r"^x: got torch._mkldnn, want a dense tensor$"),
    "nested": (
        torch.nested.nested_tensor([*IMAGE], layout=torch.jagged),
        IMAGE,
        TypeError,
        r"^x: got a nested tensor, ",
    ),
    "nan": (IMAGE, IMAGE.log().sqrt(), ValueError, r"^y: got NaN or infinity, want finite values in \[0, 1.0\]$"),
    "infinity": (IMAGE / 0, IMAGE, ValueError, r"^x: got NaN or infinity"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs(metric, case):
    x, y, error, message = BAD_PAIRS[case]
    with pytest.raises(error, match=message):
        metric(x, y)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("data_range", [0, -1.0, float("nan"), float("inf")])
def test_bad_data_range(metric, data_range):
    with pytest.raises(ValueError, match=rf"^data_range: got {data_range}, want a positive finite number$"):
        metric(IMAGE, IMAGE, data_range=data_range)


def test_images_too_small():
    with pytest.raises(ValueError, match=r"^x: got height 10 and width 176, want both sides at least 11"):
        ssim(IMAGE[..., :10, :], IMAGE[..., :10, :])
    with pytest.raises(ValueError, match=r"^x: got height 176 and width 160, want both sides greater than 160"):
        ms_ssim(IMAGE[..., :160], IMAGE[..., :160])
    assert ms_ssim(IMAGE[..., :161, :161], IMAGE[..., :161, :161]).item() == 1
    with pytest.raises(ValueError, match=r"^method: got 'mean', want 'product' or 'wtd_sum'$"):
        ms_ssim(IMAGE, IMAGE, method="mean")


def test_luma_errors():
    with pytest.raises(TypeError, match=r"^image: got torch.bfloat16, want float32 or float64$"):
        luma(IMAGE.bfloat16())
    with pytest.raises(ValueError, match=r"^image: got shape \(1, 1, 176, 176\), want \(N, 3, H, W\)$"):
        luma(IMAGE[:, :1])
    with pytest.raises(ValueError, match=r"^image: got values from \S+ to 2\S+, want \[0, 1.0\], code values over "):
        luma(255 * IMAGE)
    with pytest.raises(TypeError, match=r"^image: got ndarray, want a torch.Tensor$"):
        luma(IMAGE.numpy())
    for depth in (8.5, "8", True):
        with pytest.raises(TypeError, match=r"^bit_depth: got .*, want an integer from 1 to 16$"):
            luma(IMAGE, bit_depth=depth)
    with pytest.raises(ValueError, match=r"^bit_depth: got 17, want 1 to 16$"):
        luma(IMAGE, bit_depth=17)
