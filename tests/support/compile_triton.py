"""`fastiqa.bench.machine_code.compile_triton` for the library's operators and the template."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastiqa.bench.machine_code import compile_triton

from support import cases

compile_triton.main(sys.argv[1:], cases.operators())
