"""Metrics inside other libraries: pytorch-msssim's modules accelerated, the mean score for torchmetrics."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import pytorch_msssim
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa.metrics import LPIPS, SSIM, MetricLoss, psnr, ssim
from support.oracles import import_oracle


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(shape, dtype=torch.float64)
    return x.to(dtype), (x + 0.1 * torch.randn_like(x)).clamp(0, 1).to(dtype)


MODULES = {
    "SSIM": {"data_range": 1.0},
    "SSIM, nonnegative": {"data_range": 1.0, "nonnegative_ssim": True, "size_average": False},
    "SSIM, another window": {"data_range": 1.0, "win_size": 7, "win_sigma": 0.9, "K": (0.02, 0.05)},
    "MS_SSIM": {"data_range": 1.0, "size_average": False},
    "MS_SSIM, another window": {"data_range": 2.0, "win_size": 5, "win_sigma": 2.0, "weights": [0.5, 0.1, 0.4]},
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_of_pytorch_msssim_keep_their_values(case: str) -> None:
    before = nn.Sequential(getattr(pytorch_msssim, case.partition(",")[0])(**MODULES[case]))
    after = copy.deepcopy(before)
    report = fastiqa.accelerate(after)
    assert [swap.name for swap in report.swapped] == ["0"]
    assert not fastiqa.accelerate(after).swapped
    x, y = pair(2, 3, 161, 163)
    if "nonnegative" in case:
        y[:, 0] = 1 - x[:, 0]
    steps = []
    for module in (before[0], after[0], pickle.loads(pickle.dumps(after[0]))):
        leaf = x.clone().requires_grad_()
        value = module(leaf, y)
        steps.append((value.detach(), *torch.autograd.grad(value.sum(), leaf)))
    torch.testing.assert_close(steps[1][0], steps[0][0], rtol=0, atol=1e-6)  # their window is float32
    torch.testing.assert_close(steps[1][1], steps[0][1], rtol=0, atol=1e-5 * steps[0][1].abs().max().item())
    assert torch.equal(steps[2][0], steps[1][0])
    assert after[0](x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16


def test_what_a_twin_does_not_cover() -> None:
    """Videos and images smaller than the window take the original forward; modules with another window are skipped."""
    module = pytorch_msssim.SSIM(data_range=1.0, spatial_dims=3, channel=1)
    twin = copy.deepcopy(module)
    fastiqa.accelerate(twin)
    video = pair(1, 1, 12, 12, 12)
    assert torch.equal(twin(*video), module(*video))
    module = pytorch_msssim.SSIM(data_range=1.0)
    twin = copy.deepcopy(module)
    fastiqa.accelerate(twin)
    small = pair(1, 3, 8, 20)
    with pytest.warns(UserWarning, match="Skipping Gaussian Smoothing"):
        assert torch.equal(twin(*small), module(*small))
    module.win = torch.full_like(module.win, 1 / 11)

    class Mine(pytorch_msssim.MS_SSIM):  # type: ignore[misc]
        pass

    report = fastiqa.accelerate(nn.ModuleList([module, Mine()]))
    assert not report.swapped
    assert dict(report.left) == {
        "0": "its window is no Gaussian of 3 to 33 pixels",
        "1": "Mine is a subclass of MS_SSIM, which may compute something else",
    }


def mean_score() -> Any:
    import_oracle("torchmetrics")
    from fastiqa.metrics.torchmetrics import MeanScore

    return MeanScore


def test_mean_score_of_batches_of_any_size() -> None:
    batches = [pair(2, 3, 20, 24), pair(1, 3, 31, 20), pair(3, 1, 11, 11)]
    metric = mean_score()("ssim", preset="torchmetrics")
    for x, y in batches:
        metric.update(x.requires_grad_(), y)
    want = torch.cat([ssim(x, y, preset="torchmetrics") for x, y in batches]).mean()
    torch.testing.assert_close(metric.compute(), want.detach())
    assert metric.metric_state.keys() == {"total", "images"}  # sums: no list that grows
    assert metric.metric_state["total"].shape == metric.metric_state["images"].shape == ()
    assert metric.higher_is_better
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.compute(), metric.compute())
    metric.reset()
    x, y = batches[0]
    torch.testing.assert_close(metric(x, y), ssim(x, y, preset="torchmetrics").mean().detach())
    assert mean_score()(SSIM(data_range=2.0)).metric.options["data_range"] == 2.0
    with pytest.raises(TypeError, match=r"^options: got preset for a module, want them for a name$"):
        mean_score()(SSIM(), preset="piq")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mean_score_is_of_all_scores_together(reduction: str) -> None:
    x, y = pair(5, 3, 20, 24)
    metric = mean_score()("psnr", reduction=reduction, dist_sync_on_step=False, sync_on_compute=True)
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(x[part], y[part])
    torch.testing.assert_close(metric.compute(), psnr(x, y, reduction=reduction))
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.compute(), metric.compute())
    metric.reset()
    torch.testing.assert_close(metric(x, y), psnr(x, y, reduction=reduction))


def test_mean_score_takes_what_its_base_takes() -> None:
    def available() -> bool:
        return False

    metric = mean_score()("ssim", preset="torchmetrics", compute_on_cpu=True, distributed_available_fn=available)
    assert metric.compute_on_cpu
    assert metric.distributed_available_fn is available
    assert metric.metric.options["preset"] == "torchmetrics"
    with pytest.raises(ValueError, match=r"^Expected keyword argument `sync_on_compute` to be a `bool` but got 1$"):
        mean_score()("ssim", sync_on_compute=1)
    with pytest.raises(ValueError, match=r"^reduction: got 'median', want one of 'none', 'mean', 'sum'$"):
        mean_score()("ssim", reduction="median")
    with pytest.raises(ValueError, match=r"^metric: got scores of shape \(\), want one an image, \(N,\)$"):
        mean_score()(SSIM(reduction="mean")).update(*pair(2, 3, 20, 24))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated", "ignore:This property will be removed in 2.0.0")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_mean_score_can_be_scripted(reduction: str) -> None:
    """Like torchmetrics' own metrics, whose testers require it."""
    for metric in ("psnr", "ms_ssim", LPIPS("squeeze", pretrained=False)):
        scripted = torch.jit.script(mean_score()(metric, reduction=reduction))
        assert isinstance(scripted, torch.jit.ScriptModule)


def test_mean_score_is_synchronised_by_its_sums() -> None:
    """States gathered from two processes, combined by the states' own reduction."""
    parts = []
    x, y = pair(3, 3, 12, 12)
    for part in (slice(0, 1), slice(1, 3)):
        metric = mean_score()("psnr")
        metric.update(x[part], y[part])
        parts.append(metric)
    whole = mean_score()("psnr")
    for name, reduce in whole._reductions.items():
        setattr(whole, name, reduce(torch.stack([part.metric_state[name] for part in parts])))
    whole._update_count = 1
    torch.testing.assert_close(whole.compute(), psnr(x, y).mean())


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_a_metric_is_one_node_of_torch_fx(name: str) -> None:
    """A graph of a network with its loss then holds the fused metric, at any size."""
    loss = MetricLoss(fastiqa.create_metric(name))
    graph = torch.fx.symbolic_trace(loss)
    assert next(node.name for node in graph.graph.nodes if node.op == "call_function") == name
    for size in (192, 207):
        images = torch.rand(2, 2, 3, size, size)
        assert torch.equal(graph(*images), loss(*images))
