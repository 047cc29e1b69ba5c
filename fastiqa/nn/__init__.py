"""Drop-in modules with the parameters and results of `fastiqa.reference`, on the fused operators."""

from fastiqa.nn.attentional_fusion import AttentionalFeatureFusion
from fastiqa.nn.batch_norm_act import BatchNormAct2d
from fastiqa.nn.cross_subtraction import CrossSubtraction
from fastiqa.nn.efficientnet_lite import DepthwiseSeparable, EfficientNetLite, InvertedResidual
from fastiqa.nn.feature_fusion import FeatureFusion
from fastiqa.nn.guidance import Guidance
from fastiqa.nn.high_frequency import HighFrequencyModule, HighFrequencyNet, OctaveSplit
from fastiqa.nn.high_pass import HighPass
from fastiqa.nn.large_kernel_attention import LargeKernelAttention
from fastiqa.nn.octave_conv import OctaveConv2d
from fastiqa.nn.prf_head import PRFHead
from fastiqa.nn.progressive_fusion import ProgressiveFusion
from fastiqa.nn.resnet import Bottleneck, ResNet
from fastiqa.nn.se_res2net import SERes2Block, SERes2Net
from fastiqa.nn.squeeze_excitation import SqueezeExcitation
from fastiqa.nn.van import VAN, VANBlock

__all__ = [
    "VAN",
    "AttentionalFeatureFusion",
    "BatchNormAct2d",
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
    "OctaveConv2d",
    "OctaveSplit",
    "PRFHead",
    "ProgressiveFusion",
    "ResNet",
    "SERes2Block",
    "SERes2Net",
    "SqueezeExcitation",
    "VANBlock",
]
