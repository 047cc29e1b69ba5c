"""What the compilers made of every GPU kernel: `python -m fastiqa.bench.machine_code`."""
