"""`fastiqa.accelerate`: fused twins of our plain modules, and of those libraries that are imported."""

from __future__ import annotations

import sys

from torch import nn

from fastiqa import models
from fastiqa.nn.conversion import TWINS, AccelerateReport, WhyNot, convert, twins_of

PAIRS = TWINS | twins_of(models.PRFNet, models.MFENet)


def accelerate(model: nn.Module) -> AccelerateReport:
    """Convert each module of `fastiqa.reference` in `model` to its twin in `fastiqa.nn` or `fastiqa.models`, in place.

    SSIM and MS_SSIM of pytorch-msssim become twins with the same options and values.

    Parameters, buffers, hooks, the state dict and the modules themselves stay the same objects, so optimizers,
    references and wrappers stay valid. Results and gradients differ by rounding alone. Fused modules are skipped; a
    second call changes nothing.

    A module stays plain, with a reason in the report, where its twin might compute something else or would gain
    nothing: a subclass of a plain module (a parametrization makes one too), a module with a replaced `forward`, and a
    module whose twin would read an inner layer that has to be called, because it has hooks, an adapter around it,
    parametrized, pruned, sharded or quantised weights, or another stride or padding. If a layer changes in such a way
    after the conversion, the twin runs block by block, as the plain module does.

    Args:
        model: any module that contains modules of `fastiqa.reference`, or is one.

    Returns:
        A report of the converted modules, of those left and why, and of how modules with several ways will run.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model`, or a part of it with something to convert, is compiled already; nothing was changed.

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
    if "pytorch_msssim" in sys.modules:  # unless imported, none of its modules exists
        from fastiqa.acceleration import pytorch_msssim

        twins |= pytorch_msssim.PAIRS
        foreign |= dict.fromkeys(pytorch_msssim.PAIRS, pytorch_msssim.why_not)
    return convert(model, twins, foreign)
