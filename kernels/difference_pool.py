"""difference_pool: sums of gated differences over the pixels for each tap, as in a weight's gradient.

forward    (N,C,H,W) x3, (N,1,H,W) -> (N,2,C,k,k)      reads 3 maps
"""

from __future__ import annotations

from fastiqa.kernels.lib.difference import NARROW as NARROW
from fastiqa.kernels.lib.difference import difference_products
from torch import Tensor

# ---- launchers ----


def difference_pool(ref: Tensor, a: Tensor, b: Tensor, gate: Tensor, kernel_size: int, out: Tensor) -> None:
    sample, *rest = out.stride()
    difference_products((ref, a, b), gate, (sample, 0, *rest), kernel_size, True, out)
