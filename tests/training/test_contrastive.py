"""Contrastive pre-training: the network and its loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastiqa.data.distortions.contrastive import ContrastiveDataset
from fastiqa.training.tasks.contrastive import ContrastiveNetwork, Projector, contrastive_loss
from support.pictures import six_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    return six_photographs(tmp_path)


def slow_loss(projections: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """The module docstring's formula, pair by pair."""
    rows = [(row, number) for item, number in zip(projections, classes.tolist(), strict=True) for row in item]
    terms = []
    for i, (row, number) in enumerate(rows):
        products = [torch.cosine_similarity(row, other, dim=0) / temperature for other, _ in rows]
        negatives = sum(product.exp() for k, product in enumerate(products) if k != i)
        positives = [product for k, product in enumerate(products) if k != i and rows[k][1] == number]
        terms.append(negatives.log() - sum(positives) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_is_the_formula(temperature: float) -> None:
    projections = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([9, 0, 9, 125, 9])
    loss, wanted = contrastive_loss(projections, classes, temperature), slow_loss(projections, classes, temperature)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, projections)[0] for value in (loss, wanted)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_gradients_of_the_loss() -> None:
    projections = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: contrastive_loss(z, torch.tensor([4, 0, 4])), projections)
    assert torch.autograd.gradgradcheck(lambda z: contrastive_loss(z, torch.tensor([4, 0, 4])), projections)


def test_loss_does_not_depend_on_the_order_or_the_numbers_of_classes() -> None:
    projections, classes = torch.randn(6, 2, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 1])
    order = torch.randperm(6)
    loss = contrastive_loss(projections, classes)
    assert torch.allclose(contrastive_loss(projections[order], classes[order]), loss)
    assert torch.allclose(contrastive_loss(projections, 100 - 7 * classes), loss)
    assert torch.allclose(contrastive_loss(5 * projections, classes), loss)
    assert not torch.allclose(contrastive_loss(projections, torch.arange(6)), loss)


def test_loss_where_exponentials_overflow() -> None:
    """exp(1 / 0.001) overflows float32; one class, and classes of one item, are no special cases."""
    projections = torch.randn(3, 2, 4, requires_grad=True)
    for classes in (torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])):
        loss = contrastive_loss(projections, classes, temperature=0.001)
        exact = contrastive_loss(projections.double(), classes, temperature=0.001)
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, projections)
        assert torch.isfinite(gradient).all()


def test_loss_in_half_precision_is_computed_in_float32() -> None:
    projections, classes = torch.randn(4, 4, 16).bfloat16(), torch.tensor([0, 1, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(projections, classes)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, contrastive_loss(projections.float(), classes))


def test_loss_keeps_one_matrix_of_similarities() -> None:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    projections = torch.randn(64, 8, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        contrastive_loss(projections, torch.arange(64) % 10)
    matrix = 512 * 512 * 4
    assert matrix <= sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) < 1.5 * matrix


@pytest.mark.parametrize(
    ("shape", "classes", "temperature", "message"),
    [
        ((4, 8), 4, 0.1, r"projections: got shape \(4, 8\), want \(N, M, D\)"),
        ((4, 1, 8), 4, 0.1, r"projections: got shape \(4, 1, 8\), want .* M of at least 2"),
        ((4, 2, 8), 3, 0.1, r"classes: got shape \(3,\), want \(4,\)"),
        ((4, 2, 8), 4, 0.0, "temperature: got 0.0, want a number above 0"),
        ((4, 2, 8), 4, math.nan, "temperature: got nan, want a number above 0"),
    ],
)
def test_bad_arguments_of_the_loss(shape: tuple[int, ...], classes: int, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.ones(shape), torch.zeros(classes, dtype=torch.int64), temperature)


def test_projector_has_the_paper_s_shape() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in Projector().named_parameters()}
    assert shapes["0.weight"] == (2048, 2048)
    assert shapes["3.weight"] == (128, 2048)
    assert not any(name in shapes for name in ("0.bias", "3.bias"))
    assert Projector(8, 6, 4)(torch.rand(5, 8)).shape == (5, 4)


class LastOf(nn.Sequential):
    """A backbone with two maps: the image and the layers' result."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image, super().forward(image)]


def test_network_projects_local_features_in_order() -> None:
    """Rows of an item: first view, then second; of a view: top left, top right, bottom left, bottom right."""
    views = torch.rand(3, 2, 3, 16, 16)
    projections = ContrastiveNetwork(LastOf(nn.AdaptiveAvgPool2d(4)), nn.Identity())(views)
    assert projections.shape == (3, 8, 3)
    for row, (view, top, left) in enumerate((v, t, x) for v in (0, 1) for t in (0, 8) for x in (0, 8)):
        mean = views[:, view, :, top : top + 8, left : left + 8].mean((2, 3))
        assert torch.allclose(projections[:, row], nn.functional.normalize(mean, dim=1), atol=1e-6)
    with pytest.raises(ValueError, match=r"views: got shape \(3, 3, 16, 16\), want \(N, V, 3, H, W\)"):
        ContrastiveNetwork(LastOf(nn.AdaptiveAvgPool2d(4)), nn.Identity())(views[:, 0])


def test_network_learns_the_classes_of_a_batch(photographs: list[Path]) -> None:
    dataset = ContrastiveDataset(photographs, crop=32, items=8, keep=True)
    views, classes = (torch.stack(tensors) for tensors in zip(*(dataset[i] for i in range(8)), strict=True))
    network = ContrastiveNetwork(LastOf(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2)), Projector(16, 32, 8))
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = contrastive_loss(network(views), classes % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3, losses
