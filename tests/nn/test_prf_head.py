"""PRFNet's head in one pass against the plain blocks: values, gradients, memory, on every backend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fastiqa
from fastiqa import nn as fast_nn
from fastiqa import reference
from support import cases
from support.oracles import randomise

# Channels and sizes of stages: halves rounded up, unrelated sizes, single pixels, one stage.
PYRAMIDS = {
    "halved": [(4, 17, 12), (6, 9, 6), (8, 5, 3), (10, 3, 2)],
    "unrelated": [(3, 13, 7), (5, 4, 6), (4, 3, 3)],
    "one pixel": [(6, 4, 4), (5, 2, 2), (3, 1, 1)],
    "all one pixel": [(4, 1, 1), (4, 1, 1)],
    "one stage": [(5, 6, 7)],
}
KERNELS = [(1, 1), (1, 3), (3, 1), (3, 3)]


def pair(pyramid: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Any]:
    """The plain and the one-pass head with the same weights, without dropout."""
    channels = [c for c, *_ in PYRAMIDS[pyramid]]
    widths = [c // 2 + 1 for c in channels]
    plain = reference.PRFHead(channels, widths, dropout=0, hidden=7, **options)
    fused = fast_nn.PRFHead(channels, widths, dropout=0, hidden=7, **options)
    randomise(plain)
    fused.load_state_dict(plain.state_dict(), strict=True)
    return plain.to(dtype), fused.to(dtype)


def features(pyramid: str, dtype: torch.dtype = torch.float64, channels_last: bool = False) -> list[list[Tensor]]:
    """Maps of a reference and of two images near it."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def image() -> list[Tensor]:
        return [torch.randn(2, *size, dtype=dtype).to(memory_format=memory_format) for size in PYRAMIDS[pyramid]]

    return [[x.requires_grad_() for x in image()] for _ in range(3)]


def gradients(head: Any, maps: Sequence[Sequence[Tensor]], output: Tensor) -> dict[str, Tensor]:
    names = {f"image {i} stage {j}": x for i, of_image in enumerate(maps) for j, x in enumerate(of_image)}
    names |= dict(head.named_parameters())
    weights = torch.arange(1, output.numel() + 1, dtype=output.dtype)
    return dict(zip(names, torch.autograd.grad(output, list(names.values()), weights), strict=True))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize("kernels", KERNELS, ids=str)
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_equals_the_blocks(pyramid: str, kernels: tuple[int, int], upsample: str, channels_last: bool) -> None:
    plain, fused = pair(pyramid, cross_kernel=kernels[0], gate_kernel=kernels[1], upsample=upsample)
    assert fused.why_not() is None
    maps = features(pyramid, channels_last=channels_last)
    want, got = plain(*maps), fused(*maps)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradients(fused, maps, got), gradients(plain, maps, want), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cross_norm": True}, "not linear"),
        ({"fusion": "fpn"}, "FPN needs"),
        ({"fusion": "bifpn"}, "BiFPN needs"),
        ({"cross_kernel": 5}, "cross convolutions of 5x5"),
        ({"gate_kernel": 5}, "gates of 5x5"),
    ],
    ids=str,
)
def test_the_blocks_run_where_one_pass_cannot(options: dict[str, Any], reason: str) -> None:
    plain, fused = pair("halved", **options)
    assert reason in fastiqa.explain(fused)
    maps = features("halved")
    torch.testing.assert_close(fused(*maps), plain(*maps), rtol=1e-11, atol=1e-12)


def test_explain_says_that_one_pass_runs() -> None:
    assert fastiqa.explain(pair("halved")[1]) == "PRFHead runs in one pass over the feature maps"
    with pytest.raises(TypeError, match="op: got Linear, want an operator, its name, or a module with an `explain`"):
        fastiqa.explain(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("index", [0, 1], ids=["plain", "fused"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_packed_maps_are_three_lists(index: int, channels_last: bool) -> None:
    head = pair("halved", gate_kernel=3)[index]
    maps = features("halved", channels_last=channels_last)
    packed = [torch.cat([x.detach() for x in stage]).requires_grad_() for stage in zip(*maps, strict=True)]
    want, got = head(*maps), head(packed)
    assert torch.equal(got, want)
    single = torch.autograd.grad(want.sum(), list(itertools.chain(*zip(*maps, strict=True))))
    for k, whole in enumerate(torch.autograd.grad(got.sum(), packed)):
        assert torch.equal(whole, torch.cat(single[3 * k : 3 * k + 3]))
        assert whole.stride() == packed[k].stride()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_the_gradient_of_packed_maps_is_written_in_one_piece(channels_last: bool) -> None:
    """No backward pass joins three gradients of maps, except with `create_graph`, for a differentiable one."""
    _, head = pair("halved", gate_kernel=3)
    maps = features("halved", channels_last=channels_last)
    packed = [torch.cat([x.detach() for x in stage]).requires_grad_() for stage in zip(*maps, strict=True)]
    logits = head(packed)
    with torch.profiler.profile() as profile:
        grads = torch.autograd.grad(logits.sum(), packed, retain_graph=True)
    assert not [event for event in profile.events() if event.name == "aten::cat"]
    again = torch.autograd.grad(logits.sum(), packed, create_graph=True)
    torch.testing.assert_close(again, grads, rtol=1e-12, atol=1e-13)
    sizes = torch.stack([g.square().sum() for g in again]).sum()
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(sizes, packed, retain_graph=True))
    # Batches of gradients have no memory to compare: is_grads_batched, jacobian(vectorize=True).
    batch = torch.autograd.grad(logits, packed, torch.ones(2, *logits.shape).double(), is_grads_batched=True)
    torch.testing.assert_close([g[1] for g in batch], list(grads), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernels", KERNELS, ids=str)
def test_gates_are_those_of_the_blocks(kernels: tuple[int, int]) -> None:
    plain, fused = pair("halved", cross_kernel=kernels[0], gate_kernel=kernels[1])
    maps = features("halved")
    (logits, gates), (want, wanted) = fused(*maps, return_gates=True), plain(*maps, return_gates=True)
    assert [tuple(g.shape) for g in gates] == [(2, 1, h, w) for _, h, w in PYRAMIDS["halved"][1:]]
    torch.testing.assert_close((logits, gates), (want, wanted), rtol=1e-12, atol=1e-13)
    assert torch.equal(logits, fused(*maps))


@torch.no_grad()
def test_swapping_the_candidates_swaps_the_weights() -> None:
    """f(ref, b, a) equals f(ref, a, b) with exchanged weights for the halves of the differences."""
    _, head = pair("halved", gate_kernel=3)
    ref, a, b = features("halved")
    want = head(ref, b, a)
    assert (want - head(ref, a, b)).abs().max() > 1e-3
    for gate in head.fusion.gates:
        gate.weight.copy_(gate.weight.roll(gate.weight.shape[1] // 2, 1))
    head.mlp[0].weight.copy_(head.mlp[0].weight.roll(head.mlp[0].weight.shape[1] // 2, 1))
    torch.testing.assert_close(head(ref, a, b), want, rtol=1e-12, atol=1e-13)


@torch.no_grad()
def test_equal_images_differ_from_the_reference_alike() -> None:
    """With b = a both halves of the MLP's input are equal; with both equal to the reference only biases remain."""
    _, head = pair("halved")
    ref, a, _ = features("halved")
    first, second = head._pooled(ref, a, a, False)[0].chunk(2, 1)
    torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-14)
    other = features("halved")[0]
    torch.testing.assert_close(head(ref, ref, ref), head(other, other, other), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("backend", cases.BACKENDS if cases.ALL else cases.BACKENDS[:2])
def test_gradcheck(backend: str) -> None:
    """All backends share the formulas; test_ops.py tests each backend's gradients."""
    head = fast_nn.PRFHead((2, 3), (2, 2), cross_kernel=3, gate_kernel=3, hidden=3, dropout=0).double()
    randomise(head)
    maps = [torch.randn(1, c, s, s + 1, dtype=torch.float64) for _ in range(3) for c, s in ((2, 4), (3, 2))]
    leaves = [x.requires_grad_() for x in maps]

    def run(*x: Tensor) -> Tensor:
        result: Tensor = head(x[0:2], x[2:4], x[4:6])
        return result

    with cases.backend(backend):
        assert torch.autograd.gradcheck(run, leaves, fast_mode=backend in ("triton", "cuda"))


@pytest.mark.parametrize("dtype", cases.DTYPES[1:], ids=str)
def test_low_precision_is_as_exact_as_the_blocks(dtype: torch.dtype) -> None:
    """At most twice as far from float64 as the blocks, over several draws; sums over 112² pixels do not overflow."""
    channels, widths = (16, 24, 32), (6, 8, 8)
    errors: list[tuple[float, float]] = []
    for seed in range(4):
        torch.manual_seed(seed)
        plain = reference.PRFHead(channels, widths, gate_kernel=3, dropout=0)
        fused = fast_nn.PRFHead(channels, widths, gate_kernel=3, dropout=0)
        fused.load_state_dict(plain.state_dict())
        maps = [[torch.randn(1, c, 112 >> i, 112 >> i).to(dtype) for i, c in enumerate(channels)] for _ in range(3)]
        plain, fused = plain.to(dtype), fused.to(dtype)
        got, eager = fused(*maps), plain(*maps)
        exact = plain.double()(*[[x.double() for x in image] for image in maps])
        errors.append((float((got - exact).abs().max()), float((eager - exact).abs().max())))
    assert max(e for e, _ in errors) <= 2 * max(e for _, e in errors) + torch.finfo(dtype).eps


def test_what_is_saved_is_the_features_and_little_else() -> None:
    """Bytes beyond the feature maps and the parameters: at most 2 % of those of the blocks."""
    channels, sizes = (64, 128, 256), (56, 28, 14)
    plain, fused = reference.PRFHead(channels), fast_nn.PRFHead(channels)
    maps = [[torch.randn(1, c, s, s, requires_grad=True) for c, s in zip(channels, sizes, strict=True)] for _ in "rab"]

    def saved(head: Any) -> int:
        known = {x.untyped_storage().data_ptr() for x in [*head.parameters(), *itertools.chain(*maps)]}
        storages: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            kept = head(*maps)
        del kept
        return sum(nbytes for address, nbytes in storages.items() if address not in known)

    weights = sum(p.numel() * p.element_size() for p in fused.parameters())
    assert saved(fused) <= 0.02 * saved(plain) + weights / 10


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(lower: torch.dtype) -> None:
    plain, fused = pair("halved", torch.float32, gate_kernel=3)
    maps = features("halved", torch.float32)
    exact = plain(*maps)
    with torch.autocast("cpu", lower):
        got, want = fused(*maps), plain(*maps)
    assert got.dtype == want.dtype
    assert (got - exact).abs().max() <= 2 * (want - exact).abs().max() + 8 * torch.finfo(lower).eps
    assert all(g.dtype == torch.float32 for g in gradients(fused, maps, got).values())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic: bool) -> None:
    _, fused = pair("halved", torch.float32, gate_kernel=3)
    maps = features("halved", torch.float32)
    compiled = torch.compile(fused, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    got = compiled(*maps)
    want = fused(*maps)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(fused, maps, got), gradients(fused, maps, want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [reference.PRFHead, fast_nn.PRFHead])
def test_bad_input(block: type[reference.PRFHead]) -> None:
    head = block((4, 6))
    maps = [torch.zeros(3, 4, 8, 8), torch.zeros(3, 6, 4, 4)]
    with pytest.raises(TypeError, match="b_features: got None"):
        head(maps, maps)
    with pytest.raises(ValueError, match=r"ref_features\[0\]: got shape \(2, 4, 8, 8\), want three images"):
        head([x[:2] for x in maps])
    with pytest.raises(ValueError, match="a_features: got 1 maps, want 2"):
        head(maps, maps[:1], maps)
    with pytest.raises(ValueError, match=r"b_features\[1\]: got shape \(3, 6, 4, 3\), want that of ref_features\[1\]"):
        head(maps, maps, [maps[0], maps[1][..., :3]])
    with pytest.raises(ValueError, match="return_gates: got True, want False where FPN has no gates"):
        block((4, 6), fusion="fpn")(maps, maps, maps, return_gates=True)
    with pytest.raises(ValueError, match="cross_channels: got"):
        block((4, 6), (1, 2, 3))
    with pytest.raises(ValueError, match="dropout: got 1"):
        block((4, 6), dropout=1)
