"""create_model: a model by name, with random weights or those of files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastiqa.common.extras import install_command
from fastiqa.common.weight_files import load_matching, read_weights
from fastiqa.models.checkpoints import (
    installed_backbone,
    load_backbone,
    name_and_options,
    no_larger_than,
    read_options,
    with_installed_backbone,
)
from fastiqa.models.published import card_of
from fastiqa.models.registry import MODELS, ModelEntry, model_entry

HUB_PREFIX = "hub:"
IMAGENET = "imagenet"  # no file: those of weights have a suffix
HUB_FILE = "model.safetensors"


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    *,
    pretrained_backbone: str | os.PathLike[str] | None = None,
    pretrained_dan: str | os.PathLike[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model by name, with random weights or those of files.

    Args:
        name: one of `list_models()`; with `pretrained=True` also NAME.TAG for other weights than the default.
        pretrained: False for random weights; True for those that `fastiqa models` lists, which travel with fastiqa, or
            of "lpips" with the extra `weights`; a file that matches the model in every key and shape; or "hub:org/name"
            for the `model.safetensors` of a Hugging Face repository (needs huggingface_hub). A file of `save_model`, or
            True, also sets the options; they go before the name's own.
        pretrained_backbone: a file for the main branch, Res2Net-50 for PRFNet and VAN for MFENet, see `load_backbone`;
            its report says what the file left open. "imagenet", with backbone "efficientnet_lite0", for the weights of
            the extra `weights`.
        pretrained_dan: a ResNet-50 file for MFENet's distortion-aware branch, likewise.
        options: arguments of the model's constructor.

    Returns:
        The model, on the CPU, in float32 and in training mode.

    Raises:
        ValueError: an unknown name or option value; a file that does not match, or that was saved with another value of
            an option in `options`.
        TypeError: an unknown option, or a file for a branch that the model lacks.
        FileNotFoundError: no such file.
        ImportError: huggingface_hub, or the extra `weights`, is not installed.

    Example:
        >>> model = create_model("prfnet_fast", layers=(1, 1, 1, 1), width=8)
    """
    entry = model_entry(name.partition(".")[0] if pretrained is True and isinstance(name, str) else name)
    if pretrained is True and not (name in MODELS and "pretrained" in entry.random):
        pretrained = _published(name)
    if pretrained is True:
        model = entry.model(**{**entry.options, **options})
    elif pretrained is False:
        model = entry.build(**{**entry.options, **options})
    else:
        path = _resolve(pretrained)
        weights, metadata = read_weights(path)
        if metadata.get("fastiqa.model"):
            model = _build_as_saved(path, weights, metadata, entry, options)
            weights = with_installed_backbone(model, path, weights, metadata)
        else:
            model = entry.build(**{**entry.options, **options})
        load_matching(model, path, weights)
    if pretrained_backbone is not None:
        load_backbone(model, installed_backbone(model) if pretrained_backbone == IMAGENET else pretrained_backbone)
    if pretrained_dan is not None:
        dan = getattr(model, "dan", None)
        if dan is None:
            raise TypeError(f"pretrained_dan: got a file, want None for a {name} without this branch")
        load_backbone(dan, pretrained_dan)
    return model


def _published(name: str) -> Path:
    try:
        card = card_of(name)
    except ValueError as error:
        raise ValueError(f"pretrained: got True, want a file or 'hub:org/name': {error}") from None
    return card.file()


def _build_as_saved(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    entry: ModelEntry,
    asked: Mapping[str, Any],
) -> nn.Module:
    saved_name = metadata["fastiqa.model"]
    if saved_name not in MODELS or MODELS[saved_name].model is not entry.model:
        raise ValueError(f"{path}: holds a {saved_name!r}, want a {entry.model.__name__}")
    saved = read_options(path, metadata)
    try:
        with no_larger_than(weights):
            model = entry.build(**{**entry.options, **saved, **asked})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: cannot rebuild {saved_name!r}: {error}") from error
    # Compared as the constructor keeps them: it spells tuple or list, None or the widths it stands for, alike.
    _, built = name_and_options(model)
    for key, value in saved.items():
        if built.get(key, asked.get(key)) != value:
            raise ValueError(f"{path}: saved with {key}={value!r}, asked for {built.get(key, asked.get(key))!r}")
    for key in entry.optional:
        if key in built and key not in saved:
            raise ValueError(f"{path}: saved without {key}, asked for {built[key]!r}")
    return model


def _resolve(pretrained: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not isinstance(pretrained, str) or not pretrained.startswith(HUB_PREFIX):
        return pretrained
    repository = pretrained.removeprefix(HUB_PREFIX)
    if len(parts := repository.split("/")) != 2 or not all(parts):
        raise ValueError(f"pretrained: got {pretrained!r}, want 'hub:org/name'")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(f"pretrained={pretrained!r} needs huggingface_hub: {install_command('hub')}") from error
    downloaded: str = hf_hub_download(repository, HUB_FILE)
    return downloaded
