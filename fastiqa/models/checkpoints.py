"""Reading and writing of weights, without pickle: safetensors, or PyTorch files read with ``weights_only=True``."""

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

import fastiqa
from fastiqa.common import limits
from fastiqa.common.files import replacing
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
from fastiqa.models.backbones import resnet, se_res2net, van
from fastiqa.reference import VAN, ResNet, SERes2Net

# How much larger than its file a network may be while it is compared with it: 40 MB, half a second.
SPARE_TENSORS, SPARE_NUMBERS = 10_000, 10_000_000
_ADAPTERS = {SERes2Net: se_res2net.adapt_keys, ResNet: resnet.adapt_keys, VAN: van.adapt_keys}


@dataclass(frozen=True)
class LoadReport:
    """What a file and a backbone did not share.

    Attributes:
        missing: keys of the backbone that the file lacks. Those of the squeeze-and-excitation gates can be missing, all
            at once, and were set near identity (every gate sigmoid(4) = 0.982); so can counts of batches
            (`num_batches_tracked`), as in files of 2017, and stayed as they were. Nothing else can.
        unexpected: keys of the file that the backbone has no place for, such as those of a classifier.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        gates = "; the gates were set near identity" if any(map(_is_gate, self.missing)) else ""
        return f"missing: {listed(self.missing) or 'none'}{gates}; unexpected: {listed(self.unexpected) or 'none'}"


def load_backbone(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file of published weights into an `SERes2Net`, `ResNet` or `VAN`, or into such a `backbone` of a model.

    Keys are those of the official files: Res2Net-50 (as timm), ResNet-50 (torchvision), VAN (its authors). Other
    spellings are adapted: of the squeeze-and-excitation gates, CONTRIQUE's ResNet-50, Hugging Face's VAN. A file
    without gates sets them near identity. Where the weights lie under `backbone.`, `encoder.`, `model.`, `net.` or
    `network.` in the file, that is taken off. The model is left as it was where this raises.

    Args:
        model: the backbone, or a model that has one.
        path: a `.safetensors` file, or a PyTorch file, read with ``weights_only=True``.

    Returns:
        What the file lacks and what it has beyond the backbone, see `LoadReport`.

    Raises: TypeError for a model without such a backbone; FileNotFoundError; ValueError naming the file for one that
        cannot be read, for any other missing key, and for shapes that differ.
    """
    model = unwrapped(model)
    backbone = unwrapped(getattr(model, "backbone", model))
    adapt_keys = next((adapt for kind, adapt in _ADAPTERS.items() if isinstance(backbone, kind)), None)
    if adapt_keys is None:
        kinds = "an SERes2Net, ResNet or VAN, or a model with one as its backbone"
        raise TypeError(f"model: got {type(model).__name__}, want {kinds}")
    wanted = plain_state(backbone)
    weights = _placed(path, read_weights(path)[0], adapt_keys, wanted)
    missing = tuple(key for key in wanted if key not in weights)
    unexpected = tuple(key for key in weights if key not in wanted)
    no_gates = not any(map(_is_gate, weights))  # a file with some gates must have all
    optional = {key for key in wanted if key.endswith(".num_batches_tracked") or (no_gates and _is_gate(key))}
    if absent := [key for key in missing if key not in optional]:
        raise ValueError(f"{path}: missing {len(absent)} of {len(wanted)} keys of the backbone: {listed(absent)}")
    check_tensors(path, weights, wanted)
    if no_gates:
        se_res2net.set_gates_near_identity(backbone)
    load_plain_state(backbone, {key: weights[key] for key in wanted if key in weights}, strict=not missing)
    return LoadReport(missing, unexpected)


def identity(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and constructor options of a fastiqa model. Raises TypeError for any other."""
    from fastiqa.models.inference.model import InferenceModel  # here, since it needs the models

    name, options = getattr(model, "model_name", None), getattr(model, "options", None)
    if isinstance(model, InferenceModel):
        wanted = "the network that it was made of, to optimize anew after load_model (or torch.save, a pickle)"
        raise TypeError(f"model: got {type(model).__name__}, whose norms are folded, want {wanted}")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise TypeError(f"model: got {type(model).__name__}, want a model of fastiqa.list_models()")
    return name, options


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of a fastiqa model and the options that rebuild it, as safetensors.

    What torch.compile, DataParallel, DistributedDataParallel, FSDP, an AveragedModel or activation checkpointing wraps,
    whole or in part, is written as the plain model would be. Sharded weights are gathered: every process calls, the
    first writes. The file appears under its name only when it is complete; an older one stays until then.

    Args:
        model: one that `create_model` makes.
        path: name of the file, which ends in `.safetensors`.

    Raises: TypeError for a model that fastiqa cannot rebuild, and one of `optimize_for_inference`; ValueError for
        another suffix than `.safetensors`, and for weights that are not those of a model with its options, as with
        parametrizations or adapters; FileNotFoundError for a missing folder.
    """
    model = unwrapped(model)
    name, options = identity(model)
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path: {path}, want a name that ends in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: {path}, the folder does not exist")
    text = json.dumps(options, sort_keys=True)
    metadata = {"fastiqa.model": name, "fastiqa.options": text, "fastiqa.version": fastiqa.__version__}
    held = plain_state(model)
    _check_rebuilds(name, text, held)
    tensors = {key: _whole(tensor) for key, tensor in held.items()}
    if not all(map(_writes, held.values())):
        return
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata)


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Rebuild the model that `save_model` wrote.

    Args:
        path: the file.

    Returns:
        The model, on the CPU, in eval mode, float32 unless the file says otherwise.

    Raises: FileNotFoundError; ValueError naming the file where it is truncated, foreign, or holds a backbone only.
    """
    weights, metadata = read_weights(path)
    name = metadata.get("fastiqa.model")
    if name is None:
        if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
            raise ValueError(f"{path}: a backbone only, the PRFNet head is missing: give it to load_backbone")
        raise ValueError(f"{path}: not written by fastiqa.save_model: no fastiqa.model in its metadata")
    from fastiqa.models.registry import model_class  # here, since the registry reads files through this module

    options = read_options(path, metadata)
    try:
        with within(weights):
            model = model_class(name)(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot rebuild {name!r}: {error}") from error
    floating = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(floating) == 1:
        model.to(floating.pop())
    load_matching(model, path, weights)
    return model.eval()


def read_options(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Constructor options in the metadata of `save_model`.

    Raises: ValueError naming the file if they are not there, or beyond what `limits` allows.
    """
    try:
        options = limits.read_json(metadata.get("fastiqa.options", ""))
    except ValueError as error:
        raise ValueError(f"{path}: fastiqa.options in its metadata {error}") from error
    if not isinstance(options, dict):
        raise ValueError(
            f"{path}: fastiqa.options in its metadata is of type {type(options).__name__}, want a JSON object"
        )
    from fastiqa.models.registry import not_of_files  # here, since the registry reads files through this module

    if refused := sorted(options.keys() & not_of_files(metadata.get("fastiqa.model", ""))):
        raise ValueError(f"{path}: fastiqa.options in its metadata: got {refused[0]}, which is none of the weights'")
    return options


def within(weights: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
    """A block that makes no network much larger than a file's weights: what differs by less is named key by key.

    Raises: ValueError in the block for what is larger.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    return limits.limited(len(weights) + SPARE_TENSORS, numbers + SPARE_NUMBERS)


def _placed(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    adapt_keys: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    wanted: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Weights under the backbone's keys, those that it has no place for as they are in the file."""
    adapted = {prefix: adapt_keys(found) for prefix, found in candidates(weights)}
    shared = {prefix: len(found.keys() & wanted.keys()) for prefix, found in adapted.items()}
    best = [prefix for prefix, count in shared.items() if count == max(shared.values())]
    if len(best) > 1 and shared[""] < shared[best[0]]:
        raise ValueError(f"{path}: holds the backbone more than once, under {' and under '.join(best)}")
    prefix = best[0]
    rest = {key: tensor for key, tensor in weights.items() if not key.startswith(prefix)}
    return {**rest, **adapted[prefix]}


def _check_rebuilds(name: str, options: str, held: Mapping[str, Tensor]) -> None:
    """ValueError unless a model of these options has these weights: what is written can be read."""
    wanted = _shapes(name, options)
    missing = [key for key, shape in wanted.items() if key not in held or held[key].shape != shape]
    if differing := missing + [key for key in held if key not in wanted]:
        got = f"got {len(differing)} weights that are not those of its options"
        raise ValueError(f"model: {got}, want parametrizations and adapters merged: {listed(differing)}")


@functools.lru_cache(maxsize=8)
def _shapes(name: str, options: str) -> dict[str, torch.Size]:
    """Of the state dict of a model. The meta device would spare 0.4 s of PRFNet, but its first use takes ten."""
    from fastiqa.models.registry import model_class  # here, since the registry reads files through this module

    with torch.random.fork_rng(devices=[]):
        return {key: tensor.shape for key, tensor in model_class(name)(**json.loads(options)).state_dict().items()}


def _whole(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, of its own memory; gathered from every process where it is sharded."""
    if _is_sharded(tensor):
        tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return tensor.detach().cpu().contiguous()


def _writes(tensor: Tensor) -> bool:
    """Whether this process writes: of a sharded tensor the first of those that have a part."""
    return not _is_sharded(tensor) or int(tensor.device_mesh.mesh.min()) == torch.distributed.get_rank()  # type: ignore[attr-defined]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # DTensor, without the second that importing it takes


def _is_gate(key: str) -> bool:
    return ".se." in key
