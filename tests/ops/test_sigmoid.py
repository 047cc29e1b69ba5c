"""The sigmoid in every operator that has one, to its last digit, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastiqa.ops import attentional_blend, gated_upsample, scale_residual_relu
from support import cases

# Each call returns the gate alone.
GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gated_upsample": lambda one, logits: gated_upsample(one, logits, "nearest"),
    "scale_residual_relu": lambda one, logits: scale_residual_relu(one, logits, 0 * one),
    "attentional_blend": lambda one, logits: attentional_blend(one, 0 * one, 0 * one, logits),
}

pytestmark = [pytest.mark.gpu] if cases.on_gpu() else []  # nvcc's exp is not the one that is emulated


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter computes with numpy
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("backend", cases.BACKENDS)
@pytest.mark.parametrize("name", GATES)
def test_two_units_at_most(name: str, backend: str, dtype: torch.dtype) -> None:
    """Logits from -110 to 110 and special values. Subnormal results may be zero, as PyTorch's; none exceeds one."""
    values = [0.0, -0.0, 30, -30, 90, -90, float("inf"), -float("inf"), float("nan"), 1e-40]
    logits = torch.cat([torch.linspace(-110, 110, 2001), torch.tensor(values)]).to(dtype).view(1, -1, 1, 1)
    with cases.backend(backend):
        got = cases.placed(GATES[name])(torch.ones_like(logits), logits).double()
    exact, info = logits.double().sigmoid(), torch.finfo(dtype)
    assert torch.equal(got.isnan(), exact.isnan())
    near = (got - exact).abs() <= 2 * info.eps * exact
    assert (near | got.isnan() | ((exact < info.tiny) & (got >= 0) & (got <= info.tiny))).all()
    assert got.nan_to_num(0).max() <= 1


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("backend", cases.BACKENDS)
@pytest.mark.parametrize("name", GATES)
def test_every_nan_stays_one(name: str, backend: str, dtype: torch.dtype) -> None:
    """NaN stays NaN whatever its other bits; a GPU's NaN has all of them set."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    quiet = torch.tensor(float("nan"), dtype=dtype).view(bits)
    logits = torch.stack([quiet | 1, quiet | 0x55, quiet | torch.iinfo(bits).max]).view(dtype).view(1, -1, 1, 1)
    with cases.backend(backend):
        assert cases.placed(GATES[name])(torch.ones_like(logits), logits).isnan().all()
