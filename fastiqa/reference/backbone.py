"""What PRFNet asks of a backbone, and how it reads the answer from its own networks, users' and timm's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.reference.normalisation import IMAGENET_MEAN, IMAGENET_STD


@runtime_checkable
class FeatureExtractor(Protocol):
    """A module from a normalised image (N, 3, H, W) to maps (N, channels[i], H_i, W_i), finest first.

    `SERes2Net`, `ResNet`, `VAN` and `EfficientNetLite` fulfil it. So does any other `torch.nn.Module` with these
    attributes, and a network of timm made with ``features_only=True``, whose `feature_info` has them.

    Attributes:
        channels: widths of the maps.
        strides: pixels per element of the maps, growing; the last one is the smallest side of an image.
        image_mean, image_std: optional, three numbers each: statistics of the images in [0, 1] that the weights were
            trained with. Without them timm's `pretrained_cfg` is read, then ImageNet's are taken.
    """

    channels: Sequence[int]
    strides: Sequence[int]

    def __call__(self, image: Tensor, /) -> Sequence[Tensor]: ...


class BackboneFacts(NamedTuple):
    """The attributes of a `FeatureExtractor`."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


def facts_of(backbone: Any) -> BackboneFacts:
    """Read the facts of a module.

    Raises:
        TypeError: no module, or one without `channels` and `strides`, or timm's `feature_info`.
        ValueError: widths and strides that are not as many positive integers, or strides that do not grow.
    """
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone: got {type(backbone).__name__}, want a name or a torch.nn.Module")
    channels, strides = getattr(backbone, "channels", None), getattr(backbone, "strides", None)
    info: Any = getattr(backbone, "feature_info", None)
    if (channels is None or strides is None) and hasattr(info, "channels") and hasattr(info, "reduction"):
        channels, strides = info.channels(), info.reduction()
    if channels is None or strides is None:
        want = "`channels` and `strides` of its maps, or timm's features_only=True"
        raise TypeError(f"backbone: got a {type(backbone).__name__} without them, want {want}")
    channels = arguments.integers("backbone.channels", channels)
    strides = arguments.integers("backbone.strides", strides, len(channels))
    if list(strides) != sorted(strides):
        raise ValueError(f"backbone.strides: got {strides}, want the finest map first")
    trained: Any = getattr(backbone, "pretrained_cfg", None)
    trained = trained if isinstance(trained, dict) else {}
    mean = getattr(backbone, "image_mean", trained.get("mean", IMAGENET_MEAN))
    std = getattr(backbone, "image_std", trained.get("std", IMAGENET_STD))
    for name, values in (("image_mean", mean), ("image_std", std)):
        if len(values) != 3:
            raise ValueError(f"backbone.{name}: got {values}, want three numbers")
    return BackboneFacts(channels, strides, tuple(mean), tuple(std))
