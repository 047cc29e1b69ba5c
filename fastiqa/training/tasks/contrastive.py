"""The task "contrastive": pre-train a backbone to draw views of one class of distortion together.

Items are (views, class): two views of a photograph, (2, 3, H, W), and the number of its class, int64. The loss couples
the items of a batch.

    h        = normalised 2×2 average pooling of the backbone's last map     4 local features a view
    z        = projector(h),  ẑ = z / |z|                                    projector: 2048 → 2048 → 128
    s_ij     = ẑ_i · ẑ_j / τ                                                 τ = 0.1
    loss     = mean_i [ log Σ_{k ≠ i} exp s_ik − mean_{j ∈ P(i)} s_ij ]      P(i): the other rows of the class of i

The rows i are all local features of a batch; each inherits the class of its image. The mean over P(i) is ẑ_i · (sum of
its class − ẑ_i) / (τ |P(i)|) and needs no matrix. The first term needs one N×N matrix of similarities: 16 MB in float32
for 256 items of two views. A batch of 256 at 256×256 pixels costs gigabytes in the backbone.

An item is compared with the items that its process computes at once, batch_size / (processes · accumulate), and the
losses of the parts are averaged. More parts mean fewer negatives, which is another training: to save memory, set the
option "memory" rather than accumulate. A validation compares `validation.batch_size` items at once, or what is left.

Source: CONTRIQUE (Madhusudana, Birkbeck, Wang, Adsumilli, Bovik, IEEE TIP 2022). It sends the two scales of a batch
through the backbone one after the other, with batch statistics of their own; here they go together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fastiqa.common import arguments
from fastiqa.common.files import replacing
from fastiqa.data.distortions.contrastive import ContrastiveDataset
from fastiqa.data.images.colour_spaces import COLOUR_SPACES
from fastiqa.data.labelled import OnUnreadable
from fastiqa.models import load_backbone
from fastiqa.nn import ResNet
from fastiqa.training.config.fields import booleans
from fastiqa.training.config.settings import Model
from fastiqa.training.tasks.shared_data import Generated, GeneratedOptions, Part, noisy, read_photographs
from fastiqa.training.tasks.task import DataOptions, ItemLayout, Items, Task

PATCHES = 2  # local features along each side of a map
GENERATED_CLASSES = 4


class RandomViews(Generated):
    """Generated views: the pattern and its mirror image with noise of one of four amounts, which is the class.

    Example:
        >>> views, number = RandomViews(items=4, height=48, width=32)[0]
        >>> views.shape, int(number) in range(4)
        (torch.Size([2, 3, 48, 32]), True)
    """

    def item(self, pattern: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        number = torch.randint(GENERATED_CLASSES, (), generator=random, device="cpu")
        both = torch.stack((pattern, pattern.flip(-1)))
        return noisy(both, self.noise * float(number) / (GENERATED_CLASSES - 1), random), number


class RandomViewOptions(GeneratedOptions):
    """The kind "random"."""

    def build(self, kind: str) -> Items:
        return RandomViews(**vars(self))


@dataclass(frozen=True, kw_only=True)
class DistortedViewOptions(DataOptions):
    """The kind "distorted": photographs with one distortion each.

    Attributes:
        folder, part, split_seed, val, test: the photographs, see `read_photographs`.
        crop, items, colour_spaces, longest_side, seed, keep, on_unreadable: see `fastiqa.data.ContrastiveDataset`.
    """

    folder: str | os.PathLike[str]
    part: Part = "all"
    split_seed: int = 0
    val: float = 0.15
    test: float = 0.15
    crop: int = 256
    items: int | None = None
    colour_spaces: Sequence[str] = tuple(COLOUR_SPACES)
    longest_side: int | None = None
    seed: int = 0
    keep: bool = False
    on_unreadable: OnUnreadable = "raise"

    def build(self, kind: str) -> Items:
        return ContrastiveDataset(
            read_photographs(self.folder, self.part, self.split_seed, self.val, self.test),
            self.crop,
            items=self.items,
            colour_spaces=self.colour_spaces,
            longest_side=self.longest_side,
            seed=self.seed,
            keep=self.keep,
            on_unreadable=self.on_unreadable,
        )


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
        want = "(N, M, D) with N of at least 1 and M of at least 2"
        raise ValueError(f"projections: got shape {tuple(projections.shape)}, want {want}")
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


def _build_network(model: Model) -> nn.Module:
    """A ResNet and its projector.

    Args:
        model: its options are arguments of `fastiqa.nn.ResNet`, a ResNet-50 by default; "memory", the level of
            `ResNet.set_memory`; and "projector", arguments of `Projector` except `inputs`. `pretrained_backbone` is a
            file of the ResNet's initial weights.

    Raises: OSError, TypeError or ValueError.
    """
    if model.name != "resnet":
        raise ValueError(f"name: got {model.name!r}, want 'resnet'")
    if model.pretrained or model.pretrained_dan:
        raise ValueError("pretrained: got a file, want it as pretrained_backbone")
    options = dict(model.options)
    projector, memory = options.pop("projector", {}), options.pop("memory", "off")
    backbone = ResNet(**booleans(options, ResNet))
    backbone.set_memory(memory)
    if model.pretrained_backbone is not None:
        load_backbone(backbone, model.pretrained_backbone)
    return ContrastiveNetwork(backbone, Projector(backbone.channels[-1], **booleans(projector, Projector)))


def _item_losses(name: str, projections: Tensor, classes: Tensor) -> Tensor:
    """The batch's loss, repeated for each of its items, (N,): "nt_xent" with a temperature of 0.1."""
    return contrastive_loss(projections, classes).expand(len(classes))


def _target_error(number: Tensor) -> str | None:
    """Why a class is refused, or None."""
    return f"class of {number.dtype}, want integers" if number.is_floating_point() else None


def _rows(projections: Tensor, classes: Tensor) -> Tensor:
    """The batch's loss, repeated for each of its items, (N, 1)."""
    return _item_losses("nt_xent", projections, classes).unsqueeze(1)


def _summary(rows: Tensor) -> dict[str, float]:
    """The mean "loss"."""
    return {"loss": float(rows.mean())}


def _save_backbone(model: Any, path: Path) -> None:
    """Write the backbone alone, with the keys of published ResNet-50 files, for `fastiqa.models.load_backbone`."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.backbone.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


CONTRASTIVE = Task(
    item=ItemLayout(noun="photograph", inputs=("views",), images=2, target_error=_target_error),
    kinds={"random": RandomViewOptions, "distorted": DistortedViewOptions},
    losses=("nt_xent",),
    build_network=_build_network,
    module=lambda network: network,
    item_losses=_item_losses,
    rows=_rows,
    summary=_summary,
    save=_save_backbone,
)
