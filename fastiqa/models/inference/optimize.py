"""optimize_for_inference: a copy of a network that only infers, faster."""

from __future__ import annotations

import copy
from typing import overload

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fastiqa import reference
from fastiqa.common import arguments
from fastiqa.models.inference.mfenet import InferenceMFENet
from fastiqa.models.inference.prfnet import PASSES, InferencePRFNet
from fastiqa.models.mfenet import MFENet
from fastiqa.models.prfnet import PRFNet
from fastiqa.nn.conversion import TWINS, convert, twins_of
from fastiqa.runtime.layout import FLOATING

MEMORY_FORMATS = (torch.channels_last, torch.contiguous_format)


@overload
def optimize_for_inference(
    model: reference.PRFNet,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    compile: bool = False,
    passes: str = "measure",
) -> InferencePRFNet: ...


@overload
def optimize_for_inference(
    model: reference.MFENet,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    compile: bool = False,
) -> InferenceMFENet: ...


def optimize_for_inference(
    model: reference.PRFNet | reference.MFENet,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    compile: bool = False,
    passes: str = "measure",
) -> InferencePRFNet | InferenceMFENet:
    """A copy of a trained network with folded norms and precomputed head constants; `model` itself does not change.

    Batch normalisations and layer scales are folded into the convolutions beside them. On a CPU, convolutions apply the
    activation, sum or product that follows, and keep a second copy of their weights in oneDNN's layout. PRFNet's head
    precomputes what depends on its weights alone, and its images run through the backbone together or one by one,
    whichever is faster. A network of `fastiqa.reference` gets the fused operators of `fastiqa.nn`. Results equal eval
    mode's up to rounding, whatever mode `model` is in, and carry no gradient.

    Layers with hooks, an adapter, a parametrization or quantised weights are copied as they are, with their hooks, and
    so are the blocks that would read or fold them; `fastiqa.explain` names those. Hooks added to the copy see folded
    layers: one that became part of another is not called, and norms are identities. `explain` names the blocks that
    overwrite their argument; they do not where a hook has seen it.

    Args:
        model: a PRFNet or MFENet of `fastiqa.models` or `fastiqa.reference`.
        dtype: dtype of weights and feature maps: float64, float32, bfloat16 or float16; None keeps the model's. Images
            may have this dtype or the model's; results are float32.
        memory_format: memory format of weights and feature maps; images come in either.
        compile: compile PRFNet's backbone, or all of MFENet, by `torch.compile` at the first call for a shape.
        passes: for PRFNet alone. "batch" runs the backbone on the three images as one batch, "three" on one after the
            other. "measure" tries both at the first call for a shape, dtype, device and number of threads, which takes
            as long as nine later calls, and keeps the faster.

    Returns:
        A module with the network's methods. Its `train()` raises RuntimeError; its state dict is its own.
        `fastiqa.explain` and its `repr` report what was done.

    Raises:
        TypeError: another model, or a dtype that is not floating.
        ValueError: another memory format, flag or value of `passes`; a norm without running statistics, since its
            results depend on the other images of a batch; a model that is compiled already.

    Example:
        >>> import fastiqa
        >>> model = fastiqa.create_model("prfnet_fast", layers=(1, 1, 1, 1), width=8)
        >>> fast = fastiqa.optimize_for_inference(model, passes="batch")
        >>> images = torch.rand(3, 1, 3, 64, 64)
        >>> torch.allclose(fast(*images), model.eval()(*images), atol=1e-5)
        True
        >>> print(fastiqa.explain(fast))
        InferencePRFNet
          norms     25 folded into convolutions, 0 left
          weights   torch.float32, torch.channels_last
          compiled  nothing
          head      PRFHead runs in one pass over the feature maps, its kernels constant
          passes    batch
    """
    if type(model) not in (PRFNet, reference.PRFNet, MFENet, reference.MFENet):
        want = "a PRFNet or MFENet of fastiqa.models or fastiqa.reference"
        raise TypeError(f"model: got {type(model).__name__}, want {want}")
    if dtype is not None and dtype not in FLOATING:
        raise TypeError(f"dtype: got {dtype!r}, want None, {', '.join(map(str, FLOATING))}")
    arguments.one_of("memory_format", memory_format, MEMORY_FORMATS)
    arguments.flag("compile", compile)
    arguments.one_of("passes", passes, PASSES)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_var is None:
            raise ValueError(f"model: {name} has no running statistics, want them to fold it into a convolution")
    network = copy.deepcopy(model)
    convert(network, TWINS | twins_of(PRFNet, MFENet))
    if isinstance(network, reference.MFENet):
        if passes != "measure":
            raise ValueError(f"passes: got {passes!r}, want it for a PRFNet alone")
        return InferenceMFENet(network, dtype or arguments.parameter_of(network.head).dtype, memory_format, compile)
    return InferencePRFNet(
        network, dtype or arguments.parameter_of(network.backbone).dtype, memory_format, compile, passes
    )
