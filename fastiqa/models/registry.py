"""Models by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastiqa.common.extras import install_command
from fastiqa.common.weight_files import load_matching, read_weights
from fastiqa.metrics.lpips import LPIPS
from fastiqa.models import checkpoints
from fastiqa.models.mfenet import MFENet
from fastiqa.models.prfnet import PRFNet

HUB_PREFIX = "hub:"
HUB_FILE = "model.safetensors"


class _Entry(NamedTuple):
    """A model, what its name stands for, and the arguments that no file may give: they name files, or how to run."""

    model: type[nn.Module]
    options: dict[str, Any]
    not_of_files: tuple[str, ...] = ()


_MODELS = {
    "lpips": _Entry(LPIPS, {}, ("trunk", "heads", "data_range", "spatial", "reduction")),
    "mfenet": _Entry(MFENet, {}, ("memory",)),
    "prfnet": _Entry(PRFNet, {"first_stage_stride": 2}, ("memory",)),
    "prfnet_fast": _Entry(PRFNet, {"first_stage_stride": 4}, ("memory",)),
}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names that match the shell-style `pattern`."""
    return sorted(name for name in _MODELS if fnmatchcase(name, pattern))


def model_class(name: str) -> type[nn.Module]:
    """The class behind `name`. Raises ValueError that lists the names."""
    if name not in _MODELS:
        raise ValueError(f"name: got {name!r}, want one of {', '.join(list_models())}")
    return _MODELS[name].model


def not_of_files(name: str) -> frozenset[str]:
    """Arguments of a model's constructor that options in a file may not have."""
    return frozenset(_MODELS[name].not_of_files if name in _MODELS else ())


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    *,
    pretrained_backbone: str | os.PathLike[str] | None = None,
    pretrained_dan: str | os.PathLike[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model, in training mode as every new module.

    Args:
        name: one of `list_models()`.
        pretrained: False for random weights, which never touches the network; a file that matches the model in every
            key and shape; or "hub:org/name" for the `model.safetensors` of a Hugging Face repository (needs
            huggingface_hub). The options in a file of `save_model` are taken over, before those that the name alone
            stands for.
        pretrained_backbone: a file for the network's main branch, Res2Net-50 for PRFNet and VAN for MFENet, see
            `load_backbone`, whose report tells what it left open.
        pretrained_dan: a ResNet-50 file for the distortion-aware branch of MFENet, likewise.
        options: of the model's constructor.

    Returns:
        The model, on the CPU, float32 unless a file says otherwise.

    Raises: ValueError for an unknown name or option value, for a file that does not match, and for a file that was
        saved with another option than `options` ask for; TypeError for an unknown option and for a branch that the
        model lacks; FileNotFoundError; ImportError without huggingface_hub.

    Example:
        >>> model = create_model("prfnet_fast", layers=(1, 1, 1, 1), width=8)
    """
    build = model_class(name)
    defaults = _MODELS[name].options
    if pretrained is True:
        raise ValueError(f"pretrained: no weights of {name} are published: give a file or 'hub:org/name'")
    if pretrained is False:
        model = build(**{**defaults, **options})
    else:
        path = _resolve(pretrained)
        weights, metadata = read_weights(path)
        if metadata.get("fastiqa.model"):
            model = _build_as_saved(path, weights, metadata, build, defaults, options)
        else:
            model = build(**{**defaults, **options})
        load_matching(model, path, weights)
    if pretrained_backbone is not None:
        checkpoints.load_backbone(model, pretrained_backbone)
    if pretrained_dan is not None:
        dan = getattr(model, "dan", None)
        if dan is None:
            raise TypeError(f"pretrained_dan: got a file, want None for a {name} without this branch")
        checkpoints.load_backbone(dan, pretrained_dan)
    return model


def _build_as_saved(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    build: type[nn.Module],
    defaults: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> nn.Module:
    saved_name = metadata["fastiqa.model"]
    if saved_name not in _MODELS or _MODELS[saved_name].model is not build:
        raise ValueError(f"{path}: holds a {saved_name!r}, want a {build.__name__}")
    saved = checkpoints.read_options(path, metadata)
    try:
        with checkpoints.within(weights):
            model = build(**{**defaults, **saved, **asked})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: cannot rebuild {saved_name!r}: {error}") from error
    # Compared after the constructor has spelled both alike: tuple or list, None or the widths it stands for.
    _, built = checkpoints.identity(model)
    for key, value in saved.items():
        if built[key] != value:
            raise ValueError(f"{path}: saved with {key}={value!r}, asked for {built[key]!r}")
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
