"""read_image: lossless formats exactly, at every bit depth; orientation; every kind of file that must be refused."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tarfile
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile
import torch

from fastiqa.data import Image, ImageError, image_files, read_image
from fastiqa.data.images import reading
from support import image_damage

RANDOM = np.random.default_rng(0)
CODES16 = RANDOM.integers(0, 65536, (30, 41, 3), dtype=np.uint16)
CODES8 = (CODES16 >> 8).astype(np.uint8)
SMOOTH8 = np.add.outer(np.arange(120), np.arange(200))[..., None].repeat(3, 2).clip(0, 255).astype(np.uint8)
NOISY8 = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def pillow(codes, name, **options):
    stream = io.BytesIO()
    image = codes if isinstance(codes, PIL.Image.Image) else PIL.Image.fromarray(codes)
    image.save(stream, name, **options)
    return stream.getvalue()


def tiff(codes, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, codes, **{"photometric": "rgb", **options})
    return stream.getvalue()


def png(width, height, rows, depth=8, colour=2, interlaced=0):
    """A PNG with correct checksums around any compressed rows."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def palette(codes, colours):
    return PIL.Image.fromarray(codes).quantize(colours, dither=PIL.Image.Dither.NONE)


FEW = np.array([[10, 20, 30], [200, 100, 0], [1, 2, 3], [255, 255, 255]], np.uint8)[RANDOM.integers(0, 4, (30, 41))]
AVIF = {"level": 100, "pixelformat": "444"}

EXACT = {
    "png": (pillow(CODES8, "PNG"), CODES8, 8),
    "png 16": (imagecodecs.png_encode(CODES16), CODES16, 16),
    "png palette": (pillow(palette(FEW, 4), "PNG"), FEW, 8),
    "png palette 8 bits": (pillow(palette(FEW, 4), "PNG", bits=8), FEW, 8),
    "webp": (pillow(CODES8, "WEBP", lossless=True), CODES8, 8),
    "bmp": (pillow(CODES8, "BMP"), CODES8, 8),
    "jp2": (pillow(CODES8, "JPEG2000", irreversible=False), CODES8, 8),
    "jp2 12": (imagecodecs.jpeg2k_encode(CODES16 >> 4, reversible=True, bitspersample=12), CODES16 >> 4, 12),
    "jp2 16": (imagecodecs.jpeg2k_encode(CODES16, reversible=True), CODES16, 16),
    "j2k 16": (imagecodecs.jpeg2k_encode(CODES16, reversible=True, codecformat="j2k"), CODES16, 16),
    "avif": (imagecodecs.avif_encode(CODES8, **AVIF), CODES8, 8),
    "avif 10": (imagecodecs.avif_encode(CODES16 >> 6, bitspersample=10, **AVIF), CODES16 >> 6, 10),
    "avif 12": (imagecodecs.avif_encode(CODES16 >> 4, bitspersample=12, **AVIF), CODES16 >> 4, 12),
    "tiff": (pillow(CODES8, "TIFF"), CODES8, 8),
    "tiff lzw": (pillow(CODES8, "TIFF", compression="tiff_lzw"), CODES8, 8),
    "tiff deflate": (tiff(CODES8, compression="zlib", predictor=True), CODES8, 8),
    "tiff planes": (tiff(CODES8.transpose(2, 0, 1).copy(), planarconfig="separate"), CODES8, 8),
    "tiff 16": (tiff(CODES16), CODES16, 16),
    "tiff 16 big-endian": (tiff(CODES16, byteorder=">"), CODES16, 16),
    "tiff 16 bigtiff": (tiff(CODES16, bigtiff=True), CODES16, 16),
    "tiff 16 deflate": (tiff(CODES16, compression="zlib", predictor=True), CODES16, 16),
    "tiff 16 tiles": (tiff(CODES16, tile=(16, 16)), CODES16, 16),
    "tiff 16 planes": (tiff(CODES16.transpose(2, 0, 1).copy(), planarconfig="separate"), CODES16, 16),
}


@pytest.mark.parametrize("case", EXACT)
def test_lossless_files_are_read_exactly(tmp_path, case):
    data, codes, depth = EXACT[case]
    path = tmp_path / "image"  # without a suffix: the content decides
    path.write_bytes(data)
    image = read_image(path)
    assert np.array_equal(image.pixels, codes)
    assert image.pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert (image.bit_depth, image.path) == (depth, path)


def test_lossy_files_are_near(tmp_path):
    for name, options in (("JPEG", {"quality": 95}), ("JPEG", {"progressive": True, "quality": 95}), ("WEBP", {})):
        path = tmp_path / name
        path.write_bytes(pillow(SMOOTH8, name, **options))
        image = read_image(str(path))
        assert image.pixels.shape == SMOOTH8.shape
        assert np.abs(image.pixels.astype(int) - SMOOTH8).mean() < 2


def test_interlaced_png(tmp_path):
    # Adam7 of 2×1 pixels: the first pixel in pass 1, the second in pass 6
    path = tmp_path / "image.png"
    path.write_bytes(png(2, 1, b"\0\1\2\3" + b"\0\4\5\6", interlaced=1))
    assert read_image(path).pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    path.write_bytes(png(2, 1, b"\0\1\2\3" + b"\0\4\5", interlaced=1))
    with pytest.raises(ImageError, match=r"the file is truncated$"):
        read_image(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["png", "png 16", "avif 10"])
def test_tensor(tmp_path, case, dtype):
    data, codes, depth = EXACT[case]
    path = tmp_path / "image"
    path.write_bytes(data)
    tensor = read_image(path).tensor(dtype)
    assert tensor.shape == (1, 3, 30, 41)
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    expected = torch.from_numpy(codes.transpose(2, 0, 1).astype(np.float64) / (2**depth - 1))[None]
    assert torch.equal(tensor, expected.to(dtype))
    if dtype == torch.float32:  # code values survive
        assert torch.equal((tensor * (2**depth - 1)).round()[0].permute(1, 2, 0).int(), torch.from_numpy(codes).int())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_every_code_value_is_rounded_once(depth, dtype):
    codes = np.arange(2**depth, dtype=np.uint8 if depth == 8 else np.uint16)
    image = Image(np.stack([codes, codes[::-1], codes], 1).reshape(-1, 16, 3), depth, Path("image"))
    expected = torch.from_numpy(codes / (2**depth - 1)).to(dtype)
    tensor = image.tensor(dtype).flatten(2)[0]
    assert torch.equal(tensor, torch.stack([expected, expected.flip(0), expected]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_tensor_needs_little_beside_itself(dtype):
    """NumPy arrays are counted, tensors are not: a float64 copy of the image would take 48 MB."""
    image = Image(np.full((1000, 2000, 3), 7, np.uint16), 16, Path("image"))
    tracemalloc.start()
    try:
        image.tensor(dtype)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def with_size(archive, size):
    """A zip archive whose two headers give its member a wrong size."""
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = archive.index(signature) + offset
        archive = archive[:at] + struct.pack("<I", size) + archive[at + 4 :]
    return archive


@pytest.mark.parametrize("case", ["zip", "zip that lies", "tar", "tar that lies", "file"])
def test_no_more_is_read_than_an_image_can_take(tmp_path, monkeypatch, case):
    """100 MB of zeros in 100 kB; an image of 1000 pixels with its metadata takes 17 MB at most."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    archive = tmp_path / f"a.{case[:3]}"
    if case.startswith("zip"):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened, opened.open("image.png", "w") as member:
            for _ in range(100):
                member.write(bytes(10**6))
        if case == "zip that lies":
            archive.write_bytes(with_size(archive.read_bytes(), 10**6))
    elif case == "file":
        archive = tmp_path
        with (tmp_path / "image.png").open("wb") as file:
            file.truncate(100 * 10**6)
    else:
        member = tarfile.TarInfo("image.png")
        member.size = 100 * 10**6
        with archive.open("wb") as file:
            file.write(member.tobuf())
            file.truncate(200 * 10**6 if case == "tar" else 1000)
    reason = "damaged" if "lies" in case else "got 100000000 bytes or more, want at most 16785216: 8 bytes a pixel"
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=reason):
            read_image(archive / "image.png")
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_exif_orientation(tmp_path, name, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    path.write_bytes(pillow(CODES8, name, exif=exif, **({"lossless": True} if name == "WEBP" else {})))
    with PIL.Image.open(path) as stored:
        expected = np.asarray(PIL.ImageOps.exif_transpose(stored))
    assert np.array_equal(read_image(path).pixels, expected)
    upright = PIL.Image.fromarray(CODES8)
    upright.getexif()[0x0112] = orientation
    upright = np.asarray(PIL.ImageOps.exif_transpose(upright))
    assert expected.shape == upright.shape
    if name in ("PNG", "WEBP", "TIFF"):
        assert np.array_equal(expected, upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_16_bit_tiff(tmp_path, orientation):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(CODES16, extratags=[(274, "H", 1, orientation, True)]))
    upright = PIL.Image.fromarray(CODES8)
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(PIL.ImageOps.exif_transpose(upright))
    assert np.array_equal(read_image(path).pixels >> 8, expected)


WHOLE = {
    "png": pillow(CODES8, "PNG"),
    "png 16": imagecodecs.png_encode(CODES16),
    "jpeg": pillow(NOISY8, "JPEG"),
    "progressive jpeg": pillow(NOISY8, "JPEG", progressive=True),
    "webp": pillow(NOISY8, "WEBP"),
    "lossless webp": pillow(NOISY8, "WEBP", lossless=True),
    "avif": pillow(NOISY8, "AVIF"),
    "avif 10": EXACT["avif 10"][0],
    "jp2": pillow(NOISY8, "JPEG2000"),
    "jp2 16": EXACT["jp2 16"][0],
    "bmp": pillow(NOISY8, "BMP"),
    "tiff": EXACT["tiff"][0],
    "tiff lzw": EXACT["tiff lzw"][0],
    "tiff 16": EXACT["tiff 16"][0],
    "tiff 16 deflate": EXACT["tiff 16 deflate"][0],
}


@pytest.mark.parametrize("case", WHOLE)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, case, recwarn):
    data = WHOLE[case]
    path = tmp_path / "image"
    path.write_bytes(data)
    assert read_image(path).pixels.any()
    padding = 16 if case.startswith("tiff 16") else 2  # bytes that may follow the last sample
    for end in sorted({*range(1, len(data) - padding, max(1, len(data) // 60)), len(data) - padding}):
        path.write_bytes(data[:end])
        with pytest.raises(ImageError, match=r"image: .*(truncated|damaged|not an image in a format)"):
            read_image(path)
    assert not recwarn.list


def changed(data, position):
    return data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :]


GREY8, GREY16 = np.ascontiguousarray(CODES8[..., 0]), np.ascontiguousarray(CODES16[..., 0])
RGBA8 = np.concatenate([CODES8, CODES8[..., :1]], 2)
RGBA16 = np.concatenate([CODES16, CODES16[..., :1]], 2)
CLEAR = palette(CODES8, 16)
NAN = np.full((30, 41, 3), np.nan, np.float32)

BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is not an image\n" * 50, "not an image in a format that is read"),
    "gif": (pillow(CODES8, "GIF"), "not an image in a format that is read"),
    "pickle": (pickle.dumps({"pixels": [1, 2, 3]}), "not an image in a format that is read"),
    "damaged png": (changed(WHOLE["png"], 300), "the file is damaged: checksum of PNG chunk 'IDAT'"),
    "png without its last rows": (png(10, 10, bytes(31 * 5)), "the file is truncated"),
    "16-bit png without its last rows": (png(10, 10, bytes(61 * 5), depth=16), "the file is truncated"),
    "png of no width": (png(0, 10, b""), "not an image"),
    "png of no height": (png(10, 0, b""), "not an image"),
    "decompression bomb": (png(60000, 60000, b""), "the image has more than 89478485 pixels"),
    "smaller decompression bomb": (png(12000, 9000, b""), "the image has more than 89478485 pixels"),
    "damaged tiff": (changed(changed(EXACT["tiff deflate"][0], 900), 901), "damaged"),
    "RGBA png": (pillow(RGBA8, "PNG"), "an image with an alpha channel or transparency (Pillow mode RGBA)"),
    "RGBA png 16": (imagecodecs.png_encode(RGBA16), "an image with an alpha channel or transparency"),
    "LA png": (pillow(PIL.Image.fromarray(RGBA8).convert("LA"), "PNG"), "an image with an alpha channel"),
    "png with a transparent colour": (pillow(CODES8, "PNG", transparency=(1, 2, 3)), "alpha channel or transparency"),
    "palette png with transparency": (pillow(CLEAR, "PNG", transparency=3), "alpha channel or transparency"),
    "RGBA webp": (pillow(RGBA8, "WEBP", lossless=True), "alpha channel"),
    "RGBA avif": (pillow(RGBA8, "AVIF"), "alpha channel"),
    "RGBA avif 10": (imagecodecs.avif_encode(RGBA16 >> 6, bitspersample=10), "alpha channel"),
    "RGBA tiff": (pillow(RGBA8, "TIFF"), "alpha channel"),
    "RGBA tiff 16": (tiff(RGBA16, extrasamples=["unassalpha"]), "alpha channel"),
    "grey png": (pillow(GREY8, "PNG"), "a grey image (Pillow mode L), want RGB"),
    "grey png 16": (imagecodecs.png_encode(GREY16), "a grey image (Pillow mode I;16), want RGB"),
    "black and white png": (pillow(PIL.Image.fromarray(GREY8).convert("1"), "PNG"), "a grey image (Pillow mode 1)"),
    "grey jpeg": (pillow(GREY8, "JPEG"), "a grey image"),
    "grey tiff 16": (tiff(GREY16, photometric="minisblack"), "a grey image"),
    "grey avif 10": (imagecodecs.avif_encode(GREY16 >> 6, bitspersample=10), "a grey image"),
    "CMYK jpeg": (pillow(PIL.Image.fromarray(CODES8).convert("CMYK"), "JPEG"), "an image in CMYK, want RGB"),
    "CMYK tiff": (pillow(PIL.Image.fromarray(CODES8).convert("CMYK"), "TIFF"), "an image in CMYK, want RGB"),
    "Lab tiff": (pillow(PIL.Image.fromarray(CODES8).convert("LAB"), "TIFF"), "an image in LAB, want RGB"),
    "palette tiff": (pillow(CLEAR, "TIFF"), "a palette TIFF, want RGB samples"),
    "float tiff": (tiff(CODES8 / np.float32(255)), "a TIFF of floating-point samples, want unsigned integers"),
    "half tiff": (tiff((CODES8 / 255).astype(np.float16)), "a TIFF of floating-point samples"),
    "NaN tiff": (tiff(NAN), "a TIFF of floating-point samples"),
    "grey NaN tiff": (tiff(NAN[..., 0].copy(), photometric="minisblack"), "a TIFF of floating-point samples"),
    "signed tiff": (tiff(CODES16.astype(np.int16)), "a TIFF of samples that are not unsigned integers"),
    "32-bit tiff": (tiff(CODES16.astype(np.uint32)), "an RGB TIFF of 32 bits per sample; 8 and 16 are read"),
    "pages": (tiff(np.stack([CODES8, CODES8])), "an image of 2 frames or pages, want one"),
    "16-bit pages": (tiff(np.stack([CODES16, CODES16])), "an image of 2 frames or pages, want one"),
    "animation": (
        pillow(NOISY8, "WEBP", save_all=True, append_images=[PIL.Image.fromarray(255 - NOISY8)]),
        "an image of 2 frames or pages, want one",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case, recwarn):
    data, reason = BAD[case]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message
    assert (caught.value.path, caught.value.reason) == (str(path), message.removeprefix(f"{path}: "))
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (str(sent), sent.path, sent.reason) == (message, caught.value.path, caught.value.reason)
    assert not recwarn.list


# How many of 16 damaged copies must be found; docs/damaged_files.md has more formats, also those without any sign.
DAMAGE = {
    ("PNG", "one byte"): 16,
    ("PNG, 16 bits", "one byte"): 16,
    ("TIFF, Deflate", "one byte"): 16,
    ("TIFF, Deflate", "512 zeros"): 16,
    ("TIFF, Deflate, 16 bits", "512 zeros"): 16,
    ("TIFF, LZW", "512 zeros"): 16,
    ("JPEG", "512 zeros"): 16,
    ("JPEG, own tables", "512 zeros"): 16,
    ("JPEG, restart markers", "512 zeros"): 16,
    ("JPEG, progressive", "512 zeros"): 15,
    ("JPEG", "one byte"): 2,
}


@pytest.mark.parametrize(("name", "kind"), DAMAGE)
def test_damage_is_found(tmp_path, name, kind):
    refused, right = image_damage.found(image_damage.FORMATS[name](image_damage.picture(0)), kind, 16, tmp_path)
    assert refused + right >= DAMAGE[name, kind]


JPEG = {
    "usual": {},
    "best": {"quality": 100},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "own tables": {"optimize": True},
    "restart markers": {"restart_marker_rows": 1},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("case", JPEG)
@pytest.mark.parametrize("codes", [CODES8, NOISY8, SMOOTH8], ids=["odd", "noisy", "smooth"])
def test_jpeg_has_the_pixels_that_pillow_decodes(tmp_path, monkeypatch, case, codes):
    path = tmp_path / "image"
    path.write_bytes(pillow(codes, "JPEG", **JPEG[case]) + b"what follows the image is not of it")
    pixels = read_image(path).pixels
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert np.array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}, {}])
def test_zeros_are_no_damage_where_they_code_a_flat_picture(tmp_path, options):
    path = tmp_path / "image"
    for codes in (np.zeros((512, 512, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8)):
        path.write_bytes(pillow(codes, "JPEG", **options))
        assert (bytes(64) in path.read_bytes()) is bool(options)
        assert np.array_equal(read_image(path).pixels, codes)


@pytest.mark.parametrize("installed", [True, False])
def test_jpeg_markers(tmp_path, monkeypatch, installed):
    """libjpeg warns of a restart marker out of order; zeros and a missing end are found without simplejpeg."""
    if not installed:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = pillow(SMOOTH8, "JPEG", restart_marker_rows=1)
    path = tmp_path / "image"
    middle = data.index(b"\xff\xd2")
    cases = {
        "truncated": data[:-2],
        "zeros": pillow(NOISY8, "JPEG")[:1500] + bytes(100) + pillow(NOISY8, "JPEG")[1600:],
    }
    if installed:
        cases |= {"Corrupt JPEG data: found marker 0xd5": data[: middle + 1] + b"\xd5" + data[middle + 2 :]}
    for reason, copy in cases.items():
        path.write_bytes(copy)
        with pytest.raises(ImageError, match=reason):
            read_image(path)


def test_bad_paths(tmp_path):
    for path, reason in (
        (tmp_path / "absent.png", "no such file"),
        (tmp_path, "is a directory"),
        ("/dev/null", "not a regular file"),
        ("a\0b", "not a file name"),
        ("x" * 5000, "File name too long"),
        (tmp_path / "two\nlines.png", "no such file"),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value).endswith(f": {reason}")
        assert "\n" not in str(caught.value)


def test_files_of_a_folder(tmp_path, caplog):
    """Links are followed without loops, no folder is entered twice, and skipped suffixes are reported."""
    data, folder, store = pillow(CODES8, "PNG"), tmp_path / "set", tmp_path / "store"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    store.mkdir()
    names = ("a.PNG", "b.jfif", "c.jpe", "d.j2k", "e.jpx", "f.gif", "g.GIF", "h.heic", "i.txt", ".j.png", "sub/k.dib")
    for path in (*(folder / name for name in names), folder / "sub" / ".hidden" / "l.png", store / "m.png"):
        path.write_bytes(data)
    for name, to in (("away", store), ("sub/back", folder), ("again", folder / "sub"), ("n.png", folder / "a.PNG")):
        (folder / name).symlink_to(to)
    (folder / "o.png").symlink_to(folder / "nowhere.png")
    found = [file.relative_to(folder).as_posix() for file in image_files(folder)]
    assert found == ["a.PNG", "away/m.png", "b.jfif", "c.jpe", "d.j2k", "e.jpx", "n.png", "sub/k.dib"]
    assert caplog.messages == [f"{folder}: left out, for they are not read: 2 .gif, 1 .heic, 1 broken link"]
    caplog.clear()
    assert image_files(store) == [store / "m.png"]
    assert not caplog.messages


def test_imagecodecs_is_named_where_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    path = tmp_path / "image.png"
    path.write_bytes(EXACT["png 16"][0])
    with pytest.raises(ImageError, match=r"16 bits per sample need imagecodecs: pip install 'fastiqa-kernels\[cli\]'$"):
        read_image(path)
    path.write_bytes(EXACT["png"][0])
    assert read_image(path).bit_depth == 8


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path, monkeypatch):
    """Two overlapping reads, ending in either order."""
    path = tmp_path / "image.png"
    path.write_bytes(pillow(CODES8, "PNG"))
    before, begun, ends = list(warnings.filters), threading.Semaphore(0), [threading.Event(), threading.Event()]
    decoded = reading._decoded

    def waiting(data, path, policy):
        begun.release()
        assert ends[int(threading.current_thread().name)].wait(10)
        return decoded(data, path, policy)

    monkeypatch.setattr(reading, "_decoded", waiting)
    for order in ((0, 1), (1, 0)):
        threads = [threading.Thread(target=read_image, args=(path,), name=str(k)) for k in range(2)]
        for thread in threads:
            thread.start()
            assert begun.acquire(timeout=10)
        for k in order:
            ends[k].set()
            threads[k].join()
            ends[k].clear()
        assert list(warnings.filters) == before
