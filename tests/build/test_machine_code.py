"""fastiqa.bench.machine_code: occupancy is the calculator's, and a number that got worse is found and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastiqa.bench.machine_code import tables
from fastiqa.bench.machine_code.occupancy import occupancy
from fastiqa.bench.machine_code.rows import Row, kernel_name, launch_rows

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "warps", "percent", "limit"),
    [
        (90, 256, 32, 0, 64, 100, "warps"),
        (90, 256, 33, 0, 48, 75, "registers"),  # 40 registers, since a warp gets 256 at a time
        (90, 256, 64, 0, 32, 50, "registers"),
        (90, 256, 65, 0, 24, 38, "registers"),
        (90, 128, 255, 0, 8, 12, "registers"),
        (80, 96, 32, 16384, 27, 42, "shared memory"),  # nine blocks of 17 KB in 164 KB
        (90, 32, 16, 0, 32, 50, "blocks"),
        (120, 128, 40, 0, 48, 100, "warps"),
    ],
)
def test_occupancy(arch: int, threads: int, registers: int, shared: int, warps: int, percent: int, limit: str) -> None:
    assert occupancy(arch, threads, registers, shared) == (warps, percent, limit)


def test_occupancy_of_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(ValueError, match="arch: got 75, want one of 80"):
        occupancy(75, 256, 32, 0)


def test_names_of_kernels_are_plain() -> None:
    found = kernel_name(
        "void fastiqa::blocks_kernel<fastiqa::Maps<1, 0>, (fastiqa::Walk)2, fastiqa::(anonymous namespace)::F>(int)"
    )
    assert found == "blocks_kernel<Maps<1, 0>, Walk 2, F>"


@pytest.fixture(scope="module")
def recorded() -> list[Row]:
    return tables.read_table(tables.KERNELS)


def test_tables_are_of_each_other(recorded: list[Row]) -> None:
    """The page follows from the CSV files, has no times, and says so."""
    launches = tables.read_table(tables.LAUNCHES)
    page = tables.PAGE.read_text()
    assert page == tables.machine_code_page(recorded, launches)
    assert "Nothing here was measured on a GPU" in page
    assert {row["gpu_us"] for row in recorded} == {"not measured"}


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("registers", "8", "registers 8 -> "),
        ("narrow", "-1", "narrow -1 -> "),
        ("stack", "-8", "stack -8 -> "),
        ("occupancy_pct", "101", "occupancy_pct 101 -> "),
    ],
)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_planted_regression_is_found(recorded: list[Row], backend: str, column: str, value: str, line: str) -> None:
    """With one better number in the table, the kernel got worse in that column alone."""
    assert tables.worse_kernels(recorded, recorded) == []
    at = next(k for k, row in enumerate(recorded) if row["backend"] == backend)
    planted = [*recorded[:at], recorded[at] | {column: value}, *recorded[at + 1 :]]
    (found,) = tables.worse_kernels(planted, recorded)
    assert recorded[at]["kernel"] in found
    assert line in found
    assert tables.worse_kernels(recorded, planted) == []  # a number that got better


def test_another_compiler_is_said_and_compared_by_what_must_hold(recorded: list[Row]) -> None:
    clean = next(row for row in recorded if row["stack"] == "0" and row["narrow"] == "0")
    other = clean | {"compiler": "another", "registers": "255", "occupancy_pct": "1"}
    assert tables.worse_kernels([clean], [other]) == []
    assert len(tables.worse_kernels([clean], [other | {"stack": "8"}])) == 1
    assert len(tables.worse_kernels([clean], [other | {"narrow": "2"}])) == 1
    (remark,) = tables.remarks([clean], [other])
    assert clean["compiler"] in remark
    assert "another" in remark
    assert tables.remarks([clean], [clean]) == []


def test_more_launches_are_found() -> None:
    call = {"op": "f", "backend": "cuda", "mode": "forward", "layout": "nchw", "arguments": "", "dtype": "float32"}
    call |= {"elements": 8, "bytes": 64, "launches": [["void fastiqa::f_kernel<float>(float*)", 1, 256]] * 2}
    (row,) = launch_rows([call])
    assert (row["launches"], row["bytes_by_design"], row["kernels"]) == ("2", "8.0", "f_kernel×2")
    assert tables.worse_launches([row], [row]) == []
    assert tables.worse_launches([row | {"launches": "1"}], [row]) == ["f cuda forward nchw : launches 1 -> 2"]


def test_kernels_that_one_side_lacks_are_told(recorded: list[Row], tmp_path: Path) -> None:
    some = [row for row in recorded if row["backend"] == "cuda"][:3]
    assert tables.remarks(some, some[:2]) == ["cuda: 1 kernels of the table are not in this build"]
    assert tables.remarks(some[:2], some) == ["cuda: 1 kernels are not in the table yet"]
    assert tables.worse_kernels(some[:2], some) == []
    tables.write_table(tmp_path / "kernels.csv", tables.COLUMNS, some)
    assert tables.read_table(tmp_path / "kernels.csv") == some
