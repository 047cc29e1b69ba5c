"""BatchNormAct2d beyond what test_nn.py asks of every module: running statistics, memory, what cannot be normalised."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastiqa import reference
from fastiqa.nn import BatchNormAct2d, SERes2Net
from fastiqa.ops import OPERATORS

batch_norm_act = OPERATORS["batch_norm_act"]


class Split(nn.Module):
    """Two convolutions of one half of the channels each, and one of all: what is saved are views and the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(nn.Conv2d(channels // 2, 4, 3) for _ in range(2))
        self.whole = nn.Conv2d(channels, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv(half) for conv, half in zip(self.halves, x.chunk(2, 1), strict=True))
        return first * second + self.whole(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_followed_by_keeps_the_input_alone(memory_format: torch.memory_format) -> None:
    """Results and gradients to the bit, of both orders too; and the normalised map is gone between the passes."""
    norm, layer = BatchNormAct2d(8, 0.1).double(), Split(8).double().to(memory_format=memory_format)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    parameters = [x, *norm.parameters(), *layer.parameters()]
    plain = layer(norm(x))
    want = torch.autograd.grad(plain.square().sum(), parameters)

    seen: list[weakref.ref[Any]] = []

    def watched(y: Tensor) -> Tensor:
        seen.append(weakref.ref(y.untyped_storage()))
        return layer(y)  # type: ignore[no-any-return]

    result = norm.followed_by(x, watched)
    gc.collect()
    assert seen[0]() is None
    assert torch.equal(result, plain)
    got = torch.autograd.grad(result.square().sum(), parameters)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))

    def penalty(y: Tensor) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), parameters)

    second = zip(penalty(norm.followed_by(x, layer)), penalty(layer(norm(x))), strict=True)
    for g, w in second:
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)


def test_followed_by_computes_the_map_once_for_all_that_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, layer = BatchNormAct2d(8), Split(8)
    result = norm.followed_by(torch.randn(2, 8, 9, 7).requires_grad_(), layer)
    calls = 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return batch_norm_act(*args)

    monkeypatch.setattr("fastiqa.nn.batch_norm_act.batch_norm_act", counted)
    result.sum().backward()
    assert calls == 1


def test_followed_by_notices_a_changed_input() -> None:
    norm, conv = BatchNormAct2d(4), nn.Conv2d(4, 4, 1)
    x = torch.randn(2, 4, 5, 5)
    result = norm.followed_by(x, conv)
    x.add_(1)
    with pytest.raises(RuntimeError, match="x: changed in place"):
        result.sum().backward()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_followed_by_without_a_gradient_is_a_call(training: bool) -> None:
    norm, conv = BatchNormAct2d(4).train(training), nn.Conv2d(4, 4, 1)
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(norm.followed_by(x, conv), conv(norm(x)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_pytorch(momentum: float | None) -> None:
    ours, theirs = BatchNormAct2d(6, momentum=momentum), nn.BatchNorm2d(6, momentum=momentum)
    for _ in range(3):
        x = 3 * torch.randn(4, 6, 5, 5) + 2
        ours(x)
        theirs(x)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("kept", [True, False], ids=["frozen", "removed"])
def test_statistics_that_are_not_tracked(kept: bool) -> None:
    """Switched off after the module was made: the batch's own in training, the running ones stay."""
    ours, theirs = BatchNormAct2d(6), nn.BatchNorm2d(6)
    for norm in (ours, theirs):
        norm.track_running_stats = False
        if not kept:
            norm.running_mean = norm.running_var = None
    x = 3 * torch.randn(4, 6, 5, 5) + 2
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        torch.testing.assert_close(ours(x), torch.relu(theirs(x)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_an_empty_batch_leaves_the_statistics_alone() -> None:
    norm = BatchNormAct2d(3)
    before = copy.deepcopy(norm.state_dict())
    x = torch.zeros(0, 3, 4, 4).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert all(torch.equal(after, before[name]) for name, after in norm.state_dict().items())


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match=r"x: shape \(1, 3, 1, 1\), want more than one value per channel in training"):
        BatchNormAct2d(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_maps_far_from_zero(offset: float) -> None:
    """The variance is no difference of large numbers: beside float64 of the same float32 maps."""
    x = torch.randn(4, 3, 20, 20) + offset
    weight, bias = torch.ones(3), torch.zeros(3)
    out, mean, rstd = batch_norm_act(x, weight, bias, 1.0)
    exact = x.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-7, atol=0)
    spread = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(rstd.double(), (spread + 1e-5).rsqrt(), rtol=1e-6, atol=0)
    assert out.mean().abs() < 1e-6 * max(1, offset / 100)


def test_parameters_of_another_dtype_stay_exact() -> None:
    """bfloat16 maps with float32 parameters, as under autocast: nothing is rounded to bfloat16 but the result."""
    x = torch.randn(2, 4, 6, 6).bfloat16()
    weight, bias = torch.rand(4) + 1e-3, torch.randn(4)
    out, mean, _ = batch_norm_act(x, weight, bias)
    assert (out.dtype, mean.dtype) == (torch.bfloat16, torch.float32)
    want = batch_norm_act(x.double(), weight.double(), bias.double())[0].bfloat16()
    assert (out.float() - want.float()).abs().max() <= 2**-7 * want.float().abs().max()
    assert (out != want).float().mean() < 0.01


def test_the_backbone_trains_as_its_twin_under_autocast() -> None:
    """Its bfloat16 gradients are as near to those of float32 as the twin's."""
    options: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8}
    fused, plain = SERes2Net(**options), reference.SERes2Net(**options)
    fused.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64)

    def gradients(network: nn.Module, lower: bool) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = torch.stack([y.float().square().mean() for y in network(image)]).sum()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    exact, got, want = gradients(plain, False), gradients(fused, True), gradients(plain, True)
    assert got.numel() == sum(p.numel() for p in fused.parameters())
    assert (got - exact).norm() <= 1.5 * (want - exact).norm()
