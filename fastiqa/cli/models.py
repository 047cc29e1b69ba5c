"""``fastiqa models``: the networks whose weights travel with fastiqa."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fastiqa.cli.options import refuse


def models_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show all facts of this one.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a network.")] = False,
) -> int:
    """List the networks with published weights: task, size, training data, licence, how far to trust them.

    fastiqa.create_model(NAME, pretrained=True) builds one.
    """
    from fastiqa.cli.render import print_card, print_cards
    from fastiqa.models import card_of, cards

    try:
        chosen = cards() if name is None else (card_of(name),)
    except ValueError as error:
        return refuse(error)
    if as_json:
        print(json.dumps([card.as_dict() for card in chosen], indent=2))
    elif name is None:
        print_cards(chosen)
    else:
        print_card(chosen[0])
    return 0
