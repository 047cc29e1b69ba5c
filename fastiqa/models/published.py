"""Published weights: files that travel with fastiqa, each with a card of facts beside it.

    weights/MODEL.TAG.safetensors    by `save_model`; without the backbone, where the extra `weights` brings that
    weights/MODEL.TAG.json           its `Card`

``python -m fastiqa.models.publish`` writes both; a new network is nothing more. Cards are read when they are asked for,
weights when a network is built. Nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastiqa.common.hashing import file_sha256
from fastiqa.common.installed_weights import MissingWeightsError, installed_weights
from fastiqa.common.text import one_line

FOLDER = Path(__file__).parent / "weights"
# Whose published weights answer where the user names none: `fastiqa compare` and `fastiqa.rank`, `fastiqa score`.
DEFAULTS = {"comparison": "prfnet_small", "quality": "mfenet_lite"}
# Which answers in the place of a default whose package is not installed.
STAND_INS = {"mfenet_lite": "mfenet_small"}
USERS = {"comparison": ("compare", "rank"), "quality": ("score",)}


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
        accuracy: how far to trust it, with a 95 % interval, in words that follow the name: "agrees with 76.0 % of 405
            human answers (95 % interval 71.6 to 80.2 %)".
        scores: values by name, such as agreement with human answers, each with its interval.
        page: the model card, a page of the documentation.
        view: how `accuracy` was measured, and `fastiqa score` looks: "longest_side" to which a larger image is shrunk,
            and "grid"² windows of "size" pixels a side, whose mean is the score. None: the whole image at its own size.
        default: whether the model's name alone means these weights; without any such card, the first tag's are meant.
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
    view: dict[str, int] | None = None
    default: bool = False

    @property
    def name(self) -> str:
        """MODEL.TAG."""
        return f"{self.model}.{self.tag}"

    @property
    def line(self) -> str:
        """How far to trust the weights, in one line."""
        return f"{self.model} ({self.tag}) {self.accuracy}, see {self.page}"

    @property
    def default_of(self) -> tuple[str, ...]:
        """The commands that use these weights where the user names none."""
        tasks = (task for task, model in DEFAULTS.items() if model == self.model and find_card(model) == self)
        return tuple(user for task in tasks for user in USERS[task])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @property
    def path(self) -> Path:
        """Where the file of the weights lies."""
        return FOLDER / f"{self.name}.safetensors"

    def file(self) -> Path:
        """The file of the weights, whose SHA-256 was compared. Raises ValueError that names the file, got and want."""
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file, want that of its card: install fastiqa again")
        if (got := file_sha256(self.path)) != self.sha256:
            raise ValueError(f"{self.path}: sha256: got {got}, want {self.sha256}: install fastiqa again")
        return self.path

    def missing(self) -> str | None:
        """Which package that the network needs is not installed, with the command that installs it, or None."""
        try:
            if self.needs:
                installed_weights(self.needs)
        except MissingWeightsError as error:
            return str(error)
        except ValueError:  # the file of another version: whoever builds the network is told
            return None
        return None

    def as_dict(self) -> dict[str, Any]:
        """All facts by name, with `default_of`, `bytes` of the file and `missing`."""
        size = self.size if self.path.is_file() else None
        found = {"default_of": list(self.default_of), "bytes": size, "missing": self.missing()}
        return {"name": self.name, **asdict(self), **found}


def cards() -> tuple[Card, ...]:
    """The cards of all published weights, by model, each with its default first.

    Raises: ValueError that names a damaged card.
    """
    found = (_read(path) for path in FOLDER.glob("*.json"))
    return tuple(sorted(found, key=lambda card: (card.model, not card.default, card.tag)))


def find_card(name: object) -> Card | None:
    """The card of MODEL.TAG, or of a MODEL's default; None for anything else, such as the name of a file."""
    return next((card for card in cards() if name in (card.name, card.model)), None)


def card_of(name: str) -> Card:
    """The card of a model's published weights.

    Args:
        name: MODEL for its default, or MODEL.TAG.

    Returns:
        Its card.

    Raises:
        ValueError: no weights of this name; it lists those of the model's other tags.
    """
    if (card := find_card(name)) is not None:
        return card
    others = ", ".join(card.name for card in cards() if card.model == name.partition(".")[0])
    raise ValueError(f"no weights of {name} are published{f', want one of {others}' * bool(others)}")


def _read(path: Path) -> Card:
    """The card in a file. Raises ValueError that names the file and the fact."""
    try:
        facts = json.loads(path.read_text("utf-8"))
        card = Card(**facts)
    except (OSError, TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(Card))
        raise ValueError(f"{path}: damaged card, want a JSON object with {names}: {error}") from None
    if f"{card.name}.json" != path.name:
        raise ValueError(f"{path}: the card of {card.name}, want that of {path.name.removesuffix('.json')}")
    if empty := [name for name, value in facts.items() if value in ("", {}) and name != "needs"]:
        raise ValueError(f"{path}: {empty[0]}: got nothing, want the fact")
    return card


def default_card(task: str) -> tuple[Card, str | None]:
    """The card that answers where the user names none.

    Args:
        task: a key of `DEFAULTS`.

    Returns:
        The default's card, or where its package is not installed that of its stand-in with a line that says so.

    Raises:
        ValueError: the default has no published weights.
    """
    card = card_of(DEFAULTS[task])
    if (missing := card.missing()) and (other := find_card(STAND_INS.get(card.model))) is not None:
        return other, f"{card.model} would be more exact: {one_line(missing)}"
    return card, None
