"""Triton kernels. In a source checkout they lie in the top-level folder ``kernels``; installed, they are in here.

The path is extended because two ways to use a checkout know nothing of setup.py's package_dir: PYTHONPATH, and
``pip install -e . --config-settings editable_mode=compat``. Wheels need no such help.
"""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[2] / "kernels"))
