"""The reader of PieAPP, `decode`, and ``fastiqa data check``."""

from __future__ import annotations

import json

import pytest

from fastiqa.data import check_clic, check_pieapp, decode, read_clic, read_pieapp
from support import labelled_folders as folders
from support.labelled_folders import md5_name

BLUR1, BLUR2 = "distort_1_gaussian_blur_intra_0.png", "distort_1_gaussian_blur_intra_13.png"
NOISE, WARP = "distort_1_additive_noise_inter_3.png", "distort_1_warp_inter_2.png"
TRAIN = {1: [(BLUR1, BLUR2, "0.75", "0.7"), (NOISE, WARP, "", "0.25"), (NOISE, WARP, "0.3", " ")]}


def test_pieapp_labels_are_the_share_that_prefers_b(tmp_path):
    triplets = read_pieapp(folders.pieapp(tmp_path, "train", TRAIN))
    distorted = tmp_path / "distorted_images" / "train" / "ref_1"
    assert triplets == [
        (tmp_path / "reference_images" / "train" / "ref_1.png", distorted / BLUR1, distorted / BLUR2,
         pytest.approx(0.3), "gaussian_blur"),
        (tmp_path / "reference_images" / "train" / "ref_1.png", distorted / NOISE, distorted / WARP,
         pytest.approx((0.75 + 0.7) / 2), "inter-type"),
    ]  # fmt: skip
    report = check_pieapp(tmp_path)
    assert (report.rows, report.duplicates, report.conflicting) == (3, 1, 1)
    assert decode(report).problems == ()


def test_pieapp_leaves_out_what_was_never_labelled(tmp_path):
    """A val file of the raw column alone, with blanks; the processed column, where there is one, goes before it."""
    folders.pieapp(tmp_path, "val", {1: [(BLUR1, BLUR2, ""), (NOISE, WARP, "1"), (BLUR1, WARP, "0.2", "0.4")]})
    report = check_pieapp(tmp_path, "val")
    assert [t.label for t in report.triplets] == [0, pytest.approx(0.6)]
    assert (report.unlabelled, report.problems) == (1, ())


def test_pieapp_test_split_compares_with_the_reference_itself(tmp_path):
    rows = {7: [("ref_7.png", WARP, "0.975"), (WARP, "ref_7.png", "0.025"), (WARP, NOISE, "0.5")]}
    triplets = read_pieapp(folders.pieapp(tmp_path, "test", rows), "test")
    reference = tmp_path / "reference_images" / "test" / "ref_7.png"
    assert triplets[0].a == triplets[0].ref == triplets[1].b == reference
    assert [t.group for t in triplets] == ["reference", "reference", "inter-type"]
    assert [t.label for t in triplets] == pytest.approx([0.025, 0.975, 0.5])


def test_pieapp_clips_rounding_and_names_bad_labels(tmp_path):
    rows = {1: [(BLUR1, BLUR2, "", "1.0004"), (BLUR2, BLUR1, "", "-0.0001"), (NOISE, WARP, "", "1.2"), (NOISE, WARP)]}
    folders.pieapp(tmp_path, "train", rows)
    report = check_pieapp(tmp_path)
    assert [t.label for t in report.triplets] == [0, 1]
    labels = tmp_path / "labels" / "train" / "ref_1_pairwise_labels.csv"
    assert [(p.kind, p.where) for p in report.problems] == [("bad label", f"{labels}:4"), ("bad row", f"{labels}:5")]
    assert report.rows == 4


def test_pieapp_names_missing_files(tmp_path):
    folders.pieapp(tmp_path, "train", TRAIN)
    with pytest.raises(FileNotFoundError, match=r"val_reference_list\.txt: no such file"):
        read_pieapp(tmp_path, "val")
    with pytest.raises(ValueError, match="split: got 'dev'"):
        read_pieapp(tmp_path, "dev")
    (tmp_path / "distorted_images" / "train" / "ref_1" / WARP).unlink()
    with (tmp_path / "train_reference_list.txt").open("a") as file:
        file.write("ref_2.png\n")
    report = check_pieapp(tmp_path)
    assert [p.kind for p in report.problems] == ["missing labels", "missing file"]
    assert "ref_2_pairwise_labels.csv" in report.problems[0].reason
    assert report.problems[1].reason.endswith(WARP)
    assert [t.group for t in read_pieapp(tmp_path, on_problem="skip")] == ["gaussian_blur"]


def test_decode_finds_damaged_images_and_odd_sizes(tmp_path):
    csv = folders.clic(tmp_path)
    folders.truncated(tmp_path / md5_name("b1"))
    folders.png(tmp_path / md5_name("b2"), 20)
    seen = []
    report = decode(check_clic(csv), on_image=lambda done, total: seen.append((done, total)))
    assert {(p.kind, p.where): p.reason for p in report.problems} == {
        ("unreadable image", str(tmp_path / md5_name("b1"))): "the file is truncated",
        ("unreadable image", str(tmp_path / md5_name("b2"))):
            f"its size is not that of its reference {tmp_path / md5_name('o2')}",
    }  # fmt: skip
    assert [triplet.label for triplet in report.triplets] == [1]
    assert seen == [(n, 6) for n in range(1, 7)]


def test_data_check_prints_the_report(tmp_path, fastiqa_command):
    csv = folders.clic(tmp_path)
    status, out, err = fastiqa_command("data", "check", "clic", csv)
    assert (status, err, out) == (0, "", f"{check_clic(csv)}\n")
    (tmp_path / md5_name("b1")).unlink()
    status, out, _ = fastiqa_command("data", "check", "clic", csv, tmp_path)
    assert status == 1
    assert f"oracle.csv:1: missing file: {tmp_path / md5_name('b1')}" in out


def test_data_check_as_json_reads_every_split_there_is(tmp_path, fastiqa_command):
    folders.bapps(tmp_path, "val", {"cnn": [0.2]})
    status, out, _ = fastiqa_command("data", "check", "bapps", tmp_path, "--json")
    (report,) = json.loads(out)
    assert status == 1  # five folders are missing
    assert (report["dataset"], report["counts"]["triplets"], report["counts"]["missing labels"]) == ("BAPPS val", 1, 5)
    folders.pieapp(tmp_path, "train", TRAIN)
    folders.pieapp(tmp_path, "test", {7: [("ref_7.png", WARP, "0.9")]})
    status, out, _ = fastiqa_command("data", "check", "pieapp", tmp_path, "--json")
    assert (status, [report["dataset"] for report in json.loads(out)]) == (0, ["PieAPP train", "PieAPP test"])
    status, out, _ = fastiqa_command("data", "check", "pieapp", tmp_path, "--split", "test")
    assert (status, out.startswith("PieAPP test: ")) == (0, True)


def test_data_check_decodes_where_asked(tmp_path, fastiqa_command):
    csv = folders.clic(tmp_path)
    folders.truncated(tmp_path / md5_name("o1"))
    assert fastiqa_command("data", "check", "clic", csv)[0] == 0
    status, out, _ = fastiqa_command("data", "check", "clic", csv, "--decode")
    assert status == 1
    assert f"{md5_name('o1')}: unreadable image: the file is truncated" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tid", "."), "DATASET: got 'tid', want one of 'clic', 'bapps', 'pieapp'"),
        (("clic", "none.csv"), "none.csv: no such file"),
        (("clic", "none.csv", "--split", "val"), "--split: got 'val', want none"),
        (("bapps", "nowhere"), "nowhere: no such folder"),
        (("bapps", "."), "got none of train, val and test"),
        (("pieapp", ".", "images"), "IMAGES: got 'images', want none for pieapp"),
    ],
)
def test_data_check_fails_in_one_line(tmp_path, monkeypatch, fastiqa_command, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = fastiqa_command("data", "check", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_read_clic_of_a_folder_in_which_nothing_is_left(tmp_path):
    csv = folders.clic(tmp_path)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="missing file"):
        read_clic(csv, on_problem="skip")
