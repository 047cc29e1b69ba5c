"""Compiled kernels, without running them: access widths, registers, spills, atomics, symbols."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastiqa.bench.machine_code import sass, tables
from fastiqa.bench.machine_code.rows import Row, cuda_rows, cuobjdump, launch_rows, resources, triton_rows

from fastiqa import ops
from fastiqa.runtime import native
from support import cases, emulation

pytest.importorskip("triton", reason="triton is not installed")  # whose wheel brings cuobjdump and nvdisasm

ROOT = Path(__file__).resolve().parents[2]
COMPILE_TRITON = ROOT / "tests" / "support" / "compile_triton.py"

pytestmark = pytest.mark.kernels

NOT_BUILT = "the CUDA library was not built (`make test-kernels` builds it where it finds nvcc)"
needs_cuda_library = pytest.mark.skipif(not native.path("cuda").exists(), reason=NOT_BUILT)
needs_binutils = pytest.mark.skipif(shutil.which("c++filt") is None, reason="binutils is not installed")
needs_cpu_library = pytest.mark.skipif(
    not native.path("cpu").exists(), reason="the CPU library was not built (no C++ compiler)"
)


def dump(*args: str) -> str:
    return subprocess.run([cuobjdump(), *args], capture_output=True, text=True, check=True).stdout


def compared(recorded: Path, rows: list[Row]) -> list[str]:
    """Lines for numbers that got worse; prints the limits of the comparison, such as another compiler."""
    before = tables.read_table(recorded)
    print(*tables.remarks(before, rows), sep="\n")
    return tables.worse_kernels(before, rows)


# ---- Triton ----


def width(access: str) -> int:
    """Bytes of a PTX access: `ld.global.v4.b32` moves 16."""
    match = re.search(r"(?:\.v(\d))?\.b(\d+)$", access)
    assert match is not None, access
    return int(match[1] or 1) * int(match[2]) // 8


@pytest.fixture(scope="module")
def triton_kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, str(COMPILE_TRITON), str(folder), *([] if cases.ALL else ["--few"])],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_triton_moves_16_bytes_at_a_time(triton_kernels: list[dict[str, Any]]) -> None:
    assert {k["arch"] for k in triton_kernels} == {80, 90, 100}
    assert {k["op"] for k in triton_kernels} == {*cases.names()}
    narrow: dict[tuple[str, str], bool] = {}
    for kernel in triton_kernels:
        loads, stores = ([width(access) for access in kernel[kind]] for kind in ("loads", "stores"))
        assert loads
        assert stores
        # A kernel file gives its reasons for less than 16 bytes in NARROW: for a memory format the number of bytes, for
        # a kernel the numbers of maps that it reads and writes 16 bytes at a time, and the reason for the rest.
        if kernel["narrow"] is None:
            assert {*loads, *stores} == {16}, kernel
        elif len(kernel["narrow"]) == 2:
            assert {*loads, *stores} == {16, kernel["narrow"][0]}, kernel
        else:
            loaded, stored, reason = kernel["narrow"]
            elements = 1024 // max(128, kernel["threads"])  # a thread; tiles of fewer threads are as much smaller
            packs = elements * getattr(torch, kernel["dtype"]).itemsize // 16
            key = kernel["op"], kernel["kernel"]
            narrow[key] = narrow.get(key, False) or {*loads, *stores} != {16}
            assert loads.count(16) >= loaded * packs, f"may be narrow for {reason} alone: {kernel}"
            assert stores.count(16) >= stored * packs, f"may be narrow for {reason} alone: {kernel}"
    if cases.ALL:  # only another case needs some of them
        assert all(narrow.values()), f"reasons without need: {narrow}"


def test_triton_has_no_atomics_spills_or_stray_float64(triton_kernels: list[dict[str, Any]]) -> None:
    for kernel in triton_kernels:
        assert kernel["atomics"] == []
        # A kernel file gives its reasons in FLOAT64: kernels between the passes over maps.
        if kernel["dtype"] != "float64":
            assert (kernel["float64"] > 0) == (kernel["wide"] is not None), kernel
        for usage in resources(Path(kernel["cubin"])).values():
            # 16 bytes: a few values that outlive the call of a 64-bit division, once a thread.
            allowed = 16 if usage["STACK"] and "CALL" in dump("--dump-sass", kernel["cubin"]) else 0
            assert usage["STACK"] <= allowed, kernel
            assert usage["LOCAL"] == 0, kernel
            assert usage["REG"] <= (255 if kernel["dtype"] == "float64" else 128), kernel


def test_triton_kernels_are_not_worse_than_recorded(triton_kernels: list[dict[str, Any]]) -> None:
    """Where one is worse, python -m fastiqa.bench.machine_code writes new tables, and the commit says why."""
    rows = [row for row in triton_rows(triton_kernels) if row["op"] in ops.OPERATORS]
    assert compared(tables.KERNELS, rows) == []


def test_calls_launch_no_more_kernels_than_recorded() -> None:
    rows = launch_rows(tables.program("launches", "float32"))
    assert {row["backend"] for row in rows} == {"cuda", "triton"}
    assert tables.worse_launches(tables.read_table(tables.LAUNCHES), rows) == []


def test_triton_variants_stay_bounded_and_uncontracted(tmp_path: Path) -> None:
    """Fifty sizes compile no kernel more than once a size, and the compiler fuses no product with a sum by itself.

    Triton compiles again where a size or stride becomes 1, divisible by 16, or neither: 19 to 85 times here.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(COMPILE_TRITON), "--variants"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    for operator in found:
        # Sums of them, as a convolution's.
        products = operator["op"].startswith(("difference_", "large_kernel", "mix_", "ssim"))
        assert operator["contracted"] == [] or products, operator
        assert 0 < operator["variants"] <= 50 * operator["kernels"], operator


# ---- CUDA ----


@needs_cuda_library
def test_cuda_library_holds_the_promised_architectures() -> None:
    library = str(native.path("cuda"))
    build = emulation.build()
    archs = build.cuda_archs()
    newest = build.ptx_of(max(archs, key=int), archs)
    assert set(re.findall(r"sm_(\d+)", dump("--list-elf", library))) == {*archs}
    assert set(re.findall(r"sm_(\d+)", dump("--list-ptx", library))) == {newest}


def test_architectures_share_ptx_where_no_source_tells_them_apart() -> None:
    """Every `__CUDA_ARCH__` that is compared with a number is compared with CUDA_DIVIDE."""
    build = emulation.build()
    compared = re.compile(r"__CUDA_ARCH__\s*[<>=!]+\s*(\d+)")
    numbers = {n for file in build.CSRC.rglob("*.[hc]*") for n in compared.findall(file.read_text(errors="replace"))}
    assert numbers == {f"{build.CUDA_DIVIDE}0"}
    assert [build.ptx_of(arch, ("80", "90", "100", "120")) for arch in ("80", "90", "100", "120")] == [
        "80", "80", "100", "100"
    ]  # fmt: skip
    assert build.ptx_of("90", ("90",)) == "90"


@pytest.fixture(scope="module")
def cuda_kernels() -> list[Row]:
    return cuda_rows(native.path("cuda"))


@needs_cuda_library
@needs_binutils
def test_cuda_kernels_do_not_spill(cuda_kernels: list[Row]) -> None:
    assert {row["arch"] for row in cuda_kernels} == set(emulation.build().cuda_archs())
    for row in cuda_kernels:
        name = row["kernel"]
        assert row["stack"] == row["local"] == "0", row
        # 256 threads of 64 registers: four blocks an SM; three where a thread has the packs of seven maps in hand,
        # 64-bit indices, or float64 that would spill; two where it keeps beside each sum what the roundings lost, sums
        # of seven maps for each of eight channels, or four moments of several windows in float64.
        two = re.search(
            r"_sum_kernel<.*(ExactSum|Plain<double>)|pixel_sum_kernel<4, 8, \w+, 7|ssim_\w*kernel<(\d+, )?double", name
        )
        float64 = "sums_kernel<8, double>|(own|products_channels)_kernel<double"
        three = re.search(rf"_sum_kernel<.* 7,|blocks_kernel<.*\blong\b|{float64}", name)
        assert int(row["registers"]) <= (128 if two else 80 if three else 64), row


@needs_cuda_library
@needs_binutils
def test_cuda_kernels_are_not_worse_than_recorded(cuda_kernels: list[Row]) -> None:
    """Where one is worse, python -m fastiqa.bench.machine_code writes new tables, and the commit says why."""
    assert compared(tables.KERNELS, cuda_kernels) == []


def functions(disassembly: str) -> dict[str, str]:
    return dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", disassembly, re.S))


@needs_cuda_library
def test_machine_code_is_read_as_the_disassembler_does(tmp_path: Path) -> None:
    """Of each architecture one source, with loops."""
    library = str(native.path("cuda").resolve())
    subprocess.run([cuobjdump(), "--extract-elf", "all", library], cwd=tmp_path, check=True, capture_output=True)
    cubins = [file for file in tmp_path.iterdir() if b"difference_pool_cu" in file.read_bytes()]
    assert len(cubins) == len(emulation.build().cuda_archs())
    for cubin in cubins:
        arch = int(cubin.suffixes[-2].removeprefix(".sm_"))
        printed = functions(dump("--dump-sass", str(cubin)))
        texts = {name[6:]: text for name, text in sass.sections(cubin.read_bytes()) if name.startswith(".text.")}
        assert texts.keys() == printed.keys()
        for name, code in printed.items():
            words = np.frombuffer(texts[name], "<u8").reshape(-1, 2)
            branches = re.findall(r"/\*(\w{4,5})\*/ +(?:@!?U?P\w+ +)?BRA.*0x(\w+) ?;", code)
            assert sass.branches(words, arch) == [(int(at, 16) // 16, int(to, 16) // 16) for at, to in branches], name
            whole = sass.describe(words, arch).whole
            for kind, counted in (("LDG", whole.loads), ("STG", whole.stores)):
                accesses = re.findall(rf"\b{kind}((?:\.\w+)+)", code)
                assert counted == Counter(bytes_of(suffixes) for suffixes in accesses), name


def bytes_of(suffixes: str) -> int:
    """Of `.E.128` or `.E.CONSTANT`."""
    widths = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
    return next((widths[suffix] for suffix in suffixes.split(".") if suffix in widths), 4)


@needs_cuda_library
def test_cuda_kernels_move_16_bytes_and_use_no_atomics() -> None:
    disassembled = functions(dump("--dump-sass", "-arch", "sm_90", str(native.path("cuda"))))
    assert disassembled
    packed = 0
    for name, code in disassembled.items():
        assert not re.search(r"\b(?:LD|ST|LDGSTS)\.", code), f"accesses that the tables do not count: {name}"
        assert not re.search(r"\b(ATOM|ATOMG|RED)\b", code), name
        # elementwise_kernel<inputs, pack, ...>: a pack of more than one element is 16 bytes wide.
        if match := re.search(r"elementwise_kernelILi\d+ELi(\d+)", name):
            accesses = re.findall(r"\b(?:LDG|STG)\.[\w.]+", code)
            assert accesses
            assert all(access.endswith(".128") for access in accesses) == (int(match[1]) > 1), (name, accesses)
            packed += int(match[1]) > 1
        # blocks_kernel<Maps<fine in, coarse in, fine out, coarse out>, Walk>: 16 bytes, and 8 of a coarse map's rows.
        if match := re.search(r"blocks_kernelINS_4MapsILi\d+ELi(\d+)ELi\d+ELi(\d+)EEELNS_4WalkE([01])E", name):
            accesses = re.findall(r"\b(?:LDG|STG)\.[\w.]+", code)
            coarse = int(match[1]) + int(match[2]) if match[3] == "0" else 0
            assert sum(access.endswith(".64") for access in accesses) == coarse, (name, accesses)
            assert sum(access.endswith(".128") for access in accesses) == len(accesses) - coarse > 0, (name, accesses)
            packed += 1
        # <inputs, pack, ..., T, maps, ...>: values and sums of a channel are narrow, every map is not.
        kernels = r"(?:channelwise|plane_sum|pixel_sum)_kernelILi(\d)ELi[248]E"
        if match := re.search(kernels + r".*?(?:[df]|NS_\w+?16E)Li(\d)E", name):
            inputs, maps = int(match[1]), int(match[2])
            assert len(re.findall(r"\bLDG\.[\w.]+\.128\b", code)) >= inputs, name
            assert len(re.findall(r"\bSTG\.[\w.]+\.128\b", code)) == maps - inputs, name
            packed += 1
    assert packed


# ---- C++ ----


@needs_cpu_library
@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils is not installed")
@pytest.mark.parametrize("library", ["cpu", "cuda"])
def test_libraries_depend_on_the_stable_abi_alone(library: str) -> None:
    if not native.path(library).exists():
        pytest.skip(NOT_BUILT)
    command = ["nm", "-DC", "--undefined-only", str(native.path(library))]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "aoti_torch_" in symbols
    assert not re.findall(r"\b(?:at|c10|torch)::\S+|\bPy[A-Z_]\w+", symbols)


@needs_cpu_library
@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils is not installed")
@pytest.mark.parametrize("library", ["cpu", "cuda"])
def test_libraries_ask_for_torch_and_name_no_folder(library: str) -> None:
    """libtorch.so brings a CUDA torch's libtorch_cuda.so along: without it no CUDA library finds its symbols."""
    if not native.path(library).exists():
        pytest.skip(NOT_BUILT)
    command = ["readelf", "--dynamic", "--wide", str(native.path(library))]
    dynamic = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert {"libtorch.so", "libtorch_cpu.so", "libc10.so"} <= {*needed}
    assert "RUNPATH" not in dynamic
    content = native.path(library).read_bytes()
    assert [folder for folder in (ROOT, Path(torch.__file__).parent) if str(folder).encode() in content] == []


@needs_cuda_library
@needs_binutils
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_cuda_library_loads_where_torch_has_cuda(tmp_path: Path) -> None:
    """In place of a CUDA torch: a libtorch.so that brings a libtorch_cuda.so with the functions CPU torch lacks."""

    def symbols(which: str, *files: Path) -> set[str]:
        command = ["nm", "--dynamic", "--format=posix", which, *map(str, files)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[0] for line in lines if len(line.split()) > 1}

    folder = Path(torch.__file__).parent / "lib"
    torch_libraries = [folder / f"lib{name}.so" for name in ("torch_cpu", "c10")]
    wanted = {name for name in symbols("--undefined-only", native.path("cuda")) if name.startswith(("aoti_", "torch_"))}
    missing = wanted - symbols("--defined-only", *torch_libraries)
    assert "torch_c10_cuda_check_msg" in missing
    (tmp_path / "torch_cuda.c").write_text("".join(f"void {name}(void) {{}}\n" for name in sorted(missing)))
    (tmp_path / "torch.c").write_text("")
    for name, more in (("torch_cuda", []), ("torch", ["-Wl,--no-as-needed", f"-L{tmp_path}", "-ltorch_cuda"])):
        library = f"lib{name}.so"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library, f"{name}.c", *more]
        subprocess.run(command, cwd=tmp_path, check=True)
    load = f"import ctypes, os; ctypes.CDLL({str(native.path('cuda'))!r}, os.RTLD_NOW)"
    environment = os.environ | {"LD_LIBRARY_PATH": f"{tmp_path}:{folder}"}
    done = subprocess.run([sys.executable, "-c", load], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_cpu_library
@pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils is not installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the clones are for x86-64")
def test_cpu_kernels_have_a_clone_for_each_instruction_set() -> None:
    """AVX-512 code uses zmm, AVX2 code ymm, and the baseline neither: no instruction set leaks into generic code."""
    names = native.build_record("cpu")["clones"].replace("-", "_").split()
    if not names:
        pytest.skip("the library's compiler makes no clones of templates")
    command = ["objdump", "-d", "--no-show-raw-insn", str(native.path("cpu"))]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = re.findall(r"^[0-9a-f]+ <([^>\n]+)>:\n(.*?)\n\n", text, re.S | re.M)
    clones: dict[str, list[str]] = {"v4": [], "v3": [], "generic": []}
    transposes = []
    for name, code in functions:
        # stream_lines of core/stream.h bear the levels' names, whatever the compiler.
        levels = zip(("v4", "v3"), zip(names, ("x86_64_v4", "x86_64_v3"), strict=True), strict=True)
        kind = next((level for level, words in levels if any(word in name for word in words)), "generic")
        # AVX2 has no permutation of two vectors, and GCC transposes tiles of ssim by elements.
        if kind != "v3" or "transpose_tile" not in name:
            clones[kind].append(code)
        else:
            transposes.append(name)
    assert len(clones["v4"]) == len(clones["v3"]) + len(transposes) > len(transposes)
    assert all("zmm" in code or "ymm" in code for code in clones["v4"])
    assert any("zmm" in code for code in clones["v4"])
    assert all("ymm" in code for code in clones["v3"])
    assert not any(re.search(r"%[yz]mm", code) for code in clones["generic"])
