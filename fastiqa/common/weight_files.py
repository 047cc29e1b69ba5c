"""Reads files of weights without pickle, and loads them into modules whatever wraps either.

    read_weights     tensors and metadata of a .safetensors file, or of a PyTorch file read with ``weights_only=True``
    load_matching    loads tensors that match a module in every key and shape
    plain_state      the state dict without the prefixes that torch.compile, DataParallel, FSDP and others insert

Keys are compared in their plain form: a wrapped module loads a plain file, and a plain module a wrapped one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
# Averaged weights come first, as in timm and BasicSR: authors evaluate these.
_NESTING = ("state_dict_ema", "model_ema", "params_ema", "ema", "model_state_dict", "state_dict", "model", "params",
            "network", "net", "weights")  # fmt: skip
_DEEPEST_NESTING = 8
# torch.compile, FSDP and activation checkpointing insert these into names; no user names a module so.
_INSERTED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)  # hold their module as `module`
_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "network.", "net.")
_DEEPEST_PREFIX = 3
_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a `.safetensors`, `.pth`, `.pt`, `.tar` or `.bin` file.

    Dictionaries nested as published files nest them are opened: first the averaged weights `state_dict_ema`,
    `model_ema`, `params_ema` and `ema`, then `model_state_dict`, `state_dict`, `model`, `params`, `network`, `net` and
    `weights`. Keys lose the names that torch.compile, FSDP and activation checkpointing insert, and DataParallel's
    `module.` if every key has it.

    Returns:
        Tensors on the CPU by key, in the dtypes of the file, and the metadata: empty unless the file is safetensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming the file: truncated, foreign, nested within itself, or with anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return _without_wrappers(path, tensors), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: truncated, or not a safetensors file: {error}") from error
    if path.suffix in _TORCH_SUFFIXES:
        return _without_wrappers(path, _flatten(path, _unpickle(path))), {}
    suffixes = ", ".join((".safetensors", *_TORCH_SUFFIXES))
    raise ValueError(f"{path}: got {path.suffix or 'no suffix'}, want one of {suffixes}")


def load_matching(model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, Tensor]) -> None:
    """Load weights that match `model` in every key and shape; a prefix that all keys share is dropped.

    Args:
        model: may be wrapped, in whole or in part.
        path: the file of the weights, for messages.
        weights: from `read_weights`; floating dtypes are converted to the model's.

    Raises:
        ValueError: naming the file and the keys that are missing, left over or of another shape.
    """
    wanted = plain_state(model)
    shared = (found for _, found in candidates(weights) if len(found) == len(weights))
    weights = next((found for found in shared if not found.keys().isdisjoint(wanted)), weights)
    if missing := [key for key in wanted if key not in weights]:
        raise ValueError(f"{path}: missing {len(missing)} of {len(wanted)} keys of the model: {listed(missing)}")
    if unexpected := [key for key in weights if key not in wanted]:
        raise ValueError(
            f"{path}: no place in the model for {len(unexpected)} of {len(weights)} keys: {listed(unexpected)}"
        )
    check_tensors(path, weights, wanted)
    load_plain_state(model, weights)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers around it."""
    while (name := _held_as(model)) is not None:
        model = model.get_submodule(name)
    return model


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the keys of the unwrapped model."""
    plain = _plain_keys(model)
    return {plain(key): tensor for key, tensor in model.state_dict().items()}


def load_plain_state(model: nn.Module, weights: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a state dict with the keys of `plain_state`."""
    plain = _plain_keys(model)
    names = {plain(key): key for key in model.state_dict()}
    model.load_state_dict({names[key]: tensor for key, tensor in weights.items()}, strict=strict)


def candidates(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield ("", weights), then (prefix, the weights under it without it) for each prefix common in published files."""
    level: list[tuple[str, Mapping[str, Tensor]]] = [("", weights)]
    for _ in range(_DEEPEST_PREFIX + 1):
        yield from level
        level = [
            (before + prefix, under)
            for before, found in level
            for prefix in _PREFIXES
            if (under := {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
        ]


def check_tensors(path: str | os.PathLike[str], weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the file, for weights that are not dense real tensors or differ in shape."""
    for key, tensor in wanted.items():
        if key in weights and (kind := _not_dense(weights[key], tensor.is_floating_point())):
            raise ValueError(f"{path}: {key} is {kind}, want a dense tensor of real numbers")
    pairs = ((key, weights[key].shape, tensor.shape) for key, tensor in wanted.items() if key in weights)
    if wrong := [f"{key} {tuple(got)}, want {tuple(want)}" for key, got, want in pairs if got != want]:
        raise ValueError(
            f"{path}: shapes differ for {len(wrong)} of {len(wanted)} keys: {listed(wrong, separator='; ')}"
        )


def listed(keys: list[str] | tuple[str, ...], limit: int = 8, separator: str = ", ") -> str:
    rest = f"{separator}and {len(keys) - limit} more" if len(keys) > limit else ""
    return separator.join(key if key.isprintable() else ascii(key) for key in keys[:limit]) + rest


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        # PyTorch's message advises to read the file unsafely.
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


def _without_wrappers(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the keys of the plain model, which may have been saved compiled, sharded or wrapped."""
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


def _held_as(module: nn.Module) -> str | None:
    """The name under which a wrapper holds its module; None for any other module."""
    inserted = next((name for name in _INSERTED if name in module._modules), None)
    return "module" if inserted is None and isinstance(module, _WRAPPERS) else inserted


def _plain_keys(model: nn.Module) -> Callable[[str], str]:
    """A function from a key of the state dict to the key in the unwrapped model."""
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


def _not_dense(tensor: Tensor, floating: bool) -> str | None:
    """Why a tensor cannot be a weight, or None; integer dtypes are for counters alone."""
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "without values (meta)"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return None if tensor.is_floating_point() or not (floating or tensor.is_complex()) else str(tensor.dtype)
