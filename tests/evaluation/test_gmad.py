"""gMAD: pairs of hand-made scores, a slow oracle, and the command on small images."""

from __future__ import annotations

import csv
import html.parser
import io
import itertools
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa.cli.sheets import thumbnail
from fastiqa.common.text import csv_cell
from fastiqa.data import ImageError, read_image
from fastiqa.evaluation.gmad import GmadPair, gmad_competition, gmad_pairs
from fastiqa.evaluation.image_scores import read_scores, score_images
from fastiqa.evaluation.preferences import FULL_REFERENCE
from fastiqa.evaluation.scorers import Scorer, full_reference_scorer, network_scorer
from fastiqa.metrics import psnr
from fastiqa.models import registry

pytest.importorskip("typer", reason="the command needs fastiqa-kernels[cli]")

# ---- the method ----


def test_pairs_of_hand_made_scores() -> None:
    """Levels of the defender: {2, 0}, {4, 1}, {3, 5}."""
    defender, attacker = [2.0, 4.0, 1.0, 5.0, 3.0, 9.0], [0.1, 0.2, 0.9, 0.3, 0.8, 0.7]
    assert gmad_pairs(defender, attacker, levels=3) == (
        GmadPair(1, 2, 0, (1.0, 2.0), (0.9, 0.1)),
        GmadPair(2, 4, 1, (3.0, 4.0), (0.8, 0.2)),
        GmadPair(3, 5, 3, (9.0, 5.0), (0.7, 0.3)),
    )
    (pair,) = gmad_pairs(defender, attacker, levels=1)
    assert (pair.better, pair.worse) == (2, 0)


def slow_pairs(defender: list[float], attacker: list[float], levels: int) -> list[tuple[int, int, int]]:
    """Compare all pairs of images in a level."""
    n = len(defender)
    level = [levels * sum(other < mine for other in defender) // n for mine in defender]
    found = []
    for wanted in range(levels):
        members = [i for i in range(n) if level[i] == wanted]
        pairs = [(attacker[i] - attacker[j], -i, -j) for i, j in itertools.permutations(members, 2)]
        if pairs and max(pairs)[0] > 0:
            _, i, j = max(pairs)
            found.append((wanted + 1, -i, -j))
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_pairs_against_all_pairs(ties: bool) -> None:
    random = np.random.default_rng(0)
    for n, levels in ((2, 1), (12, 6), (13, 6), (40, 3), (41, 6)):
        scores = random.integers(0, 5, (2, n)).astype(float) if ties else random.standard_normal((2, n))
        got = [(p.level, p.better, p.worse) for p in gmad_pairs(*scores, levels=levels)]
        assert got == slow_pairs(*scores.tolist(), levels)
        if not ties:
            assert len(got) == levels


def test_roles_are_exchanged_and_maps_that_increase_change_nothing() -> None:
    first, second = np.random.default_rng(1).standard_normal((2, 30))
    forth = gmad_competition({"x": first, "y": second})
    back = gmad_competition({"y": second, "x": first})
    assert [(role.defender, role.attacker) for role in forth] == [("x", "y"), ("y", "x")]
    assert forth == back[::-1]
    mapped = gmad_competition({"x": np.exp(first), "y": 100 * second - 7})
    for role, other in zip(forth, mapped, strict=True):
        assert [(p.level, p.better, p.worse) for p in role.pairs] == [(p.level, p.better, p.worse) for p in other.pairs]


def test_ties_and_infinity() -> None:
    # Equal scores of the defender share a level in any order of images; the other levels stay empty.
    assert [p.level for p in gmad_pairs([1] * 12, range(12))] == [1]
    assert gmad_pairs(range(12), [3] * 12) == ()
    (pair,) = gmad_pairs([1, 1, 1, 1], [5, 7, 7, 5], levels=1)
    assert (pair.better, pair.worse) == (1, 0)
    # PSNR of images without distortion.
    (pair,) = gmad_pairs([1, 2, 3], [30, np.inf, np.inf], levels=1)
    assert (pair.better, pair.worse, pair.attacker) == (1, 0, (np.inf, 30))
    assert [(p.better, p.worse) for p in gmad_pairs([np.inf, 20, np.inf, 30], [1, 2, 3, 4], 2)] == [(3, 1), (2, 0)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, np.nan], [1.0, 2.0], 1), ValueError, r"^defender: got NaN for image 1, want numbers$"),
        (([1.0, 2.0], [1.0, 2.0, 3.0], 1), ValueError, r"^attacker: got 3 scores, want as many as the defender's, 2$"),
        (([[1.0], [2.0]], [1.0, 2.0], 1), ValueError, r"^defender: got shape \(2, 1\), want \(N,\)$"),
        (([1.0, 2.0], ["a", "b"], 1), TypeError, r"^attacker: got an array of <U1, want real numbers$"),
        ((range(11), range(11)), ValueError, r"^levels: got 6 for 11 images, want two images or more for each$"),
        ((range(11), range(11), 0), ValueError, r"^levels: got 0, want an integer of at least 1$"),
    ],
)
def test_bad_scores(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gmad_pairs(*arguments)
    with pytest.raises(ValueError, match=r"^scores: got 1 metrics, want two or more$"):
        gmad_competition({"x": [1, 2]})


# ---- scores of a folder ----


class Brightness(nn.Module):
    """A no-reference network: the mean, times a weight."""

    model_name = "brightness"
    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((1, 2, 3)) * self.weight


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, four contents with noise of three strengths, in alternating formats, and refs.csv."""
    random = np.random.default_rng(0)
    (tmp_path / "images" / "more").mkdir(parents=True)
    rows = ["image,reference"]
    for k in range(12):
        content, noise = 40 * (k % 4) + 60, 2.0 + 5 * (k // 4)
        plain = np.full((16, 20, 3), content, np.uint8)
        PIL.Image.fromarray(plain).save(tmp_path / f"ref{k % 4}.png")
        noisy = (plain + noise * random.standard_normal(plain.shape)).clip(0, 255).astype(np.uint8)
        name = f"more/{k} & <b>.png" if k == 3 else f"{k}.{('png', 'bmp', 'webp')[k % 3]}"
        PIL.Image.fromarray(noisy).save(tmp_path / "images" / name, lossless=True)
        rows.append(f"{name},ref{k % 4}.png")
    (tmp_path / "refs.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.MODELS, "brightness", registry.ModelEntry(Brightness, {}))
    fastiqa.save_model(Brightness(), folder / "net.safetensors")
    return folder / "net.safetensors"


def test_scores_are_kept_for_the_same_bytes(folder: Path) -> None:
    """They are computed again for other bytes, other weights or another name; also after an error."""
    images = sorted(f"{k}.png" for k in (0, 6, 9))
    asked: list[str] = []

    def scorer(source: str, fails_at: str = "") -> Scorer:
        def score(name: str, image: Any) -> float:
            asked.append(name)
            return float("nan") if name == fails_at else float(image.pixels.mean())

        return Scorer("mean", score, lambda name: source)

    def run(source: str, fails_at: str = "") -> tuple[list[str], list[float]]:
        asked.clear()
        values = score_images(folder / "images", images, [scorer(source, fails_at)], folder / "scores.csv")[1]
        return list(asked), values["mean"].tolist()

    with pytest.raises(ValueError, match=r"9\.png: mean: got NaN, want a number$"):
        run("w1", fails_at="9.png")
    order, values = run("w1")
    assert order == ["9.png"]
    assert values == [read_image(folder / "images" / name).pixels.mean() for name in images]
    assert run("w1") == ([], values)
    (folder / "images" / "0.png").write_bytes((folder / "images" / "6.png").read_bytes())
    assert run("w1") == (["0.png"], [values[1], *values[1:]])
    assert run("w2")[0] == images
    assert len(read_scores(folder / "scores.csv")) == 3
    (folder / "scores.csv").write_text("image,sha256,metric,source,score\na,b,c,d,e\n")
    with pytest.raises(ValueError, match=r"scores\.csv:2: got 'a,b,c,d,e', want image,sha256,metric,source,score"):
        run("w1")


def test_the_images_are_gone_through_as_often_whatever_is_kept(folder: Path) -> None:
    """Once for all rows of the file; once per row took 2 s for 4000 images."""

    class Counted(list[str]):
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return super().__iter__()

    passes = []
    for _ in range(2):  # with an empty file and with three rows
        images = Counted(f"{k}.png" for k in (0, 6, 9))
        score_images(folder / "images", images, [network_scorer("net", Brightness(), "w")], folder / "scores.csv")
        passes.append(images.passes)
    assert passes[0] == passes[1]


def test_an_unreadable_image_is_named_or_left_out(folder: Path) -> None:
    (folder / "images" / "6.png").write_bytes(b"nothing")
    scorers = [network_scorer("net", Brightness(), "w")]
    images = ["0.png", "6.png", "9.png"]
    with pytest.raises(ImageError, match=r"6\.png: not an image"):
        score_images(folder / "images", images, scorers, folder / "scores.csv")
    named: list[str] = []
    left, values = score_images(
        folder / "images", images, scorers, folder / "scores.csv", on_unreadable=lambda error: named.append(error.path)
    )
    assert (left, len(values["net"])) == (["0.png", "9.png"], 2)
    assert named == [str(folder / "images" / "6.png")]


def test_sixteen_bits(folder: Path) -> None:
    """A 16-bit copy equals its 8-bit reference, in scores and on the page."""
    plain, deep = folder / "ref0.png", folder / "deep.tif"
    tifffile.imwrite(deep, read_image(plain).pixels.astype(np.uint16) * 257, photometric="rgb")
    for name, best in (("psnr", np.inf), ("ssim", 1.0)):
        metric = full_reference_scorer(name, FULL_REFERENCE[name], {"deep.tif": plain})
        assert metric.score("deep.tif", read_image(deep)) == best
    assert thumbnail(deep).tobytes() == thumbnail(plain).tobytes()


def test_a_network_of_several_images_is_refused() -> None:
    model = fastiqa.create_model("prfnet_fast", layers=(1, 1, 1, 1), width=8)
    with pytest.raises(TypeError, match=r"^holds a PRFNet, want a network of one image$"):
        network_scorer("net", model, "w")


# ---- the command ----


class Links(html.parser.HTMLParser):
    """The links, images and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.links += [values["href"] or ""] if tag == "a" else []
        self.images += [values["src"] or ""] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_end_to_end(fastiqa_command: Any, folder: Path, weights: Path) -> None:
    out = folder / "out"
    arguments = ("gmad", folder / "images", "--references", folder / "refs.csv", "--metric", "psnr", "--metric",
                 f"net={weights}", "--out", out)  # fmt: skip
    status, printed, err = fastiqa_command(*arguments)
    assert (status, printed, err) == (0, f"12 pairs of 12 images: {out / 'sheet.html'}\n", "")

    with (folder / "refs.csv").open() as file:
        references = {row["image"]: folder / row["reference"] for row in csv.DictReader(file)}
    tensors = {name: read_image(folder / "images" / name).tensor(torch.float64) for name in references}
    by_psnr = [float(psnr(read_image(references[name]).tensor(torch.float64), x)) for name, x in tensors.items()]
    by_net = [float(x.float().mean()) for x in tensors.values()]
    names = list(references)
    want = [("psnr", "net", p) for p in gmad_pairs(by_psnr, by_net)]
    want += [("net", "psnr", p) for p in gmad_pairs(by_net, by_psnr)]
    with (out / "pairs.csv").open() as file:
        got = list(csv.DictReader(file))
    assert len(got) == len(want) == 12
    for row, (defender, attacker, pair) in zip(got, want, strict=True):
        assert (row["defender"], row["attacker"], int(row["level"])) == (defender, attacker, pair.level)
        assert (row["better"], row["worse"]) == (names[pair.better], names[pair.worse])
        scores = [float(row[f"{role}_{image}"]) for role in ("defender", "attacker") for image in ("better", "worse")]
        assert scores == pytest.approx([*pair.defender, *pair.attacker], rel=1e-6)

    page = Links((out / "sheet.html").read_text())
    assert len(page.links) == len(page.images) == 24
    assert {(out / unquote(link)).resolve() for link in page.links} == {
        (folder / "images" / row[side]).resolve() for row in got for side in ("better", "worse")
    }
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert "b" not in page.tags, "the tag in a file's name is escaped"
    assert page.text.count("3 & <b>.png") == 2, "two images a level: each is in a pair of either role"
    assert "color-scheme: light dark" in (out / "sheet.html").read_text()
    picture = PIL.Image.open(io.BytesIO((out / "sheet.png").read_bytes()))
    assert picture.format == "PNG"
    assert picture.width > 2 * 2 * 256

    before = {name: (out / name).read_bytes() for name in ("pairs.csv", "sheet.html", "sheet.png", "scores.csv")}
    assert fastiqa_command(*arguments)[0] == 0
    assert before == {name: (out / name).read_bytes() for name in before}


def test_given_scores_and_skipped_images(fastiqa_command: Any, folder: Path) -> None:
    (folder / "images" / "0.png").write_bytes(b"")
    names = sorted(str(p.relative_to(folder / "images")) for p in (folder / "images").rglob("*.*"))
    for metric, sign in (("up", 1), ("down", -1)):
        rows = "".join(f"{name},{sign * k}\n" for k, name in enumerate(names))
        (folder / f"{metric}.csv").write_text("image,score\n" + rows)
    arguments = ("gmad", folder / "images", "--metric", f"up={folder / 'up.csv'}", "--metric",
                 f"down={folder / 'down.csv'}", "--levels", 1, "--out", folder / "out")  # fmt: skip
    status, out, err = fastiqa_command(*arguments)
    assert (status, out, err) == (2, "", f"error: {folder / 'images' / '0.png'}: the file is empty\n")
    status, _, err = fastiqa_command(*arguments, "--skip-bad")
    assert (status, err) == (0, f"skipped: {folder / 'images' / '0.png'}: the file is empty\n")
    with (folder / "out" / "pairs.csv").open() as file:
        rows = [(row["defender"], row["better"], row["worse"]) for row in csv.DictReader(file)]
    assert rows == [("up", names[1], names[-1]), ("down", names[-1], names[1])]

    # `fastiqa score FOLDER --csv` names images by their paths
    for metric in ("up", "down"):
        header, *lines = (folder / f"{metric}.csv").read_text().splitlines()
        named = [str(folder / "images" / line) for line in lines]
        (folder / f"{metric}.csv").write_text("\n".join([header, *named]))
    assert fastiqa_command(*arguments, "--skip-bad")[::2] == (0, err)
    with (folder / "out" / "pairs.csv").open() as file:
        assert [(row["defender"], row["better"], row["worse"]) for row in csv.DictReader(file)] == rows


def test_names_that_no_spreadsheet_or_terminal_should_meet(fastiqa_command: Any, folder: Path) -> None:
    names = ["=1+1.png", "'quoted.png", "\x1b[2J.png", os.fsdecode(b"caf\xe9.png"), "plain.png", "a\\b.png"]
    images = folder / "odd"
    images.mkdir()
    for k, name in enumerate(names):
        PIL.Image.fromarray(np.full((16, 16, 3), 40 * k, np.uint8)).save(images / "new.png")
        (images / "new.png").rename(images / name)
    for metric, sign in (("up", 1), ("down", -1)):
        rows = "".join(f"{csv_cell(name)},{sign * k}\n" for k, name in enumerate(names))
        (folder / f"{metric}.csv").write_text("image,score\n" + rows)
    metrics = [part for name in ("up", "down") for part in ("--metric", f"{name}={folder / name}.csv")]
    for _ in range(2):  # the second time from scores.csv
        status, out, err = fastiqa_command("gmad", images, *metrics, "--levels", 1, "--out", folder / "out")
        assert (status, err) == (0, "")
        assert "\x1b" not in out
    assert {image for image, _ in read_scores(folder / "out" / "scores.csv")} == set(names)
    for name in ("scores.csv", "pairs.csv"):
        text = (folder / "out" / name).read_text(encoding="utf-8")
        assert text.replace("\n", "").isprintable()
        assert not any(cell.startswith(tuple("=+@")) for row in csv.reader(io.StringIO(text)) for cell in row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "x=known.csv"), "error: --metric: got x, want two or more, of different names\n"),
        (("--metric", "mse"), "error: metric: got 'mse', want psnr, ssim, ms-ssim, lpips, NAME=FILE.safetensors"),
        (("--metric", "psnr"), "error: metric: got 'psnr', which needs references\n"),
        (("--metric", "x=nowhere.safetensors"), "error: nowhere.safetensors: no such file\n"),
        (("--metric", "x=bad.csv"), "error: bad.csv:3: got score 'high', want a number\n"),
        (("--metric", "x=known.csv", "--metric", "y=known.csv"), "error: images/1.bmp: x: got no score in known.csv, "),
        (("--metric", "psnr", "--references", "known.csv"), "error: known.csv:1: got image,score, want the columns "),
        (("--metric", "psnr", "--metric", "ssim", "--references", "few.csv"), "error: levels: got 6 for 1 images, "),
        (("--metric", "psnr", "--metric", "ms-ssim", "--references", "few.csv"),
         "error: images/0.png: ms-ssim: x: got height 16 and width 20, want both sides greater than 160"),
        (("--metric", "x=known.csv", "--metric", "y=known.csv", "--out", "images/out"),
         "error: --out: got images/out, want a folder that is not in FOLDER\n"),
    ],
)  # fmt: skip
def test_bad_arguments(
    arguments: tuple[str, ...], message: str, fastiqa_command: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "known.csv").write_text("image,score\n0.png,1\n")
    (folder / "bad.csv").write_text("image,score\n0.png,1\n1.bmp,high\n")
    (folder / "few.csv").write_text("image,reference\n0.png,ref0.png\n")
    out = () if "--out" in arguments else ("--out", "out")
    status, printed, err = fastiqa_command("gmad", "images", *arguments, *out)
    assert (status, printed) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
