"""Published weights: files that travel with fastiqa, each with a card of facts beside it.

    weights/MODEL.TAG.safetensors    by `save_model`; without the backbone, where the extra `weights` brings that
    weights/MODEL.TAG.json           the `Card`

A new network is these two files. The first card of a model, in the order of the tags, is its default. Nothing is
downloaded.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastiqa.common.hashing import file_sha256
from fastiqa.common.installed_weights import MissingWeightsError, installed_weights

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """Facts about published weights.

    Attributes:
        model: one of `fastiqa.list_models()`.
        tag: tells the weights of one model apart; `create_model("MODEL.TAG", pretrained=True)` takes these.
        sha256: of the file.
        task: the question that the network answers.
        parameters: of the whole network.
        needs: which of `fastiqa.common.installed_weights.PACKAGED` is its backbone, or "".
        data: what it was trained on, and with which labels.
        licence: of the weights.
        accuracy: one line, how far to trust it, with a 95 % interval.
        scores: values by name, such as accuracy on human answers, each with its interval.
        page: the model card, a page of the documentation.
    """

    model: str
    tag: str
    sha256: str
    task: str
    parameters: int
    needs: str
    data: str
    licence: str
    accuracy: str
    scores: dict[str, Any]
    page: str

    @property
    def name(self) -> str:
        """MODEL.TAG."""
        return f"{self.model}.{self.tag}"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.stat().st_size

    @property
    def _file(self) -> Path:
        return FOLDER / f"{self.name}.safetensors"

    def file(self) -> Path:
        """The file of the weights, whose SHA-256 was compared. Raises ValueError that names the file, got and want."""
        if not self._file.is_file():
            raise ValueError(f"{self._file}: no such file; its card is there: install fastiqa again")
        if (got := file_sha256(self._file)) != self.sha256:
            raise ValueError(f"{self._file}: sha256: got {got}, want {self.sha256}: install fastiqa again")
        return self._file

    def as_dict(self) -> dict[str, Any]:
        """All facts by name."""
        return asdict(self)


@functools.cache
def cards() -> tuple[Card, ...]:
    """The cards of all published weights, sorted by name. Raises ValueError that names a damaged card."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.json")))


def card_of(name: str) -> Card:
    """The card of a model's published weights.

    Args:
        name: MODEL for its default, or MODEL.TAG.

    Returns:
        Its card.

    Raises:
        ValueError: no weights of this name; it lists what there is.
    """
    for card in cards():
        if name in (card.model, card.name):
            return card
    known = ", ".join(card.name for card in cards()) or "none"
    raise ValueError(f"no weights of {name} are published, want one of: {known}")


def unavailable(name: str) -> str | None:
    """Why a model's published weights cannot be used here, or None.

    Either there are none, or the package that brings the backbone is missing; then with the command that installs it.
    """
    if not any(name in (card.model, card.name) for card in cards()):
        return f"no weights of {name} are published"
    try:
        if needs := card_of(name).needs:
            installed_weights(needs)
    except MissingWeightsError as error:
        return str(error)
    except ValueError:
        return None  # another file than the one that the weights were trained with: who loads it says so
    return None


def _read(path: Path) -> Card:
    names = {field.name for field in fields(Card)}
    try:
        facts = json.loads(path.read_text("utf-8"))
        card = Card(**facts)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged card, want a JSON object with {', '.join(sorted(names))}: {error}") from None
    if path.stem != card.name:
        raise ValueError(f"{path}: the card of {card.name}, want that of {path.stem}")
    return card
