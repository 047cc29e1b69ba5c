"""Makes published weights of a trained network, the file and its card, see `fastiqa.models.published`.

    python -m fastiqa.models.publish RUN prfnet_lite.TAG --half

RUN is the folder of a run, or a file of ``save_model``. A backbone that the extra `weights` brings is left out, after a
check that training did not change it. `--half` stores matrices and kernels in float16, for half of the bytes; networks
load in float32. Measure the scores on the published file. Facts that only its trainer knows are empty in a new card;
until they are filled in, `fastiqa models` names the first. A card that is there keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from fastiqa.common.files import write_atomically
from fastiqa.common.hashing import file_sha256
from fastiqa.models import published
from fastiqa.models.checkpoints import backbone_prefix, installed_name, save_model
from fastiqa.models.creation import create_model
from fastiqa.models.mfenet import MFENet
from fastiqa.models.prfnet import PRFNet
from fastiqa.models.published import Card

TASKS: dict[type[nn.Module], str] = {
    PRFNet: "which of two images is closer to the reference",
    MFENet: "how good an image is, without a reference",
}


def publish(run: str | os.PathLike[str], name: str, half: bool = False) -> Card:
    """Write the weights and the card of a trained network into the folder of published weights.

    Args:
        run: the folder of a run of ``fastiqa train``, or a file of `save_model`.
        name: MODEL.TAG.
        half: store tensors of two and more dimensions in float16, without those of a backbone that is left out. Biases,
            norms and their statistics stay as they are.

    Returns:
        The card, whose facts about training are empty unless an earlier card has them.

    Raises:
        ValueError: a name without a tag, another model, a backbone that differs from the installed one, or weights
            beyond float16's range.
        FileNotFoundError: no such run.
        ImportError: the extra `weights` has the backbone, and is not installed.
    """
    model_name, _, tag = name.partition(".")
    if not tag:
        raise ValueError(f"name: got {name!r}, want MODEL.TAG")
    path = Path(run)
    path = path / "model.safetensors" if path.is_dir() else path
    model = create_model(model_name, path)
    needs = installed_name(model) or ""
    if half:
        _halve(model, backbone_prefix(model) if needs else None)
    target = published.FOLDER / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    save_model(model, target, backbone=not needs)
    facts = {
        "model": model_name,
        "tag": tag,
        "sha256": file_sha256(target),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "needs": needs,
    }
    card_file = target.with_suffix(".json")
    known = json.loads(card_file.read_text("utf-8")) if card_file.is_file() else {}
    empty = {"task": TASKS.get(type(model), ""), "data": "", "licence": "", "accuracy": "", "scores": {}}
    card = Card(**{**empty, "page": f"docs/models/{model_name}.md", **known, **facts})
    write_atomically(card_file, (json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n").encode())
    return card


def _halve(model: nn.Module, left_out: str | None) -> None:
    for key, parameter in model.named_parameters():
        if parameter.dim() < 2 or (left_out is not None and key.startswith(left_out)):
            continue
        stored = parameter.data.to(torch.float16)
        if not stored.isfinite().all():
            largest = parameter.abs().max().item()
            raise ValueError(f"half: got {key} with values to {largest:.3g}, want float16's, at most 65504")
        parameter.data = stored


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastiqa.models.publish", description=publish.__doc__)
    parser.add_argument("run", help="the folder of a run, or a file of save_model")
    parser.add_argument("name", help="MODEL.TAG")
    parser.add_argument("--half", action="store_true", help="store matrices and kernels in float16")
    given = parser.parse_args(arguments)
    try:
        card = publish(given.run, given.name, given.half)
    except (ImportError, OSError, ValueError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    print(f"{card.file()}: {card.size:,} bytes, sha256 {card.sha256}")
    print(f"{card.file().with_suffix('.json')}: fill in what is empty, and measure the scores on this file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
