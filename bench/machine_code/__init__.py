"""Registers, occupancy and accesses of every GPU kernel: `python -m fastiqa.bench.machine_code`."""
