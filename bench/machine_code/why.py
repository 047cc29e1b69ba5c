"""Why CUDA kernels have accesses of less than 16 bytes, by their names.

Triton's kernels say it in their own files (NARROW). Of a kernel in PACKS that has no 16-byte access at all, it is the
instance for strides and sizes that no pack fits.
"""

from __future__ import annotations

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
    """Of a kernel with narrow accesses, `wide` where it has others too; `kernel` without template arguments."""
    for name in (f"{op}/{kernel}", kernel):
        if name in PACKS:
            return (PACKS[name] if wide else STRIDES) or UNKNOWN
        if name in NO_PACKS:
            return NO_PACKS[name]
    return UNKNOWN
