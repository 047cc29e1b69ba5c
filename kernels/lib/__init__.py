"""Shared by the Triton kernels of several operators: launches, tiles, sums, passes over maps."""
