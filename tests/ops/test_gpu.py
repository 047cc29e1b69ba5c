"""On a GPU alone: networks, metrics, ranking, distortions and compiled graphs, and maps beyond 2^31 elements.

`pytest -m gpu` also runs `test_ops.py`, `test_sigmoid.py` and `test_torch.py::test_on_a_gpu` there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.oracles import randomise

for package in ("PIL", "safetensors"):
    pytest.importorskip(package, reason=f"{package}, which fastiqa depends on, is not installed")

import fastiqa  # noqa: E402
from fastiqa import metrics, models, reference  # noqa: E402
from fastiqa.data.distortions import DISTORTIONS, distort  # noqa: E402
from fastiqa.ops import cross_difference, high_pass  # noqa: E402

pytestmark = pytest.mark.gpu

BACKENDS = ("cuda", "triton")
TINY = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32), "hidden": (16,), "hfen_width": 8, "dan_width": 4}
NETWORKS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "prfnet": (models.PRFNet, reference.PRFNet, {"layers": (1, 1, 1, 1), "width": 8, "hidden": 9}, 3),
    "mfenet": (models.MFENet, reference.MFENet, {**TINY, "dan_layers": (1, 1, 1, 1)}, 1),
}
DEVICE = "cuda"


def networks(name: str) -> tuple[Any, Any, tuple[Tensor, ...]]:
    """A network, its plain twin in float64 with the same weights, and images, all on the CPU."""
    kind, plain, options, inputs = NETWORKS[name]
    model = kind(**options).eval()
    randomise(model)
    twin = plain(**options).eval()
    twin.load_state_dict(model.state_dict())
    return model, twin.double(), tuple(torch.rand(2, 3, 96, 80) for _ in range(inputs))


def loss_and_gradients(model: nn.Module, images: tuple[Tensor, ...]) -> list[Tensor]:
    model.zero_grad()
    result = model(*images)
    result.square().sum().backward()
    return [result.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def distance(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest ||got - exact|| / ||exact|| among results that are not sums which cancel."""
    pairs = [(g.cpu().double(), x.cpu()) for g, x in zip(got, exact, strict=True)]
    largest = max(float(x.norm()) for _, x in pairs)
    return max(float((g - x).norm()) / max(float(x.norm()), 1e-3 * largest) for g, x in pairs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_network_and_its_gradients(name: str, backend: str, memory_format: torch.memory_format) -> None:
    """At most four times as far from float64 as the network without our kernels, which sums in another order."""
    model, twin, images = networks(name)
    exact = loss_and_gradients(twin, tuple(image.double() for image in images))
    on_gpu = copy.deepcopy(model).to(DEVICE, memory_format=memory_format)
    there = tuple(image.to(DEVICE, memory_format=memory_format) for image in images)
    with fastiqa.use("torch"):
        plain = distance(loss_and_gradients(on_gpu, there), exact)
    with fastiqa.use(backend):
        got = distance(loss_and_gradients(on_gpu, there), exact)
    assert got <= max(4 * plain, 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_optimized_network(name: str, dtype: torch.dtype) -> None:
    model, twin, images = networks(name)
    fast = fastiqa.optimize_for_inference(model.to(DEVICE), dtype=dtype)
    method = "probability" if name == "prfnet" else "forward"
    with torch.no_grad():
        wanted = getattr(twin, method)(*(image.double() for image in images))
        got = getattr(fast, method)(*(image.to(DEVICE) for image in images)).cpu().double()
    bound = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]  # bfloat16 has three digits
    torch.testing.assert_close(got, wanted.double(), rtol=bound, atol=bound)


def test_autocast() -> None:
    model, twin, images = networks("prfnet")
    with torch.no_grad():
        wanted = twin(*(image.double() for image in images))
        with torch.autocast(DEVICE, torch.bfloat16):
            got = model.to(DEVICE)(*(image.to(DEVICE) for image in images))
    torch.testing.assert_close(got.cpu().double(), wanted.double(), rtol=5e-2, atol=5e-2)


def test_ranking() -> None:
    model, _, _ = networks("prfnet")
    ref, candidates = torch.rand(3, 64, 64), torch.rand(5, 3, 64, 64)
    here = fastiqa.rank(model, ref, candidates)
    there = fastiqa.rank(model.to(DEVICE), ref.to(DEVICE), candidates.to(DEVICE))
    torch.testing.assert_close(there.probability.cpu(), here.probability, rtol=1e-4, atol=1e-5)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ssim of torchmetrics": lambda x, y: metrics.ssim(x, y, preset="torchmetrics"),
    "ms_ssim": metrics.ms_ssim,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_and_its_gradient(name: str, backend: str) -> None:
    x = torch.rand(2, 3, 192, 200)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)

    def everything(x: Tensor, y: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        value = METRICS[name](x, y)
        value.sum().backward()
        assert x.grad is not None
        return [value.detach(), x.grad]

    exact = everything(x.double(), y.double())
    with fastiqa.use("torch"):
        plain = distance(everything(x.to(DEVICE), y.to(DEVICE)), exact)
    with fastiqa.use(backend):
        got = distance(everything(x.to(DEVICE), y.to(DEVICE)), exact)
    assert got <= max(4 * plain, 1e-6)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_cpu_generator_draws_the_same_distortions(name: str) -> None:
    coarse = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    images = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic")
    images = (images + 0.03 * torch.randn_like(images)).clamp(0, 1)
    here, there = (distort(x, name, 3, torch.Generator().manual_seed(0)).cpu() for x in (images, images.to(DEVICE)))
    # Distortions with 8 bits or steps may round to the other side.
    stepped = name in ("colour_quantisation", "jpeg2000", "jpeg", "quantisation")
    assert ((here - there).abs() < 1e-9).double().mean() > (0.98 if stepped else 1 - 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inductor_calls_the_kernels(backend: str) -> None:
    x = torch.randn(2, 16, 24, 20, device=DEVICE, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return (high_pass(2 * x) * cross_difference(x, x + 1, x.square())[:, ::2]).sum()

    with fastiqa.use(backend):
        got, want = torch.compile(f, fullgraph=True)(x), f(x)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
        (grad,), (wanted,) = torch.autograd.grad(got, x), torch.autograd.grad(want, x)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_map_of_more_than_two_to_the_31_elements(backend: str) -> None:
    """4 GiB of bfloat16; the first and the last channel are compared."""
    rows, columns = 4096, 4097
    channels = 2**31 // (rows * columns) // 2 + 1
    if DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 10 << 30:
        pytest.skip("less than 10 GiB of GPU memory are free")
    one = (torch.arange(rows * columns, device=DEVICE) % 251).to(torch.bfloat16).view(1, 1, rows, columns)
    ref = one.expand(1, channels, rows, columns)
    with fastiqa.use(backend):
        y = cross_difference(ref, ref, (-one).expand(ref.shape))
    assert y.numel() > 2**31
    assert torch.equal(y[:, 0], 0 * one[:, 0])
    assert torch.equal(y[:, -1], 2 * one[:, 0])
