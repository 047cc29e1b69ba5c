"""Backbones by their published names, and the adapters of their checkpoint files."""

from fastiqa.models.backbones.resnet import resnet50
from fastiqa.models.backbones.se_res2net import se_res2net50
from fastiqa.models.backbones.van import van_b0, van_b1, van_b2, van_b3, van_b4, van_b5, van_b6

__all__ = ["resnet50", "se_res2net50", "van_b0", "van_b1", "van_b2", "van_b3", "van_b4", "van_b5", "van_b6"]
