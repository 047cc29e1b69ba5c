"""Backbones by their published names, one file each, with the adapters of their weight files' keys."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from fastiqa.models.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite_keys
from fastiqa.models.backbones.resnet import resnet50, resnet_keys
from fastiqa.models.backbones.se_res2net import se_res2net50, se_res2net_keys
from fastiqa.models.backbones.van import van_b0, van_b1, van_b2, van_b3, van_b4, van_b5, van_b6, van_keys
from fastiqa.reference import VAN, EfficientNetLite, ResNet, SERes2Net

__all__ = [
    "efficientnet_lite0",
    "resnet50",
    "se_res2net50",
    "van_b0",
    "van_b1",
    "van_b2",
    "van_b3",
    "van_b4",
    "van_b5",
    "van_b6",
]

# For each backbone, what renames the keys of published files to its own.
KEY_ADAPTERS: dict[type[nn.Module], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    SERes2Net: se_res2net_keys,
    ResNet: resnet_keys,
    VAN: van_keys,
    EfficientNetLite: efficientnet_lite_keys,
}
# Names in `fastiqa.common.installed_weights` of the ImageNet weights that the extra `weights` brings.
INSTALLED: dict[type[nn.Module], str] = {EfficientNetLite: "efficientnet_lite0"}
