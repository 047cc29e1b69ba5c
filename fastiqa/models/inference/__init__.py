"""Networks for inference: folded norms, precomputed constants, the fastest of several ways to run."""

from fastiqa.models.inference.mfenet import InferenceMFENet
from fastiqa.models.inference.optimize import optimize_for_inference
from fastiqa.models.inference.prfnet import InferencePRFNet

__all__ = ["InferenceMFENet", "InferencePRFNet", "optimize_for_inference"]
