"""Calls of other libraries that compute the same score as a preset of fastiqa.

A peer has a library, the preset of `fastiqa.metrics.presets` that it computes, and a call from two batches (N, C, H, W)
in [0, 1] to a score, whose mean is compared. A new library is one more `Peer` in its metric's tuple.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiqa.metrics import create_metric

from .torchvision_shim import import_library

Call = Callable[[Tensor, Tensor], Tensor]


class Peer(NamedTuple):
    """One library's way to a score.

    Attributes:
        name: column provider of its rows.
        library: the module to import.
        preset: fastiqa's preset of the same score.
        make: makes the call from the library, and a dtype and device for weights.
        device: "cpu", "cuda" or "any".
        numpy: it computes on arrays, without a gradient.
        tolerance: the largest difference of its score from fastiqa's in float64.
    """

    name: str
    library: str
    preset: str
    make: Callable[[ModuleType, torch.dtype, str], Call]
    device: str = "any"
    numpy: bool = False
    tolerance: float = 1e-6


def _plain(call: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[ModuleType, torch.dtype, str], Call]:
    """Make the call of a library's function that has no weights."""
    return lambda library, dtype, device: lambda x, y: call(library, x, y)


def _of_arrays(call: Callable[..., Any], x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return torch.tensor([call(p, q, data_range=1.0, **options) for p, q in zip(x.numpy(), y.numpy(), strict=True)])


# pytorch-msssim's window is float32 in float64 too: its sum is not 1, which moved a score by 2e-6.
_FLOAT32_WINDOW = 1e-5
_WANG: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
_EACH: dict[str, Any] = {"data_range": 1.0, "reduction": "none"}

SSIM = (
    Peer("pytorch_msssim", "pytorch_msssim", "fastiqa",
         _plain(lambda m, x, y: m.ssim(x, y, data_range=1.0, size_average=False)), tolerance=_FLOAT32_WINDOW),
    Peer("kornia", "kornia", "fastiqa", _plain(lambda m, x, y: m.metrics.ssim(x, y, 11, padding="valid"))),
    Peer("piq", "piq", "fastiqa", _plain(lambda m, x, y: m.ssim(x, y, downsample=False, **_EACH))),
    Peer("skimage", "skimage.metrics", "fastiqa",
         _plain(lambda m, x, y: _of_arrays(m.structural_similarity, x, y, channel_axis=0, **_WANG)),
         device="cpu", numpy=True),
    Peer("torchmetrics", "torchmetrics.functional.image", "torchmetrics",
         _plain(lambda m, x, y: m.structural_similarity_index_measure(x, y, **_EACH))),
    Peer("kornia", "kornia", "kornia", _plain(lambda m, x, y: m.metrics.ssim(x, y, 11))),
    Peer("fused_ssim", "fused_ssim", "fused_ssim", _plain(lambda m, x, y: m.fused_ssim(x, y)), device="cuda"),
    Peer("fussim", "fussim", "fused_ssim", _plain(lambda m, x, y: m.fused_ssim(x, y)), device="cuda"),
)  # fmt: skip

MS_SSIM = (
    Peer("pytorch_msssim", "pytorch_msssim", "pytorch_msssim",
         _plain(lambda m, x, y: m.ms_ssim(x, y, data_range=1.0, size_average=False)), tolerance=_FLOAT32_WINDOW),
    Peer("torchmetrics", "torchmetrics.functional.image", "torchmetrics",
         _plain(lambda m, x, y: m.multiscale_structural_similarity_index_measure(x, y, **_EACH))),
    Peer("piq", "piq", "piq", _plain(lambda m, x, y: m.multi_scale_ssim(x, y, **_EACH))),
)  # fmt: skip

PSNR = (
    Peer("torchmetrics", "torchmetrics.functional.image", "fastiqa",
         _plain(lambda m, x, y: m.peak_signal_noise_ratio(x, y, dim=(1, 2, 3), **_EACH))),
    Peer("piq", "piq", "fastiqa", _plain(lambda m, x, y: m.psnr(x, y, **_EACH)), tolerance=1e-4),  # adds 1e-8
    Peer("kornia", "kornia", "fastiqa", _plain(lambda m, x, y: m.metrics.psnr(x, y, 1.0))),
    Peer("skimage", "skimage.metrics", "fastiqa",
         _plain(lambda m, x, y: _of_arrays(m.peak_signal_noise_ratio, x, y)), device="cpu", numpy=True),
)  # fmt: skip


def _authors_lpips(library: Any, dtype: torch.dtype, device: str) -> Call:
    model = _lpips_of_random_trunk(library).to(device, dtype)
    return lambda x, y: model(x, y, normalize=True)


def _lpips_of_random_trunk(library: Any) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's old arguments
        torch.manual_seed(0)
        return library.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)


LPIPS = (Peer("lpips", "lpips", "fastiqa", _authors_lpips),)


def _our_lpips(dtype: torch.dtype, device: str) -> Call:
    """fastiqa's LPIPS with the peer's trunk and heads: the lpips package brings weights for the heads alone."""
    theirs = _lpips_of_random_trunk(import_library("lpips"))
    ours: Any = create_metric("lpips", net="alex")
    ours.trunk.load_state_dict({f"features.{k.split('.', 1)[1]}": w for k, w in theirs.net.state_dict().items()})
    ours.heads.load_state_dict({k: w for k, w in theirs.state_dict().items() if k.startswith("lin") and k[3].isdigit()})
    call: Call = ours.to(device, dtype)
    return call


PEERS: dict[str, tuple[Peer, ...]] = {"ssim": SSIM, "ms_ssim": MS_SSIM, "psnr": PSNR, "lpips": LPIPS}


def fastiqa_call(metric: str, preset: str, dtype: torch.dtype, device: str) -> Call:
    """fastiqa's metric with the conventions of a preset."""
    if metric == "lpips":
        return _our_lpips(dtype, device)
    call: Call = create_metric(metric, **({} if metric == "psnr" else {"preset": preset}))
    return call
