"""Reading and writing of weights, without pickle: safetensors, or PyTorch files read with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fastiqa
from fastiqa.common import limits
from fastiqa.common.files import replacing
from fastiqa.models.backbones import resnet, se_res2net, van
from fastiqa.reference import VAN, ResNet, SERes2Net

# How much larger than its file a network may be while it is compared with it: 40 MB, half a second.
SPARE_TENSORS, SPARE_NUMBERS = 10_000, 10_000_000
_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
# Averaged weights come first, as timm and BasicSR take them: they are what authors evaluate.
_NESTING = ("state_dict_ema", "model_ema", "params_ema", "ema", "model_state_dict", "state_dict", "model", "params",
            "network", "net", "weights")  # fmt: skip
_DEEPEST_NESTING = 8
# What torch.compile, FSDP and activation checkpointing put into names: no module of a user's own is called so.
_INSERTED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)  # which hold it as `module`
_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "network.", "net.")
_DEEPEST_PREFIX = 3
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

    Metadata are those of safetensors, empty for the others. Dictionaries nested under the names of published files are
    opened: `state_dict`, `model`, `model_state_dict`, `params`, `net`, `network`, `weights`, and before those the
    averaged weights of `state_dict_ema`, `model_ema`, `params_ema` or `ema`. What torch.compile, FSDP and activation
    checkpointing put into keys is taken out, and a `module.` before every key, as of DataParallel, taken off.

    Raises: FileNotFoundError; ValueError naming the file if it is truncated, foreign, nested within itself, or holds
        anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return _unwrapped(path, tensors), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: truncated, or not a safetensors file: {error}") from error
    if path.suffix in _TORCH_SUFFIXES:
        return _unwrapped(path, _flatten(path, _unpickle(path))), {}
    wanted = ", ".join((".safetensors", *_TORCH_SUFFIXES))
    raise ValueError(f"{path}: a file of weights ends in one of {wanted}")


def load_backbone(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file of published weights into an `SERes2Net`, `ResNet` or `VAN`, or into such a `backbone` of a model.

    Keys are those of the official files: Res2Net-50 (as timm), ResNet-50 (torchvision), VAN (its authors). Other
    spellings are adapted: of the squeeze-and-excitation gates, CONTRIQUE's ResNet-50, Hugging Face's VAN. A file
    without gates sets them near identity. Where the weights lie under `backbone.`, `encoder.`, `model.`, `net.` or
    `network.` in the file, that is taken off. The model is left as it was where this raises.

    Returns: what the file lacks and what it has beyond the backbone, see `LoadReport`.

    Raises: TypeError for a model without such a backbone; FileNotFoundError; ValueError naming the file for one that
        cannot be read, for any other missing key, and for shapes that differ.
    """
    model = _inner(model)
    backbone = _inner(getattr(model, "backbone", model))
    adapt_keys = next((adapt for kind, adapt in _ADAPTERS.items() if isinstance(backbone, kind)), None)
    if adapt_keys is None:
        kinds = "an SERes2Net, ResNet or VAN, or a model with one as its backbone"
        raise TypeError(f"model: got {type(model).__name__}, want {kinds}")
    wanted = _plain_state(backbone)
    weights = _placed(path, read_file(path)[0], adapt_keys, wanted)
    missing = tuple(key for key in wanted if key not in weights)
    unexpected = tuple(key for key in weights if key not in wanted)
    no_gates = not any(map(_is_gate, weights))  # a file with some gates must have all
    optional = {key for key in wanted if key.endswith(".num_batches_tracked") or (no_gates and _is_gate(key))}
    if absent := [key for key in missing if key not in optional]:
        raise ValueError(f"{path}: missing {len(absent)} of {len(wanted)} keys of the backbone: {_listed(absent)}")
    _check_tensors(path, weights, wanted)
    if no_gates:
        se_res2net.set_gates_near_identity(backbone)
    _load_plain_state(backbone, {key: weights[key] for key in wanted if key in weights}, strict=not missing)
    return LoadReport(missing, unexpected)


def load_matching(model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, Tensor]) -> None:
    """Load `weights`, read from `path`, which match `model` in every key and shape, after a prefix of all keys.

    Raises: ValueError naming the file and the keys that are missing, left over or of another shape.
    """
    wanted = _plain_state(model)
    shared = (found for _, found in _candidates(weights) if len(found) == len(weights))
    weights = next((found for found in shared if not found.keys().isdisjoint(wanted)), weights)
    if missing := [key for key in wanted if key not in weights]:
        raise ValueError(f"{path}: missing {len(missing)} of {len(wanted)} keys of the model: {_listed(missing)}")
    if unexpected := [key for key in weights if key not in wanted]:
        raise ValueError(
            f"{path}: no place in the model for {len(unexpected)} of {len(weights)} keys: {_listed(unexpected)}"
        )
    _check_tensors(path, weights, wanted)
    _load_plain_state(model, weights)


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

    Raises: TypeError for a model that fastiqa cannot rebuild, and one of `optimize_for_inference`; ValueError for
        another suffix than `.safetensors`, and for weights that are not those of a model with its options, as with
        parametrizations or adapters; FileNotFoundError for a missing folder.
    """
    model = _inner(model)
    name, options = identity(model)
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path: {path}, want a name that ends in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: {path}, the folder does not exist")
    text = json.dumps(options, sort_keys=True)
    metadata = {"fastiqa.model": name, "fastiqa.options": text, "fastiqa.version": fastiqa.__version__}
    held = _plain_state(model)
    _check_rebuilds(name, text, held)
    tensors = {key: _whole(tensor) for key, tensor in held.items()}
    if not all(map(_writes, held.values())):
        return
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


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        # PyTorch's own message advises to read the file unsafely.
        if match := _REFUSED.search(str(error)):
            raise ValueError(f"{path}: holds {match[1]} objects, want tensors only") from error
        raise ValueError(f"{path}: truncated, or not a PyTorch file of tensors only") from error


def _flatten(path: Path, weights: object) -> dict[str, Tensor]:
    for _ in range(_DEEPEST_NESTING):
        if not isinstance(weights, Mapping):
            break
        inner = [weights[key] for key in _NESTING if isinstance(weights.get(key), Mapping)]
        if not inner:
            break
        weights = inner[0]
    else:
        raise ValueError(f"{path}: nested more than {_DEEPEST_NESTING} deep, or within itself")
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"{path}: top level of type {type(weights).__name__} without tensors, want a dictionary of them"
        )
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key!r} is of type {type(value).__name__}, want tensors under string keys only")
    return dict(weights)


def _unwrapped(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the keys of the model that was compiled, sharded or wrapped when they were written."""
    keys = {key: _plain_name(key) for key in weights}
    keys.pop("n_averaged", None)  # of AveragedModel, beside `module.`
    wrapped = bool(keys) and all(key.startswith("module.") for key in keys.values())
    if not wrapped and "n_averaged" in weights:
        keys["n_averaged"] = "n_averaged"
    if wrapped:
        keys = {key: plain.removeprefix("module.") for key, plain in keys.items()}
    if len(set(keys.values())) < len(keys):
        raise ValueError(f"{path}: holds the same weights twice, wrapped and not")
    return {plain: weights[key] for key, plain in keys.items()}


def _plain_name(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _INSERTED)


def _candidates(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The weights of a file as they are, and those under each prefix of other people's files, without it."""
    level: list[tuple[str, Mapping[str, Tensor]]] = [("", weights)]
    for _ in range(_DEEPEST_PREFIX + 1):
        yield from level
        level = [
            (before + prefix, under)
            for before, found in level
            for prefix in _PREFIXES
            if (under := {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
        ]


def _placed(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    adapt_keys: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    wanted: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Weights under the backbone's keys, those that it has no place for as they are in the file."""
    adapted = {prefix: adapt_keys(found) for prefix, found in _candidates(weights)}
    shared = {prefix: len(found.keys() & wanted.keys()) for prefix, found in adapted.items()}
    best = [prefix for prefix, count in shared.items() if count == max(shared.values())]
    if len(best) > 1 and shared[""] < shared[best[0]]:
        raise ValueError(f"{path}: holds the backbone more than once, under {' and under '.join(best)}")
    prefix = best[0]
    rest = {key: tensor for key, tensor in weights.items() if not key.startswith(prefix)}
    return {**rest, **adapted[prefix]}


def _inner(model: nn.Module) -> nn.Module:
    """The model in the wrappers around it."""
    while (name := _held_as(model)) is not None:
        model = model.get_submodule(name)
    return model


def _held_as(module: nn.Module) -> str | None:
    """The name by which a wrapper holds what it wraps; None for any other module."""
    inserted = next((name for name in _INSERTED if name in module._modules), None)
    return "module" if inserted is None and isinstance(module, _WRAPPERS) else inserted


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have if no part of it were wrapped."""
    plain = _plain_keys(model)
    return {plain(key): tensor for key, tensor in model.state_dict().items()}


def _load_plain_state(model: nn.Module, weights: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load what `_plain_state` would give."""
    plain = _plain_keys(model)
    names = {plain(key): key for key in model.state_dict()}
    model.load_state_dict({names[key]: tensor for key, tensor in weights.items()}, strict=strict)


def _plain_keys(model: nn.Module) -> Callable[[str], str]:
    """From a key of the state dict to that which it would have if no part of the model were wrapped."""
    held = {
        f"{_plain_name(name)}.{inner}"
        for name, module in model.named_modules(remove_duplicate=False)
        if (inner := _held_as(module)) == "module"
    }

    def plain(key: str) -> str:
        parts, kept = _plain_name(key).split("."), []
        for i, part in enumerate(parts):
            if ".".join(parts[: i + 1]) not in held:
                kept.append(part)
        return ".".join(kept)

    return plain


def _check_rebuilds(name: str, options: str, held: Mapping[str, Tensor]) -> None:
    """ValueError unless a model of these options has these weights: what is written can be read."""
    wanted = _shapes(name, options)
    missing = [key for key, shape in wanted.items() if key not in held or held[key].shape != shape]
    if differing := missing + [key for key in held if key not in wanted]:
        got = f"got {len(differing)} weights that are not those of its options"
        raise ValueError(f"model: {got}, want parametrizations and adapters merged: {_listed(differing)}")


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


def _check_tensors(path: str | os.PathLike[str], weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """ValueError for weights that the model cannot hold, or would hold as something else."""
    for key, tensor in wanted.items():
        if key in weights and (kind := _not_dense(weights[key], tensor.is_floating_point())):
            raise ValueError(f"{path}: {key} is {kind}, want a dense tensor of real numbers")
    pairs = ((key, weights[key].shape, tensor.shape) for key, tensor in wanted.items() if key in weights)
    if wrong := [f"{key} {tuple(got)}, want {tuple(want)}" for key, got, want in pairs if got != want]:
        raise ValueError(
            f"{path}: shapes differ for {len(wrong)} of {len(wanted)} keys: {_listed(wrong, separator='; ')}"
        )


def _not_dense(tensor: Tensor, floating: bool) -> str | None:
    """What keeps a tensor from being a weight; dtypes of integers are for counters alone."""
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "without values (meta)"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return None if tensor.is_floating_point() or not (floating or tensor.is_complex()) else str(tensor.dtype)


def _is_gate(key: str) -> bool:
    return ".se." in key


def _listed(keys: list[str] | tuple[str, ...], limit: int = 8, separator: str = ", ") -> str:
    rest = f"{separator}and {len(keys) - limit} more" if len(keys) > limit else ""
    return separator.join(key if key.isprintable() else ascii(key) for key in keys[:limit]) + rest
