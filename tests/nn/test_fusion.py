"""The fusions of PRFNet's ablation: FPN against torchvision's, BiFPN against its graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastiqa import reference
from support.oracles import import_oracle, randomise


def pyramid(channels: tuple[int, ...] = (4, 6, 5, 3)) -> list[Tensor]:
    """Four maps of odd and even sizes, each half the finer one, rounded up."""
    sizes = [(21, 16), (11, 8), (6, 4), (3, 2)]
    return [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]


@torch.no_grad()
def test_fpn_equals_torchvision() -> None:
    theirs = import_oracle("torchvision.ops").FeaturePyramidNetwork([4, 6, 5, 3], 8)
    ours = reference.FPN([4, 6, 5, 3], 8)
    randomise(theirs)
    for lateral, block in zip(ours.lateral, theirs.inner_blocks, strict=True):
        lateral.load_state_dict(block[0].state_dict())
    ours.smooth.load_state_dict(theirs.layer_blocks[0][0].state_dict())
    maps = pyramid()
    torch.testing.assert_close(ours(maps), theirs(dict(enumerate(maps)))[0], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_bifpn_is_its_graph() -> None:
    """EfficientDet's graph, written out for four levels: up by nearest, down by 3×3 max-pooling of stride 2."""
    bifpn: Any = reference.BiFPN([4, 6, 5, 3], width=8, repeats=2).eval()
    randomise(bifpn)
    nodes = [node for layer in bifpn.layers for node in (*layer.down, *layer.up)]
    for node in nodes:
        node.weight.uniform_(-0.2, 2.0)
    nodes[0].weight[0] = -1.0  # a weight below 0 counts as 0

    def node_of(node: Any, *inputs: Tensor) -> Tensor:
        weights = node.weight.clamp(min=0)
        mixed = sum(w * x for w, x in zip(weights, inputs, strict=True)) / (weights.sum() + 1e-4)
        return functional.silu(node.bn(node.pointwise(node.depthwise(mixed))))

    def up(x: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(x, like.shape[2:])

    def down(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2, 1)

    maps = pyramid()
    p1, p2, p3, p4 = (conv(x) for conv, x in zip(bifpn.lateral, maps, strict=True))
    first, last = bifpn.layers
    t3 = node_of(first.down[2], p3, up(p4, p3))
    t2 = node_of(first.down[1], p2, up(t3, p2))
    o1 = node_of(first.down[0], p1, up(t2, p1))
    o2 = node_of(first.up[0], p2, t2, down(o1))
    o3 = node_of(first.up[1], p3, t3, down(o2))
    o4 = node_of(first.up[2], p4, down(o3))
    t3 = node_of(last.down[2], o3, up(o4, o3))
    t2 = node_of(last.down[1], o2, up(t3, o2))
    want = node_of(last.down[0], o1, up(t2, o1))
    assert len(last.up) == 0
    torch.testing.assert_close(bifpn(maps), want, rtol=1e-5, atol=1e-6)
