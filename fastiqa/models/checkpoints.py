"""Reading and writing of weights, without pickle: safetensors, or PyTorch files read with ``weights_only=True``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fastiqa
from fastiqa._files import replacing
from fastiqa.models.backbones import resnet, se_res2net, van
from fastiqa.reference import VAN, ResNet, SERes2Net

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_NESTING = ("state_dict", "model")
_ADAPTERS = {SERes2Net: se_res2net.adapt_keys, ResNet: resnet.adapt_keys, VAN: van.adapt_keys}
_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")


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
        return f"missing: {_listed(self.missing) or 'none'}{gates}; unexpected: {_listed(self.unexpected) or 'none'}"


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, to the CPU, and the metadata of a `.safetensors`, `.pth`, `.pt`, `.tar` or `.bin` file.

    Metadata are those of safetensors, empty for the others. Dictionaries nested under `state_dict` or `model` are
    opened, a `module.` before every key is taken off.

    Raises: FileNotFoundError; ValueError naming the file if it is truncated, foreign, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: truncated, or not a safetensors file: {error}") from error
    if path.suffix in _TORCH_SUFFIXES:
        return _flatten(path, _unpickle(path)), {}
    wanted = ", ".join((".safetensors", *_TORCH_SUFFIXES))
    raise ValueError(f"{path}: a file of weights ends in one of {wanted}")


def load_backbone(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file of published weights into an `SERes2Net`, `ResNet` or `VAN`, or into such a `backbone` of a model.

    Keys are those of the official files: Res2Net-50 (as timm), ResNet-50 (torchvision), VAN (its authors). Other
    spellings are adapted: of the squeeze-and-excitation gates, CONTRIQUE's ResNet-50, Hugging Face's VAN. A file
    without gates sets them near identity. The model is left as it was where this raises.

    Returns: what the file lacks and what it has beyond the backbone, see `LoadReport`.

    Raises: TypeError for a model without such a backbone; FileNotFoundError; ValueError naming the file for one that
        cannot be read, for any other missing key, and for shapes that differ.
    """
    backbone = getattr(model, "backbone", model)
    adapt_keys = next((adapt for kind, adapt in _ADAPTERS.items() if isinstance(backbone, kind)), None)
    if adapt_keys is None:
        kinds = "an SERes2Net, ResNet or VAN, or a model with one as its backbone"
        raise TypeError(f"model: got {type(model).__name__}, want {kinds}")
    weights = adapt_keys(read_file(path)[0])
    wanted = backbone.state_dict()
    missing = tuple(key for key in wanted if key not in weights)
    unexpected = tuple(key for key in weights if key not in wanted)
    no_gates = not any(map(_is_gate, weights))  # a file with some gates must have all
    optional = {key for key in wanted if key.endswith(".num_batches_tracked") or (no_gates and _is_gate(key))}
    if absent := [key for key in missing if key not in optional]:
        raise ValueError(f"{path}: missing {len(absent)} of {len(wanted)} keys of the backbone: {_listed(absent)}")
    _check_shapes(path, weights, wanted)
    if no_gates:
        se_res2net.set_gates_near_identity(backbone)
    backbone.load_state_dict({key: weights[key] for key in wanted if key in weights}, strict=not missing)
    return LoadReport(missing, unexpected)


def load_matching(model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, Tensor]) -> None:
    """Load `weights`, read from `path`, which match `model` in every key and shape.

    Raises: ValueError naming the file and the keys that are missing, left over or of another shape.
    """
    wanted = model.state_dict()
    if missing := [key for key in wanted if key not in weights]:
        raise ValueError(f"{path}: missing {len(missing)} of {len(wanted)} keys of the model: {_listed(missing)}")
    if unexpected := [key for key in weights if key not in wanted]:
        raise ValueError(
            f"{path}: no place in the model for {len(unexpected)} of {len(weights)} keys: {_listed(unexpected)}"
        )
    _check_shapes(path, weights, wanted)
    model.load_state_dict(weights)


def identity(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and constructor options of a fastiqa model. Raises TypeError for any other."""
    name, options = getattr(model, "model_name", None), getattr(model, "options", None)
    if not isinstance(name, str) or not isinstance(options, dict):
        raise TypeError(f"model: got {type(model).__name__}, want a model of fastiqa.list_models()")
    return name, options


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of a fastiqa model and the options that rebuild it, as safetensors.

    The file appears under its name only when it is complete; an older one stays until then.

    Raises: TypeError for a model that fastiqa cannot rebuild; ValueError for another suffix than `.safetensors`;
        FileNotFoundError for a missing folder.
    """
    name, options = identity(model)
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path: {path}, want a name that ends in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: {path}, the folder does not exist")
    metadata = {
        "fastiqa.model": name,
        "fastiqa.options": json.dumps(options, sort_keys=True),
        "fastiqa.version": fastiqa.__version__,
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata)


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Rebuild the model that `save_model` wrote: on the CPU, in eval mode, float32 unless the file says otherwise.

    Raises: FileNotFoundError; ValueError naming the file where it is truncated, foreign, or holds a backbone only.
    """
    weights, metadata = read_file(path)
    name = metadata.get("fastiqa.model")
    if name is None:
        if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
            raise ValueError(f"{path}: a backbone only, the PRFNet head is missing: give it to load_backbone")
        raise ValueError(f"{path}: not written by fastiqa.save_model: no fastiqa.model in its metadata")
    from fastiqa.models.registry import model_class  # here, since the registry reads files through this module

    try:
        model = model_class(name)(**read_options(path, metadata))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot rebuild {name!r}: {error}") from error
    floating = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(floating) == 1:
        model.to(floating.pop())
    load_matching(model, path, weights)
    return model.eval()


def read_options(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Constructor options in the metadata of `save_model`. Raises ValueError naming the file if they are not there."""
    try:
        options = json.loads(metadata.get("fastiqa.options", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: fastiqa.options in its metadata is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(
            f"{path}: fastiqa.options in its metadata is of type {type(options).__name__}, want a JSON object"
        )
    return options


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        # PyTorch's own message advises to read the file unsafely.
        if match := _REFUSED.search(str(error)):
            raise ValueError(f"{path}: holds {match[1]} objects, want tensors only") from error
        raise ValueError(f"{path}: truncated, or not a PyTorch file of tensors only") from error


def _flatten(path: Path, weights: object) -> dict[str, Tensor]:
    while isinstance(weights, Mapping):
        inner = [weights[key] for key in _NESTING if isinstance(weights.get(key), Mapping)]
        if not inner:
            break
        weights = inner[0]
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"{path}: top level of type {type(weights).__name__} without tensors, want a dictionary of them"
        )
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key!r} is of type {type(value).__name__}, want tensors under string keys only")
    if all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return dict(weights)


def _check_shapes(path: str | os.PathLike[str], weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    pairs = ((key, weights[key].shape, tensor.shape) for key, tensor in wanted.items() if key in weights)
    if wrong := [f"{key} {tuple(got)}, want {tuple(want)}" for key, got, want in pairs if got != want]:
        raise ValueError(
            f"{path}: shapes differ for {len(wrong)} of {len(wanted)} keys: {_listed(wrong, separator='; ')}"
        )


def _is_gate(key: str) -> bool:
    return ".se." in key


def _listed(keys: list[str] | tuple[str, ...], limit: int = 8, separator: str = ", ") -> str:
    rest = f"{separator}and {len(keys) - limit} more" if len(keys) > limit else ""
    return separator.join(keys[:limit]) + rest
