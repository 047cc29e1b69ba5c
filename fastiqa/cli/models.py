"""``fastiqa models``: the networks whose weights travel with fastiqa."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fastiqa.cli.options import refuse


def models_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Print every fact of these weights, MODEL or MODEL.TAG.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects; of NAME, one object.")] = False,
) -> int:
    """List the networks with published weights: task, size, training data, licence, accuracy.

    fastiqa.create_model(NAME, pretrained=True) builds one. The weights are part of fastiqa; a backbone that the extra
    `weights` brings is not. Nothing is downloaded.
    """
    from fastiqa.cli.render import print_card, print_cards
    from fastiqa.models import card_of, cards, list_models
    from fastiqa.models.registry import model_entry

    try:
        found = cards()
        card = None if name is None else card_of(name)
    except ValueError as error:
        return refuse(error)
    if as_json:
        content = [one.as_dict() for one in found] if card is None else card.as_dict()
        print(json.dumps(content, indent=2, ensure_ascii=True))
    elif card is not None:
        print_card(card)
    else:
        if found:
            print_cards(found)
        known = {one.model for one in found}
        without = [
            model for model in list_models() if model not in known and "pretrained" not in model_entry(model).random
        ]
        print(f"no weights of {', '.join(without)} are published")
    return 0
