"""The bank of distortions: each one's effect, order of levels, and reproducibility by the generator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from skimage import color
from torch import Tensor

from fastiqa.data import read_image
from fastiqa.data.distortions import CLASSES, DISTORTIONS, LEVELS, distort
from fastiqa.data.distortions.blur import disc_kernel, line_kernels
from fastiqa.data.distortions.noise import white_noise
from fastiqa.data.images.codecs import decode_image, encode_image
from fastiqa.data.images.colour_spaces import COLOUR_SPACES, from_lab, from_ycbcr, to_hsv, to_lab, to_ycbcr
from fastiqa.metrics import psnr
from support.pictures import picture
from support.shared_data import shared_file

# distortions without random draws
FIXED = {
    "gaussian_blur", "lens_blur", "colour_diffusion", "colour_quantisation", "saturation_hsv", "saturation_lab",
    "jpeg2000", "jpeg", "brighten", "darken", "pixelate", "quantisation", "high_sharpen", "contrast_change",
}  # fmt: skip
# distortions that round: float32 and float64 may round to different sides
STEPPED = {"colour_quantisation", "jpeg2000", "jpeg", "quantisation"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*seeds: int) -> Tensor:
    """Smooth colours with grain, (N, 3, 48, 64), float64."""
    codes = np.stack([picture(seed, 48, 64) for seed in seeds])
    return torch.from_numpy(codes / 255.0).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    return read_image(shared_file("photos/dragonfly.webp")).tensor()[..., 200:392, 300:556]


def test_the_list_of_kadid() -> None:
    assert len(DISTORTIONS) == 25
    assert {distortion.family for distortion in DISTORTIONS.values()} == {
        "blur", "colour", "compression", "noise", "brightness", "spatial", "contrast"
    }  # fmt: skip
    assert len(CLASSES) == len(set(CLASSES)) == 126
    assert CLASSES[0] == ("none", 0)
    assert CLASSES[1:6] == tuple(("gaussian_blur", level) for level in range(1, 6))
    assert CLASSES[125] == ("contrast_change", 5)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_higher_level_is_worse(name: str, photograph: Tensor) -> None:
    images = torch.cat([distort(photograph, name, level, seeded()) for level in range(1, LEVELS + 1)])
    scores = psnr(photograph.expand_as(images), images).tolist()
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores
    assert scores[0] < 50, "level 1 changes nothing"


@pytest.mark.parametrize("name", DISTORTIONS)
def test_shape_range_and_generator(name: str) -> None:
    images = pictures(0, 1)
    before = images.clone()
    result = distort(images, name, 3, seeded())
    assert torch.equal(images, before)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(result, distort(images, name, 3, seeded()))
    assert torch.equal(result, distort(images, name, 3, seeded(1))) == (name in FIXED)
    if name in FIXED:
        assert torch.equal(result[1:], distort(images[1:], name, 3, seeded()))
    channels_last = distort(images.contiguous(memory_format=torch.channels_last), name, 3, seeded())
    assert torch.allclose(result, channels_last, atol=1e-12)
    near = (result - distort(images.float(), name, 3, seeded())).abs() < 1e-4
    assert near.double().mean() > (0.98 if name in STEPPED else 0.999)


@pytest.mark.parametrize("name", sorted(set(DISTORTIONS) - FIXED - {"mean_shift"}))
def test_images_of_a_batch_have_choices_of_their_own(name: str) -> None:
    first, second = distort(pictures(0, 0), name, 5, seeded())
    assert not torch.equal(first, second)


def test_without_a_generator_pytorchs_own_decides() -> None:
    torch.manual_seed(5)
    one, other = (distort(pictures(0), "white_noise", 1) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(distort(pictures(0), "white_noise", 1), one)
    assert not torch.equal(one, other)


def test_gaussian_blur_is_scipys() -> None:
    image = pictures(0)
    wanted = scipy.ndimage.gaussian_filter(image[0], (0, 2, 2), mode="nearest", truncate=3)
    assert np.allclose(distort(image, "gaussian_blur", 4)[0], wanted, atol=1e-12)


def test_a_disc_covers_its_area() -> None:
    kernel = disc_kernel(4.0)
    assert kernel.shape == (9, 9)
    assert kernel.sum() == pytest.approx(1)
    assert 1 / kernel.max() == pytest.approx(np.pi * 16, rel=0.01)
    assert torch.equal(kernel, kernel.rot90())


@pytest.mark.parametrize("length", [2.0, 3.0, 10.0])
def test_a_line_has_its_length_and_direction(length: float) -> None:
    angles = torch.tensor([0.0, np.pi / 2, np.pi / 6], dtype=torch.float64)
    kernels = line_kernels(length, angles)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(kernels[0], kernels[1].mT)
    position = torch.arange(kernels.shape[-1]).double() - kernels.shape[-1] // 2
    across, along = ((kernels.sum(axis) * position.square()).sum(1) for axis in (2, 1))
    # the second moment of a line, plus at most that of the triangles that share its points among pixels
    assert along[0] == pytest.approx(length**2 / 12, abs=0.26)
    assert across[0] < 1e-12
    covariance = (kernels[2] * position[:, None] * position).sum()
    assert covariance == pytest.approx(length**2 / 12 * np.sin(np.pi / 3) / 2, rel=0.1)


@pytest.mark.parametrize(("name", "codec", "setting"), [("jpeg", "jpeg", 24), ("jpeg2000", "jpeg2000", 24 / 45)])
def test_compression_is_the_codecs(name: str, codec: str, setting: float) -> None:
    image = pictures(0)
    codes = np.rint(image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    wanted = decode_image(encode_image(codes, codec, setting), codec) / 255
    assert np.allclose(distort(image, name, 3)[0].permute(1, 2, 0), wanted, atol=1e-12)


def test_noises_have_their_variance() -> None:
    grey = torch.full((1, 3, 200, 200), 0.5)
    white = distort(grey, "white_noise", 4, seeded()) - grey
    assert white.var() == pytest.approx(0.005, rel=0.02)
    multiplied = distort(grey, "multiplicative_noise", 4, seeded()) - grey
    assert torch.allclose(multiplied, white * 0.5 * 2, atol=1e-6)  # 0.5² of a variance of 0.02
    coloured = to_ycbcr(distort(grey, "colour_noise", 4, seeded())) - to_ycbcr(grey)
    assert torch.allclose(coloured.var((0, 2, 3)), torch.tensor(0.002), rtol=0.05)
    impulses = distort(grey, "impulse_noise", 5, seeded())
    assert (impulses == 0).float().mean() == pytest.approx(0.015, rel=0.1)
    assert (impulses == 1).float().mean() == pytest.approx(0.015, rel=0.1)


def test_denoising_takes_most_of_the_noise_and_keeps_edges() -> None:
    halves = torch.cat([torch.full((1, 3, 100, 50), 0.1), torch.full((1, 3, 100, 50), 0.9)], 3)
    left = (distort(halves, "denoised", 1, seeded()) - halves).square()
    assert left[..., :40].mean() < 0.01 / 10
    assert left[..., 48:52].mean() < 0.02  # averaging 5 columns alone would leave 0.08


def test_denoising_is_the_adaptive_filter() -> None:
    """Equal to SciPy's filter away from the borders, with the same noise."""
    image = pictures(0)
    noisy = white_noise(image, 0.03, seeded()).clamp(0, 1)
    wanted = np.stack([scipy.signal.wiener(channel, 5, 0.03) for channel in noisy[0].numpy()])
    found = distort(image, "denoised", 2, seeded())[0].numpy()
    assert np.allclose(found[:, 2:-2, 2:-2], wanted[:, 2:-2, 2:-2], atol=1e-9)


def test_the_strongest_compression_of_small_images_is_its_headers() -> None:
    """The claim about jpeg2000 in the docstring of `compression`."""
    for side, same in ((64, True), (96, True), (128, False)):
        image = torch.nn.functional.interpolate(pictures(0), size=(side, side), mode="bilinear")
        levels = [distort(image, "jpeg2000", level) for level in (4, 5)]
        assert torch.equal(*levels) == same


def test_colours_of_known_names() -> None:
    image = pictures(0)
    channels_last = image[0].permute(1, 2, 0).numpy()
    assert np.allclose(to_lab(image)[0].permute(1, 2, 0), color.rgb2lab(channels_last), atol=0.02)
    assert np.allclose(to_hsv(image)[0].permute(1, 2, 0), color.rgb2hsv(channels_last), atol=1e-12)
    assert torch.allclose(from_lab(to_lab(image)), image, atol=1e-6)
    assert torch.allclose(from_ycbcr(to_ycbcr(image)), image, atol=1e-7)
    faded = color.rgb2hsv(channels_last)
    faded[..., 1] *= 0.2
    assert np.allclose(distort(image, "saturation_hsv", 2)[0].permute(1, 2, 0), color.hsv2rgb(faded), atol=1e-12)
    pale = 0.4 + 0.2 * image
    lab = color.rgb2lab(pale[0].permute(1, 2, 0).numpy())
    lab[..., 1:] *= 2
    rich = color.lab2rgb(lab)
    assert np.allclose(distort(pale, "saturation_lab", 2)[0].permute(1, 2, 0), rich, atol=1e-3)
    black_and_white = torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2).expand(1, 3, 32, 2)
    for convert in COLOUR_SPACES.values():
        view = convert(torch.cat([image.float(), black_and_white.repeat(1, 1, 2, 32)[..., :48, :64]]))
        assert view.min() > -1e-6
        assert view.max() < 1 + 1e-6


def test_colour_shift_moves_green_at_edges_alone() -> None:
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 32:] = 0.8
    shifted = distort(image, "colour_shift", 5, seeded())
    assert torch.equal(shifted[:, [0, 2]], image[:, [0, 2]])
    changed = (shifted - image).abs().amax((0, 1, 2)) > 0.05
    assert changed.any()
    assert not changed[:16].any()
    assert not changed[48:].any()


def test_numbers_of_colours_and_values() -> None:
    image = pictures(0)
    few = distort(image, "colour_quantisation", 5)[0].flatten(1).T
    assert len(few.unique(dim=0)) == 8
    assert len(distort(image, "quantisation", 5).unique()) <= 7


def test_blocks_and_patches_lie_on_each_other() -> None:
    """A higher level only adds, and covers a share of the area that does not depend on the size."""
    image = torch.rand(1, 3, 96, 128, generator=seeded())
    for name, side in (("colour_block", 8), ("non_eccentricity_patch", 4)):
        changed = [(distort(image, name, level, seeded()) != image).any(1) for level in (1, 5)]
        added = changed[1][changed[0]].double().mean()  # a patch may land on itself, over another one
        assert added == 1 if name == "colour_block" else added > 0.9
        patches = DISTORTIONS[name].settings[4]
        assert 0.4 * patches * side**2 < changed[1].sum() <= patches * side**2


def test_pixels_of_a_pixelated_image_are_the_images() -> None:
    image = pictures(0)
    pixelated = distort(image, "pixelate", 5)
    assert set(pixelated.unique().tolist()) <= set(image.unique().tolist())
    assert (pixelated.diff(dim=3) == 0).double().mean() > 0.6


def test_mean_shift_goes_up_or_down() -> None:
    grey = torch.full((32, 3, 32, 32), 0.5)
    shifts = (distort(grey, "mean_shift", 5, seeded()) - grey).mean((1, 2, 3))
    assert torch.allclose(shifts.abs(), torch.tensor(0.2))
    assert 8 <= (shifts > 0).sum() <= 24


@pytest.mark.parametrize(
    ("images", "name", "level", "error", "message"),
    [
        (torch.zeros(3, 64, 64), "jpeg", 1, ValueError, r"images: got shape \(3, 64, 64\), want \(N, 3, H, W\)"),
        (torch.zeros(1, 3, 31, 64), "jpeg", 1, ValueError, "both sides of at least 32"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "jpeg", 1, TypeError, "images: got torch.uint8, want a float32"),
        (torch.zeros(1, 3, 64, 64), "gif", 1, ValueError, "name: got 'gif', want one of 'gaussian_blur', 'lens_blur'"),
        (torch.zeros(1, 3, 64, 64), "jpeg", 0, ValueError, "level: got 0, want one of 1, 2, 3, 4, 5"),
    ],
)
def test_bad_arguments(images: Tensor, name: str, level: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        distort(images, name, level)


def test_the_smallest_and_flat_images() -> None:
    """No type divides by a spread of zero, and 32×32 pixels suffice for every type."""
    for images in (torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 40)):
        for name in DISTORTIONS:
            for level in (1, 5):
                assert torch.isfinite(distort(images, name, level, seeded())).all(), name
