"""MFENet's blocks against their equations: high-frequency extraction, feature fusion, the target of its loss."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, leaky_relu

from fastiqa import nn, reference
from support.oracles import randomise


def test_high_frequency_net_is_its_equations() -> None:
    """Even sizes: convolutions, pooling and enlargement by two, written out, with one low branch throughout."""
    net = reference.HighFrequencyNet(width=8).double().eval()
    randomise(net)
    state = net.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return leaky_relu(batch_norm(x, *values), 0.2)

    def conv(x: Tensor, i: int, path: str) -> Tensor:
        return conv2d(x, state[f"octaves.{i}.conv.conv_{path}.weight"], padding=1)

    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    high = norm(conv2d(image, state["stem.0.weight"], stride=2, padding=1), "stem.1")
    high = norm(conv2d(high, state["stem.2.weight"], stride=2, padding=1), "stem.3")
    highs = [norm(conv(high, 0, "h2h"), "octaves.0.norm_high")]
    low = norm(conv(avg_pool2d(high, 2), 0, "h2l"), "octaves.0.norm_low")
    for i in (1, 2, 3):
        pooled = avg_pool2d(highs[-1], 2)
        highs.append(norm(conv(pooled, i, "h2h") + conv(low, i, "l2h"), f"octaves.{i}.norm_high"))
        if i < 3:
            joined = conv(avg_pool2d(pooled, 2), i, "h2l") + conv(avg_pool2d(low, 2), i, "l2l")
            low = norm(joined, f"octaves.{i}.norm_low")
    torch.testing.assert_close(net(image), highs, rtol=1e-12, atol=1e-12)
    assert [tuple(x.shape[1:]) for x in highs] == [(6, 16, 24), (6, 8, 12), (6, 4, 6), (8, 2, 3)]


@pytest.mark.parametrize("package", [reference, nn], ids=["plain", "fused"])
def test_the_low_branch_lives_and_is_not_put_out(package: Any) -> None:
    """The first map ignores the low branch, the second depends on the first module's, the last on all."""
    net = package.HighFrequencyNet(width=8).double().eval()
    randomise(net)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    low = {name for name, _ in net.named_parameters() if re.search("conv_(h2l|l2h|l2l)|norm_low", name)}
    first = {name for name in low if re.search("0.conv.conv_h2l|0.norm_low|1.conv.conv_l2h", name)}
    reached = []
    for i in range(4):
        net.zero_grad(set_to_none=True)
        net(image)[i].square().sum().backward()
        found = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9}
        reached.append(found & low)
    assert reached[0] == set()
    assert reached[1] == first
    assert reached[3] == low
    assert net.octaves[3].conv.conv_l2l is None
    assert net.octaves[3].conv.conv_h2l is None
    assert net.channels == (6, 6, 6, 8)
    assert [x.shape[1] for x in net(image)] == [6, 6, 6, 8]


def test_feature_fusion_is_its_equations() -> None:
    fusion = reference.FeatureFusion(8).double()
    randomise(fusion)
    weights = {name: value.numpy() for name, value in fusion.state_dict().items()}
    q, h = torch.randn(2, 2, 8, 6, 5, dtype=torch.float64)
    u = np.einsum("kc,nchw->nkhw", weights["mix.weight"][..., 0, 0], np.concatenate([q, h], 1))
    u += weights["mix.bias"][:, None, None]
    hidden = np.maximum(
        u.mean((2, 3)) @ weights["channel_gate.fc1.weight"][..., 0, 0].T + weights["channel_gate.fc1.bias"], 0
    )
    c = hidden @ weights["channel_gate.fc2.weight"][..., 0, 0].T + weights["channel_gate.fc2.bias"]
    both = torch.from_numpy(np.stack([u.mean(1), u.max(1)], 1))
    s = conv2d(both, fusion.spatial_gate.weight, fusion.spatial_gate.bias, padding=3).detach().numpy()
    want = q.numpy() + u / (1 + np.exp(-c))[:, :, None, None] / (1 + np.exp(-s))
    np.testing.assert_allclose(fusion(q, h).detach().numpy(), want, rtol=1e-12)


@torch.no_grad()
def test_target_is_what_a_blur_takes_off() -> None:
    image = torch.rand(2, 3, 40, 33, dtype=torch.float64)
    luminance = (image.numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    blurred = np.stack([gaussian_filter(y, 1.5, mode="mirror", radius=4) for y in luminance])
    np.testing.assert_allclose(
        reference.MFENet.high_frequency_target(image)[:, 0].numpy(), luminance - blurred, atol=1e-12
    )
