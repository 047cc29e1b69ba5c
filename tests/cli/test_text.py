"""File names as text: safe in a terminal and a spreadsheet, and read back unchanged."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys

import pytest

from fastiqa.cli.app import run
from fastiqa.common.text import csv_cell, from_csv_cell, one_line

NAMES = {
    "photo.png": "photo.png",
    "a b/größe 写真.png": "a b/größe 写真.png",
    "windows\\n.png": "windows\\n.png",
    "2+2=4.png": "2+2=4.png",
    "=1+1.png": "'=1+1.png",
    "+1.png": "'+1.png",
    "-1.png": "'-1.png",
    "@SUM(A1).png": "'@SUM(A1).png",
    "\uff1d1.png": "'\uff1d1.png",
    " =1.png": "' =1.png",
    "a;=1+1.png": "'a;=1+1.png",
    "'quoted'.png": "''quoted'.png",
    "\x1b[2Jcleared.png": "'\\x1b[2Jcleared.png",
    "two\nlines\\.png": "'two\\nlines\\\\.png",
    "\t=1.png": "'\\t=1.png",
    "right\u202eleft.png": "'right\\u202eleft.png",
    os.fsdecode(b"caf\xe9.png"): "'caf\\udce9.png",
    "": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_harmless_cell_and_comes_back(name):
    cell = csv_cell(name)
    assert cell == NAMES[name]
    assert cell.isprintable()
    cell.encode()
    assert from_csv_cell(cell) == name
    for_ascii = csv_cell(name, ascii_only=True)
    assert for_ascii.isascii()
    assert from_csv_cell(for_ascii) == name
    stream = io.StringIO()
    csv.writer(stream).writerow([cell, "0.5"])
    assert from_csv_cell(next(csv.reader([stream.getvalue()]))[0]) == name


def test_one_line_escapes_what_moves_a_terminal():
    assert one_line("\x1b[31mred\r\nnext\x9b\u202e\udce9 é写") == "\\x1b[31mred\\r\\nnext\\x9b\\u202e\\udce9 é写"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_no_name_ends_a_command_whatever_stdout_can_write(encoding, tmp_path):
    """Names that a strict stdout, such as a terminal's, cannot write: in a report, in JSON and in an error."""
    folder = os.path.join(os.fsencode(tmp_path), "写真 ✓".encode() + b"\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"train_reference_list.txt"), "wb") as file:
        file.write("写真.png\n".encode())
    program = """
import sys
from fastiqa.cli.app import run
folder = sys.argv[1]
print([run(["data", "check", "pieapp", *more]) for more in ([folder], [folder, "--json"], [folder + "✓"])])
"""
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, env=environment, check=False)
    shown = (done.stdout + done.stderr).decode(encoding)
    assert "[1, 1, 2]" in shown
    assert shown.count("\\udce9") >= 3
    assert ("写真" in shown) is (encoding == "utf-8")


def test_a_full_disk_ends_output_in_one_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(["--version"]) == 2
    assert capsys.readouterr().err == "error: output: No space left on device\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_process_without_an_output_writes_to_no_other(closed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, closed, None)
    missing = str(tmp_path / "none.png")
    status = run(["--version"]) if closed == "stdout" else run(["compare", missing, missing, missing])
    getattr(sys, closed).close()
    assert (status, capsys.readouterr()) == (0 if closed == "stdout" else 2, ("", ""))
