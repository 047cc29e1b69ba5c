"""Recipes: the papers' settings, overrides, and one line for every mistake that names file and key."""

from __future__ import annotations

import os
import re

import pytest

from fastiqa.models import MFENet
from fastiqa.reference.fusion import FPN, BiFPN, ProgressiveFusion
from fastiqa.training import RecipeError, read_recipe, recipe_names
from fastiqa.training.config.fields import booleans
from fastiqa.training.recipes.recipe_file import as_yaml
from fastiqa.training.run.optimizer import learning_rate
from fastiqa.training.run.setup import build_datasets, build_model

SMALL = [f"model.options.{option}" for option in ("layers=[1,1,1,1]", "width=8")]


@pytest.mark.parametrize("word", ["off", "Off", "no", "on", "YES", "2026-11-30"])
def test_words_of_yaml_are_texts_where_a_text_is_wanted_and_booleans_where_one_is(word, tmp_path):
    file = tmp_path / "r.yaml"
    lines = ("base: smoke", f"tensorboard: {'off' if word[0] == '2' else word}",
             f"model: {{options: {{memory: {word}}}}}", f"data: {{{word}: {{kind: random, items: 8}}}}")  # fmt: skip
    file.write_text("\n".join(lines))
    recipe = read_recipe(file, [f"model.pretrained_backbone={word}"])
    assert recipe.tensorboard is (word.lower() in ("on", "yes"))
    assert recipe.model.options["memory"] == recipe.model.pretrained_backbone == word
    assert word in recipe.data
    (tmp_path / "full.yaml").write_text(as_yaml(recipe))
    assert read_recipe(tmp_path / "full.yaml") == recipe


def test_words_are_booleans_to_a_network_and_a_data_set_that_want_them():
    build_model(read_recipe("smoke", ["model.options.memory=off"]))  # "got False" before
    options = {"hfen": "no", "dan": "yes", "memory": "off"}
    assert booleans(options, MFENet) == {"hfen": False, "dan": True, "memory": "off"}
    options = {"keep": "yes", "other": "off", "flip": False}

    def function(keep: bool = False, other: str = "", flip: bool = True) -> None: ...

    assert booleans(options, function) == {"keep": True, "other": "off", "flip": False}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark"])
def test_recipes_of_any_editor(encoding, tmp_path):
    text = "base: smoke\t\r\nseed:\t5\t# a comment\r\n\t\r\nmodel: {pretrained:\tgröße.pth}\r\n"
    mark = "\ufeff" if "mark" in encoding else ""
    (tmp_path / "r.yaml").write_bytes((mark + text).encode(encoding.split()[0]))
    recipe = read_recipe(tmp_path / "r.yaml")
    assert (recipe.seed, recipe.model.pretrained) == (5, "größe.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"base: smoke\nmodel:\n\tname: prfnet\n", "; want spaces where there are tabs"),
        ("base: größe".encode("latin-1"), "is not YAML: 'utf-8' codec can't decode byte 0xf6"),
        (
            "base: smoke".encode("utf-16-le"),
            "is not YAML: got zero bytes, want UTF-8, or UTF-16 with a byte order",
        ),
    ],
)
def test_recipes_that_no_editor_should_write(content, message, tmp_path):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        read_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)


def test_the_progressive_recipe_is_the_papers():
    recipe = read_recipe("prfnet_progressive")
    coarse, fine = recipe.steps.values()
    assert list(recipe.steps) == ["coarse", "fine"]
    assert (coarse.losses, coarse.epochs, coarse.freeze_backbone) == ({"clic": "bce"}, 40, False)
    assert (fine.losses, fine.epochs, fine.freeze_backbone) == ({"bapps": "mse", "pieapp": "mse"}, 20, True)
    for step in (coarse, fine):
        assert (step.batch_size, step.accumulate, step.optimizer.name) == (16, 1, "sgd")
    rates = [learning_rate(coarse, epoch, 0.5) for epoch in (0, 9, 10, 20, 39)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6])
    assert [learning_rate(fine, epoch, 0.0) for epoch in (0, 9, 10, 19)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    assert build_model(read_recipe("prfnet_progressive", SMALL)).backbone.strides[0] == 2


def test_the_multitask_recipe_has_both_losses_in_one_step():
    (joint,) = read_recipe("prfnet_multitask").steps.values()
    assert joint.losses == {"clic": "bce", "bapps": "mse", "pieapp": "mse"}
    assert (joint.epochs, joint.freeze_backbone, joint.optimizer.lr, joint.batch_size) == (40, False, 1e-3, 16)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("progressive", ProgressiveFusion), ("fpn", FPN), ("bifpn", BiFPN), ("multitask", ProgressiveFusion)],
)
def test_variants_differ_in_the_fusion_alone(name, kind):
    recipe = read_recipe(f"prfnet_{name}", SMALL)
    assert isinstance(build_model(recipe).head.fusion, kind)
    if kind in (FPN, BiFPN):
        progressive = read_recipe("prfnet_progressive", [*SMALL, f"model.options.fusion={name}"])
        assert recipe == progressive


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_written_in_full_reads_as_the_same(name, tmp_path):
    recipe = read_recipe(name)
    file = tmp_path / "full.yaml"
    file.write_text(as_yaml(recipe))
    assert read_recipe(file) == recipe


def test_overrides_reach_defaults_of_all_steps_and_single_steps():
    recipe = read_recipe("prfnet_progressive", ["optimizer.momentum=0.8", "steps.fine.optimizer.lr=1e-2", "ema=0.99"])
    assert [step.optimizer.momentum for step in recipe.steps.values()] == [0.8, 0.8]
    assert [step.optimizer.lr for step in recipe.steps.values()] == [1e-3, 1e-2]  # YAML 1.1 reads 1e-2 as a text
    assert recipe.ema == 0.99


def test_an_override_may_bring_a_data_set_that_is_used_and_leave_one_unused():
    used = read_recipe("smoke", ["data.mine={kind: random}", "validation.data=[mine]", "steps.fine=null"])
    assert used.validation.data == ("mine",)
    assert {"held_out", "bapps", "pieapp"} < set(used.data)


def test_a_base_is_changed_key_by_key_and_null_takes_away(tmp_path):
    (tmp_path / "below.yaml").write_text("base: smoke\nseed: 3\nvalidation: null\n")
    (tmp_path / "above.yaml").write_text(
        "base: below.yaml\nsteps: {fine: null, coarse: {epochs: 7}}\noptimizer: {lr: 1}\n"
    )
    with pytest.raises(RecipeError, match="no such file"):
        read_recipe("above.yaml")
    recipe = read_recipe(tmp_path / "above.yaml")
    assert (recipe.seed, list(recipe.steps), recipe.validation.data) == (3, ["coarse"], ())
    assert (recipe.steps["coarse"].epochs, recipe.steps["coarse"].optimizer.lr) == (7, 0.1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0.01", "--set optimizer.lr: steps have values of their own, want steps.coarse.optimizer.lr or"),
        ("steps.coarse.optimiser.lr=1", "steps.coarse.optimiser: unknown key; did you mean optimizer?"),
        ("xyz=1", "xyz: unknown key; want one of data, steps, model"),
        ("steps.coarse.epochs=0", "steps.coarse.epochs: got 0, want an integer of at least 1"),
        ("steps.coarse.epochs=two", "steps.coarse.epochs: got 'two', want an integer"),
        ("steps.coarse.epochs=true", "steps.coarse.epochs: got True, want an integer"),
        ("steps.coarse.epochs=null", "steps.coarse.epochs: missing"),
        ("steps.coarse.losses.clic=hinge", "steps.coarse.losses.clic: got 'hinge', want one of bce, mse"),
        ("steps.coarse.losses.tid=mse", "steps.coarse.losses: got 'tid', want a data set of the recipe: clic, bapps"),
        ("steps.coarse.optimizer.lr=fast", "steps.coarse.optimizer.lr: got 'fast', want a number"),
        ("steps.coarse.optimizer.lr=.nan", "steps.coarse.optimizer.lr: got nan, want a number above 0"),
        ("steps.coarse.optimizer.lr=.inf", "steps.coarse.optimizer.lr: got inf, want a number above 0"),
        ("steps.coarse.optimizer.weight_decay=.inf", "weight_decay: got inf, want a number of at least 0"),
        ("steps.coarse.lr_factors={backbone: .inf}", "lr_factors.backbone: got inf, want a number of at least 0"),
        ("steps.coarse.optimizer.name=lion", "steps.coarse.optimizer.name: got 'lion', want one of sgd, adamw"),
        ("steps.coarse.accumulate=3", "steps.coarse.accumulate: got 3, want a divisor of batch_size, 16"),
        ("steps.coarse=5", "steps.coarse: got 5, want a mapping of losses, epochs"),
        ("steps=null", "steps: missing"),
        ("validation.data=clic", "validation.data: got 'clic', want a list"),
        ("amp=1", "amp: got 1, want true or false"),
        ("ema=1.5", "ema: got 1.5, want a decay in (0, 1)"),
        ("ema", "--set: got 'ema', want key=value"),
        ("ema=[", "--set ema: '[' is not YAML"),
        (f"seed={'1' * 5000}", "is not YAML: Exceeds the limit (4300"),
        (f"seed=0x{'1' * 5000}", "has an integer of 19,997 bits, want at most 64"),
        (f"seed={'1' * 4000}", "has an integer of 13,"),
        ("steps.coarse.optimizer.lr=1:" + ":".join(["59"] * 400) + ".5", "optimizer.lr: got '1:59:59"),
        ("ema=2020-99-99", "ema: got '2020-99-99', want a number"),
        (f"data.clic.csv={'[' * 5000}", "is nested more than 16 deep"),
        (f"data.clic.csv={'[' * 18}{']' * 18}", "is nested more than 16 deep, or within itself"),
        (f"{'a.' * 5000}a=1", "want key=value, as optimizer.lr=0.01"),
        ('data={"a\\nb": 1}', "has a key that is not printable"),
        ("workers=1000000", "workers: got 1000000, want an integer from 0 to 1,024"),
        ("data.click.csv=a.csv", "--set data.click: no step and no validation uses 'click', want one of clic, bapps, "),
        ("data={held: {kind: clic}}", "--set data.held: no step and no validation uses 'held', want one of clic, "),
    ],
)
def test_mistakes_name_the_key(override, message):
    with pytest.raises(RecipeError) as error:
        read_recipe("prfnet_progressive", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def multiplied(pattern, first, levels=14):
    """A YAML text where each value repeats the one above it several times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{k}: &a{k} {pattern.format(f'a{k - 1}')}" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: [", "not YAML: while parsing a flow node"),
        ("- 1", "got list, want a mapping"),
        ("", "got NoneType, want a mapping"),
        ("base: nowhere", "recipe: got 'nowhere', want a .yaml file or one of dan_contrastive, "),
        ("base: own.yaml", "base: got a recipe whose base is, in the end, itself"),
        ("base: !!python/object/apply:os.getcwd []", "not YAML: could not determine a constructor"),
        ("steps: {}\ndata: {}", "steps: got {}, want at least one step"),
        ("data: &d {clic: *d}", "is nested more than 16 deep, or within itself"),
        ("data: &d [*d, *d]", "is nested more than 16 deep, or within itself"),
        (multiplied("[*{0}, *{0}, *{0}]", "[1]"), "has more than 100,000 values"),
        (multiplied("{{<<: [*{0}, *{0}]}}", "{a: 1, b: 2}"), "not YAML: more than 1,000 keys"),
        ("a: " + "[" * 10000, "is nested more than 16 deep"),
        (f"seed: {'1' * 5000}", "is not YAML: Exceeds the limit (4300"),
        ("base: smoke\nseed: 1\nseed: 2", "is not YAML: 'seed' stands twice"),
        ("base: smoke\nsteps: {coarse: {epochs: 1}, coarse: {epochs: 2}}", "is not YAML: 'coarse' stands twice"),
        ("base: smoke\nseed: 1:30", "seed: got '1:30', want an integer"),
        ("base: smoke\nseed: 010", "seed: got '010', want an integer"),
        ("#" * 100000, "got 100,000 bytes, want at most 65,536"),
        (b"seed: \xff", "is not YAML: 'utf-8' codec can't decode"),
    ],
)
def test_mistakes_name_the_file(content, message, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as error:
        read_recipe(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert os.fspath(file) in str(error.value) or "nowhere" in str(content)


def test_chains_of_bases_end(tmp_path):
    for k in range(40):
        (tmp_path / f"{k}.yaml").write_text(f"base: {k + 1}.yaml\n")
    with pytest.raises(RecipeError, match=r"16\.yaml: base: got a chain of more than 16 recipes$"):
        read_recipe(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("model.options.layers=[1,1,1,1000000000000]", "options ask for weights of more than 20,000 tensors"),
        ("model.options.hidden=70000000", "options ask for weights of more than 1,000,000,000 numbers"),
        ("model.options.cross_kernel=1000000001", "options "),  # counted, or refused by the system before
    ],
)
def test_networks_beyond_measure_are_not_built(options, message):
    recipe = read_recipe("smoke", [options])
    with pytest.raises(RecipeError, match=r"^model: ") as error:
        build_model(recipe)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.clic.items=1000000000000", "data.clic: items: got 1000000000000, want at most 10,000,000"),
        (
            "data.clic.height=1000000000",
            "data.clic: height, width: got 1000000000 and 64, want at most 67,108,864 pixel",
        ),
    ],
)
def test_generated_data_beyond_measure_are_not_made(change, message):
    with pytest.raises(RecipeError) as error:
        build_datasets(read_recipe("smoke", [change]), {})
    assert message in str(error.value)
