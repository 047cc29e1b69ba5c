"""Parts of networks to be timed, each with what reaches it: see `fastiqa.bench.parts`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastiqa import models, reference
from fastiqa.models.inference import optimize_for_inference
from fastiqa.models.inference.layers import fold_norms, make_constant
from fastiqa.models.inference.mfenet import fold_high_frequency, fold_octave
from fastiqa.nn import HighFrequencyModule, HighFrequencyNet
from fastiqa.reference.high_frequency import ALPHA, NEGATIVE_SLOPE

from .networks import with_statistics

OPTIONS: dict[str, Any] = {}  # of MFENet
SIZE = 224
LARGEST_DIFFERENCE = 1e-3  # of a part's results in float32, relative to their norm
MAPS = ((64, 56), (64, 28), (128, 28), (128, 14), (256, 14), (256, 7))  # channels, rows and columns of octave's input


class Call(NamedTuple):
    """A function, the maps that it is called with, and the parameters whose gradients it has."""

    function: Callable[..., Any]
    maps: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]

    def copies(self) -> list[Tensor]:
        """Of the maps, as the function may write onto its own."""
        clones = (x.detach().clone(memory_format=torch.preserve_format) for x in self.maps)
        return [y.requires_grad_(x.requires_grad) for x, y in zip(self.maps, clones, strict=True)]


def tensors_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [y for y in result if y is not None]


class Case(NamedTuple):
    """A part by each provider, as calls one after the other."""

    arguments: str
    mode: str
    shape: str
    calls: tuple[list[Call], list[Call]]


# ---- parts of MFENet ----


def parts_of(network: Any) -> dict[str, list[tuple[nn.Module, str]]]:
    """Modules and their methods, by part."""
    blocks = [module for module in network.modules() if isinstance(module, reference.VANBlock)]
    embeddings = [getattr(network.qen, f"{part}{i}") for part in ("patch_embed", "norm") for i in (1, 2, 3, 4)]
    found = {"VAN embeddings and norms": [(module, "forward") for module in embeddings]}
    found |= {f"VAN {method}": [(block, method) for block in blocks] for method in ("attention", "perceptron")}
    whole = {"HFEN": [network.hfen], "FFM": network.hfen_guidance, "DAN": [network.dan], "AFF": network.dan_guidance}
    return found | {
        name: [(m, "forward") for m in modules] for name, modules in {**whole, "head": [network.head]}.items()
    }


def recorded(network: Any, image: Tensor) -> dict[str, list[Call]]:
    """What every part is called with as the network runs on the image."""
    calls: dict[str, list[Call]] = {}
    with contextlib.ExitStack() as stack:
        for name, methods in parts_of(network).items():
            for module, method in methods:
                stack.enter_context(_recording(module, method, calls.setdefault(name, [])))
        network(image)
    return calls


@contextlib.contextmanager
def _recording(module: nn.Module, method: str, calls: list[Call]) -> Iterator[None]:
    original = getattr(module, method)

    def call(*maps: Tensor) -> Any:
        given = Call(original, maps, tuple(module.parameters()))
        calls.append(given._replace(maps=tuple(given.copies())))
        return original(*maps)

    setattr(module, method, call)
    try:
        yield
    finally:
        delattr(module, method)


def mfenet(items: int) -> Iterator[Case]:
    image = torch.rand(items, 3, SIZE, SIZE)
    plain = with_statistics(reference.MFENet(dropout=0.0, **OPTIONS), 1)
    with torch.no_grad():
        pair = [recorded(network, image) for network in (plain, optimize_for_inference(plain))]
    yield from _cases("fwd", image, pair)
    if items == 1:
        return  # the statistics of batch norms want more
    trained = models.MFENet(dropout=0.0, **OPTIONS).train()
    trained.load_state_dict(plain.state_dict())
    trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield from _cases("fwd_bwd", image, [recorded(network, image) for network in (plain.train(), trained)])


def _cases(mode: str, image: Tensor, pair: list[dict[str, list[Call]]]) -> Iterator[Case]:
    for name in pair[0]:
        _check(name, *(calls[name] for calls in pair))
        yield Case(f"part={name}", mode, "x".join(map(str, image.shape)), (pair[0][name], pair[1][name]))


def _check(name: str, plain: list[Call], fused: list[Call]) -> None:
    different = difference(plain, fused)
    if not different <= LARGEST_DIFFERENCE:
        raise ValueError(f"{name}: results differ from the plain network's by {different:.1g} of their norm")


@torch.no_grad()
def difference(plain: list[Call], fused: list[Call]) -> float:
    """The largest difference of the results of two networks' calls, relative to their norms."""
    results = [[y for call in calls for y in tensors_of(call.function(*call.copies()))] for calls in (plain, fused)]
    return max(float((got - want).norm() / want.norm()) for want, got in zip(*results, strict=True))


# ---- octave modules and plain convolutions ----


def plain_module(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))


class PlainChain(nn.Module):
    """`fastiqa.reference.HighFrequencyNet` with a plain convolution in the place of every octave module."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(plain_module(3, width // 2, 2), plain_module(width // 2, width, 2))
        self.stages = nn.ModuleList(plain_module(width, width, stride) for stride in (1, 2, 2, 2))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, results = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            results.append(x)
        return results


@torch.no_grad()
def folded_plain(network: nn.Module) -> nn.Module:
    """The network without its norms, whose convolutions have their scales and shifts."""
    fold_norms(network.eval())
    return network


@torch.no_grad()
def folded_octave(module: nn.Module) -> nn.Module:
    """The same of octave modules, as `fastiqa.optimize_for_inference` does it."""
    module.eval()
    if isinstance(module, HighFrequencyNet):
        fold_high_frequency(module)
    else:
        fold_octave(module)
    make_constant(module)
    return module


def octave(items: int) -> Iterator[Case]:
    image = torch.rand(items, 3, SIZE, SIZE)
    yield from _beside("network=chain", image.shape, (PlainChain(), (image,)), (HighFrequencyNet(), (image,)))
    for channels, size in MAPS:
        for stride in (1, 2):
            module = HighFrequencyModule(channels, ALPHA, ALPHA, stride)
            high, low = module.conv.in_channels
            shapes = ((channels, size), (high, size), (low, -(-size // 2)), (high, -(-size // 2)))
            x, *branches = (torch.randn(items, c, s, s) for c, s in shapes)
            plain = plain_module(channels, channels, stride)
            yield from _beside(f"stride={stride}", x.shape, (plain, (x,)), (module, tuple(branches)))


def _beside(arguments: str, shape: torch.Size, *pair: tuple[nn.Module, tuple[Tensor, ...]]) -> Iterator[Case]:
    """Two modules and their inputs, in inference and in training."""
    for mode in ("fwd", "fwd_bwd"):
        calls = []
        for (module, maps), folded in zip(pair, (folded_plain, folded_octave), strict=True):
            part = copy.deepcopy(module).train()
            part = (folded(part) if mode == "fwd" else part).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            inputs = tuple(m.to(memory_format=torch.channels_last).requires_grad_(mode == "fwd_bwd") for m in maps)
            calls.append(Call(part, inputs, tuple(part.parameters())))
            if mode == "fwd":
                _check(f"{arguments} without norms", [Call(module.eval(), inputs, ())], calls[-1:])
        yield Case(arguments, mode, "x".join(map(str, shape)), ([calls[0]], [calls[1]]))
