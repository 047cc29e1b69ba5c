"""symmetric=True: the odd part of the plain logit, exactly antisymmetric however the network runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa import models, reference
from support.oracles import randomise

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8, "hidden": 9}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "wide gates": {"gate_kernel": 3, "upsample": "nearest"},
    "norm": {"cross_norm": True},
    "fpn": {"fusion": "fpn"},
    "bifpn": {"fusion": "bifpn"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def network(kind: Any = models.PRFNet, **options: Any) -> Any:
    model = kind(**SMALL, **{"symmetric": True, **options}).eval()
    randomise(model)
    return model


def triplet(dtype: torch.dtype = torch.float32, h: int = 66, w: int = 43) -> tuple[Tensor, ...]:
    """Noise with a colour of its own in every image; three of each."""
    generator = torch.Generator().manual_seed(4)
    colours = torch.rand(3, 3, 3, 1, 1, generator=generator)
    ref, a, b = (colours * torch.rand(3, 3, 3, h, w, generator=generator)).to(dtype)
    return ref, a, b


def assert_antisymmetric(model: Any, ref: Tensor, a: Tensor, b: Tensor) -> None:
    forth, back = model(ref, a, b), model(ref, b, a)
    assert forth.abs().min() > 0
    assert torch.equal(forth, -back)
    assert torch.equal(model.probability(ref, a, a), torch.full((len(ref),), 0.5))


@every_option
@every_dtype
@pytest.mark.parametrize("kind", [reference.PRFNet, models.PRFNet], ids=["plain", "fused"])
@torch.no_grad()
def test_exchanged_candidates_give_the_negative_logit(kind: Any, dtype: torch.dtype, options: dict[str, Any]) -> None:
    model = network(kind, **options).to(dtype)
    for size in ((66, 43), (33, 64)):
        assert_antisymmetric(model, *triplet(dtype, *size))
    model.to(memory_format=torch.channels_last)
    assert_antisymmetric(model, *triplet(dtype))


@every_option
@every_dtype
def test_optimized_networks_are_antisymmetric_too(dtype: torch.dtype, options: dict[str, Any]) -> None:
    model = network(**options)
    for passes in ("batch", "three"):
        fast = fastiqa.optimize_for_inference(model, dtype, passes=passes)
        assert fast.symmetric
        assert_antisymmetric(fast, *triplet(dtype))
    want = model.double().probability(*triplet(torch.float64)).detach()
    torch.testing.assert_close(fast.probability(*triplet(dtype)), want, rtol=0, atol=5e-3, check_dtype=False)


@torch.no_grad()
def test_a_compiled_head_is_antisymmetric() -> None:
    """The head alone: the trace of the backbone, which the option leaves as it is, takes ten times as long."""
    model = network()
    compiled = torch.compile(model.head, fullgraph=True, backend="eager")
    ref, a, b = map(model.encode, triplet())
    assert torch.equal(compiled(ref, a, b), -compiled(ref, b, a))
    assert torch.equal(compiled(ref, a, a), torch.zeros(3))
    torch.testing.assert_close(compiled(ref, a, b), model.head(ref, a, b), rtol=1e-5, atol=1e-6)


@every_option
@pytest.mark.parametrize("kind", [reference.PRFNet, models.PRFNet], ids=["plain", "fused"])
@torch.no_grad()
def test_the_logit_is_the_odd_part_of_the_plain_one(kind: Any, options: dict[str, Any]) -> None:
    model, plain = network(kind, **options).double(), kind(**SMALL, **options).double().eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    maps = [plain.encode(image) for image in triplet(torch.float64)]
    ref, a, b = maps
    want = (plain.head(ref, a, b) - plain.head(ref, b, a)) / 2
    assert want.std() > 1e-3
    torch.testing.assert_close(model.head(ref, a, b), want, rtol=1e-9, atol=1e-12)
    packed = [torch.cat(stage) for stage in zip(*maps, strict=True)]
    torch.testing.assert_close(model.head(packed), want, rtol=1e-9, atol=1e-12)
    if "fusion" not in options:
        logits, gates = model.head(*maps, return_gates=True)
        torch.testing.assert_close(logits, want, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gates, plain.head(*maps, return_gates=True)[1], rtol=1e-9, atol=1e-12)


@every_option
def test_training_equals_plain(options: dict[str, Any]) -> None:
    """Both orders drop the same units, so the logit of a step is antisymmetric, and equal images give 0."""
    plain, fused = (network(kind, **options).double().train() for kind in (reference.PRFNet, models.PRFNet))
    fused.load_state_dict(plain.state_dict())
    ref, a, b = triplet(torch.float64)
    gradients = []
    for model in (plain, fused):
        inputs = [x.clone().requires_grad_() for x in (ref, a, b)]
        torch.manual_seed(2)
        logits = model(*inputs)
        (logits * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
        named = dict(model.named_parameters()) | dict(zip(("ref", "a", "b"), inputs, strict=True))
        assert all(tensor.grad is not None for tensor in named.values()), "a parameter without a gradient"
        gradients.append({name: tensor.grad for name, tensor in named.items()} | {"logits": logits.detach()})
        torch.manual_seed(2)
        assert torch.equal(model(ref, b, a), -logits)
        assert torch.equal(model(ref, a, a), torch.zeros(3))
    assert gradients[0]["logits"].std() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-11, atol=1e-12)


def test_images_pass_the_backbone_once() -> None:
    model, passes = network(), []
    model.backbone.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    model(*triplet())
    assert passes == [3, 3, 3]


def test_the_default_is_as_before(tmp_path: Path) -> None:
    """No key, no option, no number of networks without it changes."""
    model, plain = network(), network(symmetric=False)
    assert not plain.symmetric
    assert "symmetric" not in plain.options
    assert model.options == {**plain.options, "symmetric": True}
    assert list(model.state_dict()) == list(plain.state_dict())
    path, plain_path = tmp_path / "symmetric.safetensors", tmp_path / "plain.safetensors"
    fastiqa.save_model(model, path)
    fastiqa.save_model(plain, plain_path)
    again = fastiqa.load_model(path)
    assert again.symmetric
    assert torch.equal(again(*triplet()), model(*triplet()))
    assert not fastiqa.load_model(plain_path).symmetric
    assert fastiqa.create_model("prfnet", path, symmetric=True).symmetric
    with pytest.raises(ValueError, match=r"symmetric\.safetensors: saved with symmetric=True, asked for False$"):
        fastiqa.create_model("prfnet", path, symmetric=False)
    with pytest.raises(ValueError, match=r"plain\.safetensors: saved without symmetric, asked for True$"):
        fastiqa.create_model("prfnet", plain_path, symmetric=True)
    with pytest.raises(ValueError, match=r"^symmetric: got 1, want True or False$"):
        models.PRFNet(symmetric=1)


def test_one_order_ranks_as_both() -> None:
    model = network()
    compared: list[int] = []
    model.head.register_forward_hook(lambda module, args, out: compared.append(1))
    ref, candidates = triplet()[0][:1], torch.cat(triplet()[1:])
    one, both = (fastiqa.rank(model, ref, candidates, both_orders=flag) for flag in (False, True))
    assert len(compared) == 15 * 2
    assert torch.equal(one.probability, both.probability)
    shuffle = [3, 0, 5, 4, 1, 2]
    other = fastiqa.rank(model, ref, candidates[shuffle])
    torch.testing.assert_close(other.probability, one.probability[shuffle][:, shuffle], rtol=0, atol=1e-15)
