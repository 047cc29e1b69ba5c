"""Occupancy: the number of a kernel's warps that an SM can hold, from registers, shared memory and block size.

The limits of an SM are those of the table "Technical Specifications per Compute Capability" of the CUDA C++ Programming
Guide, section 17.2. The occupancy calculator gives the allocation of registers: 256 at a time to a warp, warps four at
a time. From compute capability 8.0 on every block costs 1 KB more of shared memory, by the guide's section on that
memory.
"""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
REGISTER_UNIT, WARP_UNIT, SHARED_UNIT = 256, 4, 128
RESERVED = 1024  # bytes of every block's shared memory that the system takes


class Limits(NamedTuple):
    """Limits of one SM."""

    warps: int
    blocks: int
    registers: int
    shared: int  # bytes


LIMITS = {
    80: Limits(64, 32, 65536, 164 * 1024),
    86: Limits(48, 16, 65536, 100 * 1024),
    89: Limits(48, 24, 65536, 100 * 1024),
    90: Limits(64, 32, 65536, 228 * 1024),
    100: Limits(64, 32, 65536, 228 * 1024),
    103: Limits(64, 32, 65536, 228 * 1024),
    120: Limits(48, 24, 65536, 100 * 1024),
}


class Occupancy(NamedTuple):
    warps: int
    percent: int
    limit: str  # registers | shared memory | warps | blocks


def occupancy(arch: int, threads: int, registers: int, shared: int) -> Occupancy:
    """The occupancy of an SM by equal blocks.

    Args:
        arch: compute capability, as 90.
        threads: of a block.
        registers: of a thread.
        shared: bytes of shared memory of a block.

    Raises:
        ValueError: an architecture that the table lacks.
    """
    if arch not in LIMITS:
        raise ValueError(f"arch: got {arch}, want one of {', '.join(map(str, LIMITS))}")
    has = LIMITS[arch]
    warps = -(-threads // WARP)
    of_a_warp = _up(registers * WARP, REGISTER_UNIT)
    blocks = {
        "warps": has.warps // warps,
        "blocks": has.blocks,
        "registers": _down(has.registers // of_a_warp, WARP_UNIT) // warps,
        "shared memory": has.shared // _up(shared + RESERVED, SHARED_UNIT),
    }
    limit = min(blocks, key=lambda name: blocks[name])
    resident = blocks[limit] * warps
    return Occupancy(resident, round(100 * resident / has.warps), limit)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _down(n: int, unit: int) -> int:
    return n // unit * unit
