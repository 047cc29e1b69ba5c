"""Large-kernel attention against its plain twin, with the twin's weights."""

from __future__ import annotations

import pytest
import torch

from fastiqa import nn, reference


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
def test_equals_the_reference(form: torch.memory_format) -> None:
    plain = reference.LargeKernelAttention(20).double()
    fused = nn.LargeKernelAttention(20).double()
    fused.load_state_dict(plain.state_dict())
    u = torch.randn(2, 20, 13, 21, dtype=torch.float64).contiguous(memory_format=form).requires_grad_()
    got, want = fused(u), plain(u)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert got.is_contiguous(memory_format=form)
    grad = torch.randn_like(want)
    gradients = torch.autograd.grad(got, [u, *fused.parameters()], grad)
    for g, w in zip(gradients, torch.autograd.grad(want, [u, *plain.parameters()], grad), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)


def test_parameters_have_the_official_names() -> None:
    keys = set(nn.LargeKernelAttention(4).state_dict())
    assert keys == {f"{layer}.{kind}" for layer in ("conv0", "conv_spatial", "conv1") for kind in ("weight", "bias")}
