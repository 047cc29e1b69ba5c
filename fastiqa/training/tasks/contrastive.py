"""Contrastive pre-training of a backbone: the loss couples the items of a batch.

An item is compared with those that a process computes at once, batch_size / (processes · accumulate) of them, and the
losses of the parts are averaged: with more parts there are fewer negatives, which is another training. Memory is better
saved by the option "memory" than by accumulation. A validation compares `validation.batch_size` items at once,
or what is left over of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fastiqa.common.files import replacing
from fastiqa.models import load_backbone
from fastiqa.nn import ResNet
from fastiqa.training.config.yaml_text import booleans
from fastiqa.training.tasks.contrastive_loss import ContrastiveNetwork, Projector, contrastive_loss
from fastiqa.training.tasks.datasets import views
from fastiqa.training.tasks.task import ItemLayout, Task

if TYPE_CHECKING:
    from fastiqa.training.recipes.recipe import Model


def network(model: Model) -> nn.Module:
    """A ResNet and its projector.

    Options are those of `fastiqa.nn.ResNet`, without any ResNet-50; "memory", the level of its `set_memory`; and
    "projector", the options of `Projector` but for its inputs. `pretrained_backbone` is a file that the ResNet begins
    with.

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


def losses_of(name: str, projections: Tensor, classes: Tensor) -> Tensor:
    """The loss of the batch, (N,), for each of its items alike: "nt_xent" with a temperature of 0.1."""
    return contrastive_loss(projections, classes).expand(len(classes))


def refused(number: Tensor) -> str | None:
    """What is wrong with a class, if anything."""
    return f"class of {number.dtype}, want integers" if number.is_floating_point() else None


def rows(projections: Tensor, classes: Tensor) -> Tensor:
    """The loss of the batch for each of its items."""
    return losses_of("nt_xent", projections, classes).unsqueeze(1)


def summary(rows: Tensor) -> dict[str, float]:
    """The mean "loss"."""
    return {"loss": float(rows.mean())}


def save(model: Any, path: Path) -> None:
    """Write the backbone alone, with the keys of published ResNet-50 files, for `fastiqa.models.load_backbone`."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.backbone.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


CONTRASTIVE = Task(
    item=ItemLayout(noun="photograph", inputs=("views",), images=2, refused=refused),
    kinds=views.KINDS,
    losses=("nt_xent",),
    network=network,
    module=lambda network: network,
    losses_of=losses_of,
    rows=rows,
    summary=summary,
    save=save,
)
