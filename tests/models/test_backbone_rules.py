"""Rules for every backbone: stages, sizes, layouts, batches, memory levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastiqa.bench.runner.memory import live_bytes
from torch import Tensor

from fastiqa import nn
from fastiqa.nn.recomputation import MEMORY, CheckpointedBlock
from support.oracles import randomise

BACKBONES: dict[str, dict[str, Any]] = {
    "EfficientNetLite": {
        "first_stage_stride": 4,
        "depths": (1, 2, 1, 1, 2, 1, 1),
        "widths": (8, 8, 8, 12, 12, 16, 16),
        "stem": 8,
    },
    "ResNet": {"layers": (1, 2, 1, 1), "width": 8},
    "SERes2Net": {"layers": (1, 2, 1, 1), "width": 8, "first_stage_stride": 4},
    "VAN": {"depths": (2, 1, 2, 1), "widths": (8, 16, 24, 32), "drop_path": 0.5},
}
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def network(name: str, dtype: torch.dtype = torch.float64) -> Any:
    made = getattr(nn, name)(**BACKBONES[name])
    randomise(made)
    return made.to(dtype).eval()


def images(n: int = 2, size: tuple[int, int] = (45, 62), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, *size, dtype=dtype)


@every_backbone
@torch.no_grad()
def test_stages_one_by_one(name: str) -> None:
    backbone, image = network(name), images()
    x = backbone.stem(image) if hasattr(backbone, "stem") else image
    maps = []
    for stage in backbone.stages:
        x = stage(x)
        maps.append(x)
    torch.testing.assert_close(maps, backbone(image), rtol=0, atol=0)


@every_backbone
@pytest.mark.parametrize("size", [(64, 96), (65, 47), (33, 100)])
def test_strides_round_up(name: str, size: tuple[int, int]) -> None:
    backbone = network(name).to("meta")
    assert backbone.strides == (4, 8, 16, 32)
    shapes = [tuple(x.shape) for x in backbone(images(size=size).to("meta"))]
    h, w = size
    assert shapes == [(2, c, -(-h // s), -(-w // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)]


@every_backbone
@torch.no_grad()
def test_channels_last_gives_the_same(name: str) -> None:
    backbone, image = network(name), images()
    want = backbone(image)
    got = backbone.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    assert all(x.is_contiguous() for x in want)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in got)


@every_backbone
@torch.no_grad()
def test_a_batch_is_its_images(name: str) -> None:
    backbone, image = network(name), images()
    alone = [backbone(one[None]) for one in image]
    want = [torch.cat(maps) for maps in zip(*alone, strict=True)]
    torch.testing.assert_close(backbone(image), want, rtol=1e-11, atol=1e-11)


def step(backbone: Any, image: Tensor) -> dict[str, Tensor]:
    """Maps, gradients and buffers of a training step; every step drops the same paths."""
    torch.manual_seed(5)
    maps = backbone.train()(image)
    torch.stack([x.square().mean() for x in maps]).sum().backward()
    gradients = {key: p.grad for key, p in backbone.named_parameters()}
    return {f"map {i}": x.detach() for i, x in enumerate(maps)} | gradients | dict(backbone.named_buffers())


@every_backbone
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_a_step_is_the_same_at_every_level_of_memory(name: str, channels_last: bool) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    image = images(3).to(memory_format=memory_format)
    steps = {}
    for level in MEMORY:
        backbone = network(name).to(memory_format=memory_format)
        backbone.set_memory(level)
        steps[level] = step(backbone, image)
    for level in ("lean", "least"):
        torch.testing.assert_close(steps[level], steps["off"], rtol=1e-8, atol=1e-11)
    counts = {int(value) for key, value in steps["least"].items() if key.endswith("num_batches_tracked")}
    assert counts == {1}


SHARES = {"EfficientNetLite": (0.7, 0.3), "ResNet": (0.75, 0.55), "SERes2Net": (0.75, 0.5), "VAN": (0.5, 0.3)}


@every_backbone
def test_less_is_kept(name: str) -> None:
    backbone, image = network(name, torch.float32).train(), images(size=(96, 96), dtype=torch.float32)
    backbone = backbone.to(memory_format=torch.channels_last)
    kept = {}
    for level in MEMORY:
        backbone.set_memory(level)
        backbone(image)
        kept[level] = live_bytes(lambda: backbone(image.contiguous(memory_format=torch.channels_last)))
    lean, least = SHARES[name]
    assert kept["lean"] <= lean * kept["off"], kept
    assert kept["least"] <= least * kept["off"], kept


@every_backbone
def test_levels(name: str) -> None:
    backbone = network(name)
    backbone.set_memory("lean")
    blocks = [module for module in backbone.modules() if isinstance(module, CheckpointedBlock)]
    assert len(blocks) == sum(BACKBONES[name].get("layers") or BACKBONES[name]["depths"])
    assert {block.memory for block in blocks} == {"lean"}
    with pytest.raises(ValueError, match=r"^level: got 'low', want one of 'off', 'lean', 'least'$"):
        backbone.set_memory("low")
