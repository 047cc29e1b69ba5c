"""Reads memory accesses and loops of a kernel from its cubin, without a disassembler.

Disassembling all kernels takes minutes. A few bits of each instruction suffice here: opcode and width of memory
accesses, target of branches. Instructions have 16 bytes since Volta. NVIDIA does not publish the encoding;
tests/build/test_codegen.py compares this reading with nvdisasm's.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

# The low twelve bits.
LOAD, STORE = 0x981, 0x986  # LDG, STG
NOP = 0x918
BRANCHES = (0x947, 0x547)  # BRA; BRA.U, by a uniform predicate
WIDE = 16  # bytes of an access that is not narrow
WIDTHS = np.array([1, 1, 2, 2, 4, 8, 16, 32])  # by bits 73 to 75: U8, S8, U16, S16, 32, 64, 128, 256


class Code(NamedTuple):
    """Instructions and accesses of a kernel, or of the part of it that moves the data."""

    instructions: int
    loads: Counter[int]  # bytes of an access -> accesses to global memory
    stores: Counter[int]

    def bytes(self, wide: bool) -> int:
        """Bytes of global memory that a thread requests by 128-bit accesses, or by narrower ones."""
        both = self.loads + self.stores
        return sum(width * count for width, count in both.items() if (width >= WIDE) == wide)

    @property
    def loaded(self) -> int:
        return sum(width * count for width, count in self.loads.items())


class Kernel(NamedTuple):
    whole: Code
    moving: Code
    region: str  # of `moving`: loop | kernel


def kernels(cubin: bytes, arch: int) -> dict[str, Kernel]:
    """Every kernel of a cubin, by its mangled name."""
    return {
        name.removeprefix(".text."): describe(np.frombuffer(text, "<u8").reshape(-1, 2), arch)
        for name, text in sections(cubin)
        if name.startswith(".text.")
    }


def sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a 64-bit ELF file's sections."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<II4Q", elf, start + k * size) for k in range(count)]
    (_, _, _, _, strings, _) = headers[names]
    for name, kind, _, _, offset, length in headers:
        at = strings + name
        if kind != 8:  # NOBITS, which has no contents in the file
            yield elf[at : elf.index(b"\0", at)].decode(), elf[offset : offset + length]


def describe(words: Words, arch: int) -> Kernel:
    """Describe a kernel's instructions.

    The moving part is the loop that loads most bytes, without the loops in it, since the code does not tell how often
    they run; or the whole kernel, where no loop touches global memory.
    """
    opcode = words[:, 0] & np.uint64(0xFFF)
    access = (opcode == LOAD) | (opcode == STORE)
    width = np.where(access, WIDTHS[((words[:, 1] >> np.uint64(9)) & np.uint64(7)).astype(int)], 0)
    everything = np.ones(len(words), bool)
    best, region = everything, "kernel"
    loops = [loop for loop in _loops(words, arch) if access[slice(*loop)].any()]
    most = (0, 0)
    for first, last in loops:
        own = np.zeros(len(words), bool)
        own[first:last] = True
        for inner in loops:
            if first <= inner[0] and inner[1] <= last and inner != (first, last):
                own[slice(*inner)] = False
        moved = int(width[own & (opcode == LOAD)].sum()), int(width[own].sum())
        if moved > most:
            best, region, most = own, "loop", moved
    return Kernel(_code(opcode, width, everything), _code(opcode, width, best), region)


def _code(opcode: Words, width: NDArray[np.int64], part: NDArray[np.bool_]) -> Code:
    loads, stores = (Counter(width[part & (opcode == kind)].tolist()) for kind in (LOAD, STORE))
    return Code(int((part & (opcode != NOP)).sum()), loads, stores)


def branches(words: Words, arch: int) -> list[tuple[int, int]]:
    """(instruction, target) of every branch, by the numbers of instructions."""
    opcode = words[:, 0] & np.uint64(0xFFF)
    places = np.flatnonzero(np.isin(opcode, BRANCHES)).tolist()
    return [(at, at + 1 + _offset(int(words[at, 0]), int(words[at, 1]), arch) // 16) for at in places]


def _loops(words: Words, arch: int) -> list[tuple[int, int]]:
    """(target, end) of each backward branch; a branch to itself ends the code and is no loop."""
    first: dict[int, int] = {}
    for at, target in branches(words, arch):
        if target < at:
            first[target] = max(first.get(target, 0), at + 1)
    return list(first.items())


def _offset(low: int, high: int, arch: int) -> int:
    """Bytes from the next instruction: in fours in bits 34 to 81, from Hopper on with eight more bits, 16 to 23."""
    fours = low >> 34 | (high & 0x3FFFF) << 30
    fours -= (fours >> 47) << 48
    return 4 * (fours if arch < 90 else fours << 8 | low >> 16 & 0xFF)
