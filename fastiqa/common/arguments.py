"""Checks of arguments. Every message is one line that names the argument, its value and the demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy

# Rounding may take resampled or decoded images this far beyond [0, 1]; farther counts as another value range.
RANGE_TOLERANCE = 1e-3

_AUTOCAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def integer(name: str, value: int, minimum: int = 1, odd: bool = False) -> int:
    """Return `value` if it is an (odd) integer of at least `minimum`, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum or (odd and value % 2 == 0):
        raise ValueError(f"{name}: got {value!r}, want an {'odd ' if odd else ''}integer of at least {minimum}")
    return value


def integers(name: str, values: Sequence[int], length: int | None = None) -> tuple[int, ...]:
    """Return `values` as a tuple of `length` positive integers (None: one or more), else raise ValueError."""
    sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not sequence or len(values) == 0 or (length is not None and len(values) != length):
        raise ValueError(f"{name}: got {values!r}, want {length or 'one or more'} positive integers")
    return tuple(integer(f"{name}[{i}]", value) for i, value in enumerate(values))


def flag(name: str, value: bool) -> bool:
    """Return `value` if it is True or False, else raise ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, want True or False")
    return value


def fraction(name: str, value: float) -> float:
    """Return `value` if it is a number in [0, 1), else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}, want a number in [0, 1)")
    return value


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless `value` is among `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, want one of {', '.join(map(repr, choices))}")


def is_eager(tensor: Tensor) -> bool:
    """Whether `tensor` holds values that code can read now: not compiled, exported, traced or mapped."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    # No values: tensor subclasses (fake, functional), torch.func's wrappers (vmap, grad) and autograd's batches
    # (is_grads_batched, jacobian(vectorize=True)).
    wrapped = torch._C._functorch
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not wrapped.is_functorch_wrapped_tensor(tensor)
        and not wrapped.is_legacy_batchedtensor(tensor)
    )


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters of a module, or the copies that a `torch.nn.DataParallel` replica has as attributes."""
    for inner in module.modules():
        yield from inner.parameters(recurse=False)
        if getattr(inner, "_is_replica", False):
            yield from (value for value in vars(inner).values() if isinstance(value, Tensor))


def parameter_of(module: nn.Module) -> Tensor:
    """Return the first floating-point parameter of a module. Inputs have its dtype and device.

    Raises: ValueError where there is none.
    """
    for parameter in parameters_of(module):
        if parameter.is_floating_point():
            return parameter
    raise ValueError(f"module: got {type(module).__name__} without a floating-point parameter, want one")


def check_images(parameter: Tensor, minimum_size: int, **images: Tensor) -> None:
    """Check RGB images (N, 3, H, W) in [0, 1] for a network with `parameter`.

    All images must have the shape, dtype and device of the first, H and W of at least `minimum_size` pixels, and the
    dtype (under autocast: any that autocast converts) and device of `parameter`. Values are checked only for CPU
    tensors in eager mode: elsewhere reading them would synchronise the device or break the graph.

    Raises: TypeError for a wrong type or dtype, ValueError for a wrong shape, device or value.
    """
    first_name, first = next(iter(images.items()))
    if isinstance(first, Proxy):  # a stand-in of torch.fx, which has no shape or values
        return
    for name, image in images.items():
        _check_tensor(name, image)
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want (N, 3, H, W)")
        _check_like(name, image, first_name, first)
        if image.shape[2] < minimum_size or image.shape[3] < minimum_size:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want H and W of at least {minimum_size}")
        _check_model(name, image, parameter)
        if image.device.type == "cpu" and is_eager(image) and image.numel() > 0:
            _check_range(name, image)


def check_map(name: str, features: Tensor, *shape: int | None) -> None:
    """Check one feature map: floating point, (N, C, H, W) of that shape; None stands for any size.

    Raises: TypeError for a wrong type or dtype, ValueError for a wrong shape.
    """
    if isinstance(features, Proxy):
        return
    _check_tensor(name, features)
    if features.dim() != 4 or any(
        want is not None and got != want for got, want in zip(features.shape, shape, strict=True)
    ):
        wanted = ", ".join(letter if size is None else str(size) for letter, size in zip("NCHW", shape, strict=True))
        raise ValueError(f"{name}: got shape {tuple(features.shape)}, want ({wanted})")


def check_map_like(name: str, features: Tensor, first: Tensor) -> None:
    """Check a feature map against the shape of another."""
    if not isinstance(first, Proxy):
        check_map(name, features, *first.shape)


def check_pyramids(parameter: Tensor, channels: Sequence[int], **pyramids: Sequence[Tensor]) -> None:
    """Check feature pyramids: one map (N, channels[i], H_i, W_i) per stage, of the same shape in every pyramid.

    Raises: TypeError for a wrong type or dtype, ValueError for a wrong number of maps, shape or device.
    """
    first_name, first = next(iter(pyramids.items()))
    for name, maps in pyramids.items():
        if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
            raise TypeError(f"{name}: got {type(maps).__name__}, want a list of {len(channels)} feature maps")
        if len(maps) != len(channels):
            raise ValueError(f"{name}: got {len(maps)} maps, want {len(channels)}")
        for i, (features, width) in enumerate(zip(maps, channels, strict=True)):
            check_map(f"{name}[{i}]", features, None, width, None, None)
            if isinstance(features, Proxy):
                continue
            _check_like(f"{name}[{i}]", features, f"{first_name}[{i}]", first[i])
            _check_model(f"{name}[{i}]", features, parameter)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, want a torch.Tensor")
    if tensor.dtype == torch.uint8:
        raise TypeError(f"{name}: got dtype torch.uint8, want floating point in [0, 1]: convert it and divide by 255")
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: got dtype {tensor.dtype}, want a floating-point one")


def _check_like(name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    if tensor.shape != first.shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, want that of {first_name}, {tuple(first.shape)}")
    if tensor.dtype != first.dtype:
        raise TypeError(f"{name}: got dtype {tensor.dtype}, want that of {first_name}, {first.dtype}")
    if tensor.device != first.device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}, want the device of {first_name}, {first.device}")


def _check_model(name: str, tensor: Tensor, parameter: Tensor) -> None:
    if tensor.device != parameter.device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}, want the device of the model, {parameter.device}")
    if tensor.dtype == parameter.dtype:
        return
    converted = tensor.dtype in _AUTOCAST_DTYPES and parameter.dtype in _AUTOCAST_DTYPES
    if not (converted and torch.is_autocast_enabled(tensor.device.type)):
        raise TypeError(f"{name}: got dtype {tensor.dtype}, want that of the model, {parameter.dtype}")


def _check_range(name: str, image: Tensor) -> None:
    low, high = (bound.item() for bound in torch.aminmax(image.detach()))
    # A NaN makes both bounds NaN and the comparison false.
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(f"{name}: got values from {low:.6g} to {high:.6g}, want finite ones in [0, 1]")
