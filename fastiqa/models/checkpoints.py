"""Saves and rebuilds models, and loads published backbones, without pickle.

Files are safetensors, or PyTorch's, read with ``weights_only=True``; see `fastiqa.common.weight_files`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastiqa import __version__
from fastiqa.common import limits
from fastiqa.common.files import replacing
from fastiqa.common.hashing import file_sha256
from fastiqa.common.installed_weights import installed_weights
from fastiqa.common.weight_files import (
    candidates,
    check_tensors,
    listed,
    load_matching,
    load_plain_state,
    plain_state,
    read_weights,
    unwrapped,
)
from fastiqa.models.backbones import INSTALLED, KEY_ADAPTERS, se_res2net
from fastiqa.models.registry import model_entry, not_of_files

# In metadata: SHA-256 of the installed file that holds the backbone, which the saved file leaves out.
BACKBONE_SHA256 = "fastiqa.backbone_sha256"
# How much larger than its file a network may be, to be compared with it key by key: 40 MB, half a second.
SPARE_TENSORS, SPARE_NUMBERS = 10_000, 10_000_000


@dataclass(frozen=True)
class LoadReport:
    """The keys that a file and a backbone do not share.

    Attributes:
        missing: keys of the backbone that the file lacks. Only two kinds may be missing: the squeeze-and-excitation
            gates, all at once, which are then set near identity (every gate sigmoid(4) = 0.982), and counts of batches
            (`num_batches_tracked`), as in files of 2017, which then stay.
        unexpected: keys of the file that the backbone has no place for, such as a classifier's.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        gates = "; the gates were set near identity" if any(map(_is_gate, self.missing)) else ""
        return f"missing: {listed(self.missing) or 'none'}{gates}; unexpected: {listed(self.unexpected) or 'none'}"


def load_backbone(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file of published weights into a backbone of fastiqa, or into such a `backbone` of a model.

    Keys are those of the official files: Res2Net-50 (as timm), ResNet-50 (torchvision), VAN (its authors),
    EfficientNet-Lite0 (timm's `tf_efficientnet_lite0`). Other spellings are adapted: the gates of public SE-Res2Nets,
    CONTRIQUE's ResNet-50, Hugging Face's VAN, PyTorch ports of EfficientNet-Lite0. A file without gates sets them near
    identity. The prefixes `backbone.`, `encoder.`, `model.`, `net.` and `network.` are dropped.

    Args:
        model: an `SERes2Net`, `ResNet`, `VAN` or `EfficientNetLite`, or a model that has it as `backbone`; left
            unchanged if this raises.
        path: a `.safetensors` file, or a PyTorch file, read with ``weights_only=True``.

    Returns:
        The keys that the file lacks, and those that the backbone has no place for.

    Raises:
        TypeError: a model without such a backbone.
        FileNotFoundError: no such file.
        ValueError: naming the file: it cannot be read, lacks any other key, or has other shapes.
    """
    model = unwrapped(model)
    backbone = unwrapped(getattr(model, "backbone", model))
    adapt_keys = next((adapt for kind, adapt in KEY_ADAPTERS.items() if isinstance(backbone, kind)), None)
    if adapt_keys is None:
        kinds = "an SERes2Net, ResNet, VAN or EfficientNetLite, or a model with one as its backbone"
        raise TypeError(f"model: got {type(model).__name__}, want {kinds}")
    want = plain_state(backbone)
    weights = _placed(path, read_weights(path)[0], adapt_keys, want)
    missing = tuple(key for key in want if key not in weights)
    unexpected = tuple(key for key in weights if key not in want)
    no_gates = not any(map(_is_gate, weights))  # a file with some gates must have all
    optional = {key for key in want if key.endswith(".num_batches_tracked") or (no_gates and _is_gate(key))}
    if absent := [key for key in missing if key not in optional]:
        raise ValueError(f"{path}: missing {len(absent)} of {len(want)} keys of the backbone: {listed(absent)}")
    check_tensors(path, weights, want)
    if no_gates:
        se_res2net.set_gates_near_identity(backbone)
    load_plain_state(backbone, {key: weights[key] for key in want if key in weights}, strict=not missing)
    return LoadReport(missing, unexpected)


def installed_backbone(model: nn.Module) -> Path:
    """The file of ImageNet weights that the extra `weights` brings for a model's backbone; nothing is downloaded.

    Raises:
        MissingWeightsError: an ImportError, with the command that installs the extra.
        ValueError: no weights for this backbone, or the file of another version.
    """
    if (name := installed_name(model)) is None:
        kind = type(unwrapped(getattr(unwrapped(model), "backbone", model))).__name__
        want = "a file: the extra `weights` has EfficientNet-Lite0's alone"
        raise ValueError(f"pretrained_backbone: got 'imagenet' for a {kind}, want {want}")
    return installed_weights(name)


def installed_name(model: nn.Module) -> str | None:
    """Name in `fastiqa.common.installed_weights` of the weights for a model's backbone, or None."""
    backbone = unwrapped(getattr(unwrapped(model), "backbone", model))
    return next((name for kind, name in INSTALLED.items() if isinstance(backbone, kind)), None)


def name_and_options(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Registered name and constructor options of a fastiqa model. Raises TypeError for any other."""
    name, options = getattr(model, "model_name", None), getattr(model, "options", None)
    if reason := getattr(model, "why_not_saved", None):  # an optimized network, or one with a user's backbone
        raise TypeError(f"model: got {type(model).__name__}, {reason}")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise TypeError(f"model: got {type(model).__name__}, want a model of fastiqa.list_models()")
    return name, options


def save_model(model: nn.Module, path: str | os.PathLike[str], *, backbone: bool = True) -> None:
    """Write the weights of a fastiqa model and the options that rebuild it, as safetensors.

    A model that torch.compile, DataParallel, DistributedDataParallel, FSDP, an AveragedModel or activation
    checkpointing wraps, in whole or in part, is written like the plain model. Sharded weights are gathered: every
    process calls, the first writes. The file is replaced only when the new one is complete.

    Args:
        model: one of `fastiqa.list_models()`, in any mode.
        path: ends in `.safetensors`; its folder exists.
        backbone: False leaves the backbone out, whose weights must be those of the extra `weights`; who reads the file
            needs this extra.

    Raises:
        TypeError: a model that fastiqa cannot rebuild, such as that of `optimize_for_inference`, or one with a backbone
            of your own.
        ValueError: another suffix; weights that a model of these options does not have, such as those of
            parametrizations or adapters; `backbone=False` for a backbone with other weights than the extra's.
        ImportError: `backbone=False` without the extra `weights`.
        FileNotFoundError: no such folder.
    """
    model = unwrapped(model)
    name, options = name_and_options(model)
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path: got {path}, want a name that ends in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: got {path}, want a folder that exists")
    text = json.dumps(options, sort_keys=True)
    metadata = {"fastiqa.model": name, "fastiqa.options": text, "fastiqa.version": __version__}
    held = plain_state(model)
    _check_rebuilds(name, text, held)
    tensors = {key: _whole(tensor) for key, tensor in held.items()}
    if not backbone:
        tensors = _without_installed_backbone(model, tensors)
        metadata[BACKBONE_SHA256] = file_sha256(installed_backbone(model))
    if not all(map(_writes, held.values())):
        return
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata)


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Rebuild the model that `save_model` wrote.

    Args:
        path: the file.

    Returns:
        The model, on the CPU, in eval mode, in the file's floating-point dtype, or in float32 if it has several.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming the file: truncated, foreign, or a backbone only.
    """
    weights, metadata = read_weights(path)
    name = metadata.get("fastiqa.model")
    if name is None:
        if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
            raise ValueError(f"{path}: a backbone only, the PRFNet head is missing: give it to load_backbone")
        raise ValueError(f"{path}: not written by fastiqa.save_model: no fastiqa.model in its metadata")
    options = read_options(path, metadata)
    try:
        with no_larger_than(weights):
            model = model_entry(name).build(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot rebuild {name!r}: {error}") from error
    floating = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    weights = with_installed_backbone(model, path, weights, metadata)
    if len(floating) == 1:
        model.to(floating.pop())
    load_matching(model, path, weights)
    return model.eval()


def with_installed_backbone(
    model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """The weights of a file; where `save_model` left the backbone out, with that of the extra `weights`.

    Raises:
        MissingWeightsError: an ImportError, with the command that installs the extra.
        ValueError: naming the file: the extra has another backbone than the one that the file was saved with.
    """
    if (want := metadata.get(BACKBONE_SHA256)) is None:
        return dict(weights)
    installed = installed_backbone(model)
    if (got := file_sha256(installed)) != want:
        raise ValueError(f"{path}: saved with a backbone whose sha256 is {want}, got {got} of {installed}")
    load_backbone(model, installed)
    prefix = backbone_prefix(model)
    kept = {key: tensor for key, tensor in plain_state(model).items() if key.startswith(prefix)}
    return {**kept, **weights}


def backbone_prefix(model: nn.Module) -> str:
    """What the keys of a model's backbone start with: "backbone." for PRFNet, "qen." for MFENet."""
    inner: Any = unwrapped(model)
    return next(f"{name}." for name, module in inner.named_children() if module is inner.backbone)


def _without_installed_backbone(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name, options = name_and_options(model)
    with torch.random.fork_rng(devices=[]):
        other = model_entry(name).build(**options)
    load_backbone(other, installed_backbone(other))
    prefix = backbone_prefix(other)
    for key, tensor in plain_state(other).items():
        # counts of batches are of training alone
        compared = key.startswith(prefix) and not key.endswith("num_batches_tracked")
        if compared and not torch.equal(tensor, tensors[key].to(tensor.dtype)):
            raise ValueError(f"backbone: got False for a model whose {key} is not the extra's, want True")
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}


def read_options(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The constructor options in metadata that `save_model` wrote.

    Raises: ValueError naming the file if they are absent, beyond `fastiqa.common.limits`, or not a file's to set.
    """
    try:
        options = limits.read_json(metadata.get("fastiqa.options", ""))
    except ValueError as error:
        raise ValueError(f"{path}: fastiqa.options in its metadata {error}") from error
    if not isinstance(options, dict):
        raise ValueError(
            f"{path}: fastiqa.options in its metadata is of type {type(options).__name__}, want a JSON object"
        )
    if refused := sorted(options.keys() & not_of_files(metadata.get("fastiqa.model", ""))):
        raise ValueError(f"{path}: fastiqa.options in its metadata: got {refused[0]}, which is none of the weights'")
    return options


def no_larger_than(weights: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
    """A context in which a network much larger than the weights raises ValueError.

    One that differs by less is built, and then refused key by key.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    return limits.limited(len(weights) + SPARE_TENSORS, numbers + SPARE_NUMBERS)


def _placed(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    adapt_keys: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    want: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The weights under the backbone's keys; those that it has no place for keep the file's keys."""
    adapted = {prefix: adapt_keys(found) for prefix, found in candidates(weights)}
    shared = {prefix: len(found.keys() & want.keys()) for prefix, found in adapted.items()}
    best = [prefix for prefix, count in shared.items() if count == max(shared.values())]
    if len(best) > 1 and shared[""] < shared[best[0]]:
        raise ValueError(f"{path}: holds the backbone more than once, under {' and under '.join(best)}")
    prefix = best[0]
    rest = {key: tensor for key, tensor in weights.items() if not key.startswith(prefix)}
    return {**rest, **adapted[prefix]}


def _check_rebuilds(name: str, options: str, held: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a model of these options has these weights, so that the file can be read."""
    want = _shapes(name, options)
    missing = [key for key, shape in want.items() if key not in held or held[key].shape != shape]
    if differing := missing + [key for key in held if key not in want]:
        got = f"got {len(differing)} weights that are not those of its options"
        raise ValueError(f"model: {got}, want parametrizations and adapters merged: {listed(differing)}")


@functools.lru_cache(maxsize=8)
def _shapes(name: str, options: str) -> dict[str, torch.Size]:
    """The shapes of a model's state dict.

    Built on the CPU: the meta device would save 0.4 s for PRFNet, but its first use takes 10 s.
    """
    with torch.random.fork_rng(devices=[]):
        return {
            key: tensor.shape for key, tensor in model_entry(name).build(**json.loads(options)).state_dict().items()
        }


def _whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous; gathered from every process if it is sharded."""
    if _is_sharded(tensor):
        tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return tensor.detach().cpu().contiguous()


def _writes(tensor: Tensor) -> bool:
    """Whether this process writes the tensor: for a sharded one, the first process that has a part."""
    return not _is_sharded(tensor) or int(tensor.device_mesh.mesh.min()) == torch.distributed.get_rank()  # type: ignore[attr-defined]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # DTensor, without the second that importing it takes


def _is_gate(key: str) -> bool:
    return ".se." in key
