"""Codecs, ladders of distorted images, and the choice of pairs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from fastiqa.data.images.codecs import CLASSIC, CODECS, TABLES, butteraugli_distance, decode_image, encode_image
from fastiqa.data.synth.ladder import DistortedImage, Ladder, distorted, draw_ladders, draw_pairs
from support.pictures import picture

PICTURE = picture(0)
EVERY_CODEC = [
    pytest.param(
        codec,
        id=name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(codec.package) is None, reason=f"{codec.package} is not installed"
        ),
    )
    for name, codec in CODECS.items()
]


@pytest.mark.parametrize("codec", EVERY_CODEC)
def test_more_quality_more_bytes_less_error(codec) -> None:
    qualities = [codec.quality_at(position) for position in (0.0, 0.5, 1.0)]
    files = [encode_image(PICTURE, codec.name, quality) for quality in qualities]
    errors = [np.square(PICTURE - decode_image(data, codec.name).astype(float)).mean() for data in files]
    assert qualities[0] == codec.worst
    assert qualities[2] == codec.best
    assert [len(data) for data in files] == sorted(len(data) for data in files)
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 3


@pytest.mark.parametrize("codec", EVERY_CODEC)
def test_every_option_of_a_codec_changes_the_file(codec) -> None:
    for option, values in (*codec.choices.items(), *(codec.world_choices or {}).items()):
        files = {encode_image(PICTURE, codec.name, codec.quality_at(0.5), **{option: value}) for value in values}
        assert len(files) == len(values), option


@pytest.mark.parametrize("codec", EVERY_CODEC)
def test_a_codec_gives_the_same_bytes_again(codec) -> None:
    quality = codec.quality_at(0.5, codec.everyday)
    assert encode_image(PICTURE, codec.name, quality) == encode_image(PICTURE.copy(), codec.name, quality)


@pytest.mark.parametrize("name", TABLES)
def test_quantisation_tables_are_scaled_as_libjpeg_does(name: str) -> None:
    """The file holds (table x scale + 50) / 100 with scale 200 - 2 quality, between 1 and 255."""
    data = encode_image(PICTURE, "jpeg", 80, table=name, progressive=True, subsampling="4:4:4")
    with PIL.Image.open(io.BytesIO(data)) as image:
        luma, chroma = image.quantization[0], image.quantization.get(1, image.quantization[0])
        assert image.info["progressive"]
    base = TABLES[name] or ((16, 11, 10, 16, 24, 40, 51, 61), (17, 18, 24, 47, 99, 99, 99, 99))
    for got, want in zip((luma, chroma), base, strict=True):
        assert list(got[: len(want)]) == [min(max((value * 40 + 50) // 100, 1), 255) for value in want]


def test_distances_of_jpeg_xl() -> None:
    distances = [butteraugli_distance(quality) for quality in (100, 90, 75, 30, 10)]
    assert distances == pytest.approx([0, 1.0, 2.35, 6.4, 15.266667])


def test_bits_per_pixel_of_jpeg2000() -> None:
    for wanted in (0.5, 2.0):
        bits = 8 * len(encode_image(picture(1, 512, 512), "jpeg2000", wanted)) / 512**2
        assert bits == pytest.approx(wanted, rel=0.05)


def test_noise_fits_into_a_progressive_jpeg() -> None:
    """Pillow's own buffer, a byte a pixel, raised "broken data stream when writing image file"."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    before = PIL.ImageFile.MAXBLOCK
    for quality in (90, 94, 97, 100):
        settings = {"subsampling": "4:4:4", "progressive": True, "table": "flat"}
        assert decode_image(encode_image(noise, "jpeg", quality, **settings), "jpeg").shape == noise.shape
    assert before == PIL.ImageFile.MAXBLOCK


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="codec: got 'gif', want one of jpeg, webp, avif, jpeg2000, jpegxl"):
        encode_image(PICTURE, "gif", 50)


def test_a_codec_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^codec: heic needs pillow_heif: pip install pillow-heif$"):
        encode_image(PICTURE, "heic", 50)
    with pytest.raises(ValueError, match=r"^codec: htj2k needs imagecodecs: pip install 'fastiqa-kernels\[cli\]'$"):
        encode_image(PICTURE, "htj2k", 50)


def test_the_classic_profile_draws_what_it_always_drew() -> None:
    """SHA-256 of all settings, computed before the profile "world" came."""
    ladders = draw_ladders(np.random.default_rng(0), CLASSIC, ("resize", "blur", "noise"), 4)
    lines = [f"{ladder.codec} {ladder.settings(quality)}" for ladder in ladders for quality in ladder.qualities]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "e63aaa5bab3a94d1414896894d0937f0361caca7925a29c396b67155fa3e3b80"


def test_ladders_of_a_photograph() -> None:
    ladders = draw_ladders(np.random.default_rng(0), CLASSIC, ("resize", "blur", "noise"), 5)
    assert [ladder.codec for ladder in ladders[:4]] == list(CLASSIC)
    assert all(not (ladder.shrinkings or ladder.blur or ladder.noise) for ladder in ladders[:4])
    resized, blurred, noisy = ladders[4:]
    assert 1 <= len(resized.shrinkings) <= 2
    assert 0.5 <= blurred.blur <= 2
    assert 2 <= noisy.noise <= 10
    for ladder in ladders:
        codec = CODECS[ladder.codec]
        assert len(set(ladder.qualities)) == 5
        assert list(ladder.qualities) == sorted(ladder.qualities)
        assert codec.worst <= ladder.qualities[0] < ladder.qualities[-1] <= codec.best


def test_all_settings_occur() -> None:
    generator = np.random.default_rng(0)
    drawn = [ladder for _ in range(300) for ladder in draw_ladders(generator, CLASSIC, ("resize",), 4)]
    assert {quality for ladder in drawn if ladder.codec == "jpeg" for quality in ladder.qualities} >= set(range(10, 90))
    assert {len(ladder.shrinkings) for ladder in drawn} == {0, 1, 2}
    for codec in (CODECS[name] for name in CLASSIC):
        for option, values in codec.choices.items():
            assert {ladder.options[option] for ladder in drawn if ladder.codec == codec.name} == set(values)


def test_a_chain_keeps_the_size_and_says_what_it_did() -> None:
    chain = Ladder(
        "jpeg", {"subsampling": "4:2:2"}, (30.0,), shrinkings=((0.5, "lanczos"), (0.9, "bilinear")), blur=1.5, noise=4.0
    )
    pixels, size = distorted(PICTURE, chain, 30)
    assert pixels.shape == PICTURE.shape
    assert size < distorted(PICTURE, replace(chain, shrinkings=()), 30)[1]
    words = "shrink=0.5:lanczos shrink=0.9:bilinear subsampling=4:2:2 quality=30 blur=1.5 noise=4.0"
    assert chain.settings(30) == words


def test_noise_has_its_deviation_and_is_one_field_for_a_ladder() -> None:
    plain = Ladder("jpeg", {}, (40.0, 90.0))
    noisy = replace(plain, noise=5.0, noise_seed=3)
    grey = np.full((200, 200, 3), 128, np.uint8)
    fields = [distorted(grey, noisy, q)[0].astype(int) - distorted(grey, plain, q)[0] for q in plain.qualities]
    assert np.array_equal(*fields)
    assert fields[0].std() == pytest.approx(5, rel=0.02)


def test_blur_takes_the_grain() -> None:
    plain = Ladder("jpeg", {}, (90.0,))
    grain = [
        np.diff(distorted(PICTURE, chain, 90)[0].astype(float), 2, axis=0).std()
        for chain in (plain, replace(plain, blur=2.0))
    ]
    assert grain[1] < grain[0] / 4


def image(number: int, ladder: int, size: int, sha256: str = "") -> DistortedImage:
    return DistortedImage(f"{number}.png", sha256 or str(number), "jpeg", "", ladder, float(number), size, 0.0)


def test_pairs_are_of_one_ladder_or_of_like_size() -> None:
    images = [image(number, number // 4, 1000 + 700 * (number % 4)) for number in range(12)]
    pairs = draw_pairs(np.random.default_rng(0), images, 24)
    assert Counter(rule for *_, rule in pairs) == {"quality": 12, "metric": 12}
    assert len({frozenset(pair[:2]) for pair in pairs}) == 24
    for a, b, rule in pairs:
        assert (images[a].ladder == images[b].ladder) == (rule == "quality")
        assert rule == "quality" or 0.5 <= images[a].bytes / images[b].bytes <= 2
    assert 6 <= sum(a > b for a, b, _ in pairs) <= 18
    assert draw_pairs(np.random.default_rng(0), images, 24) == pairs


def test_equal_images_and_unlike_sizes_make_no_pair() -> None:
    equal = [image(0, 0, 1000, "same"), image(1, 0, 1100, "same"), image(2, 1, 1000, "same")]
    assert draw_pairs(np.random.default_rng(0), equal, 10) == []
    unlike = [image(0, 0, 1000), image(1, 1, 2001)]
    assert draw_pairs(np.random.default_rng(0), unlike, 10) == []
