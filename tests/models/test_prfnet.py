"""PRFNet: the fused model against the plain one, the plain one against its equations."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastiqa import models, reference
from fastiqa import nn as fast_nn
from support import cases
from support.oracles import randomise

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 4, "hidden": 8}

COMBINATIONS = [
    {"fusion": "prf", "cross_kernel": ck, "cross_norm": norm, "gate_kernel": gk, "upsample": up}
    for ck, norm, gk, up in itertools.product((1, 3), (False, True), (1, 3), ("bilinear", "nearest"))
] + [
    {"fusion": fusion, "cross_kernel": ck, "cross_norm": norm}
    for fusion, ck, norm in itertools.product(("fpn", "bifpn"), (1, 3), (False, True))
]
OTHERS = [
    {"first_stage_stride": 4, "layers": (1, 2, 1, 1)},
    {"cross_channels": 6, "cross_kernel": 5},
    {"cross_channels": (3, 5, 2, 7), "scale": 3, "se_reduction": 4},
]


def name_of(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items())


def pair(seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """The plain and the fused model with the same weights, in eval mode."""
    torch.manual_seed(seed)
    plain, fused = reference.PRFNet(**{**SMALL, **options}), models.PRFNet(**{**SMALL, **options})
    randomise(plain, seed)
    fused.load_state_dict(plain.state_dict(), strict=True)
    return plain.eval(), fused.eval()


def triplet(n: int = 2, h: int = 65, w: int = 47, seed: int = 1, **kind: Any) -> tuple[Tensor, ...]:
    """Noise with a colour of its own in every image, so that pooled features differ too."""
    generator = torch.Generator().manual_seed(seed)
    noise, colour = torch.rand(3, n, 3, h, w, generator=generator), torch.rand(3, n, 3, 1, 1, generator=generator)
    ref, a, b = (noise * colour).to(**kind)
    return ref, a, b


@pytest.mark.parametrize("options", COMBINATIONS + OTHERS, ids=name_of)
@torch.no_grad()
def test_fused_equals_plain(options: dict[str, Any]) -> None:
    plain, fused = pair(**options)
    images = triplet(n=3)
    want = plain(*images)
    assert want.std() > 2e-3, "a thousand times the tolerance: the logits must depend on the images"
    torch.testing.assert_close(fused(*images), want, rtol=1e-6, atol=2e-6)
    images = tuple(x.to(memory_format=torch.channels_last) for x in images)
    torch.testing.assert_close(fused.to(memory_format=torch.channels_last)(*images), want, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("options", COMBINATIONS + OTHERS, ids=name_of)
def test_training_equals_plain(options: dict[str, Any]) -> None:
    """One step in training mode, float64: logits, every gradient, and the running statistics."""
    plain, fused = (model.double().train() for model in pair(**options))
    images = triplet(n=3, h=40, w=33, dtype=torch.float64)
    gradients = []
    for model in (plain, fused):
        inputs = [x.clone().requires_grad_() for x in images]
        torch.manual_seed(2)  # the same units drop out
        logits = model(*inputs)
        (logits * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
        named = dict(model.named_parameters()) | dict(zip(("ref", "a", "b"), inputs, strict=True))
        assert all(tensor.grad is not None for tensor in named.values()), "a parameter without a gradient"
        gradients.append({name: tensor.grad for name, tensor in named.items()} | {"logits": logits.detach()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cross_subtraction_is_one_convolution(kernel: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain, fused = reference.CrossSubtraction(6, 4, kernel), fast_nn.CrossSubtraction(6, 4, kernel)
    fused.load_state_dict(plain.state_dict())
    maps = [torch.randn(2, 6, 9, 7).to(memory_format=memory_format) for _ in range(3)]
    with torch.profiler.profile() as profile:
        got = fused(*maps)
    assert sum(event.name == "aten::convolution" for event in profile.events()) == 1
    assert got.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(got, plain(*maps), rtol=1e-6, atol=1e-6)


def test_halves_of_the_difference() -> None:
    """Swapping a and b swaps the halves; equal a and b give equal halves."""
    for block in (reference.CrossSubtraction(6, 4), fast_nn.CrossSubtraction(6, 4)):
        ref, a, b = torch.randn(3, 2, 6, 9, 7)
        half_a, half_b = block(ref, a, b).chunk(2, 1)
        assert not torch.equal(half_a, half_b)
        swapped = torch.cat([half_b, half_a], 1)
        torch.testing.assert_close(block(ref, b, a), swapped, rtol=1e-6, atol=1e-6)
        half_a, half_b = block(ref, a, a).chunk(2, 1)
        torch.testing.assert_close(half_a, half_b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", pair(seed=5), ids=["plain", "fused"])
@torch.no_grad()
def test_swapping_the_candidates_swaps_the_weights(model: Any) -> None:
    """f(ref, b, a) equals f(ref, a, b) with the weights for the halves of D exchanged."""
    images = ref, a, b = triplet()
    want = model(ref, b, a)
    assert (want - model(*images)).abs().max() > 0.02
    exchanged: Any = models.PRFNet(**model.options).eval()
    exchanged.load_state_dict(model.state_dict())
    for gate in exchanged.head.fusion.gates:
        gate.weight.copy_(gate.weight.roll(gate.weight.shape[1] // 2, 1))
    first = exchanged.head.mlp[0]
    first.weight.copy_(first.weight.roll(first.weight.shape[1] // 2, 1))
    torch.testing.assert_close(exchanged(*images), want, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("model_class", [reference.PRFNet, models.PRFNet])
@torch.no_grad()
def test_head_is_the_papers_equations(model_class: type[reference.PRFNet]) -> None:
    """Differences, gates, pooling and MLP written out in NumPy: 1×1 kernels, nearest upsampling, even sizes."""
    model = model_class(**SMALL, cross_kernel=1, gate_kernel=1, upsample="nearest").eval().double()
    randomise(model, 3)
    maps = [
        [torch.randn(2, c, 16 >> i, 24 >> i, dtype=torch.float64) for i, c in enumerate(model.backbone.channels)]
        for _ in range(3)
    ]
    weights = {key: value.numpy() for key, value in model.state_dict().items()}

    def conv(x: Any, name: str) -> Any:
        return (
            np.einsum("kc,nchw->nkhw", weights[f"{name}.weight"][..., 0, 0], x) + weights[f"{name}.bias"][:, None, None]
        )

    ref, a, b = ([x.numpy() for x in features] for features in maps)
    d = [np.concatenate([conv(ref[i] - x[i], f"head.cross.{i}.conv") for x in (a, b)], 1) for i in range(4)]
    fused = d[3]
    for i in (2, 1, 0):
        gate = 1 / (1 + np.exp(-conv(fused, f"head.fusion.gates.{i}").mean(1, keepdims=True)))
        fused = gate.repeat(2, 2).repeat(2, 3) * d[i]
    hidden = np.maximum(fused.mean((2, 3)) @ weights["head.mlp.0.weight"].T + weights["head.mlp.0.bias"], 0)
    want = (hidden @ weights["head.mlp.3.weight"].T + weights["head.mlp.3.bias"])[:, 0]
    np.testing.assert_allclose(model.compare(*maps).numpy(), want, rtol=1e-6)  # the logits are float32


@torch.no_grad()
def test_normalisation() -> None:
    model = pair()[0]
    image = triplet()[0]
    normalised = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    for got, want in zip(model.encode(image), model.backbone(normalised), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (65, 47), (16, 100)])
@pytest.mark.parametrize("fusion", ["prf", "fpn", "bifpn"])
@torch.no_grad()
def test_encode_then_compare_is_forward(fusion: str, size: tuple[int, int]) -> None:
    for model in pair(fusion=fusion):
        images = triplet(2, *size)
        want = model(*images)
        assert want.shape == (2,)
        assert want.dtype == torch.float32
        torch.testing.assert_close(model.compare(*map(model.encode, images)), want, rtol=0, atol=0)
        torch.testing.assert_close(model.probability(*images), torch.sigmoid(want), rtol=0, atol=0)
        singles = torch.cat([model(*(x[i : i + 1] for x in images)) for i in range(2)])
        torch.testing.assert_close(singles, want, rtol=1e-5, atol=2e-6)
        assert model(*(x[:0] for x in images)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_results_are_float32(dtype: torch.dtype) -> None:
    for model in pair():
        images = triplet()
        want = model(*images)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(*images)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
        model.to(dtype)
        got = model.probability(*(x.to(dtype) for x in images))
        assert got.dtype == torch.float32
        tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(got, torch.sigmoid(want), rtol=0, atol=tolerance)


@torch.no_grad()
def test_state_dict_holds_trained_values_only() -> None:
    plain, fused = pair(cross_norm=True)
    assert list(plain.state_dict()) == list(fused.state_dict())
    assert not {"mean", "std"} & set(plain.state_dict())
    other = reference.PRFNet(**SMALL, cross_norm=True).eval()
    other.load_state_dict(fused.state_dict(), strict=True)
    images = triplet()
    torch.testing.assert_close(other(*images), plain(*images), rtol=0, atol=0)


def test_options_rebuild_the_model() -> None:
    model = models.PRFNet(**SMALL, cross_channels=(3, 5, 2, 7), fusion="fpn", dropout=0.25)
    options = json.loads(json.dumps(model.options))
    again = models.PRFNet(**options)
    assert again.options == model.options
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_full_size_on_meta() -> None:
    model = models.PRFNet().eval().to("meta")
    images = torch.zeros(3, 1, 3, 448, 448, device="meta")
    assert [tuple(x.shape[1:]) for x in model.encode(images[0])] == [
        (256, 224, 224), (512, 112, 112), (1024, 56, 56), (2048, 28, 28)
    ]  # fmt: skip
    assert model(*images).shape == (1,)


# Inductor in make test-all alone: it takes over a minute, and test_inference compiles the backbone to C++, test_nn and
# test_torch the rest.
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"] if cases.ALL else ["aot_eager"])
@torch.no_grad()
def test_compile(backend: str) -> None:
    # C++ of the plain model takes minutes, and is PyTorch's own affair; with four scales that of the other does too.
    for model in pair(scale=2)[1:] if backend == "inductor" else pair():
        images = triplet()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(*images), model(*images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_export_and_vmap() -> None:
    for model in pair():
        images = triplet()
        want = model(*images)
        torch.testing.assert_close(torch.export.export(model, images).module()(*images), want, rtol=1e-6, atol=1e-6)
        stacked = [torch.stack([x, x.flip(0)]) for x in images]
        torch.testing.assert_close(torch.vmap(model)(*stacked), torch.stack([want, want.flip(0)]), rtol=1e-5, atol=1e-5)


GOOD = torch.full((1, 3, 64, 64), 0.5)
BAD_IMAGES = [
    (GOOD[..., :48], ValueError, "got shape (1, 3, 64, 48), want that of ref, (1, 3, 64, 64)"),
    (GOOD.repeat(2, 1, 1, 1), ValueError, "got shape (2, 3, 64, 64), want that of ref, (1, 3, 64, 64)"),
    (GOOD[0], ValueError, "got shape (3, 64, 64), want (N, 3, H, W)"),
    (GOOD[:, :1], ValueError, "got shape (1, 1, 64, 64), want (N, 3, H, W)"),
    (GOOD.movedim(1, 3), ValueError, "got shape (1, 64, 64, 3), want (N, 3, H, W)"),
    (GOOD.double(), TypeError, "got dtype torch.float64, want that of ref, torch.float32"),
    (GOOD.byte(), TypeError, "got dtype torch.uint8, want floating point in [0, 1]: convert it and divide by 255"),
    (GOOD.long(), TypeError, "got dtype torch.int64, want a floating-point one"),
    (GOOD.to("meta"), ValueError, "got a tensor on meta, want the device of ref, cpu"),
    (GOOD * float("nan"), ValueError, "got values from nan to nan, want finite ones in [0, 1]"),
    (GOOD / 0, ValueError, "got values from inf to inf, want finite ones in [0, 1]"),
    (GOOD * 255, ValueError, "got values from 127.5 to 127.5, want finite ones in [0, 1]"),
    (GOOD - 1, ValueError, "got values from -0.5 to -0.5, want finite ones in [0, 1]"),
    (GOOD.numpy(), TypeError, "got ndarray, want a torch.Tensor"),
]


@pytest.mark.parametrize("argument", ["a", "b"])
@pytest.mark.parametrize(("bad", "kind", "message"), BAD_IMAGES, ids=[message for _, _, message in BAD_IMAGES])
def test_bad_images(argument: str, bad: Any, kind: type[Exception], message: str) -> None:
    arguments = {"ref": GOOD, "a": GOOD, "b": GOOD, argument: bad}
    for method in (CHECKED, CHECKED.probability):
        with pytest.raises(kind) as error:
            method(**arguments)
        assert str(error.value) == f"{argument}: {message}"


CHECKED = models.PRFNet(**SMALL).eval()


def one_nan() -> Tensor:
    image = GOOD.clone()
    image[0, 2, 63, 63] = float("nan")
    return image


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (GOOD[..., :15], ValueError, "got shape (1, 3, 64, 15), want H and W of at least 16"),
        (GOOD[:, :, :1], ValueError, "got shape (1, 3, 1, 64), want H and W of at least 16"),
        (GOOD.double(), TypeError, "got dtype torch.float64, want that of the model, torch.float32"),
        (GOOD.to("meta"), ValueError, "got a tensor on meta, want the device of the model, cpu"),
        (one_nan(), ValueError, "got values from nan to nan, want finite ones in [0, 1]"),
        (GOOD[0, 0], ValueError, "got shape (64, 64), want (N, 3, H, W)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_first_image(bad: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        CHECKED(bad, bad, bad)
    assert str(error.value) == f"ref: {message}"
    with pytest.raises(kind) as error:
        CHECKED.encode(bad)
    assert str(error.value) == f"image: {message}"


@torch.no_grad()
def test_bad_features() -> None:
    good = CHECKED.encode(GOOD)
    cases: list[tuple[Any, type[Exception], str]] = [
        (good[:3], ValueError, "a_features: got 3 maps, want 4"),
        (good[0], TypeError, "a_features: got Tensor, want a list of 4 feature maps"),
        (good[::-1], ValueError, "a_features[0]: got shape (1, 128, 4, 4), want (N, 16, H, W)"),
        ([good[0][..., 1:], *good[1:]], ValueError,
         "a_features[0]: got shape (1, 16, 32, 31), want that of ref_features[0], (1, 16, 32, 32)"),
        ([*good[:3], good[3].double()], TypeError,
         "a_features[3]: got dtype torch.float64, want that of ref_features[3], torch.float32"),
    ]  # fmt: skip
    for bad, kind, message in cases:
        with pytest.raises(kind) as error:
            CHECKED.compare(good, bad, good)
        assert str(error.value) == message


@torch.no_grad()
def test_values_are_read_in_eager_mode_only() -> None:
    """Rounding errors pass; compiled and mapped calls do not check."""
    assert CHECKED(GOOD, GOOD * 2.0005, GOOD - 0.5005).isfinite().all()
    wide = GOOD * 3
    assert torch.compile(CHECKED, fullgraph=True, backend="eager")(wide, wide, wide).shape == (1,)
    assert torch.vmap(CHECKED)(wide[None], wide[None], wide[None]).shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_channels": 0}, "cross_channels: got 0, want an integer of at least 1"),
        ({"cross_channels": (1, 2, 3)}, "cross_channels: got (1, 2, 3), want 4 positive integers"),
        ({"cross_channels": "64"}, "cross_channels: got '64', want 4 positive integers"),
        ({"cross_kernel": 2}, "cross_kernel: got 2, want an odd integer of at least 1"),
        ({"cross_norm": 1}, "cross_norm: got 1, want True or False"),
        ({"gate_kernel": 4, "fusion": "fpn"}, "gate_kernel: got 4, want an odd integer of at least 1"),
        ({"upsample": "bicubic"}, "upsample: got 'bicubic', want one of 'bilinear', 'nearest'"),
        ({"fusion": "sum"}, "fusion: got 'sum', want one of 'prf', 'fpn', 'bifpn'"),
        ({"hidden": 0}, "hidden: got 0, want an integer of at least 1"),
        ({"dropout": 1.0}, "dropout: got 1.0, want a number in [0, 1)"),
        ({"first_stage_stride": 3}, "first_stage_stride: got 3, want one of 2, 4"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    for model_class in (reference.PRFNet, models.PRFNet):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            model_class(**options)
        assert str(error.value) == message
