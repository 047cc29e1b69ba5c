"""Drop-in modules: the parameters and results of `fastiqa.reference`, computed by the fused operators."""

from fastiqa.nn.cross_subtraction import CrossSubtraction

__all__ = ["CrossSubtraction"]
