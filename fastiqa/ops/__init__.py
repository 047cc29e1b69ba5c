"""The operators, one file each: every record made in this folder is one.

Type checkers read `__init__.pyi`, which `python -m fastiqa.ops` prints.
"""

import importlib
import pkgutil

from fastiqa.runtime.op import Map, Op

OPERATORS: dict[str, Op] = {}

for _module in pkgutil.iter_modules(__path__):
    if _module.name == "__main__":
        continue
    _found = vars(importlib.import_module(f"{__name__}.{_module.name}"))
    OPERATORS.update({op.name: op for op in _found.values() if isinstance(op, Op)})

# The operator takes the place of the module of the same name: fastiqa.ops.cross_difference is callable.
globals().update(OPERATORS)

__all__ = ["OPERATORS", "Map", "Op", *OPERATORS]
