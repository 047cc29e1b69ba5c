"""Means of a frozen backbone: items of distorted crops, and the head of an MFENet that is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fastiqa import create_model, load_model
from fastiqa.common.installed_weights import MissingWeightsError, installed_weights
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.training import RecipeError, read_recipe, train
from fastiqa.training.tasks import TASKS
from support.pictures import six_photographs


def has_weights() -> bool:
    try:
        installed_weights("efficientnet_lite0")
    except MissingWeightsError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_weights(), reason="fastiqa-kernels[weights] is not installed")
OPTIONS: dict[str, Any] = {"size": 32, "random_crop": False, "grid": 2, "repeat_after": 1}


def network(**options: Any) -> Any:
    return create_model("mfenet_lite", pretrained_backbone="imagenet", **options).eval()


def test_items_have_what_the_head_reads(tmp_path: Path) -> None:
    photographs = six_photographs(tmp_path)[:1]
    model = network()
    crops = DistortedImages(photographs, **{**OPTIONS, "repeat_after": None})
    means = TASKS["quality"].dataset("distorted", folder=tmp_path, means="efficientnet_lite0", types=True, **OPTIONS)
    for index in (0, 3, 77):
        (images, score), (got, theirs, _) = crops[index], means[index]
        torch.testing.assert_close(got, model.encode(images), rtol=1e-4, atol=1e-4)
        assert theirs == score
        assert torch.equal(means[index][0], got), "kept"
        assert not got.is_inference(), "an inference tensor could not be trained on"
    estimate = TASKS["quality"].module(model)
    with torch.no_grad():
        torch.testing.assert_close(estimate(got[None]).score, model(images).mean()[None], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(estimate(got[:1]).score, model(images)[:1], rtol=1e-4, atol=1e-4)


def recipe(folder: Path, *changes: str) -> Any:
    (folder / "photographs").mkdir()
    six_photographs(folder / "photographs")
    sets = [
        f"data.{part}.{name}={value}"
        for part in ("train", "held_out")
        for name, value in {"folder": folder / "photographs", "size": 32, "target": "level"}.items()
    ]
    shorter = ["steps.head.epochs=1", "validation=null", "batch_size=64"]
    return read_recipe("mfenet_lite", [*sets, *shorter, *changes])


def test_the_recipe_trains_the_head_alone(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    before, after = network(distortion_types=26), load_model(tmp_path / "run" / "model.safetensors")
    for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(old, new) == name.startswith("qen."), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("steps.head.lr_factors.qen=0.1",), "steps.head.lr_factors: got a backbone that is trained, with the cached"),
        (("model.options.dan=true",), "data.train: means: got efficientnet_lite0, want a network with backbone: effic"),
        (("model.pretrained_backbone=null",), "data.train: means: got efficientnet_lite0, want a network with"),
        (("data.train.means=vgg",), "data.train: backbone: got 'vgg', want one of 'van', 'efficientnet_lite0'"),
        (("data.train.means=van",), "data.train: pretrained_backbone: got 'imagenet' for a VAN, want "),
    ],
)
def test_a_head_is_refused_means_of_another_backbone(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        train(recipe(tmp_path, *changes), tmp_path / "run")
    assert str(error.value).startswith(message)


def test_bad_means() -> None:
    with pytest.raises(ValueError, match=r"^means: got \(2, 495\), want \(N, 496\)$"):
        network().rate(torch.rand(2, 495))
