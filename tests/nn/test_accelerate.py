"""accelerate: the model computes the same before and after; modules that it leaves alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from test_nn import CASES, Case, inputs_of, step
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa import nn as fast_nn
from fastiqa.acceleration.accelerate import PAIRS
from fastiqa.reference.guidance import Addition
from support.oracles import randomise

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8}
MFENET: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12), "mlp_ratios": (2, 2, 2, 2), "hidden": (8,),
                          "hfen_width": 8, "dan_layers": (1, 1, 1, 1), "dan_width": 4}  # fmt: skip


def packed(head: nn.Module, *maps: Tensor) -> Any:
    """The maps of three images, stacked in each stage."""
    return head(list(maps))


def staged(network: nn.Module, image: Tensor) -> Any:
    return tuple(network(image))


def shown(network: nn.Module, *images: Tensor) -> Any:
    return network(*(x.sigmoid() for x in images)).double()


def exported(network: nn.Module, *branches: Tensor) -> Any:
    """The existing branches."""
    return tuple(y for y in network(*branches) if y is not None)


STAGES = [(6, 4, 13, 9), (6, 6, 7, 5), (6, 5, 3, 2)]
NETWORKS = [
    Case("CrossSubtraction", {"channels": 6, "cross_channels": 4}, [(2, 6, 9, 7)] * 3),
    Case("CrossSubtraction", {"channels": 6, "cross_channels": 4, "norm": True}, [(2, 6, 9, 7)] * 3),
    Case("PRFHead", {"channels": (4, 6, 5), "gate_kernel": 3, "hidden": 7}, STAGES, packed),
    Case("PRFHead", {"channels": (4, 6, 5), "cross_norm": True, "hidden": 7}, STAGES, packed),
    Case(
        "SERes2Block",
        {"inputs": 8, "planes": 4, "stride": 2, "base_width": 32, "scale": 4, "se_reduction": 4, "first": True},
        [(2, 8, 9, 7)],
    ),
    Case("SERes2Net", SMALL, [(2, 3, 33, 40)], staged),
    Case("Bottleneck", {"inputs": 8, "planes": 4, "stride": 2, "first": True}, [(2, 8, 9, 7)]),
    Case("Bottleneck", {"inputs": 16, "planes": 4, "stride": 1, "first": False}, [(2, 16, 9, 7)]),
    Case("ResNet", {**SMALL, "width": 4}, [(4, 3, 40, 40)], staged),
    Case("VANBlock", {"dim": 12, "mlp_ratio": 2}, [(2, 12, 9, 7)]),
    Case("VAN", {"depths": (1, 1, 1, 1), "widths": (6, 8, 10, 12)}, [(2, 3, 33, 40)], staged),
    Case("DepthwiseSeparable", {"inputs": 6, "outputs": 4, "kernel": 3}, [(2, 6, 9, 7)]),
    Case("InvertedResidual", {"inputs": 4, "outputs": 4, "kernel": 5, "stride": 1}, [(2, 4, 9, 7)]),
    Case("InvertedResidual", {"inputs": 4, "outputs": 6, "kernel": 3, "stride": 2}, [(2, 4, 9, 8)]),
    Case("EfficientNetLite", {"depths": (1, 2, 1, 1, 1, 1, 1), "widths": (4,) * 7, "stem": 4}, [(4, 3, 33, 40)],
         staged),
    Case("OctaveSplit", {}, [(2, 6, 9, 7)]),
    Case("HighFrequencyModule", {"channels": 8, "alpha_in": 0, "alpha_out": 0.25, "stride": 1},
         [(2, 8, 9, 7)], exported),
    Case("HighFrequencyModule", {"channels": 8, "alpha_in": 0.25, "alpha_out": 0.25, "stride": 2},
         [(2, 6, 9, 7), (2, 2, 5, 4)], exported),
    Case("HighFrequencyNet", {"width": 8}, [(2, 3, 33, 40)], staged),
    Case("FeatureFusion", {"channels": 6}, [(2, 6, 9, 7)] * 2),
    Case("Guidance", {"guide_channels": 5, "channels": 6, "fusion": Addition()}, [(2, 6, 9, 7), (2, 5, 9, 7)]),
    Case("MFENet", MFENET, [(3, 3, 33, 40)], shown),
    Case("PRFNet", SMALL, [(3, 3, 33, 40)] * 3, shown),
    Case("PRFNet", {**SMALL, "symmetric": True}, [(3, 3, 33, 40)] * 3, shown),
    Case("PRFNet", {**SMALL, "fusion": "fpn"}, [(3, 3, 33, 40)] * 3, shown),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES + NETWORKS, ids=str)


def plain(case: Case, training: bool = True) -> Any:
    module = case.build(reference)
    randomise(module)
    return module.double().train(training)


def network(**options: Any) -> Any:
    return plain(Case("PRFNet", {**SMALL, **options}, []))


def images(n: int = 2) -> Tensor:
    return torch.rand(3, n, 3, 33, 40, dtype=torch.float64)


# ---- the same model ----


def test_every_fused_module_has_its_plain_twin() -> None:
    names = {twin.__name__ for twin in PAIRS.values()}
    assert names == {*fast_nn.__all__, "PRFNet", "MFENet"}
    assert all(issubclass(fused, plain) and fused.__name__ == plain.__name__ for plain, fused in PAIRS.items())
    assert names == {case.name for case in CASES + NETWORKS}


@every_case
def test_cases_share_no_modules(case: Case) -> None:
    """A hook that one test adds would stay in the next one's network."""
    assert not {*case.build(reference).modules()} & {*case.build(reference).modules()}


@every_case
def test_a_class_is_all_that_differs(case: Case) -> None:
    """The fused constructor makes no further attribute; the accelerated module equals the fused one, inside too."""
    module, built = plain(case), case.build(fast_nn, models)
    fastiqa.accelerate(module)
    assert type(module) is type(built)
    for (name, inner), (wanted, fused) in zip(module.named_modules(), built.named_modules(), strict=True):
        assert (name, type(inner), vars(inner).keys()) == (wanted, type(fused), vars(fused).keys())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@every_case
def test_results_gradients_and_state_stay(case: Case, training: bool) -> None:
    before = plain(case, training)
    after = copy.deepcopy(before)
    parts = [*after.modules(), *after.parameters(), *after.buffers()]
    assert fastiqa.accelerate(after).swapped[0] == ("", type(before), type(after))
    assert all(a is b for a, b in zip([*after.modules(), *after.parameters(), *after.buffers()], parts, strict=True))
    assert all(a.training == training for a in after.modules())
    assert [*after.state_dict()] == [*before.state_dict()]
    inputs = inputs_of(case)
    steps = []
    for module in (before, after, copy.deepcopy(after), pickle.loads(pickle.dumps(after))):
        torch.manual_seed(1)  # dropout takes the same units
        steps.append(step(case, module, inputs))
    # The networks' results are float32.
    rtol, atol = (2e-7, 1e-7) if case.name in ("PRFNet", "MFENet") else (1e-11, 1e-12)
    torch.testing.assert_close(steps[1], steps[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(steps[2], steps[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(steps[3], steps[0], rtol=rtol, atol=atol)


def test_an_optimizer_goes_on() -> None:
    """Three steps with momentum, the model accelerated after the first."""
    trained = []
    data = images(3)
    for swap in (False, True):
        torch.manual_seed(0)
        model = network(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        for i in range(3):
            optimizer.zero_grad()
            model(*data).square().sum().backward()
            optimizer.step()
            if swap and i == 0:
                assert fastiqa.accelerate(model).swapped
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-6, atol=1e-7)
    start = network(dropout=0.0).state_dict()
    assert not torch.allclose(trained[0]["head.mlp.0.weight"], start["head.mlp.0.weight"], atol=1e-4)


# ---- the report ----


def test_the_report_names_every_module() -> None:
    model = network()
    want = [(name, type(m)) for name, m in model.named_modules() if type(m) in PAIRS]
    report = fastiqa.accelerate(model)
    assert [(name, before) for name, before, _ in report.swapped] == want
    assert all(type(model.get_submodule(name)) is after is PAIRS[before] for name, before, after in report.swapped)
    assert (report.left, report.explained) == ((), (("head", fastiqa.explain(model.head)),))
    assert str(report).splitlines() == [
        "swapped: 1 PRFNet, 1 SERes2Net, 25 BatchNormAct2d, 4 SERes2Block, 4 SqueezeExcitation, 1 PRFHead, "
        "4 CrossSubtraction, 1 ProgressiveFusion",
        "  head: PRFHead runs in one pass over the feature maps",
    ]


def test_a_second_call_changes_nothing() -> None:
    model = network()
    assert fastiqa.accelerate(model).swapped
    again = fastiqa.accelerate(model)
    assert (again.swapped, again.left, again.explained, str(again)) == ((), (), (), "swapped: nothing")
    assert fastiqa.accelerate(models.PRFNet(**SMALL)) == again
    assert fastiqa.accelerate(nn.Sequential(nn.Linear(2, 2))) == again


def test_the_report_says_what_runs_block_by_block() -> None:
    report = fastiqa.accelerate(network(cross_norm=True))
    assert report.explained[0][1].startswith("PRFHead runs block by block, because of this: normalisation")
    assert "  head: PRFHead runs block by block" in str(report)
    assert fastiqa.accelerate(network(fusion="fpn")).left == (("head.fusion", "FPN has no fused twin"),)


def test_a_shared_module_is_swapped_once() -> None:
    norm = reference.BatchNormAct2d(3)
    model = nn.ModuleDict({"first": norm, "second": nn.Sequential(norm)})
    assert [swap.name for swap in fastiqa.accelerate(model).swapped] == ["first"]
    assert type(model["second"][0]) is fast_nn.BatchNormAct2d  # type: ignore[index]


# ---- hooks ----


def calls(case: Case, module: nn.Module) -> set[str]:
    """Names of inner modules whose hooks ran."""
    ran: set[str] = set()
    for name, inner in module.named_modules():
        inner.register_forward_hook(lambda *_, name=name: ran.add(name))
    case.call(module, *inputs_of(case))
    return ran


@every_case
def test_hooks_run_as_before(case: Case) -> None:
    """Hooks on every module, registered before; a module whose twin would skip one stays plain."""
    module = plain(case)
    want = calls(case, copy.deepcopy(module))
    ran = calls(case, module)
    fastiqa.accelerate(module)
    ran.clear()
    case.call(module, *inputs_of(case))
    assert ran == want


def test_hooks_of_swapped_modules_stay() -> None:
    module = plain(Case("HighPass", {}, []))
    seen: list[str] = []
    module.register_forward_pre_hook(lambda *_: seen.append("before"))
    module.register_forward_hook(lambda *_: seen.append("after"))
    module.register_full_backward_hook(lambda *_: seen.append("backward"))
    module.register_state_dict_post_hook(lambda *_: seen.append("state"))
    assert not fastiqa.accelerate(module).left
    module(torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)).sum().backward()
    module.state_dict()
    assert seen == ["before", "after", "backward", "state"]


# ---- what is left alone ----


def test_modules_with_hooks_or_strangers_inside_are_left() -> None:
    """Their twins would read the weights instead of calling the layer."""

    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Halved(reference.CrossSubtraction):
        def forward(self, ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(ref, a, b) / 2

    def hook(head: Any) -> None:
        head.cross[1].conv.register_forward_hook(lambda module, args, out: 2 * out)

    def gate(head: Any) -> None:
        head.fusion.gates[0] = Doubled(8, 8, 1).double()

    def cross(head: Any) -> None:
        head.cross[0] = Halved(4, 3).double()

    def forward(head: Any) -> None:
        head.fusion.forward = lambda maps: maps[0]

    would_not = "and the fused {} would not call it"
    for change, left in (
        (hook, {"": f"cross.1.conv has hooks, {would_not.format('PRFHead')}",
                "cross.1": f"conv has hooks, {would_not.format('CrossSubtraction')}"}),
        (gate, {"": f"fusion.gates.0 is a Doubled, not a Conv2d, {would_not.format('PRFHead')}",
                "fusion": f"gates.0 is a Doubled, not a Conv2d, {would_not.format('ProgressiveFusion')}"}),
        (cross, {"": f"cross.0 is a Halved, not a CrossSubtraction, {would_not.format('PRFHead')}",
                 "cross.0": "Halved is a subclass of CrossSubtraction, which may compute something else"}),
        (forward, {"": f"the forward of fusion was replaced, {would_not.format('PRFHead')}",
                   "fusion": "its forward was replaced"}),
    ):  # fmt: skip
        head = reference.PRFHead((4, 6), (3, 4)).double().eval()
        unchanged = copy.deepcopy(head)
        change(head)
        maps = [torch.randn(3, c, s, s, dtype=torch.float64) for c, s in ((4, 8), (6, 4))]
        want = head(maps)
        assert not torch.allclose(want, unchanged(maps), rtol=1e-3), "the change must show"
        report = fastiqa.accelerate(head)
        assert dict(report.left) == left
        assert {swap.name for swap in report.swapped} == {"cross.0", "cross.1", "fusion"} - left.keys()
        torch.testing.assert_close(head(maps), want, rtol=1e-11, atol=1e-12)


def test_hooks_do_not_matter_to_a_head_that_runs_block_by_block() -> None:
    model = network(cross_norm=True)
    model.head.cross[0].register_forward_hook(lambda *_: None)
    assert not fastiqa.accelerate(model).left


def test_subclasses_and_parametrizations_are_left() -> None:
    class Mine(reference.HighPass):
        pass

    class Newer(fast_nn.HighPass):
        pass

    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    model = nn.Sequential(Mine(), Newer(), reference.BatchNormAct2d(3), reference.LargeKernelAttention(3)).double()
    nn.utils.parametrize.register_parametrization(model[2], "weight", Halved())
    nn.utils.parametrizations.weight_norm(model[3].conv0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    want = model(x)
    report = fastiqa.accelerate(model)
    which = "which may compute something else"
    assert report.left == (
        ("0", f"Mine is a subclass of HighPass, {which}"),
        ("2", f"ParametrizedBatchNormAct2d is a subclass of BatchNormAct2d, {which}"),
        ("3", "conv0 is a ParametrizedConv2d, not a Conv2d, and the fused LargeKernelAttention would not call it"),
    )
    assert not report.swapped
    assert type(model[1]) is Newer
    torch.testing.assert_close(model(x), want, rtol=1e-11, atol=1e-12)
    assert "left: 0: Mine is a subclass of HighPass" in str(report)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"^model: got type, want a torch.nn.Module$"):
        fastiqa.accelerate(reference.PRFNet)  # type: ignore[arg-type]
    compiled = torch.compile(network(), backend="eager")
    with pytest.raises(ValueError, match=r"^model: it is compiled already, want accelerate before torch.compile$"):
        fastiqa.accelerate(compiled)
    inside = nn.Sequential(reference.HighPass(), network())
    inside[1].head.compile(backend="eager")
    with pytest.raises(ValueError, match=r"^model: 1.head is compiled already, want"):
        fastiqa.accelerate(inside)
    assert type(inside[0]) is reference.HighPass
    with pytest.raises(ValueError, match=r"^model: got a module of TorchScript, want"):
        fastiqa.accelerate(torch.jit.ScriptModule())
    assert not fastiqa.accelerate(torch.compile(nn.Linear(2, 2), backend="eager")).swapped
