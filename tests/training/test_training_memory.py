"""set_memory: the same training step with less memory between its two passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastiqa.bench.runner.memory import peak_bytes
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa.nn.recomputation import MEMORY
from fastiqa.nn.se_res2net import SERes2Block
from support.oracles import randomise

SMALL: dict[str, Any] = {"layers": (2, 1, 2, 1), "width": 8, "base_width": 32, "hidden": 9, "dropout": 0.0}
LEVELS = [level for level in MEMORY if level != "off"]
every_level = pytest.mark.parametrize("level", LEVELS)


def network(memory: str = "off", dtype: torch.dtype = torch.float64, channels_last: bool = False) -> Any:
    model = models.PRFNet(memory=memory, **SMALL)
    randomise(model)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(dtype=dtype, memory_format=memory_format).train()


def images(dtype: torch.dtype = torch.float64, size: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 2, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)


def step(model: Any, triplet: Tensor) -> dict[str, Tensor]:
    """Logits, gradients and buffers after a step: three passes through the backbone before one backward pass."""
    logits = model(*triplet)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(logits.sum(), list(parameters.values()))
    return {"logits": logits.detach(), **dict(zip(parameters, gradients, strict=True)), **dict(model.named_buffers())}


@every_level
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_a_step_is_the_same(level: str, channels_last: bool) -> None:
    want = step(network(channels_last=channels_last), images())
    got = step(network(level, channels_last=channels_last), images())
    assert got.keys() == want.keys()
    for name, value in want.items():
        scale = float(value.double().abs().max()) or 1.0
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6 * scale if name == "logits" else 1e-9 * scale)
    counts = {int(value) for name, value in got.items() if name.endswith("num_batches_tracked")}
    assert counts == {3}  # three passes; their repetition is not counted


@every_level
def test_it_is_as_exact_as_the_plain_network(level: str) -> None:
    """Gradients in float32 are at most twice as far from float64 as the plain network's."""
    plain = reference.PRFNet(**SMALL).train()
    randomise(plain)
    exact = step(network(), images())
    eager, got = (step(model, images(torch.float32)) for model in (plain, network(level, torch.float32)))

    def error(of: dict[str, Tensor]) -> float:
        names = [name for name, _ in plain.named_parameters()]
        errors = [(of[name] - exact[name]).norm() / (exact[name].norm() + 1e-30) for name in names]
        return float(torch.stack(errors).mean())

    assert error(got) <= 2 * error(eager)


def test_less_is_kept() -> None:
    triplet = images(torch.float32, 64)
    peaks = {}
    for level in MEMORY:
        model = network(level, torch.float32)
        peaks[level] = peak_bytes(lambda model=model: model(*triplet), "cpu")  # type: ignore[misc]
    assert peaks["lean"] < 0.6 * peaks["off"]
    assert peaks["least"] < 0.7 * peaks["lean"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[SERes2Block]:
    """Bottlenecks in the order of their computation."""
    blocks: list[SERes2Block] = []
    forward: Callable[..., Tensor] = reference.SERes2Block.forward

    def noted(self: SERes2Block, x: Tensor) -> Tensor:
        blocks.append(self)
        return forward(self, x)

    monkeypatch.setattr(reference.SERes2Block, "forward", noted)
    return blocks


@every_level
def test_only_training_with_gradients_repeats(level: str, calls: list[SERes2Block]) -> None:
    model, triplet = network(level), images()
    blocks = sum(SMALL["layers"])
    model(*triplet).sum().backward()
    assert len(calls) == 2 * 3 * blocks
    calls.clear()
    with torch.no_grad():
        model(*triplet)
    model.eval()(*triplet).sum().backward()
    assert len(calls) == 2 * 3 * blocks
    calls.clear()
    model.set_memory("off")
    model.train()(*triplet).sum().backward()
    assert len(calls) == 3 * blocks


@every_level
def test_autocast(level: str) -> None:
    results = []
    for model in (network(dtype=torch.float32), network(level, torch.float32)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*images(torch.float32)).sum()
        loss.backward()
        results.append(model.backbone.conv1.weight.grad)
    torch.testing.assert_close(results[1], results[0], rtol=0.05, atol=0.05 * float(results[0].abs().max()))


@every_level
def test_it_belongs_to_the_run_not_to_the_network(level: str, tmp_path: Any) -> None:
    model = network(level, torch.float32)
    assert "memory" not in model.options
    fastiqa.save_model(model, tmp_path / "model.safetensors")
    loaded = fastiqa.load_model(tmp_path / "model.safetensors")
    assert {block.memory for block in loaded.modules() if isinstance(block, SERes2Block)} == {"off"}


def test_an_accelerated_network_has_the_choice() -> None:
    model: Any = reference.PRFNet(**SMALL)
    fastiqa.accelerate(model)
    model.set_memory("lean")
    assert {block.memory for block in model.modules() if isinstance(block, SERes2Block)} == {"lean"}


@pytest.mark.parametrize("make", [lambda: network("low"), lambda: network().set_memory("low")], ids=["new", "set"])
def test_another_level_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^level: got 'low', want one of 'off', 'lean', 'least'$"):
        make()


def test_a_graph_that_is_kept_goes_backward_again() -> None:
    """The smallest level alone: PyTorch's selective checkpoints, which "lean" is made of, allow one pass and say so."""
    model = network("least")
    loss = model(*images()).sum()
    parameters = list(model.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    again = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@every_level
def test_gradients_of_torch_func(level: str) -> None:
    """They have no hooks for saved tensors, so nothing is recomputed, and results are the same."""
    model = network(level)
    parameters = dict(model.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(model, (weights, buffers), tuple(images()))
        return output.sum()

    got = torch.func.grad(loss)(parameters, buffers)
    want = step(network(), images())
    for name, gradient in got.items():
        scale = float(want[name].abs().max()) or 1.0
        torch.testing.assert_close(gradient, want[name], rtol=0, atol=1e-9 * scale)
