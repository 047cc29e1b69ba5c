"""Contrastive pre-training: a network that projects views, and the loss that draws views of one class together.

    h        = normalised 2×2 average pooling of the backbone's last map     4 local features a view
    z        = projector(h),  ẑ = z / |z|                                    projector: 2048 → 2048 → 128
    s_ij     = ẑ_i · ẑ_j / τ                                                 τ = 0.1
    loss     = mean_i [ log Σ_{k ≠ i} exp s_ik − mean_{j ∈ P(i)} s_ij ]      P(i): the other rows of the class of i

The rows i are all local features of a batch; each inherits the class of its image. The mean over P(i) is ẑ_i · (sum of
its class − ẑ_i) / (τ |P(i)|) and needs no matrix; the similarities of the first term are the one N×N matrix there is,
16 MB in float32 for 256 items of two views. A batch of 256 at 256×256 pixels costs gigabytes in the backbone.

Source: CONTRIQUE (Madhusudana, Birkbeck, Wang, Adsumilli, Bovik, IEEE TIP 2022). It sends the two scales of a batch
through the backbone one after the other, with batch statistics of their own; here they go together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastiqa.common import arguments

PATCHES = 2  # local features along each side of a map


class Projector(nn.Sequential):
    """linear, batch norm, ReLU, linear, batch norm: features (N, inputs) → projections (N, outputs).

    Args:
        inputs: channels of the backbone's last map.
        hidden: features between; by default `inputs`.
        outputs: length of a projection.
    """

    def __init__(self, inputs: int = 2048, hidden: int | None = None, outputs: int = 128) -> None:
        hidden = arguments.integer("hidden", inputs if hidden is None else hidden)
        super().__init__(
            nn.Linear(arguments.integer("inputs", inputs), hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, arguments.integer("outputs", outputs), bias=False),
            nn.BatchNorm1d(outputs),
        )


class ContrastiveNetwork(nn.Module):
    """A backbone and a projector: views (N, V, 3, H, W) → projections (N, 4 V, outputs) of their local features.

    Args:
        backbone: normalised image (N, 3, H, W) → list of feature maps, of which the last is used.
        projector: features (N, C) of that map → projections; usually ``Projector(backbone.channels[-1])``.

    Example:
        >>> from fastiqa.reference import SERes2Net
        >>> network = ContrastiveNetwork(SERes2Net((1, 1, 1, 1), width=4), Projector(128, outputs=16))
        >>> projections = network(torch.rand(3, 2, 3, 64, 64))
        >>> projections.shape
        torch.Size([3, 8, 16])
        >>> contrastive_loss(projections, torch.tensor([4, 0, 4])).shape
        torch.Size([])
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, views: Tensor) -> Tensor:
        """Views as the backbone wants them (CONTRIQUE: in [0, 1], without a mean or deviation taken) → projections.

        Raises: ValueError for views of another shape.
        """
        if views.ndim != 5:
            raise ValueError(f"views: got shape {tuple(views.shape)}, want (N, V, 3, H, W)")
        last = self.backbone(views.flatten(0, 1))[-1]
        local = functional.adaptive_avg_pool2d(last, PATCHES).flatten(2).mT
        projections = self.projector(functional.normalize(local, dim=2).flatten(0, 1))
        grouped: Tensor = projections.unflatten(0, (len(views), views.shape[1] * PATCHES**2))
        return grouped


def contrastive_loss(projections: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy with all rows of a class as positives; lower is better.

    Args:
        projections: (N, M, D), floating point: M projections of each item, at least 2, so that every row has a
            positive.
        classes: (N,), int64: the class of each item; any numbers.
        temperature: above 0.

    Returns:
        A scalar: float64 for float64 projections, float32 for all others, in autocast too. It couples the items of a
        batch: the mean over parts of a batch is another loss.

    Raises:
        ValueError: another shape, or a temperature that is not above 0.

    Example:
        >>> apart = torch.eye(2)[:, None].expand(2, 3, 2)  # two items, three equal projections each
        >>> contrastive_loss(apart, torch.tensor([7, 5]))  # log(2 exp(10) + 3) - 10
        tensor(0.6932)
    """
    if projections.ndim != 3 or len(projections) == 0 or projections.shape[1] < 2:
        wanted = "(N, M, D) with N of at least 1 and M of at least 2"
        raise ValueError(f"projections: got shape {tuple(projections.shape)}, want {wanted}")
    if classes.shape != projections.shape[:1]:
        raise ValueError(f"classes: got shape {tuple(classes.shape)}, want {tuple(projections.shape[:1])}")
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature!r}, want a number above 0")
    with torch.autocast(projections.device.type, enabled=False):
        rows = projections.flatten(0, 1).to(torch.promote_types(projections.dtype, torch.float32))
        rows = functional.normalize(rows, dim=1) / math.sqrt(temperature)
        others = (rows @ rows.mT).fill_diagonal_(-math.inf).logsumexp(1)
        return (others - _mean_of_positives(rows, classes.repeat_interleave(projections.shape[1]))).mean()


def _mean_of_positives(rows: Tensor, classes: Tensor) -> Tensor:
    """For each row the mean of its products with the other rows of its class, (N,)."""
    numbers = classes.unique(return_inverse=True)[1]
    # products with 0 and 1, not index_add, whose order of summation is not fixed on a GPU
    members = functional.one_hot(numbers).to(rows)
    sums = (members @ (members.mT @ rows) * rows).sum(1) - rows.square().sum(1)
    return sums / (members.sum(0)[numbers] - 1)
