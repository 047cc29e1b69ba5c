"""Whether a fused module may read a layer instead of calling it: a plain layer, whose calls nobody observes.

A fused module computes from the weights of an inner layer and never calls it. It may do so only if nothing is lost: no
hooks, no adapter, no parametrization, no sharded or quantised weights, no other padding. Every call asks these
functions, which takes 2 to 4 µs a convolution (a busy core of an EPYC).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_TENSORS = (Tensor, nn.Parameter)


def has_hooks(layer: nn.Module) -> bool:
    """Whether a hook observes the calls of this layer, or of every module."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def not_plain(name: str, layer: nn.Module | None, *kinds: type[nn.Module]) -> str | None:
    """Return why a layer must be called, in a text that begins with its `name`, or None. An absent layer is plain.

    The class of a plain layer is one of `kinds`, or names one of them by `same_as` as its equivalent. No hook observes
    the layer, its `forward` is its class's, and its parameters are ordinary tensors.
    """
    if layer is None:
        return None
    kind = type(layer)
    if getattr(kind, "same_as", kind) not in kinds:
        return f"{name} is a {kind.__name__}, not a {kinds[0].__name__}"
    if has_hooks(layer):
        return f"{name} has hooks"
    if "forward" in layer.__dict__:
        return f"the forward of {name} was replaced"
    for weight in layer._parameters.values():
        if weight is not None and type(weight) is not nn.Parameter and not _is_ordinary(weight):
            return f"the weights of {name} are of {type(weight).__name__}"
    return None


def convolution_not_plain(
    name: str, conv: nn.Module | None, *, dilation: int = 1, depthwise: bool = False, bias: bool = False
) -> str | None:
    """`not_plain` for a `torch.nn.Conv2d` of stride 1 that keeps the size of a map by zeros around it.

    With `depthwise` it has one group for each channel, with `bias` it must have a bias.
    """
    if conv is None:
        return None
    reason = not_plain(name, conv, nn.Conv2d)
    if reason is not None:
        return reason
    assert isinstance(conv, nn.Conv2d)
    height, width = conv.kernel_size
    if not (
        conv.stride == (1, 1)
        and conv.dilation == (dilation, dilation)
        and conv.padding == (dilation * (height // 2), dilation * (width // 2))
        and conv.padding_mode == "zeros"
        and conv.groups == (conv.in_channels if depthwise else 1)
    ):
        return f"{name} has another stride, padding, dilation or grouping than it was made with"
    if bias and conv.bias is None:
        return f"{name} has no bias"
    if conv.__dict__.get("activation", "none") != "none":
        return f"{name} ends in an activation"
    return None


def _is_ordinary(weight: Tensor) -> bool:
    """Whether a weight is no subclass, as sharded (DTensor) and quantised weights are; tensors in traces pass."""
    kind = type(weight)
    return kind in _TENSORS or (
        not torch.compiler.is_dynamo_compiling() and kind.__module__.startswith("torch._subclasses.")
    )
