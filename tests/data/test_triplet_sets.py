"""Readers of CLIC, BAPPS and PieAPP: published layouts read correctly, and every kind of fault reported."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from fastiqa.data import check_bapps, check_clic, check_pieapp, decode, read_bapps, read_clic, read_image, read_pieapp
from support import labelled_folders as folders
from support.labelled_folders import md5_name
from support.shared_data import shared_file

SOFT = pytest.approx(2 / 3)


def kinds(report):
    return [problem.kind for problem in report.problems]


# CLIC


TABLES = {
    "UTF-8 with mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big-endian": lambda text: ("\ufeff" + text).encode("utf-16-be"),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "Excel": lambda text: f"sep=;\r\nref;a;b;label\r\n{text.replace(',', ';')}".encode(),
    "header": lambda text: f"O,A,B,T\n{text}".encode(),
    "blank lines": lambda text: f"\n{text}\n\n".encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_any_editor(tmp_path, name):
    csv = folders.clic(tmp_path)
    expected = read_clic(csv)
    csv.write_bytes(TABLES[name](csv.read_text()))
    assert read_clic(csv) == expected


def test_windows_separates_folders_by_backslashes(tmp_path):
    csv = folders.clic(tmp_path)
    expected = [triplet.label for triplet in read_clic(csv)]
    (tmp_path / "sub").mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(tmp_path / "sub" / file.name)
    rows = [line.split(",") for line in csv.read_text().splitlines()]
    csv.write_text("".join(",".join([*(rf"sub\{name}" for name in row[:3]), row[3]]) + "\n" for row in rows))
    triplets = read_clic(csv)
    assert [triplet.label for triplet in triplets] == expected
    assert triplets[0].ref.parent == tmp_path / "sub"
    csv.write_text(r"..\o.png,a.png,b.png,1" + "\n" + r"C:\o.png,a.png,b.png,1" + "\n")
    assert [problem.reason for problem in check_clic(csv).problems] == [
        r"got '..\\o.png', want the relative path of an image",
        r"got 'C:\\o.png', want the relative path of an image",
    ]


def test_tables_that_cannot_be_read_are_named(tmp_path):
    csv = folders.clic(tmp_path)
    text = csv.read_text()
    csv.write_bytes(text.encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"oracle\.csv: not a csv file: got zero bytes, want UTF-8, or UTF-16 with a"):
        read_clic(csv)
    csv.write_text(text.replace(",", ";").replace(";1\n", ";0,5\n", 1))
    assert [problem.reason for problem in check_clic(csv).problems] == ["got '0,5', want a number from 0 to 1"]


def test_clic_averages_equal_rows_to_a_soft_label(tmp_path):
    triplets = read_clic(folders.clic(tmp_path))
    expected = [("o1", "a1", "b1", SOFT), ("o1", "b1", "a1", 0), ("o2", "a2", "b2", 0), ("o2", "a2", "a2", 1)]
    assert triplets == [(*(tmp_path / md5_name(name) for name in row[:3]), row[3], "", None) for row in expected]


def test_clic_keeps_every_row_where_asked(tmp_path):
    labels = [triplet.label for triplet in read_clic(folders.clic(tmp_path), average_duplicates=False)]
    assert labels == [float(row[3]) for row in folders.CLIC_ROWS]


def test_clic_report_counts(tmp_path):
    report = check_clic(folders.clic(tmp_path))
    assert report.problems == ()
    assert report.counts() == {
        "triplets": 4, "rows": 6, "unlabelled": 0, "duplicates": 2, "conflicting": 1, "references": 2, "images": 6,
        "same_candidates": 1, "prefer_a": 2, "prefer_b": 2, "prefer_neither": 0,
    }  # fmt: skip
    assert "triplets by group" not in str(report)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_clic_reads_the_sharded_archives_in_place(tmp_path, kind):
    csv = folders.clic(tmp_path)
    unpacked = [[read_image(path).pixels for path in triplet[:3]] for triplet in read_clic(csv)]
    folders.into_shards(tmp_path, kind)
    triplets = read_clic(csv)
    assert list(tmp_path.glob("*.png")) == []
    assert {triplet.ref.parent.suffix for triplet in triplets} == {f".{kind}"}
    assert decode(check_clic(csv)).problems == ()
    for triplet, wanted in zip(triplets, unpacked, strict=True):
        for path, pixels in zip(triplet[:3], wanted, strict=True):
            np.testing.assert_array_equal(read_image(path).pixels, pixels)


def test_clic_csv_may_lie_in_the_archive_of_the_oracle(tmp_path):
    csv = folders.clic(tmp_path)
    with zipfile.ZipFile(tmp_path / "oracle.zip", "w") as archive:
        archive.write(csv, "clic/oracle.csv")
    assert read_clic(tmp_path / "oracle.zip" / "clic" / "oracle.csv") == read_clic(csv)
    with pytest.raises(FileNotFoundError, match=r"oracle\.zip/other\.csv: no such file"):
        read_clic(tmp_path / "oracle.zip" / "other.csv")


def test_clic_names_every_missing_file_once_with_its_first_row(tmp_path, caplog):
    csv = folders.clic(tmp_path)
    (tmp_path / md5_name("b1")).unlink()
    report = check_clic(csv)
    assert [(p.kind, p.where, p.reason) for p in report.problems] == [
        ("missing file", f"{csv}:1", str(tmp_path / md5_name("b1")))
    ]
    assert [triplet.label for triplet in report.triplets] == [0, 1]
    assert report.duplicates == 2  # counted in the labels, whatever images exist
    assert len(read_clic(csv, on_problem="skip")) == 2
    (warning,) = caplog.messages
    assert warning.startswith(f"{csv}:1: missing file: ")
    assert warning.endswith("; skipped, 2 triplets are left")
    assert len(read_clic(csv, check_files=False)) == 4
    with pytest.raises(ValueError, match=r"oracle\.csv:1: missing file: .*" + md5_name("b1")):
        read_clic(csv)


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("{o},{a},{b},2", "bad label", "got '2', want a number from 0 to 1"),
        ("{o},{a},{b},-0.1", "bad label", "got '-0.1'"),
        ("{o},{a},{b},nan", "bad label", "got 'nan'"),
        ("{o},{a},{b},", "bad label", "got ''"),
        ("{o},{a},{b}", "bad row", "got 3 columns, want O,A,B,T"),
        ("{o},{a},{b},1,1", "bad row", "got 5 columns"),
        ("../{o},{a},{b},1", "bad row", "want the relative path"),
        ("{o},/etc/{a},{b},1", "bad row", "want the relative path"),
        ("{o},,{b},1", "bad row", "got ''"),
    ],
)
def test_clic_names_the_line_of_what_is_wrong(tmp_path, line, kind, reason):
    csv = folders.clic(tmp_path)
    good = csv.read_text()
    csv.write_text(line.format(o=md5_name("o1"), a=md5_name("a1"), b=md5_name("b1")) + "\n\n" + good)
    (problem,) = check_clic(csv).problems
    assert (problem.kind, problem.where) == (kind, f"{csv}:1")
    assert reason in problem.reason
    with pytest.raises(ValueError, match=rf"oracle\.csv:1: {kind}: got"):
        read_clic(csv)
    csv.write_text(good)
    wanted = read_clic(csv)
    csv.write_text(line + "\n\n" + good)
    assert read_clic(csv, on_problem="skip") == wanted


def test_clic_refuses_what_is_no_table(tmp_path):
    csv = tmp_path / "oracle.csv"
    with pytest.raises(FileNotFoundError, match=r"oracle\.csv: no such file"):
        read_clic(csv)
    csv.write_text("\n")
    with pytest.raises(ValueError, match=r"oracle\.csv: got no labelled triplets"):
        read_clic(csv)
    folders.png(csv)
    with pytest.raises(ValueError, match=r"oracle\.csv: not a csv file"):
        read_clic(csv)
    with pytest.raises(ValueError, match="on_problem: got 'ignore', want one of 'raise', 'skip'"):
        read_clic(folders.clic(tmp_path), on_problem="ignore")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_damaged_archive_is_named(tmp_path, kind):
    csv = folders.clic(tmp_path)
    folders.into_shards(tmp_path, kind)
    shard = tmp_path / f"{md5_name('o1')[0]}.{kind}"
    shard.write_bytes(shard.read_bytes()[:700])  # in the middle of the first member
    with pytest.raises(ValueError, match=rf"{shard.name}: damaged, or not a \.{kind} archive"):
        check_clic(csv)


def test_only_regular_members_of_archives_are_read(tmp_path):
    """A link in an archive must not lead to a file outside it."""
    (tmp_path / "secret.png").write_bytes(folders.png(tmp_path / "x.png").read_bytes())
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../secret.png"
            archive.addfile(member)
        member = tarfile.TarInfo("empty.png")
        archive.addfile(member, io.BytesIO())
    for name in ("link.png", "hard.png", "../secret.png", "none.png"):
        with pytest.raises(ValueError, match="no such file"):
            read_image(tmp_path / "0.tar" / name)
    with pytest.raises(ValueError, match="the file is empty"):
        read_image(tmp_path / "0.tar" / "empty.png")


def test_a_changed_archive_is_read_anew(tmp_path):
    first, second = folders.png(tmp_path / "1.png", 8), folders.png(tmp_path / "2.png", 24)
    for file in (first, second):
        with tarfile.open(tmp_path / "0.tar", "w") as archive:
            archive.add(file, "image.png")
        np.testing.assert_array_equal(read_image(tmp_path / "0.tar" / "image.png").pixels, read_image(file).pixels)


def test_clic_oracle_as_distributed():
    """The published counts: 5,220 rows, 2,692 of them 0, on 315 references and 2,730 images."""
    csv = shared_file("clic/oracle.csv")
    rows = read_clic(csv, check_files=False, average_duplicates=False)
    assert len(rows) == 5220
    assert sum(triplet.label == 0 for triplet in rows) == 2692
    report = check_clic(csv, check_files=False)
    assert report.counts() == {
        "triplets": 4951, "rows": 5220, "unlabelled": 0, "duplicates": 269, "conflicting": 57, "references": 315,
        "images": 2730, "same_candidates": 2, "prefer_a": 2531, "prefer_b": 2374, "prefer_neither": 46,
    }  # fmt: skip
    assert all(triplet.label in (0, 1) or 0 < triplet.label < 1 for triplet in report.triplets)
    assert len(check_clic(csv).problems) == 2730  # no images beside it


# BAPPS


def test_bapps_reads_train_and_val_as_distributed(tmp_path):
    folders.bapps(tmp_path, "train", {"traditional": [0, 0.5], "cnn": [1], "mix": [0.5]})
    val = ("traditional", "cnn", "superres", "deblur", "color", "frameinterp")
    folders.bapps(tmp_path, "val", {name: [0.2] for name in val})
    triplets = read_bapps(tmp_path, "train")
    assert [(t.label, t.group) for t in triplets] == [
        (0, "traditional"),
        (0.5, "traditional"),
        (1, "cnn"),
        (0.5, "mix"),
    ]
    first = tmp_path / "2afc" / "train" / "traditional"
    assert triplets[1][:3] == tuple(first / part / "000001.png" for part in ("ref", "p0", "p1"))
    assert [t.group for t in read_bapps(tmp_path / "2afc", "val")] == list(val)
    assert [t.label for t in read_bapps(tmp_path, "val", ["color"])] == [pytest.approx(0.2)]
    report = decode(check_bapps(tmp_path, "train"))
    assert report.problems == ()
    assert report.groups == {"traditional": 2, "cnn": 1, "mix": 1}
    assert "traditional" in str(report)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (folders.npy(np.array([{"votes": 1}], object), allow_pickle=True), "not an array of numbers"),
        (folders.npy(np.array([1.5])), "got 1.5, want one floating-point number from 0 to 1"),
        (folders.npy(np.array([np.nan])), "got nan"),
        (folders.npy(np.array([1])), "got 1, want one floating-point"),
        (folders.npy(np.zeros(2)), "float64 of shape (2,)"),
        (folders.npy(np.zeros(1))[:-3], "not an array of numbers"),
        (b"", "not an array of numbers"),
        (b"PK\x03\x04 a zip", "not an array of numbers"),
        (folders.npy(np.zeros(1)).replace(b"(1,)", b"(1" + b"0" * 15 + b",)"), "not an array of numbers"),
    ],
)
def test_bapps_names_bad_judgements(tmp_path, content, reason):
    folders.bapps(tmp_path, "train", {"traditional": [0, 1], "cnn": [1], "mix": [1]})
    path = tmp_path / "2afc" / "train" / "traditional" / "judge" / "000001.npy"
    path.write_bytes(content)
    (problem,) = check_bapps(tmp_path).problems
    assert (problem.kind, problem.where) == ("bad label", str(path))
    assert reason in problem.reason
    assert len(read_bapps(tmp_path, on_problem="skip")) == 3
    with pytest.raises(ValueError, match=r"000001\.npy: bad label"):
        read_bapps(tmp_path)


@pytest.mark.parametrize("part", ["ref", "p0", "p1", "judge"])
def test_bapps_pairs_by_name_and_names_what_is_missing(tmp_path, part):
    folders.bapps(tmp_path, "train", {"traditional": [0, 0.5, 1], "cnn": [1], "mix": [1]})
    gone = next((tmp_path / "2afc" / "train" / "traditional" / part).glob("000001.*"))
    gone.unlink()
    report = check_bapps(tmp_path)
    assert kinds(report) == ["missing file"]
    assert report.problems[0].reason == str(gone)
    assert [t.label for t in report.triplets] == [0, 1, 1, 1]
    assert report.rows == 5


def test_bapps_without_a_subset_or_anything(tmp_path):
    folders.bapps(tmp_path, "train", {"cnn": [1], "mix": [1]})
    with pytest.raises(ValueError, match="traditional: missing labels: no such folder"):
        read_bapps(tmp_path)
    assert len(read_bapps(tmp_path, subsets=["cnn", "mix"])) == 2
    assert check_bapps(tmp_path).rows == 2
    with pytest.raises(ValueError, match="missing labels"):
        read_bapps(tmp_path, "val", on_problem="skip")
    with pytest.raises(ValueError, match="split: got 'test', want one of 'train', 'val'"):
        read_bapps(tmp_path, "test")
    with pytest.raises(ValueError, match="subsets: got 'color', want one of 'traditional', 'cnn', 'mix'"):
        read_bapps(tmp_path, subsets=["color"])


# PieAPP, `decode` and `fastiqa data check`


BLUR1, BLUR2 = "distort_1_gaussian_blur_intra_0.png", "distort_1_gaussian_blur_intra_13.png"
NOISE, WARP = "distort_1_additive_noise_inter_3.png", "distort_1_warp_inter_2.png"
TRAIN = {1: [(BLUR1, BLUR2, "0.75", "0.7"), (NOISE, WARP, "", "0.25"), (NOISE, WARP, "0.3", " ")]}


def test_pieapp_labels_are_the_share_that_prefers_b(tmp_path):
    triplets = read_pieapp(folders.pieapp(tmp_path, "train", TRAIN))
    distorted = tmp_path / "distorted_images" / "train" / "ref_1"
    assert triplets == [
        (tmp_path / "reference_images" / "train" / "ref_1.png", distorted / BLUR1, distorted / BLUR2,
         pytest.approx(0.3), "gaussian_blur", None),
        (tmp_path / "reference_images" / "train" / "ref_1.png", distorted / NOISE, distorted / WARP,
         pytest.approx((0.75 + 0.7) / 2), "inter-type", None),
    ]  # fmt: skip
    report = check_pieapp(tmp_path)
    assert (report.rows, report.duplicates, report.conflicting) == (3, 1, 1)
    assert decode(report).problems == ()


def test_pieapp_leaves_out_what_was_never_labelled(tmp_path):
    """A val file with the raw column alone, with blanks; the processed column goes first where there is one."""
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
