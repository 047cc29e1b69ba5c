"""The drop-in modules against their plain twins, the twins against their equations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, interpolate, leaky_relu
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

import fastiqa
from fastiqa import nn as fast_nn
from fastiqa import reference
from fastiqa.ops import octave_split
from support import cases
from support.oracles import randomise

CHANNELS_LAST = torch.channels_last


def plainly(module: nn.Module, *inputs: Tensor) -> Any:
    return module(*inputs)


def listed(module: nn.Module, *inputs: Tensor) -> Any:
    return module(list(inputs))


class Case(NamedTuple):
    """A module of both packages, its options and the shapes of its inputs; `call` passes them."""

    name: str
    options: dict[str, Any]
    shapes: Sequence[tuple[int, ...]]
    call: Callable[..., Any] = plainly

    def __str__(self) -> str:
        return f"{self.name}({','.join(f'{key}={value}' for key, value in self.options.items())};{len(self.shapes)})"

    def build(self, *libraries: ModuleType) -> Any:
        """The module of the first library that has it. Modules among the options are copied: each has its own hooks."""
        constructor = next(getattr(library, self.name) for library in libraries if hasattr(library, self.name))
        return constructor(**copy.deepcopy(self.options))


def activated(module: nn.Module, high: Tensor, *low: Tensor) -> Any:
    """The caller passes the pooled map, as after an activation."""
    act = leaky_relu(high, 0.2)
    return module(act, *low, pooled=avg_pool2d(act, 2, ceil_mode=True, count_include_pad=False))


PYRAMID = [(2, 3, 21, 16), (2, 5, 11, 8), (2, 4, 6, 4), (2, 6, 3, 2)]
UNRELATED = [(2, 3, 17, 9), (2, 5, 5, 8), (2, 4, 6, 3)]
BOTH = [(2, 6, 9, 10), (2, 2, 5, 5)]  # branches of eight channels, a quarter of them low
CASES = [
    *(
        Case("ProgressiveFusion", {"channels": [c for _, c, *_ in maps], "gate_kernel": k, "upsample": up}, maps,
             listed)
        for maps, k, up in [
            (PYRAMID, 1, "bilinear"), (PYRAMID, 3, "nearest"), (UNRELATED, 3, "bilinear"), (PYRAMID[:1], 1, "nearest")
        ]
    ),
    Case("HighPass", {}, [(2, 3, 9, 8)]),
    Case("BatchNormAct2d", {"num_features": 12}, [(3, 12, 7, 5)]),
    Case("BatchNormAct2d", {"num_features": 5, "negative_slope": 0.2, "momentum": None}, [(2, 5, 4, 3)]),
    Case("BatchNormAct2d", {"num_features": 7, "negative_slope": 1.0}, [(2, 7, 5, 3)]),
    Case("SqueezeExcitation", {"channels": 12, "reduction": 4}, [(3, 12, 7, 5)]),
    Case("SqueezeExcitation", {"channels": 12, "reduction": 4}, [(3, 12, 7, 5)] * 2),
    Case("LargeKernelAttention", {"dim": 20}, [(2, 20, 13, 21)]),
    Case("AttentionalFeatureFusion", {"channels": 8}, [(3, 8, 7, 5)] * 2),
    Case("AttentionalFeatureFusion", {"channels": 8, "reduction": 3, "doubled": True}, [(3, 8, 7, 5)] * 2),
    Case("OctaveConv2d", {"in_channels": 6, "out_channels": 8, "alpha_in": 0, "alpha_out": 0.25}, BOTH[:1]),
    *(
        Case("OctaveConv2d", {"in_channels": 8, "out_channels": 7, "kernel_size": k, "alpha_in": 0.25, "alpha_out": out,
                              "stride": stride, "bias": bias}, BOTH, call)
        for k, out, stride, bias, call in [
            (3, 0.5, 1, False, plainly), (3, 0.5, 2, True, plainly), (1, 0.3, 1, True, plainly),
            (5, 0, 1, False, plainly), (3, 0, 2, True, plainly),
            (3, 0.5, 1, False, activated), (3, 0.5, 2, False, activated),
        ]
    ),
    Case("OctaveConv2d", {"in_channels": 6, "out_channels": 4, "alpha_in": 0, "alpha_out": 0, "bias": True}, BOTH[:1]),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def pair(case: Case, dtype: torch.dtype = torch.float64, training: bool = False) -> tuple[Any, Any]:
    """The plain and the fused module with the same weights."""
    plain, fused = case.build(reference), case.build(fast_nn)
    randomise(plain)
    fused.load_state_dict(plain.state_dict(), strict=True)
    return plain.to(dtype).train(training), fused.to(dtype).train(training)


def inputs_of(case: Case, dtype: torch.dtype = torch.float64, channels_last: bool = False) -> list[Tensor]:
    memory_format = CHANNELS_LAST if channels_last else torch.contiguous_format
    return [torch.randn(shape, dtype=dtype).to(memory_format=memory_format) for shape in case.shapes]


def tensors(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple) else (result,)
    return [x for x in results if x is not None]


def step(case: Case, module: nn.Module, inputs: Sequence[Tensor], run: Any = None) -> dict[str, Any]:
    """Results, and every gradient and statistic, by name, after a backward pass."""
    leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    results = tensors(case.call(module if run is None else run, *leaves))
    generator = torch.Generator().manual_seed(1)
    module.zero_grad()
    torch.autograd.backward(results, [torch.randn(y.shape, dtype=y.dtype, generator=generator) for y in results])
    found: dict[str, Any] = {f"result {i}": y.detach() for i, y in enumerate(results)}
    found |= {f"input {i}": x.grad for i, x in enumerate(leaves)}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(value is not None for value in found.values()), "an input or parameter without a gradient"
    return found | dict(module.named_buffers())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@every_case
def test_equals_the_twin(case: Case, training: bool, channels_last: bool) -> None:
    plain, fused = pair(case, training=training)
    inputs = inputs_of(case, channels_last=channels_last)
    if channels_last:
        plain, fused = plain.to(memory_format=CHANNELS_LAST), fused.to(memory_format=CHANNELS_LAST)
    want = step(case, plain, inputs)
    got = step(case, fused, inputs)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    for i, y in enumerate(tensors(case.call(plain, *inputs))):
        for memory_format in (torch.contiguous_format, CHANNELS_LAST):
            if y.is_contiguous(memory_format=memory_format):
                assert tensors(case.call(fused, *inputs))[i].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@every_case
def test_float32_is_as_exact_as_the_twin(case: Case, training: bool) -> None:
    """Errors against float64, result by result: at most twice the twin's, or some roundings of the largest value."""
    exact, _ = pair(case, training=training)
    inputs = inputs_of(case, torch.float32)
    truth = step(case, exact, [x.double() for x in inputs])
    eager, got = (step(case, module, inputs) for module in pair(case, torch.float32, training))
    for name, want in truth.items():
        allowed = 2 * (eager[name] - want).abs().max() + 8 * 2**-24 * want.abs().max()
        assert (got[name] - want).abs().max() <= allowed, name


@every_case
def test_state_dict_both_ways(case: Case) -> None:
    plain, fused = pair(case)
    assert list(plain.state_dict()) == list(fused.state_dict())
    randomise(fused, 7)
    plain.load_state_dict(fused.state_dict(), strict=True)
    inputs = inputs_of(case)
    torch.testing.assert_close(case.call(fused, *inputs), case.call(plain, *inputs), rtol=1e-11, atol=1e-12)
    again = copy.deepcopy(fused)
    torch.testing.assert_close(case.call(again, *inputs), case.call(fused, *inputs), rtol=0, atol=0)


# A fusion of one map returns that map, and Inductor fails to compile a module that returns its argument.
COMPILED = [(case, "aot_eager") for case in CASES] + [
    pytest.param(case, "inductor", marks=pytest.mark.slow)
    for case in CASES[:: 1 if cases.ALL else 4]
    if not (case.name == "ProgressiveFusion" and len(case.options["channels"]) == 1)
]


@pytest.mark.parametrize(("case", "backend"), COMPILED, ids=str)
def test_compile(case: Case, backend: str) -> None:
    _, fused = pair(case, torch.float32)
    inputs = inputs_of(case, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True, backend=backend)
    torch.testing.assert_close(step(case, fused, inputs, compiled), step(case, fused, inputs), rtol=1e-5, atol=1e-5)


@every_case
def test_autocast(case: Case) -> None:
    """The twin's dtypes; errors in norm, result by result, at most twice the twin's, in the median of nine draws.

    The median, since a sum that rounding carries over the ReLU's kink changes an element of a gradient completely.
    """
    plain, fused = pair(case, torch.float32)
    norms: dict[str, list[Tensor]] = {}
    for _ in range(9):
        inputs = inputs_of(case, torch.float32)
        truth = step(case, plain, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            want, got = step(case, plain, inputs), step(case, fused, inputs)
        for name, exact in truth.items():
            if not exact.is_floating_point():
                continue  # counts of batches
            assert got[name].dtype == want[name].dtype, name
            parts = (got[name] - exact, want[name] - exact, 4 * torch.finfo(got[name].dtype).eps * exact)
            norms.setdefault(name, []).append(torch.stack([x.float().norm() for x in parts]))
    for name, draws in norms.items():
        error, eager, rounding = torch.stack(draws).median(0).values.tolist()
        assert error <= 2 * eager + rounding, f"{name}: {error / (eager + 1e-30):.3g} times the twin's"


@every_case
@torch.no_grad()
def test_single_pixels_empty_batches_and_vmap(case: Case) -> None:
    plain, fused = pair(case)
    for inputs in (
        [torch.randn((*x.shape[:2], 1, 1), dtype=x.dtype) for x in inputs_of(case)],
        [x[:0] for x in inputs_of(case)],
    ):
        torch.testing.assert_close(case.call(fused, *inputs), case.call(plain, *inputs), rtol=1e-11, atol=1e-12)
    inputs = inputs_of(case)
    mapped = torch.vmap(lambda *x: tuple(tensors(case.call(fused, *x))))(*(torch.stack([x, -x]) for x in inputs))
    for i, sign in enumerate((1, -1)):
        want = tensors(case.call(plain, *(sign * x for x in inputs)))
        torch.testing.assert_close([y[i] for y in mapped], want, rtol=1e-11, atol=1e-12)


# ---- inner layers that are no plain ones: called as by the twin, not read ----


class Adapted(nn.Module):
    """A convolution with a low-rank adapter beside it, as LoRA wraps one; `weight` and `bias` are the base's."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        size = {name: getattr(base, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        self.down = nn.Conv2d(base.in_channels, 2, bias=False, **size).to(base.weight.dtype)
        self.up = nn.Conv2d(2, base.out_channels, 1, bias=False).to(base.weight.dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))  # type: ignore[no-any-return]


class Labelled(Tensor):
    """Weights of a subclass, like sharded or quantised ones."""


def convolutions(module: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    return [(m, name, c) for m in module.modules() for name, c in m.named_children() if type(c) is nn.Conv2d]


def adapt(module: nn.Module) -> None:
    for parent, name, conv in convolutions(module):
        if conv.groups == 1:
            setattr(parent, name, Adapted(conv))


def doubled_by_hooks(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        conv.register_forward_hook(lambda module, args, out: 2 * out)


def doubled_by_forward(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        conv.forward = lambda x, conv=conv: 2 * nn.Conv2d.forward(conv, x)


def normalise_weights(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        nn.utils.parametrizations.weight_norm(conv)


def prune_half(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        prune.l1_unstructured(conv, "weight", 0.5)


def pad_in_circles(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        conv.padding_mode = "circular"
        conv._reversed_padding_repeated_twice = [p for size in reversed(conv.padding) for p in (size, size)]


def label_weights(module: nn.Module) -> None:
    for _, _, conv in convolutions(module):
        conv.weight = nn.Parameter(conv.weight.detach().as_subclass(Labelled))


CHANGES = [adapt, doubled_by_hooks, doubled_by_forward, normalise_weights, prune_half, pad_in_circles, label_weights]
# Modules that read inner layers, and a part of each whose calls a hook observes.
READERS = [
    Case("OctaveConv2d", {"in_channels": 8, "out_channels": 8, "alpha_in": 0.25, "alpha_out": 0.25}, BOTH),
    Case("OctaveConv2d", {"in_channels": 8, "out_channels": 8, "alpha_in": 0.25, "alpha_out": 0.25, "stride": 2}, BOTH),
    Case("LargeKernelAttention", {"dim": 6}, [(2, 6, 9, 10)]),
    Case("ProgressiveFusion", {"channels": (3, 5, 4), "gate_kernel": 3}, PYRAMID[:3], listed),
    Case("CrossSubtraction", {"channels": 6, "cross_channels": 4}, [(2, 6, 9, 10)] * 3),
    Case("PRFHead", {"channels": (3, 5, 4), "gate_kernel": 3}, [(3 * n, *size) for n, *size in PYRAMID[:3]], listed),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("case", READERS, ids=str)
def test_layers_that_are_no_plain_ones_are_called(case: Case, change: Callable[[nn.Module], None]) -> None:
    """Two training steps, the second with other weights: results and all gradients equal the twin's."""
    trained = []
    plain, fused = pair(case)
    for module in (plain, fused):
        torch.manual_seed(1)
        change(module)
        found = []
        for _ in range(2):
            torch.manual_seed(2)
            found.append(step(case, module.eval(), inputs_of(case)))
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(0.9)
        trained.append(found)
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-11, atol=1e-12)
    assert not any(torch.equal(trained[0][0][name], trained[0][1][name]) for name in trained[0][0] if "result" in name)
    name = {"adapt": "Adapted", "doubled_by_hooks": "has hooks", "label_weights": "Labelled"}.get(change.__name__, "")
    # The adapter wraps the 1x1 convolution, which is called; so is the one with other padding.
    if (case.name, change) in (("LargeKernelAttention", adapt), ("CrossSubtraction", pad_in_circles)):
        assert fused.why_not() is None
    else:
        assert f"{case.name} runs block by block, because of this: " in fastiqa.explain(fused)
        assert name in fastiqa.explain(fused)


@pytest.mark.parametrize("case", [*READERS, Case("FeatureFusion", {"channels": 6}, [(2, 6, 9, 10)] * 2)], ids=str)
def test_hooks_of_every_kind_run_as_the_twins(case: Case) -> None:
    """Hooks of single layers, forward and backward, and of all modules: how often they run, and what they see."""

    def seen(module: nn.Module, everywhere: bool) -> list[tuple[str, Any]]:
        log: list[tuple[str, Any]] = []
        names = {inner: name for name, inner in module.named_modules()}

        def note(inner: nn.Module, *values: Any) -> None:
            tensors_seen = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
            log.append((names[inner], [x.detach().clone() for x in tensors_seen if isinstance(x, Tensor)]))

        if everywhere:
            with torch_module.register_module_forward_hook(note):
                case.call(module, *inputs)
            return sorted(log, key=lambda entry: entry[0])
        for inner in [*module.modules()][1:]:
            inner.register_forward_pre_hook(note)
            inner.register_full_backward_hook(note)
        step(case, module, inputs)
        return sorted(log, key=lambda entry: entry[0])

    plain, fused = pair(case)
    inputs = inputs_of(case)
    for everywhere in (True, False):
        want, got = seen(plain, everywhere), seen(fused, everywhere)
        assert [name for name, _ in got] == [name for name, _ in want] != []
        torch.testing.assert_close([x for _, x in got], [x for _, x in want], rtol=1e-11, atol=1e-12)


def test_networks_say_which_modules_run_block_by_block() -> None:
    network = fastiqa.models.PRFNet(layers=(1, 1, 1, 1), width=8)
    assert fastiqa.explain(network) == "PRFNet runs on the fused operators"
    handle = network.head.fusion.gates[1].register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    assert fastiqa.explain(network).splitlines() == [
        "PRFNet runs on the fused operators, but",
        "  head: PRFHead runs block by block, because of this: fusion.gates.1 has hooks",
        "  head.fusion: ProgressiveFusion runs block by block, because of this: gates.1 has hooks",
    ]
    handle.remove()
    assert fastiqa.explain(network) == "PRFNet runs on the fused operators"


def test_single_convolutions_may_be_sharded(tmp_path: Any) -> None:
    """FSDP2 gathers a layer's weights for its call, and leaves them sharded otherwise."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for case in READERS:
            plain, fused = pair(case)
            for module in (plain, fused):
                for _, _, conv in convolutions(module):
                    fully_shard(conv, mesh=mesh)
            inputs = inputs_of(case)
            results = []
            for module in (plain, fused):
                found = {name: x for name, x in step(case, module, inputs).items() if x is not None}
                results.append({n: x.full_tensor() if hasattr(x, "full_tensor") else x for n, x in found.items()})
            torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-12)
        for memory in ("lean", "least"):  # blocks that recompute gather the weights again
            block = fast_nn.Bottleneck(8, 4, 1, first=True).double()
            image = torch.randn(2, 8, 6, 6, dtype=torch.float64)
            block(image).sum().backward()
            want = {name: parameter.grad for name, parameter in block.named_parameters()}
            block.zero_grad()
            for layer in [*block.modules()]:
                if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                    fully_shard(layer, mesh=mesh)
            block.memory = memory
            block(image).sum().backward()
            got = {name: parameter.grad.full_tensor() for name, parameter in block.named_parameters()}
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    finally:
        torch.distributed.destroy_process_group()


# ---- whole networks, made and copied in other ways ----

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "prfnet": ({"layers": (1, 1, 1, 1), "width": 8}, 3),
    "mfenet": ({"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12), "mlp_ratios": (2, 2, 2, 2), "hidden": (8,),
                "hfen_width": 8, "dan_layers": (1, 1, 1, 1), "dan_width": 4}, 1),
}  # fmt: skip
every_network = pytest.mark.parametrize(("name", "options", "images"), [(k, *v) for k, v in NETWORKS.items()])


@torch.no_grad()
@every_network
def test_memory_made_after_the_network(name: str, options: dict[str, Any], images: int) -> None:
    """First on the meta device, then either way of `load_state_dict`: tensors that no file holds appear too."""
    model = fastiqa.create_model(name, **options).eval()
    x = torch.rand(images, 2, 3, 64, 64)
    want = model(*x)
    for assign in (False, True):
        with torch.device("meta"):
            built = fastiqa.create_model(name, **options).eval()
        whole = nn.ModuleDict({"network": built})  # another module around it gets the memory
        if not assign:
            whole.to_empty(device="cpu")
        built.load_state_dict(model.state_dict(), assign=assign)
        torch.testing.assert_close(built(*x), want, rtol=0, atol=0)
    # The user's statistics survive new memory and other dtypes.
    model.mean.fill_(0.5)
    assert model.to_empty(device="cpu").half().mean.flatten().tolist() == [0.5] * 3
    fast = fastiqa.optimize_for_inference(fastiqa.create_model(name, **options))
    mean = fast.mean.clone()
    assert torch.equal(fast.to_empty(device="cpu").mean, mean)


@pytest.mark.parametrize("kind", [reference.VANBlock, reference.fusion.WeightedNode])
def test_parameters_are_reset_where_memory_was_made_anew(kind: Any) -> None:
    """Every module with parameters resets them, as FSDP requires."""
    with torch.device("meta"):
        module = kind(4, 2)
    module.to_empty(device="cpu")
    for inner in module.modules():
        if [*inner.parameters(recurse=False)]:
            inner.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def replicated(network: nn.Module) -> nn.Module:
    """A copy as `torch.nn.parallel.replicate` makes for each GPU: parameters become attributes."""
    modules = list(network.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}  # type: ignore[no-untyped-call]
    for module, replica in copies.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.detach().view_as(parameter))
    return copies[network]  # type: ignore[no-any-return]


@torch.no_grad()
def test_replicas_of_data_parallel() -> None:
    models = {name: (fastiqa.create_model(name, **options), n) for name, (options, n) in NETWORKS.items()}
    models |= {f"fast {name}": (fastiqa.optimize_for_inference(model), n) for name, (model, n) in models.items()}
    models |= {
        "lpips": (fastiqa.metrics.LPIPS("squeeze", pretrained=False), 2),
        "ssim": (fastiqa.create_metric("ssim"), 2),
    }
    for model, n in models.values():
        x = torch.rand(n, 1, 3, 64, 64)
        torch.testing.assert_close(replicated(model.eval())(*x), model(*x))


def saved_bytes(case: Case, module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Bytes kept for the backward pass beyond inputs, results and parameters."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    leaves = [x.clone().requires_grad_() for x in inputs]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        results = tensors(case.call(module, *leaves))
    held = [*leaves, *results, *module.parameters(), *module.buffers()]
    return sum(storages.values()) - sum(storages.get(x.untyped_storage().data_ptr(), 0) for x in held)


@pytest.mark.parametrize(
    ("name", "options", "shapes", "share"),
    [
        ("ProgressiveFusion", {"channels": (16, 32)}, [(2, 16, 32, 32), (2, 32, 16, 16)], 0.35),
        ("AttentionalFeatureFusion", {"channels": 32}, [(2, 32, 32, 32)] * 2, 0.8),
        ("LargeKernelAttention", {"dim": 32}, [(2, 32, 32, 32)], 0.7),
    ],
)
def test_saves_less_than_the_twin(name: str, options: dict[str, Any], shapes: Any, share: float) -> None:
    case = Case(name, options, shapes, listed if name == "ProgressiveFusion" else plainly)
    plain, fused = (saved_bytes(case, module, inputs_of(case)) for module in pair(case, training=True))
    assert fused <= share * plain, f"{fused} of {plain} bytes"


def walk(module: nn.Module) -> Iterator[str]:
    return (name for name in module.state_dict() if not name.endswith("num_batches_tracked"))


def test_published_names() -> None:
    """Names of d-li14's octave convolution, the authors' AFF and attention, and timm's squeeze and excitation."""
    octave = fast_nn.OctaveConv2d(8, 8, 3, 0.5, 0.5)
    assert sorted(walk(octave)) == [f"conv_{path}.weight" for path in ("h2h", "h2l", "l2h", "l2l")]
    assert {name: tuple(x.shape) for name, x in fast_nn.OctaveConv2d(8, 12, 3, 0.25, 0.25).state_dict().items()} == {
        "conv_h2h.weight": (9, 6, 3, 3), "conv_h2l.weight": (3, 6, 3, 3),
        "conv_l2h.weight": (9, 2, 3, 3), "conv_l2l.weight": (3, 2, 3, 3),
    }  # fmt: skip
    norm = ("weight", "bias", "running_mean", "running_var")
    branch = {f"{i}.{key}" for i in (0, 3) for key in ("weight", "bias")} | {
        f"{i}.{key}" for i in (1, 4) for key in norm
    }
    shifted = {f"{int(name[0]) + 1}{name[1:]}" for name in branch}
    want = {f"local_att.{name}" for name in branch} | {f"global_att.{name}" for name in shifted}
    assert set(walk(fast_nn.AttentionalFeatureFusion(16))) == want
    assert list(walk(fast_nn.SqueezeExcitation(16))) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    attention = [f"{layer}.{key}" for layer in ("conv0", "conv_spatial", "conv1") for key in ("weight", "bias")]
    assert list(walk(fast_nn.LargeKernelAttention(16))) == attention


@pytest.mark.parametrize("stride", [1, 2])
def test_octave_convolution_is_its_equations(stride: int) -> None:
    """Even sizes, as public code requires: plain pooling and enlargement by two."""
    module = reference.OctaveConv2d(8, 12, 3, 0.25, 0.5, stride, padding=1, bias=True).double()
    state = module.state_dict()
    high, low = torch.randn(2, 6, 8, 12, dtype=torch.float64), torch.randn(2, 2, 4, 6, dtype=torch.float64)

    def conv(x: Tensor, path: str) -> Tensor:
        return conv2d(x, state[f"conv_{path}.weight"], state[f"conv_{path}.bias"], padding=1)

    to_high = conv(low, "l2h")
    if stride == 2:
        pooled, deeper = avg_pool2d(high, 2), avg_pool2d(low, 2)
    else:
        pooled, deeper, to_high = high, low, interpolate(to_high, scale_factor=2)
    want = conv(pooled, "h2h") + to_high, conv(avg_pool2d(pooled, 2), "h2l") + conv(deeper, "l2l")
    torch.testing.assert_close(module(high, low), want, rtol=1e-12, atol=1e-12)


def test_octave_split_gives_what_the_module_pools() -> None:
    module = fast_nn.OctaveConv2d(6, 8, alpha_in=0, alpha_out=0.25)
    act, pooled = octave_split(torch.randn(2, 6, 9, 7), 0.2)
    torch.testing.assert_close(module(act, None, pooled), module(act), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("doubled", [False, True])
def test_attentional_fusion_is_its_equations(doubled: bool) -> None:
    module = reference.AttentionalFeatureFusion(8, doubled=doubled).double().eval()
    randomise(module)
    state = module.state_dict()

    def branch(z: Tensor, name: str, first: int) -> Tensor:
        for i in (first, first + 3):
            z = conv2d(z, state[f"{name}.{i}.weight"], state[f"{name}.{i}.bias"])
            norm = (state[f"{name}.{i + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
            z = batch_norm(z, *norm)
            z = z.relu() if i == first else z
        return z

    x, y = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    z = x + y
    m = torch.sigmoid(branch(z, "local_att", 0) + branch(z.mean((2, 3), keepdim=True), "global_att", 1))
    want = (2 if doubled else 1) * (m * x + (1 - m) * y)
    torch.testing.assert_close(module(x, y), want, rtol=1e-12, atol=1e-12)


def test_high_pass_is_a_projection() -> None:
    x = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    once = fast_nn.HighPass()(x)
    torch.testing.assert_close(fast_nn.HighPass()(once), once, rtol=0, atol=1e-15)
    assert avg_pool2d(once, 2, ceil_mode=True, count_include_pad=False).abs().max() < 1e-15


FOUR = {"in_channels": 4, "out_channels": 4}
FUSION = {"channels": (4, 4)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ProgressiveFusion", {"channels": ()}, "channels: got (), want one or more positive integers"),
        ("ProgressiveFusion", {"channels": 4}, "channels: got 4, want one or more positive integers"),
        ("ProgressiveFusion", {"channels": (4, 0)}, "channels[1]: got 0, want an integer of at least 1"),
        ("ProgressiveFusion", FUSION | {"gate_kernel": 2}, "gate_kernel: got 2, want an odd integer of at least 1"),
        ("ProgressiveFusion", FUSION | {"upsample": "cubic"},
         "upsample: got 'cubic', want one of 'bilinear', 'nearest'"),
        ("SqueezeExcitation", {"channels": 0}, "channels: got 0, want an integer of at least 1"),
        ("SqueezeExcitation", {"channels": 8, "reduction": 0}, "reduction: got 0, want an integer of at least 1"),
        ("LargeKernelAttention", {"dim": -1}, "dim: got -1, want an integer of at least 1"),
        ("AttentionalFeatureFusion", {"channels": 8.0}, "channels: got 8.0, want an integer of at least 1"),
        ("AttentionalFeatureFusion", {"channels": 3}, "reduction: got 4, want at most the 3 channels"),
        ("AttentionalFeatureFusion", {"channels": 8, "doubled": 2}, "doubled: got 2, want True or False"),
        ("OctaveConv2d", {"in_channels": 0, "out_channels": 4}, "in_channels: got 0, want an integer of at least 1"),
        ("OctaveConv2d", {"in_channels": 4, "out_channels": -1}, "out_channels: got -1, want an integer of at least 1"),
        ("OctaveConv2d", FOUR | {"kernel_size": 2}, "kernel_size: got 2, want an odd integer of at least 1"),
        ("OctaveConv2d", FOUR | {"alpha_in": 1}, "alpha_in: got 1, want a number in [0, 1)"),
        ("OctaveConv2d", FOUR | {"alpha_out": 0.2}, "alpha_out: got 0.2, want 0 or at least one channel of 4"),
        ("OctaveConv2d", FOUR | {"stride": 3}, "stride: got 3, want one of 1, 2"),
        ("OctaveConv2d", FOUR | {"padding": 0}, "padding: got 0, want one of None, 1"),
        ("OctaveConv2d", FOUR | {"bias": None}, "bias: got None, want True or False"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("package", [reference, fast_nn], ids=["plain", "fused"])
def test_bad_options(package: Any, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        getattr(package, name)(**options)
    assert str(error.value) == message


X = torch.zeros(2, 4, 6, 6)
OCTAVE = {"in_channels": 6, "out_channels": 4, "alpha_in": 0.34}
BAD_INPUTS: list[tuple[str, dict[str, Any], tuple[Any, ...], type[Exception], str]] = [
    ("HighPass", {}, (None,), TypeError, "x: got NoneType, want a t"),
    ("HighPass", {}, (X[0],), ValueError, "x: got shape (4, 6, 6), want "),
    ("HighPass", {}, (X.long(),), TypeError, "x: got dtype torch.int64, want "),
    ("ProgressiveFusion", FUSION, (X,), TypeError, "maps: got Tensor, want a list of 2 feature maps"),
    ("ProgressiveFusion", FUSION, ([X],), ValueError, "maps: got 1, want 2"),
    ("ProgressiveFusion", FUSION, ([X, X[:1]],), ValueError, "maps[1]: got shape (1, 4, 6, 6), want (2, 4, H, W)"),
    ("ProgressiveFusion", FUSION, ([X, None],), TypeError, "maps[1]: got NoneType, want a torch.Tensor"),
    ("SqueezeExcitation", {"channels": 5}, (X,), ValueError, "x: got shape (2, 4, 6, 6), want (N, 5, H, W)"),
    ("SqueezeExcitation", {"channels": 4}, (X, X[..., :1]), ValueError,
     "residual: got shape (2, 4, 6, 1), want (2, 4, 6, 6)"),
    ("SqueezeExcitation", {"channels": 4}, (X, 1.0), TypeError, "residual: got float, want a torch.Tensor"),
    ("LargeKernelAttention", {"dim": 8}, (X,), ValueError, "u: got shape (2, 4, 6, 6), want (N, 8, H, W)"),
    ("AttentionalFeatureFusion", {"channels": 4}, (X, X[:1]), ValueError,
     "y: got shape (1, 4, 6, 6), want (2, 4, 6, 6)"),
    ("AttentionalFeatureFusion", {"channels": 8}, (X, X), ValueError, "x: got shape (2, 4, 6, 6), want (N, 8, H, W)"),
    ("AttentionalFeatureFusion", {"channels": 4}, (X[:1], X[:1]), ValueError,
     "x: got shape (1, 4, 6, 6), want a batch of at least 2 in training mode"),
    ("OctaveConv2d", OCTAVE, (X,), TypeError, "low: got NoneType, want a map of 2 channels, by alpha_in"),
    ("OctaveConv2d", OCTAVE, (X, X), ValueError, "low: got shape (2, 4, 6, 6), want (2, 2, 3, 3)"),
    ("OctaveConv2d", OCTAVE, (X, X[:, :2, :3, :3], X), ValueError, "pooled: got shape (2, 4, 6, 6), want (2, 4, 3, 3)"),
    ("OctaveConv2d", FOUR | {"alpha_in": 0}, (X, X), TypeError,
     "low: got Tensor, want None, by alpha_in"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "inputs", "kind", "message"), BAD_INPUTS)
@pytest.mark.parametrize("package", [reference, fast_nn], ids=["plain", "fused"])
def test_bad_inputs(
    package: Any, name: str, options: dict[str, Any], inputs: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        getattr(package, name)(**options)(*inputs)
    assert str(error.value).startswith(message)
