"""What several operators' Triton kernels share: launches, tiles, sums, passes over maps."""
