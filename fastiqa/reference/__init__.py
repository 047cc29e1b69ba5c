"""The networks in plain PyTorch: oracles of the tests and baselines of the benchmarks."""

from fastiqa.reference.cross_subtraction import CrossSubtraction
from fastiqa.reference.fusion import FPN, BiFPN, ProgressiveFusion
from fastiqa.reference.prfnet import PRFNet
from fastiqa.reference.se_res2net import SERes2Net, SqueezeExcite

__all__ = ["FPN", "BiFPN", "CrossSubtraction", "PRFNet", "ProgressiveFusion", "SERes2Net", "SqueezeExcite"]
