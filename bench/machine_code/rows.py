"""Facts about compiled kernels as rows: the columns of bench/data/machine-code/kernels.csv and launches.csv.

kernels.csv has a row for each kernel and architecture:
backend, arch, op     cuda | triton, compute capability, operator (for a CUDA kernel its source's)
kernel, dtype         the kernel's name, the maps' dtype
layout                cuda: memory formats in which an ordinary call runs it, if any; triton: the one compiled for
variants              Triton compiles anew for other strides and constants: their number; other columns have the worst
threads               of a block, at most
registers, static_shared, dynamic_shared, stack, local      a thread's; bytes; stack and local are spills
occupancy_pct, limit  resident warps in percent of an SM's most, and what limits them (occupancy.py)
wide, narrow          instructions that access global memory, with 16 bytes and with less a thread
region                loop: instructions and bytes are of the loop that moves most, once through; kernel: it has no loop
instructions, bytes_128, bytes_narrow, instructions_per_byte      a thread's in the region
in_flight_kib         the most that loads of the region can request at once, from all threads that an SM holds
element_128, element_narrow, element_design     where region is kernel: bytes requested for an element of the call's
                      largest tensor at 2x64x56x56, masked threads and cache hits included; bytes that the operator's
                      call moves by design (op.bytes)
why                   the reason of narrow accesses
compiler              version of nvcc, or of Triton
gpu_us                measured time: not measured

launches.csv has a row for each call of an operator at 2x64x56x56 in float32: op, backend, mode (forward, or the
arguments whose gradient is taken), layout, arguments other than maps, launches, bytes by design for an element of the
largest tensor (op.bytes; a gradient with kernels of its own is an operator too), kernels.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import sass
from .occupancy import LIMITS, RESERVED, WARP, occupancy

Row = dict[str, str]
Places = dict[tuple[str, str], tuple[list[str], tuple[int, int, int, int]]]  # (source, kernel): see _places

KEY = ("backend", "arch", "op", "kernel", "dtype", "layout")
RESOURCES = ("threads", "registers", "static_shared", "dynamic_shared", "stack", "local")
COLUMNS = (
    *KEY, "variants", *RESOURCES, "occupancy_pct", "limit", "wide", "narrow", "region", "instructions", "bytes_128",
    "bytes_narrow", "instructions_per_byte", "in_flight_kib", "element_128", "element_narrow", "element_design", "why",
    "compiler", "gpu_us",
)  # fmt: skip
LAUNCH_KEY = ("op", "backend", "mode", "layout", "arguments")
LAUNCH_COLUMNS = (*LAUNCH_KEY, "launches", "bytes_by_design", "kernels")
DTYPES = {"double": "float64", "float": "float32", "bfloat16": "bfloat16", "float16": "float16"}
NOT_MEASURED = "not measured"


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cuobjdump() -> str:
    """The path of Triton's own cuobjdump: nvcc's is not always installed."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def resources(file: Path) -> dict[str, dict[str, int]]:
    """Registers, and bytes of stack, shared and local memory, of each kernel in a cubin."""
    found = re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", output_of(cuobjdump(), "--dump-resource-usage", str(file)))
    return {name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)} for name, line in found}


def row(arch: int, threads: int, dynamic: int, used: dict[str, int], kernel: sass.Kernel) -> Row:
    """The columns that follow from machine code alone."""
    # From Hopper on the compiler's count includes the system's share of every block.
    static = max(0, used["SHARED"] - RESERVED) if arch >= 90 else used["SHARED"]
    numbers: dict[str, Any] = dict(
        zip(RESOURCES, (threads, used["REG"], static, dynamic, used["STACK"], used["LOCAL"]), strict=True)
    )
    code, accesses = kernel.moving, kernel.whole.loads + kernel.whole.stores
    numbers["wide"] = sum(count for width, count in accesses.items() if width >= sass.WIDE)
    numbers["narrow"] = accesses.total() - numbers["wide"]
    numbers |= {"region": kernel.region, "instructions": code.instructions}
    numbers |= {"bytes_128": code.bytes(wide=True), "bytes_narrow": code.bytes(wide=False)}
    moved = numbers["bytes_128"] + numbers["bytes_narrow"]
    numbers["instructions_per_byte"] = f"{code.instructions / moved:.2f}" if moved else ""
    if arch in LIMITS:
        held = occupancy(arch, threads, used["REG"], static + dynamic)
        numbers |= {"occupancy_pct": held.percent, "limit": held.limit}
        numbers["in_flight_kib"] = f"{held.warps * WARP * code.loaded / 1024:.0f}"
    return {column: str(numbers.get(column, "")) for column in COLUMNS} | {"variants": "1", "gpu_us": NOT_MEASURED}


def requested_bytes(found: Row, blocks: int, threads: int, elements: int, design: int) -> Row:
    """Bytes an element that all threads of a launch request, and that the operator's call moves by design."""
    if found["region"] == "loop":
        return {}
    each = {"128": blocks * threads * int(found["bytes_128"]), "narrow": blocks * threads * int(found["bytes_narrow"])}
    return {f"element_{kind}": f"{total / elements:.1f}" for kind, total in (each | {"design": design}).items()}


# ---- CUDA ----


def cuda_compiler(library: Path) -> str:
    record = re.search(rb'\{"library": "cuda".*?\}', library.read_bytes())
    assert record is not None, f"{library} holds no build record"
    return str(json.loads(record[0])["compiler"]).rpartition(", V")[2]


def kernel_name(demangled: str) -> str:
    """`elementwise_kernel<1, 4, unsigned int, float, 2, Forward>` of a demangled kernel."""
    name = demangled.replace("(anonymous namespace)::", "").replace("fastiqa::", "").removeprefix("void ")
    return re.sub(r"\((\w+)\)(\d)", r"\1 \2", name).partition("(")[0].strip()


def cuda_rows(library: Path, calls: Iterable[dict[str, Any]] = ()) -> list[Row]:
    """A row for every kernel in the library; `calls`, lines of launches.py, tell which calls run it."""
    ptx = output_of(cuobjdump(), "--dump-ptx", str(library))
    threads = dict(re.findall(r"\.entry (\w+)\(.*?\.maxntid (\d+)", ptx, re.S))
    version, places = cuda_compiler(library), _places(calls)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        extract = [cuobjdump(), "--extract-elf", "all", str(library.resolve())]
        subprocess.run(extract, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for cubin in sorted(Path(folder).iterdir()):
            match = re.search(r"\.sm_(\d+)", cubin.name)
            assert match is not None, cubin.name
            rows += _of_cubin(cubin, int(match[1]), threads, places)
    return [found | {"compiler": version} for found in rows]


def _of_cubin(cubin: Path, arch: int, threads: dict[str, str], places: Places) -> Iterator[Row]:
    binary = cubin.read_bytes()
    codes, used = sass.kernels(binary, arch), resources(cubin)
    # nvcc names what is local to a source after it.
    source = re.search(rb"_(?:INTERNAL|GLOBAL__N_)_[0-9a-f]+_\d+_(\w+?)_cu_", binary)
    op = source[1].decode() if source else ""
    demangled = output_of("c++filt", *codes).splitlines() if codes else []
    for mangled, name in zip(codes, map(kernel_name, demangled), strict=True):
        found = row(arch, int(threads[mangled]), 0, used[mangled], codes[mangled])
        layouts, launch = places.get((op, name), ([], None))
        types = re.findall(r"\b(double|bfloat16|float16|float)\b", name)
        reason = why(op, name.partition("<")[0], found["wide"] != "0") if found["narrow"] != "0" else ""
        found |= {"backend": "cuda", "arch": str(arch), "op": op, "kernel": name, "layout": "+".join(layouts)}
        found |= {"dtype": DTYPES[types[0]] if types else "", "why": reason}
        yield found | (requested_bytes(found, *launch) if launch else {})


def _places(calls: Iterable[dict[str, Any]]) -> Places:
    """(source, kernel) -> memory formats of the calls that run it, and numbers of the first for `requested_bytes`."""
    places: Places = {}
    for call in calls:
        if call["backend"] == "cuda" and call["mode"] == "forward":
            for name, blocks, threads in call["launches"]:
                numbers = (blocks, threads, call["elements"], call["bytes"])
                source = re.sub("(_input|_weight)?_backward$", "", call["op"])
                layouts, _ = places.setdefault((source, kernel_name(name)), ([], numbers))
                if call["layout"] not in layouts:
                    layouts.append(call["layout"])
    return places


# ---- why a CUDA kernel's accesses are narrow ----

# Why CUDA kernels have accesses of less than 16 bytes, by their names; files of Triton kernels say it themselves
# (NARROW). A kernel of PACKS that has no 16-byte access at all is the instance for strides and sizes that fit no pack.
STRIDES = "strides and sizes that no pack fits"
UNKNOWN = "no reason given"

BLOCKS = "a row of a half-size map is half as wide as the two rows of 16 bytes that it meets"
CHANNELS = "values of a channel and its sums, one a plane, or partial sums of a block's pixels"
DIFFERENCES = "weights, shifted maps and partial sums, of which a thread has one a pixel or a channel"
GATES = "logits and gates, which lie half a pack or less beneath a pack of elements"
MIXES = "factors and rows of grad, of which a thread has one element a column"
FEW = "between the passes over maps: a few numbers a channel, or single elements put where they belong"
TILES = "a tile with its halo, which starts anywhere, comes into shared memory element by element, neighbours together"

PACKS = {
    "elementwise_kernel": "",
    "blocks_kernel": BLOCKS,
    "channelwise_kernel": CHANNELS,
    "plane_sum_kernel": CHANNELS,
    "pixel_sum_kernel": CHANNELS,
    "sums_flat_kernel": DIFFERENCES,
    "sums_channels_kernel": DIFFERENCES,
    "products_flat_kernel": DIFFERENCES,
    "products_channels_kernel": DIFFERENCES,
    "spread_flat_kernel": DIFFERENCES,
    "spread_channels_kernel": DIFFERENCES,
    "own_kernel": GATES,
    "planes_sums": GATES,
    "pixels_sums": GATES,
    "scale_planes": GATES,
    "scale_pixels": GATES,
    "gated_upsample/gather_kernel": GATES,
    "mix_kernels/sums_kernel": MIXES,
    "dots_kernel": MIXES,
    "outer_kernel": MIXES,
}
NO_PACKS = {
    "finish_sum_kernel": FEW,
    "each_channel_kernel": FEW,
    "pack_weight_kernel": FEW,
    "collect_kernel": FEW,
    "gather_kernel": FEW,
    "total_kernel": FEW,
    "gate_kernel": GATES,
    "two_convolutions_kernel": TILES,
    "large_kernel_conv/sums_kernel": TILES,
    "ssim_kernel": TILES,
    "ssim_backward_kernel": TILES,
    "ssim_maps_kernel": TILES,
    "ssim_spread_kernel": TILES,
    "ssim_mean_kernel": FEW,
}


def why(op: str, kernel: str, wide: bool) -> str:
    """The reason of a kernel's narrow accesses; `wide` says that it has others too.

    Args:
        kernel: its name without template arguments.
    """
    for name in (f"{op}/{kernel}", kernel):
        if name in PACKS:
            return (PACKS[name] if wide else STRIDES) or UNKNOWN
        if name in NO_PACKS:
            return NO_PACKS[name]
    return UNKNOWN


# ---- Triton ----


def triton_rows(kernels: Iterable[dict[str, Any]]) -> list[Row]:
    """A row for each key in the lines of compile_triton.py, with the worst number of its variants in each column."""
    import triton

    worst: dict[tuple[str, ...], Row] = {}
    for facts in kernels:
        cubin = Path(facts["cubin"])
        (code,) = sass.kernels(cubin.read_bytes(), facts["arch"]).values()
        (used,) = resources(cubin).values()
        found = row(facts["arch"], facts["threads"], facts["shared"], used, code)
        found |= {key: str(facts[key]) for key in KEY[1:]}
        found |= {"backend": "triton", "compiler": triton.__version__}
        found |= requested_bytes(found, *(facts[key] for key in ("blocks", "threads", "elements", "bytes")))
        found["why"] = facts["narrow"][-1] if facts["narrow"] and found["narrow"] != "0" else ""
        key = tuple(found[column] for column in KEY)
        worst[key] = _worse(worst[key], found) if key in worst else found
    return list(worst.values())


def _worse(a: Row, b: Row) -> Row:
    """The code of the variant that requests most by narrow accesses, with the higher resources of the two."""
    kept = dict(max(a, b, key=lambda one: (int(one["narrow"]), int(one["bytes_narrow"]), int(one["registers"]))))
    for column in RESOURCES:
        kept[column] = max(a[column], b[column], key=int)
    least = min(a, b, key=lambda one: float(one["occupancy_pct"] or 0))
    return kept | {c: least[c] for c in ("occupancy_pct", "limit")} | {"variants": str(int(a["variants"]) + 1)}


# ---- launches ----


def launch_rows(calls: Iterable[dict[str, Any]], dtype: str = "float32") -> list[Row]:
    return [
        {column: str(call[column]) for column in LAUNCH_KEY}
        | {"launches": str(len(call["launches"])), "bytes_by_design": _by_design(call)}
        | {"kernels": " ".join(_counted(kernel_name(name).partition("<")[0] for name, *_ in call["launches"]))}
        for call in calls
        if call["dtype"] == dtype
    ]


def _by_design(call: dict[str, Any]) -> str:
    return f"{call['bytes'] / call['elements']:.1f}" if call["mode"] == "forward" else ""


def _counted(names: Iterable[str]) -> Sequence[str]:
    """The names in order, with their number where it is not 1."""
    every = list(names)
    return [name + (f"×{every.count(name)}" if every.count(name) > 1 else "") for name in dict.fromkeys(every)]
