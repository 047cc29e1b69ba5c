"""BatchNormAct2d beyond the tests of every module in test_nn.py: running statistics, memory, refused inputs."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa.nn import BatchNormAct2d, Bottleneck, SERes2Net
from fastiqa.ops import OPERATORS
from support.oracles import randomise

batch_norm_act = OPERATORS["batch_norm_act"]


class Split(nn.Module):
    """Two convolutions of half the channels each, and one of all: autograd saves views and the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(nn.Conv2d(channels // 2, 4, 3) for _ in range(2))
        self.whole = nn.Conv2d(channels, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv(half) for conv, half in zip(self.halves, x.chunk(2, 1), strict=True))
        return first * second + self.whole(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_followed_by_keeps_the_input_alone(memory_format: torch.memory_format) -> None:
    """Results and gradients of both orders to the bit; the normalised map is gone between the passes."""
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
    """Tracking switched off later: training uses the batch's statistics, and the running ones stay."""
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
    with pytest.raises(ValueError, match=r"x: got shape \(1, 3, 1, 1\), want more than one value per channel"):
        BatchNormAct2d(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_maps_far_from_zero(offset: float) -> None:
    """The variance is no difference of large numbers: compared with float64 on the same float32 maps."""
    x = torch.randn(4, 3, 20, 20) + offset
    weight, bias = torch.ones(3), torch.zeros(3)
    out, mean, rstd = batch_norm_act(x, weight, bias, 1.0)
    exact = x.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-7, atol=0)
    spread = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(rstd.double(), (spread + 1e-5).rsqrt(), rtol=1e-6, atol=0)
    assert out.mean().abs() < 1e-6 * max(1, offset / 100)


def test_parameters_of_another_dtype_stay_exact() -> None:
    """bfloat16 maps with float32 parameters, as under autocast: only the result is rounded to bfloat16."""
    x = torch.randn(2, 4, 6, 6).bfloat16()
    weight, bias = torch.rand(4) + 1e-3, torch.randn(4)
    out, mean, _ = batch_norm_act(x, weight, bias)
    assert (out.dtype, mean.dtype) == (torch.bfloat16, torch.float32)
    want = batch_norm_act(x.double(), weight.double(), bias.double())[0].bfloat16()
    assert (out.float() - want.float()).abs().max() <= 2**-7 * want.float().abs().max()
    assert (out != want).float().mean() < 0.01


def test_the_backbone_trains_as_its_twin_under_autocast() -> None:
    """Its bfloat16 gradients are as close to float32 gradients as the twin's are."""
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


# ---- converted, frozen, hooked ----

NETWORKS: list[tuple[str, dict[str, Any], int]] = [
    ("PRFNet", {"layers": (1, 1, 1, 1), "width": 8, "cross_norm": True, "dropout": 0.0}, 3),
    ("MFENet", {"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12), "mlp_ratios": (2, 2, 2, 2), "hidden": (8,),
                "hfen_width": 8, "dan_layers": (1, 1, 1, 1), "dan_width": 4, "dropout": 0.0}, 1),
]  # fmt: skip
every_network = pytest.mark.parametrize(("name", "options", "images"), NETWORKS, ids=lambda value: str(value)[:6])


@pytest.mark.parametrize("package", [reference, models], ids=["plain", "fused"])
@every_network
def test_conversion_to_synchronised_norms_keeps_the_network(
    name: str, options: dict[str, Any], images: int, package: Any
) -> None:
    """The same results in both modes (one process synchronises with none), keys and parameters."""
    network = getattr(package, name)(**options)
    randomise(network)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == len(norms) > 20
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())
    assert list(converted.state_dict()) == list(network.state_dict())
    x = torch.rand(images, 2, 3, 64, 64)
    for training in (False, True):
        want, got = (model.train(training)(*x) for model in (network, converted))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(converted.state_dict(), network.state_dict(), rtol=1e-4, atol=1e-4)
    if package is models:  # and they fold as before the conversion
        fast = fastiqa.optimize_for_inference(converted)
        torch.testing.assert_close(fast(*x), converted.eval()(*x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [reference.BatchNormAct2d, BatchNormAct2d], ids=["plain", "fused"])
def test_a_norm_that_would_lose_its_activation_is_not_converted(kind: Any) -> None:
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    with pytest.raises(RuntimeError, match=r"^convert_sync_batchnorm: got a BatchNormAct2d, whose activation would be"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), kind(4)))
    assert type(convert(kind(4, negative_slope=1.0))) is nn.SyncBatchNorm
    norm = kind(4)
    assert not hasattr(kind(4, negative_slope=1.0), "qconfig")
    norm.qconfig = "of eager quantisation"
    assert copy.deepcopy(norm).qconfig == "of eager quantisation"
    del norm.qconfig
    with pytest.raises(RuntimeError, match="whose activation would be lost"):
        convert(norm)


@pytest.mark.parametrize("memory", ["lean", "least"])
def test_computing_again_leaves_the_statistics_of_foreign_norms_alone(memory: str) -> None:
    networks = [nn.SyncBatchNorm.convert_sync_batchnorm(SERes2Net((2, 1, 1, 1), width=8)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[1].set_memory(memory)
    image = torch.rand(2, 3, 64, 64)
    for network in networks:
        torch.stack([y.square().mean() for y in network.train()(image)]).sum().backward()
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict(), rtol=0, atol=0)
    assert networks[0].layer1[0].bn1.num_batches_tracked == 1


@pytest.mark.parametrize("gone", [("weight", "bias"), ("bias",)], ids=str)
def test_norms_without_weight_or_bias(gone: tuple[str, ...]) -> None:
    plain = reference.BatchNormAct2d(6, 0.1).double()
    fused = copy.deepcopy(plain)
    fastiqa.accelerate(fused)
    conv = nn.Conv2d(6, 2, 1).double()
    gradients = []
    for norm in (plain, fused):
        for name in gone:
            setattr(norm, name, None)
        x = torch.randn(4, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = conv(norm(x)) if norm is plain else norm.followed_by(x, conv)
        gradients.append((y, torch.autograd.grad(y.square().sum(), x)))
        gradients[-1] += (norm.eval()(x),)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", [reference.Bottleneck, Bottleneck], ids=["plain", "fused"])
def test_hooks_of_the_last_norm_keep_what_they_saw(kind: Any) -> None:
    """The following sum does not overwrite its result, which autograd forbids with a backward hook."""
    block = kind(8, 4, 1, first=True)
    x = torch.randn(2, 8, 6, 6)
    want = block(x)
    want.sum().backward()
    gradient = block.conv1.weight.grad.clone()
    block.zero_grad()
    seen: list[Any] = []
    block.bn3.register_forward_hook(lambda module, args, out: seen.append((out, out.detach().clone())))
    block.bn3.register_full_backward_hook(lambda module, grads, outs: seen.append(outs))
    got = block(x)
    got.sum().backward()
    assert torch.equal(*seen[0])
    assert len(seen) == 2
    torch.testing.assert_close((got, block.conv1.weight.grad), (want, gradient), rtol=1e-5, atol=1e-6)
