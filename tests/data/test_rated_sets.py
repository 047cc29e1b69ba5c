"""Readers of rated images: published layouts read correctly, and every kind of fault reported."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from fastiqa.data import SETS, RatedImage, decode, read_image, read_rated, split_by_reference
from fastiqa.data.triplets.sets import TRIPLET_SETS
from support import labelled_folders
from support import rated_folders as folders
from support.rated_folders import FLIVE_NAMES, FOLDERS


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return folders.live(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def livec(tmp_path_factory):
    return folders.livec(tmp_path_factory.mktemp("livec") / "ChallengeDB_release")


def problems(name, folder):
    return [(p.kind, p.where.rpartition("/")[2], p.reason) for p in SETS[name].check(folder).problems]


# contents of each set


def test_live_takes_the_realigned_scores_and_leaves_out_the_originals(live):
    images = read_rated("live", live)
    assert len(images) == 785  # of the fixture; 779 of the set itself
    assert images[0] == RatedImage(live / "jp2k" / "img2.bmp", pytest.approx(1 / 9 - 5), "ref1.bmp", "jp2k")
    first_jpeg = next(image for image in images if image.group == "jpeg")  # entry 227, counted from 0
    assert first_jpeg == RatedImage(live / "jpeg" / "img1.bmp", pytest.approx(227 / 9 - 5), "ref24.bmp", "jpeg")
    assert images[-1] == RatedImage(
        live / "fastfading" / "img174.bmp", pytest.approx(981 / 9 - 5), f"ref{981 % 29}.bmp", "fastfading"
    )
    assert Counter(image.group for image in images).keys() == folders.LIVE_FOLDERS.keys()
    assert not SETS["live"].scale.higher_is_better


def test_csiq_finds_the_numeric_image_and_every_type(tmp_path):
    images = read_rated("csiq", folders.csiq(tmp_path))
    assert [image.image for image in images] == [tmp_path / "dst_imgs" / name for name in folders.CSIQ_FILES]
    assert [image.score for image in images] == [0.062, 0.9, 0.5, 0.25, 1, 0]
    assert [image.reference for image in images] == ["1600"] * 2 + ["cactus"] * 4
    assert [image.group for image in images] == ["awgn", "jpeg2000", "blur", "contrast", "fnoise", "jpeg"]


def test_tid2013_finds_names_in_any_case(tmp_path):
    distorted = folders.tid2013(tmp_path) / "distorted_images"
    assert read_rated("tid2013", tmp_path) == [
        (distorted / "i01_01_1.bmp", 5.51429, "I01", "AGN"),
        (distorted / "I01_24_5.BMP", 0.2, "I01", "SSR"),
        (distorted / "I25_10_3.bmp", 9, "I25", "JPEG"),
    ]


def test_kadid10k_is_an_opinion_score_whatever_its_column_is_called(tmp_path):
    images = folders.kadid10k(tmp_path) / "images"
    assert read_rated("kadid10k", tmp_path) == [
        (images / "I01_01_01.png", 4.57, "I01.png", "gaussian_blur"),
        (images / "I81_25_05.png", 1, "I81.png", "contrast_change"),
    ]
    assert SETS["kadid10k"].scale.higher_is_better


def test_live_challenge_leaves_out_what_trained_the_observers(livec):
    images = read_rated("livec", livec)
    assert len(images) == SETS["livec"].images == 1162
    assert images[0] == (livec / "Images" / "3.bmp", 7 / 20, "3.bmp", "")
    assert images[-1] == (livec / "Images" / "1164.JPG", 1168 / 20, "1164.JPG", "")


def test_koniq10k_has_official_parts_in_one_of_its_tables(tmp_path):
    folders.koniq10k(tmp_path)
    assert [image.score for image in read_rated("koniq10k", tmp_path)] == [60, 61, 62, 63]
    parts = {part: [i.score for i in read_rated("koniq10k", tmp_path, part)] for part in ("train", "val", "test")}
    assert parts == {"train": [60, 63], "val": [61], "test": [62]}
    (tmp_path / "koniq10k_distributions_sets.csv").unlink()
    images = read_rated("koniq10k", tmp_path)
    assert [image.score for image in images] == [77.4, 80.3, 82, 70]  # MOS_zscore
    assert SETS["koniq10k"].check(tmp_path).official_split() == {}
    assert read_rated("koniq10k", tmp_path, "test") == split_by_reference(images, seed=0)["test"]


def test_koniq10k_reads_the_small_images_too(tmp_path):
    images = read_rated("koniq10k", folders.koniq10k(tmp_path, images="512x384"))
    assert {image.image.parent.name for image in images} == {"512x384"}


def test_spaq_reads_the_first_sheet(tmp_path):
    assert read_rated("spaq", folders.spaq(tmp_path)) == [
        (tmp_path / "TestImage" / "00001.jpg", 51, "00001.jpg", ""),
        (tmp_path / "TestImage" / "00002.jpg", 33.125, "00002.jpg", ""),
    ]


def test_flive_has_official_parts_where_both_tables_are_there(tmp_path):
    database = folders.flive(tmp_path) / "database"
    parts = {part: read_rated("flive", tmp_path, part) for part in ("train", "val", "test")}
    order = ("test", "val", "train")
    assert [parts[part][0].image for part in order] == [database / name for name in FLIVE_NAMES]
    assert [parts[part][0].score for part in order] == [75.44372347614072, 0, 64.1]
    assert [image.score for image in read_rated("flive", database)] == [75.44372347614072, 0, 64.1]
    (database / "labels640.csv").unlink()
    assert SETS["flive"].check(database).official_split() == {}


# common to all sets


def test_every_set_is_checked_and_its_images_read(tmp_path, live, livec):
    for name, make in FOLDERS.items():
        folder = {"live": live, "livec": livec}.get(name) or make(tmp_path / name)
        report = SETS[name].check(folder)
        assert report.problems == (), name
        assert report.repeated == 0
        assert f"of {report.scale}" in str(report).splitlines()[1]
        assert read_image(report.images[-1].image).pixels.shape == (12, 16, 3)


def test_scores_of_one_unit_are_better_when_higher(tmp_path):
    folders.csiq(tmp_path)
    assert [i.score for i in read_rated("csiq", tmp_path, scores="unit")][1:] == pytest.approx([0.1, 0.5, 0.75, 0, 1])
    folders.kadid10k(tmp_path)
    assert [i.score for i in read_rated("kadid10k", tmp_path, scores="unit")] == pytest.approx([0.8925, 0])


def test_names_are_taken_in_their_own_case_first(tmp_path):
    distorted = folders.tid2013(tmp_path) / "distorted_images"
    exact = folders.image(distorted / "I01_01_1.bmp")
    if exact.samefile(distorted / "i01_01_1.bmp"):
        pytest.skip("this file system ignores case")
    assert read_rated("tid2013", tmp_path)[0].image == exact


def rename_all(folder: Path, rename: Callable[[str], str]) -> None:
    """Rename every file and folder below a folder, the deepest first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rename(path.with_name(rename(path.name)))


LAYOUTS = {**{name: (name, make) for name, make in FOLDERS.items()},
           "koniq10k, small images": ("koniq10k", functools.partial(folders.koniq10k, images="512x384"))}  # fmt: skip


@pytest.mark.parametrize("rename", [str.upper, str.lower], ids=["upper", "lower"])
@pytest.mark.parametrize(("name", "make"), LAYOUTS.values(), ids=LAYOUTS)
def test_names_are_found_in_any_case(tmp_path, name, make, rename):
    folder = make(tmp_path / "set")
    want = SETS[name].check(folder)
    rename_all(folder, rename)
    got = SETS[name].check(folder)
    assert got.problems == ()
    assert got.parts == want.parts
    assert [image[1:] for image in got.images] == [image[1:] for image in want.images]
    renamed = [folder / rename(str(image.image.relative_to(folder))) for image in want.images]
    assert [image.image for image in got.images] == renamed


def test_a_seed_parts_the_references_and_another_otherwise(live):
    def references(seed):
        parts = {p: read_rated("live", live, p, split_seed=seed, train=0.6, val=0.2) for p in ("train", "val", "test")}
        return {part: {image.reference for image in images} for part, images in parts.items()}

    first, other = references(0), references(1)
    assert other == references(1)
    assert all(first[part] != other[part] for part in first)
    for parts in (first, other):
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 29


# faults


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("5.5 I01_01_1.bmp extra", "bad row", "got 3 columns, want a score and a file name"),
        ("5,5 I01_01_1.bmp", "bad label", "got '5,5', want a number from 0 to 9"),
        ("nan I01_01_1.bmp", "bad label", "got 'nan'"),
        ("9.1 I01_01_1.bmp", "bad label", "got '9.1', want a number from 0 to 9"),
        ("5 I01_25_1.bmp", "bad row", "got 'I01_25_1.bmp', want a name like I01_01_1 with a type of 1 to 24"),
        ("5 readme.txt", "bad row", "got 'readme.txt'"),
        ("5 I02_01_1.bmp", "missing file", "distorted_images/I02_01_1.bmp"),
        ("5 ../../I01_01_1.bmp", "bad row", "want the relative path of an image"),
        ("5.4 I01_01_1.bmp", "bad row", "got another score, content or part of i01_01_1.bmp than above"),
    ],
)
def test_the_line_of_what_is_wrong_is_named(tmp_path, line, kind, reason):
    table = folders.tid2013(tmp_path) / "mos_with_names.txt"
    table.write_text(table.read_text() + "\n" + line + "\n5.51429 i01_01_1.bmp\n")
    (found,) = problems("tid2013", tmp_path)
    assert found[:2] == (kind, "mos_with_names.txt:5")
    assert reason in found[2]
    with pytest.raises(ValueError, match=rf"mos_with_names\.txt:5: {kind}: "):
        read_rated("tid2013", tmp_path)
    assert len(read_rated("tid2013", tmp_path, on_problem="skip")) == 3
    assert SETS["tid2013"].check(tmp_path).repeated == 1  # the last line


def test_bad_rows_of_the_other_tables_are_named(tmp_path):
    folders.csiq(tmp_path, [["cactus", 2, "blurred", 2, 0, 0.5], ["cactus", 2, "blur", 2, 0, "x"], *folders.CSIQ_ROWS])
    assert [(kind, where) for kind, where, _ in problems("csiq", tmp_path)] == [
        ("bad row", "csiq.DMOS.xlsx:5"), ("bad label", "csiq.DMOS.xlsx:6"),
    ]  # fmt: skip
    folders.koniq10k(tmp_path)
    table = tmp_path / "koniq10k_distributions_sets.csv"
    table.write_text(table.read_text() + "10009096245.jpg,0,0,1,1,1,3,50,9,dev\n10009096245.jpg\n")
    assert [problem[1:] for problem in problems("koniq10k", tmp_path)] == [
        ("koniq10k_distributions_sets.csv:6", "got set 'dev', want one of training, validation, test"),
        ("koniq10k_distributions_sets.csv:7", "got set '', want one of training, validation, test"),
    ]


def test_live_names_the_entry_of_a_score_out_of_range(tmp_path, live):
    arrays = scipy.io.loadmat(live / "dmos_realigned.mat")
    arrays["dmos_new"][0, 1:4] = (-16, 116, np.nan)
    for name in [*folders.LIVE_FOLDERS, "refnames_all.mat"]:
        (tmp_path / name).symlink_to(live / name)
    scipy.io.savemat(tmp_path / "dmos_realigned.mat", {k: v for k, v in arrays.items() if not k.startswith("_")})
    assert [problem[:2] for problem in problems("live", tmp_path)] == [
        ("bad label", f"dmos_realigned.mat:{entry}") for entry in (2, 3, 4)
    ]
    scipy.io.savemat(tmp_path / "dmos_realigned.mat", {"dmos_new": arrays["dmos_new"][:, :-1], "orgs": arrays["orgs"]})
    with pytest.raises(ValueError, match=r"dmos_realigned\.mat: got 981 entries of 'dmos_new', want 982"):
        SETS["live"].check(tmp_path)
    scipy.io.savemat(tmp_path / "dmos_realigned.mat", {"dmos": arrays["dmos_new"]})
    with pytest.raises(ValueError, match=r"dmos_realigned\.mat: got no variable 'dmos_new'"):
        SETS["live"].check(tmp_path)
    (tmp_path / "dmos_realigned.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"dmos_realigned\.mat: damaged, or not a MATLAB file"):
        SETS["live"].check(tmp_path)


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in ("live", "livec")])
def test_a_missing_label_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"\.(csv|txt|xlsx): no such file"):
        SETS[name].check(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        SETS[name].check(tmp_path / "nowhere")


def test_workbooks_and_tables_that_are_something_else(tmp_path):
    folders.csiq(tmp_path, sheet="all_images")
    with pytest.raises(ValueError, match=r"csiq\.DMOS\.xlsx: got sheets all_by_distortion, all_images, want 'all_by"):
        SETS["csiq"].check(tmp_path)
    folders.workbook(tmp_path / "csiq.DMOS.xlsx", {"all_by_image": [["image", "score"], ["cactus", 0.5]]})
    message = r"csiq\.DMOS\.xlsx: sheet all_by_image: got columns image, score, want image, dst_type"
    with pytest.raises(ValueError, match=message):
        SETS["csiq"].check(tmp_path)
    (tmp_path / "csiq.DMOS.xlsx").write_text("image,dmos")
    with pytest.raises(ValueError, match=r"csiq\.DMOS\.xlsx: damaged, or not an Excel workbook"):
        SETS["csiq"].check(tmp_path)
    folders.text(tmp_path / "dmos.csv", "dist_img,dmos")
    with pytest.raises(ValueError, match=r"dmos\.csv:1: got columns dist_img, dmos, want dist_img, ref_img, dmos"):
        SETS["kadid10k"].check(tmp_path)
    folders.text(tmp_path / "dmos.csv", "dist_img,ref_img,dmos,var")
    with pytest.raises(ValueError, match="got no labelled images, want at least one"):
        read_rated("kadid10k", tmp_path)
    (tmp_path / "dmos.csv").write_text("")
    with pytest.raises(ValueError, match=r"dmos\.csv:1: got columns none"):
        SETS["kadid10k"].check(tmp_path)


def test_read_rated_refuses_by_name(tmp_path):
    folders.koniq10k(tmp_path, official=False)
    for name, options, message in (
        ("tid", {}, r"name: got 'tid', want one of 'live', 'csiq', 'tid2013'"),
        ("koniq10k", {"part": "dev"}, r"part: got 'dev', want one of 'all', 'train', 'val', 'test'"),
        ("koniq10k", {"part": "val"}, r"part: got 'val', which has no images, want one of train, test"),
        ("koniq10k", {"scores": "z"}, r"scores: got 'z', want one of 'own', 'quality', 'unit'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_rated(name, tmp_path, **options)


# fastiqa data check


def test_data_check_reports_rated_images(tmp_path, fastiqa_command):
    folders.koniq10k(tmp_path)
    status, out, err = fastiqa_command("data", "check", "koniq10k", tmp_path)
    assert (status, err, out) == (0, "", f"{SETS['koniq10k'].check(tmp_path)}\n")
    assert out.splitlines()[1] == "  scores 60 to 63, of 0 to 100, higher is better"
    status, out, _ = fastiqa_command("data", "check", "koniq10k", tmp_path, "--json")
    (report,) = json.loads(out)
    counts = {"images": 4, "published": 10073, "rows": 4, "repeated": 0, "references": 4}
    assert report["counts"] == {**counts, "part_test": 1, "part_train": 2, "part_val": 1}
    assert report["scores"]["lowest"] == 60


def test_data_check_decodes_rated_images(tmp_path, fastiqa_command):
    damaged = labelled_folders.truncated(folders.tid2013(tmp_path) / "distorted_images" / "i01_01_1.bmp")
    assert fastiqa_command("data", "check", "tid2013", tmp_path)[0] == 0
    status, out, _ = fastiqa_command("data", "check", "tid2013", tmp_path, "--decode")
    assert status == 1
    assert f"{damaged}: unreadable image: " in out
    report = decode(SETS["tid2013"].check(tmp_path))
    assert [image.group for image in report.images] == ["SSR", "JPEG"]
    assert len(report.parts) == 2


def test_data_check_of_rated_images_fails_in_one_line(tmp_path, fastiqa_command):
    for rest, message in (
        ((tmp_path,), "dmos.csv: no such file"),
        ((tmp_path / "none",), "none: no such folder"),
        ((tmp_path, "--split", "test"), "--split: got 'test', want none: the whole of kadid10k is checked"),
        ((tmp_path, tmp_path), "want none for kadid10k"),
    ):
        status, out, err = fastiqa_command("data", "check", "kadid10k", *rest)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert message in err


@pytest.mark.parametrize("command", [("data", "check"), ("eval",)], ids=" ".join)
def test_the_help_of_the_commands_names_every_set(fastiqa_command, command):
    status, said, _ = fastiqa_command(*command, "--help")
    assert status == 0
    assert not {*TRIPLET_SETS, *SETS} - set(re.findall(r"\w+", said))
