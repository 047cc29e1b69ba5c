"""Device functions on the tiles of a folded nest (see fold in launch.py)."""

import triton
import triton.language as tl


@triton.jit
def locate(sizes, packs, PACK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PACKS: tl.constexpr):
    """This program's tile: the three outer indices of its rows, the elements along a row, and which are inside."""
    across = tl.cdiv(packs, BLOCK_PACKS)
    program = tl.program_id(0).to(tl.int64)
    row = (program // across) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    element = (program % across) * (BLOCK_PACKS * PACK) + tl.arange(0, BLOCK_PACKS * PACK)
    one = tl.full((), 1, tl.int64)  # a size of one arrives as a constant without a dtype
    inside = (row < one * sizes[0] * sizes[1] * sizes[2])[:, None] & (element < one * packs * PACK)[None, :]
    i0 = row % sizes[0]
    i1 = row // sizes[0] % sizes[1]
    i2 = row // sizes[0] // sizes[1]
    return i0, i1, i2, element, inside


@triton.jit
def address(pointer, i0, i1, i2, element, strides, inner, PACK: tl.constexpr):
    """Pointers of one operand's tile."""
    row = (i0 * strides[0] + i1 * strides[1] + i2 * strides[2]) * PACK
    return pointer + row[:, None] + (element * inner)[None, :]


@triton.jit
def widened(x):
    """Convert to the accumulation type: float64 for float64, float32 otherwise."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)
