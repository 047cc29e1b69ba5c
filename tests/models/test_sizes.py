"""Sizes are symbols: a graph compiled, exported or traced at one size is right at every other, or refuses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa.metrics import MSSSIM, PSNR, SSIM

Images = Callable[[int, int, int], list[Tensor]]

MFENET = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32), "hidden": (16,), "hfen_width": 8, "dan_layers": (1,) * 4}

# A module, how many images it takes, and the least side.
THINGS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "prfnet": (lambda: fastiqa.create_model("prfnet", layers=(1, 1, 1, 1), width=4), 3, 64),
    "mfenet": (lambda: fastiqa.create_model("mfenet", **MFENET, dan_width=4), 1, 64),
    "mfenet, plain": (lambda: fastiqa.reference.MFENet(**MFENET, dan=False), 1, 64),
    "prfnet for inference": (
        lambda: fastiqa.optimize_for_inference(fastiqa.create_model("prfnet", layers=(1, 1, 1, 1), width=4)),
        3,
        64,
    ),
    "mfenet for inference": (
        lambda: fastiqa.optimize_for_inference(fastiqa.create_model("mfenet", **MFENET, dan_width=4)),
        1,
        64,
    ),
    "ssim": (SSIM, 2, 32),
    "ssim, padded": (lambda: SSIM(preset="kornia"), 2, 32),
    "ssim, grey": (lambda: SSIM(preset="matlab"), 2, 32),
    "psnr": (PSNR, 2, 32),
    "ms_ssim": (lambda: MSSSIM(size=3, weights=(0.4, 0.3, 0.3)), 2, 32),
    **{
        f"ms_ssim, {preset}": (lambda preset=preset: MSSSIM(preset=preset, size=3, weights=(0.5, 0.3, 0.2)), 2, 32)
        for preset in ("piq", "pytorch_msssim", "torchmetrics")
    },
}


@pytest.fixture(autouse=True)
def without_remarks() -> Iterator[None]:
    """torch.jit is deprecated, and warns at every read of a size, though none decides anything here."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
    torch.compiler.reset()


def made(name: str) -> tuple[nn.Module, Images]:
    """The module in eval mode, and images with batch, height and width above the minimum."""
    make, images, least = THINGS[name]
    torch.manual_seed(0)
    return make().eval(), lambda n, h, w: [torch.rand(n, 3, least + h, least + w) for _ in range(images)]


def check_everywhere(got: Callable[..., Tensor], want: nn.Module, images: Images) -> None:
    """At even sides, odd sides, one odd side, and other batches."""
    for size in ((2, 32, 16), (1, 9, 25), (3, 1, 14), (2, 30, 7)):
        inputs = images(*size)
        torch.testing.assert_close(got(*inputs), want(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", THINGS)
def test_a_trace_is_right_at_every_size(name: str) -> None:
    module, images = made(name)
    check_everywhere(torch.jit.trace(module, tuple(images(2, 16, 24)), check_trace=False), module, images)


# Channels-last weights make PyTorch's exporter ask what it cannot prove of named dimensions: an error.
REFUSED = ("mfenet for inference",)


EXPORTED = [name for name in THINGS if name not in ("ssim", "ssim, grey", *REFUSED)]
VARIANTS = [name for name in EXPORTED if name.startswith("ms_ssim, ") or name.endswith("plain")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in EXPORTED]
)
def test_an_export_is_right_at_every_size(name: str) -> None:
    module, images = made(name)
    least = THINGS[name][2]
    sides = {d: torch.export.Dim(letter, min=least, max=2048) for d, letter in ((2, "h"), (3, "w"))}
    dims = ({0: torch.export.Dim("n", min=1, max=8), **sides},) * THINGS[name][1]
    exported = torch.export.export(module, tuple(images(2, 16, 24)), dynamic_shapes=dims)
    check_everywhere(exported.module(), module, images)


@pytest.mark.parametrize("name", ["psnr", "ssim, padded", "ms_ssim, piq"])
def test_one_graph_has_all_sizes(name: str) -> None:
    """Except at a batch of one, which PyTorch always specialises."""
    module, images = made(name)
    graphs: list[Any] = []
    check_everywhere(torch.compile(module, backend=keeping(graphs), dynamic=True), module, images)
    assert len(graphs) == 2


def keeping(graphs: list[Any]) -> Callable[[Any, Any], Any]:
    """A torch.compile backend that appends each graph to the list and runs it unchanged."""

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    return keep


def test_a_size_that_decides_is_not_traced() -> None:
    metric = SSIM(preset="piq")
    with pytest.raises(NotImplementedError, match=r"^downsample: got 'blocks' in torch\.jit\.trace, want 'none', or"):
        torch.jit.trace(metric, tuple(torch.rand(2, 1, 3, 32, 32)), check_trace=False)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3)])
def test_the_head_of_prfnet_has_one_graph(dtype: torch.dtype, tolerance: float) -> None:
    """In float16 its gates are scaled by a function of the size, so that sums do not overflow."""
    torch.manual_seed(0)
    head = fastiqa.nn.PRFHead((8, 16)).to(dtype).eval()
    graphs: list[Any] = []
    compiled = torch.compile(head, backend=keeping(graphs), dynamic=True)
    for h, w in ((40, 24), (61, 39), (16, 90)):
        maps = [[torch.rand(2, c, -(-h // s), -(-w // s)).to(dtype) for c, s in ((8, 1), (16, 2))] for _ in range(3)]
        torch.testing.assert_close(compiled(*maps), head(*maps), rtol=tolerance, atol=tolerance)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["mfenet", "ms_ssim"])
def test_onnx_has_no_operators_of_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export to ONNX has PyTorch's own operators: the graph is right, and no node is fastiqa's."""
    module, images = made(name)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    exported = torch.export.export(module, tuple(images(2, 16, 24)))
    assert not [node for node in exported.graph.nodes if "fastiqa" in str(node.target)]
    pools = [node for node in exported.graph.nodes if "avg_pool2d" in str(node.target)]
    assert all(len(pool.args) < 7 for pool in pools)  # PyTorch's exporter drops a divisor, without a word
    inputs = images(2, 16, 24)
    torch.testing.assert_close(exported.module()(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)
    traced = torch.jit.trace(module, tuple(inputs), check_trace=False)
    assert "fastiqa::" not in str(traced.inlined_graph)
