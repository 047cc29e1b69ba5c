"""Networks by name, their weight files, and the ranking of candidates."""

from fastiqa.models.checkpoints import LoadReport, load_backbone, load_model, save_model
from fastiqa.models.creation import create_model
from fastiqa.models.mfenet import MFENet
from fastiqa.models.prfnet import PRFNet
from fastiqa.models.published import Card, card_of, cards
from fastiqa.models.ranking import Ranking, rank
from fastiqa.models.registry import list_models
from fastiqa.reference.backbone import FeatureExtractor

__all__ = [
    "Card",
    "FeatureExtractor",
    "LoadReport",
    "MFENet",
    "PRFNet",
    "Ranking",
    "card_of",
    "cards",
    "create_model",
    "list_models",
    "load_backbone",
    "load_model",
    "rank",
    "save_model",
]
