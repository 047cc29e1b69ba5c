"""through_codes: what happens to 8-bit images on the CPU, by libraries that know no tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Codes = NDArray[np.uint8]


def through_codes(images: Tensor, change: Callable[[Codes], Codes]) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], each rounded to 8 bits, changed as (H, W, 3), and brought back."""
    codes = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([change(np.ascontiguousarray(image)) for image in codes])
    return torch.from_numpy(changed).to(images.device).permute(0, 3, 1, 2).to(images.dtype).div(255).contiguous()
