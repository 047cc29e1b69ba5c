"""`fastiqa.accelerate`: the twins of our own plain modules, and those of the libraries that are imported."""

from __future__ import annotations

import sys

from torch import nn

from fastiqa import models
from fastiqa.nn.conversion import TWINS, AccelerateReport, WhyNot, convert, twins_of

PAIRS = TWINS | twins_of(models.PRFNet, models.MFENet)


def accelerate(model: nn.Module) -> AccelerateReport:
    """Turn each module of `fastiqa.reference` in `model` into its twin of `fastiqa.nn` or `fastiqa.models`, in place.

    SSIM and MS_SSIM of pytorch-msssim are turned into twins with the same options and values.

    Parameters, buffers, hooks, state dict and the modules themselves stay the same objects: optimizers, references and
    wrappers go on working, and results and gradients differ by rounding alone. Modules that are fused already are
    passed over; a second call changes nothing.

    A module is left as it is, with a reason in the report, where its twin might compute something else or would gain
    nothing: a subclass of a plain module (a parametrization makes one too), a `forward` that was replaced, and a module
    whose twin reads inner layers without calling them, where such a layer is no plain one: it has hooks, an adapter
    around it, parametrized, pruned, sharded or quantised weights, another stride or padding. Changed so later, after
    the swap, the twin runs block by block as the plain module does.

    Args:
        model: any module that contains modules of `fastiqa.reference`, or is one.

    Returns:
        What was swapped, what was left and why, and how modules with more than one way to run will do it.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model`, or a part of it with something to swap, is compiled already; nothing was changed.

    Example:
        >>> import fastiqa
        >>> from fastiqa import reference
        >>> model = reference.PRFNet(layers=(1, 1, 1, 1), width=8)
        >>> print(fastiqa.accelerate(model.head))
        swapped: 1 PRFHead, 4 CrossSubtraction, 1 ProgressiveFusion
          the model: PRFHead runs in one pass over the feature maps
        >>> len(fastiqa.accelerate(model).swapped)  # the rest
        35
    """
    twins, foreign = dict(PAIRS), dict[type[nn.Module], WhyNot]()
    if "pytorch_msssim" in sys.modules:  # where nobody has imported it, there are no modules of theirs
        from fastiqa.acceleration import pytorch_msssim

        twins |= pytorch_msssim.PAIRS
        foreign |= dict.fromkeys(pytorch_msssim.PAIRS, pytorch_msssim.why_not)
    return convert(model, twins, foreign)
