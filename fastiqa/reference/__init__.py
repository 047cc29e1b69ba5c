"""The networks in plain PyTorch: oracles of the tests and baselines of the benchmarks."""

from fastiqa.reference.attentional_fusion import AttentionalFeatureFusion
from fastiqa.reference.batch_norm_act import BatchNormAct2d
from fastiqa.reference.cross_subtraction import CrossSubtraction
from fastiqa.reference.efficientnet_lite import DepthwiseSeparable, EfficientNetLite, InvertedResidual
from fastiqa.reference.feature_fusion import FeatureFusion
from fastiqa.reference.fusion import FPN, BiFPN, ProgressiveFusion
from fastiqa.reference.guidance import Guidance
from fastiqa.reference.high_frequency import HighFrequencyModule, HighFrequencyNet, OctaveSplit
from fastiqa.reference.high_pass import HighPass
from fastiqa.reference.large_kernel_attention import LargeKernelAttention
from fastiqa.reference.mfenet import MFENet
from fastiqa.reference.octave_conv import OctaveConv2d
from fastiqa.reference.prf_head import PRFHead
from fastiqa.reference.prfnet import PRFNet
from fastiqa.reference.resnet import Bottleneck, ResNet
from fastiqa.reference.se_res2net import SERes2Block, SERes2Net
from fastiqa.reference.squeeze_excitation import SqueezeExcitation
from fastiqa.reference.van import VAN, VANBlock

__all__ = [
    "FPN",
    "VAN",
    "AttentionalFeatureFusion",
    "BatchNormAct2d",
    "BiFPN",
    "Bottleneck",
    "CrossSubtraction",
    "DepthwiseSeparable",
    "EfficientNetLite",
    "FeatureFusion",
    "Guidance",
    "HighFrequencyModule",
    "HighFrequencyNet",
    "HighPass",
    "InvertedResidual",
    "LargeKernelAttention",
    "MFENet",
    "OctaveConv2d",
    "OctaveSplit",
    "PRFHead",
    "PRFNet",
    "ProgressiveFusion",
    "ResNet",
    "SERes2Block",
    "SERes2Net",
    "SqueezeExcitation",
    "VANBlock",
]
