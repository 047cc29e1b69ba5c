"""Backbones by their published names, and the adapters of their checkpoint files."""

from fastiqa.models.backbones.se_res2net import se_res2net50

__all__ = ["se_res2net50"]
