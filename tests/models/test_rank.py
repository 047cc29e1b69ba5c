"""rank: probabilities against triplet calls, the number of passes, strengths against known ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import mpmath  # which torch needs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastiqa
from fastiqa import models, reference
from fastiqa.models.ranking import _strengths
from support.oracles import randomise

SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 4, "hidden": 8}


class Table(nn.Module):
    """Compares images by a table of log-odds; an image's first value, in 256ths, is its row."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.eval()

    def encode(self, image: Tensor) -> list[Tensor]:
        return [(256 * image[:, 0, 0, 0]).round().long()]

    def compare(self, ref: list[Tensor], a: list[Tensor], b: list[Tensor]) -> Tensor:
        return self.logits[a[0], b[0]]


def by_table(logits: Tensor, **options: Any) -> models.Ranking:
    images = torch.arange(len(logits)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1) / 256
    return fastiqa.rank(Table(logits), images[0], images, **options)


def log_odds(strengths: Sequence[float] | Tensor) -> Tensor:
    """[i, j] = s_j − s_i."""
    s = torch.as_tensor(strengths, dtype=torch.float64)
    return s - s[:, None]


def antisymmetric(upper: Tensor) -> Tensor:
    return upper.triu(1).double() - upper.triu(1).double().t()


def prfnet(block: type[reference.PRFNet] = models.PRFNet) -> Any:
    model = block(**SMALL).eval()
    randomise(model)
    return model


def images(n: int, h: int = 33, w: int = 40) -> Tensor:
    """Noise with a colour of its own in every image."""
    return torch.rand(n, 3, h, w) * torch.rand(n, 3, 1, 1)


# ---- the model's comparisons ----


@pytest.mark.parametrize("block", [reference.PRFNet, models.PRFNet], ids=["plain", "fused"])
def test_probabilities_are_those_of_triplets(block: type[reference.PRFNet]) -> None:
    model = prfnet(block)
    ref, *candidates = images(6).split(1)
    ranking = fastiqa.rank(model, ref, candidates)
    p = ranking.probability
    assert (p.dtype, p.shape, p.requires_grad) == (torch.float64, (5, 5), False)
    for i, j in itertools.combinations(range(5), 2):
        want = model.probability(ref, candidates[i], candidates[j]).double()
        torch.testing.assert_close(p[i, j], want[0], rtol=0, atol=1e-7)
    assert torch.equal(p.diagonal(), torch.full((5,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(p + p.t(), torch.ones(5, 5, dtype=torch.float64), rtol=0, atol=1e-15)
    assert p.std() > 1e-3, "the probabilities must depend on the images"


def test_both_orders_are_averaged() -> None:
    model = prfnet()
    ref, *candidates = images(5).split(1)
    p = fastiqa.rank(model, ref, candidates, both_orders=True).probability
    for i, j in itertools.combinations(range(4), 2):
        forth, back = model(ref, candidates[i], candidates[j]), model(ref, candidates[j], candidates[i])
        torch.testing.assert_close(p[i, j].logit(), (forth - back).double()[0] / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("both_orders", [False, True])
def test_every_image_is_encoded_once(both_orders: bool) -> None:
    model = prfnet()
    passes: list[int] = []
    model.backbone.register_forward_hook(lambda _, args, out: passes.append(args[0].shape[0]))
    compared = 0

    def count(*_: Any) -> None:
        nonlocal compared
        compared += 1

    model.head.register_forward_hook(count)
    fastiqa.rank(model, images(1), images(6), both_orders)
    assert passes == [1] * 7
    assert compared == 15 * (1 + both_orders)


def test_the_forms_of_images() -> None:
    """A tensor, a list of images with or without the batch dimension, a tuple: the same result."""
    model = prfnet()
    ref, candidates = images(1), images(4)
    want = fastiqa.rank(model, ref, candidates)
    mixed = (candidates[0], candidates[1:2], candidates[2], candidates[3:])
    for got in (fastiqa.rank(model, ref[0], list(candidates)), fastiqa.rank(model, ref, mixed)):
        assert got.order == want.order
        assert torch.equal(got.scores, want.scores)
        assert torch.equal(got.probability, want.probability)


def test_permuted_candidates_permute_the_result() -> None:
    model = prfnet()
    ref, candidates = images(1), images(5)
    want = fastiqa.rank(model, ref, candidates, both_orders=True)
    shuffle = [3, 0, 4, 1, 2]
    got = fastiqa.rank(model, ref, candidates[shuffle], both_orders=True)
    assert tuple(shuffle[i] for i in got.order) == want.order
    torch.testing.assert_close(got.scores, want.scores[shuffle], rtol=0, atol=1e-12)
    torch.testing.assert_close(got.probability, want.probability[shuffle][:, shuffle], rtol=0, atol=1e-15)
    one_order = fastiqa.rank(model, ref, candidates[shuffle]).probability
    other = fastiqa.rank(model, ref, candidates).probability[shuffle][:, shuffle]
    assert not torch.allclose(one_order, other, atol=1e-4), "the network is not antisymmetric"


# ---- strengths ----


def test_known_strengths_are_recovered() -> None:
    strengths = torch.tensor([0.3, -1.2, 4.0, 0.0, -2.5, 1.1], dtype=torch.float64)
    ranking = by_table(log_odds(strengths))
    torch.testing.assert_close(ranking.scores, strengths - strengths.mean(), rtol=0, atol=1e-12)
    assert ranking.order == (2, 5, 0, 3, 1, 4)
    torch.testing.assert_close(ranking.probability, torch.sigmoid(log_odds(strengths)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("logit", [0.0, 0.7, -3.0, 29.0, -30.0])
def test_two_candidates_differ_by_their_log_odds(logit: float) -> None:
    scores = by_table(antisymmetric(torch.tensor([[0.0, logit], [0.0, 0.0]], dtype=torch.float64))).scores
    torch.testing.assert_close(scores[1] - scores[0], torch.tensor(logit, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [3, 8, 30])
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e6])
def test_expected_wins_are_the_given_ones(count: int, scale: float) -> None:
    """The equations of the maximum, for log-odds that no strengths explain."""
    logits = antisymmetric(scale * torch.randn(count, count, dtype=torch.float64))
    ranking = by_table(logits)
    p, d = ranking.probability, log_odds(ranking.scores)
    torch.testing.assert_close(torch.sigmoid(d).sum(0), p.sum(0), rtol=1e-12, atol=1e-12)
    assert abs(ranking.scores.mean()) < 1e-12


@pytest.mark.parametrize("size", [30.0, 1e4, math.inf])
def test_certain_comparisons_stay_finite_and_in_order(size: float) -> None:
    """All for one order; the equations hold in the small tails too, where p would not show a wrong strength."""
    order = [3, 0, 5, 1, 4, 2]
    place = torch.tensor(order).argsort()
    logits = torch.where(place < place[:, None], size, -size).fill_diagonal_(0)
    ranking = by_table(logits)
    assert ranking.order == tuple(order)
    assert ranking.scores.isfinite().all()
    off_diagonal = ranking.probability[~torch.eye(6, dtype=torch.bool)]
    assert off_diagonal.min() > 0
    assert off_diagonal.max() < 1
    expected, (first, *_, last) = torch.sigmoid(log_odds(ranking.scores)).fill_diagonal_(0), order
    given = ranking.probability.fill_diagonal_(0)
    torch.testing.assert_close(expected[:, last].sum(), given[:, last].sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(expected[first].sum(), given[first].sum(), rtol=1e-6, atol=0)


def grouped(random: np.random.Generator) -> Tensor:
    """Log-odds of two to eight candidates in one to four groups, certain between groups and not always transitive."""
    count = int(random.integers(2, 9))
    group = random.integers(0, random.integers(1, 5), count)
    table = random.standard_normal((count, count)) * 10 ** random.uniform(-3, 3)
    certain = random.choice([20.0, 29.9, 30.0, 1e4])
    table = np.where(group[:, None] < group, certain, np.where(group[:, None] > group, -certain, table))
    if random.random() < 0.3:
        table[tuple(random.integers(0, count, 2))] *= -1
    return antisymmetric(torch.from_numpy(table))


def test_the_search_ends_at_the_maximum_of_any_table() -> None:
    """For every set of the strongest candidates, expected and given wins over the others agree to rounding.

    The small tails on both sides of a cut are 1e-13 where the groups are certain: 1e-12 of these is asked for.
    """
    random = np.random.default_rng(0)
    for _ in range(2000):
        logits = grouped(random).clamp(-30, 30)
        scores = _strengths(logits)
        assert abs(scores.mean()) < 1e-12
        order = scores.argsort()
        logits, differences = (table[order][:, order] for table in (logits, log_odds(scores)))
        sign = torch.where(logits > 0, -1.0, 1.0).double()
        given, found = torch.sigmoid(sign * logits), torch.sigmoid(sign * differences)
        for k in range(1, len(order)):
            surplus = (sign * (given - found))[:k, k:].sum().abs()
            assert surplus <= 1e-12 * (given + found)[:k, k:].sum()


def test_two_clear_groups() -> None:
    """Values of a search in 50 digits; the search in float64 never ended in 26 of 30 such tables."""
    random = np.random.default_rng(0)
    for count in (4, 5, 8):
        group = torch.arange(count) < count // 2
        logits = antisymmetric(torch.from_numpy(2 * random.standard_normal((count, count))))
        logits[group[:, None] & ~group], logits[~group[:, None] & group] = 30.0, -30.0
        ranking = by_table(logits)
        assert set(ranking.order[: count - count // 2]) == set(range(count // 2, count))
        torch.testing.assert_close(ranking.scores, in_50_digits(logits), rtol=0, atol=1e-11)


def in_50_digits(logits: Tensor) -> Tensor:
    """A textbook's Newton method."""
    with mpmath.workdps(50):
        table, count = logits.tolist(), len(logits)

        def sigmoid(x: Any) -> Any:
            return 1 / (1 + mpmath.exp(-x))

        strengths = [mpmath.mpf(float(value)) for value in logits.mean(0)]
        for _ in range(40):
            laplacian, gradient = mpmath.zeros(count), mpmath.zeros(count, 1)
            for i, j in itertools.permutations(range(count), 2):
                p = sigmoid(strengths[j] - strengths[i])
                gradient[j] += sigmoid(mpmath.mpf(table[i][j])) - p
                laplacian[j, j] += p * (1 - p)
                laplacian[i, j] -= p * (1 - p)
            laplacian[0, 0] += 1  # fixes what is added to all of them
            step = list(mpmath.lu_solve(laplacian, gradient))
            spread = max(step) - min(step)
            length = mpmath.log1p(spread) / spread if spread else 1
            strengths = [s + length * t for s, t in zip(strengths, step, strict=True)]
        mean = sum(strengths) / count
        return torch.tensor([float(s - mean) for s in strengths], dtype=torch.float64)


def test_another_default_device() -> None:
    logits = log_odds([0.3, -1.2, 4.0])
    images = torch.arange(3).view(-1, 1, 1, 1).expand(-1, 3, 1, 1) / 256
    with torch.device("meta"):
        ranking = fastiqa.rank(Table(logits), images[0], images)
    assert ranking.order == (2, 0, 1)
    assert {tensor.device.type for tensor in ranking[1:]} == {"cpu"}


def test_equals_keep_their_places() -> None:
    assert by_table(torch.zeros(5, 5)).order == (0, 1, 2, 3, 4)
    # Each of seven in a circle has the same log-odds, in another order: sums differ by rounding.
    around = torch.randn(3, dtype=torch.float64)
    row = torch.cat([torch.zeros(1, dtype=torch.float64), around, -around.flip(0)])
    circle = by_table(torch.stack([row.roll(i) for i in range(7)]))
    assert circle.scores.unique().numel() > 1
    assert circle.order == tuple(range(7))
    strengths = [0.1, 0.7, 0.1, -0.3, 0.7, 0.1, 0.1]
    assert by_table(log_odds(strengths)).order == (1, 4, 0, 2, 5, 6, 3)
    copies = images(1).expand(4, -1, -1, -1)
    assert fastiqa.rank(prfnet(), images(1), copies, both_orders=True).order == (0, 1, 2, 3)


# ---- bad input ----

GOOD = torch.full((3, 32, 32), 0.5)


@pytest.mark.parametrize(
    ("ref", "candidates", "kind", "message"),
    [
        (GOOD, [GOOD], ValueError, "candidates: got 1, want at least 2"),
        (GOOD, GOOD[None], ValueError, "candidates: got 1, want at least 2"),
        (GOOD, GOOD, ValueError, "candidates: got shape (3, 32, 32), want (K, 3, H, W)"),
        (GOOD, iter([GOOD]), TypeError,
         "candidates: got list_iterator, want a sequence of images or a tensor (K, 3, H, W)"),
        (GOOD, [GOOD, None], TypeError, "candidates[1]: got NoneType, want a torch.Tensor"),
        (GOOD.numpy(), [GOOD, GOOD], TypeError, "ref: got ndarray, want a torch.Tensor"),
        (GOOD[0], [GOOD, GOOD], ValueError, "ref: got shape (32, 32), want (3, H, W) or (1, 3, H, W)"),
        (GOOD.expand(2, -1, -1, -1), [GOOD, GOOD], ValueError,
         "ref: got shape (2, 3, 32, 32), want (3, H, W) or (1, 3, H, W)"),
        (GOOD, torch.zeros(2, 1, 32, 32), ValueError,
         "candidates[0]: got shape (1, 32, 32), want (3, H, W) or (1, 3, H, W)"),
        (GOOD, [GOOD, GOOD[..., 1:]], ValueError,
         "candidates[1]: got shape (1, 3, 32, 31), want that of ref, (1, 3, 32, 32)"),
        (GOOD, [GOOD, GOOD.double()], TypeError,
         "candidates[1]: got dtype torch.float64, want that of ref, torch.float32"),
        (GOOD, [GOOD.to("meta"), GOOD], ValueError, "candidates[0]: got a tensor on meta, want the device of ref, cpu"),
        (GOOD.double(), [GOOD, GOOD], TypeError,
         "ref: got dtype torch.float64, want that of the model, torch.float32"),
        (GOOD, [GOOD, 255 * GOOD], ValueError,
         "candidates[1]: got values from 127.5 to 127.5, want finite ones in [0, 1]"),
        (GOOD[..., :8], [GOOD[..., :8]] * 2, ValueError,
         "image: got shape (1, 3, 32, 8), want H and W of at least 16"),
    ],
)  # fmt: skip
def test_bad_images(ref: Any, candidates: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        fastiqa.rank(prfnet(), ref, candidates)
    assert str(error.value) == message


def test_bad_models() -> None:
    wanted = "want a module with `encode` and `compare`, such as PRFNet"
    with pytest.raises(TypeError, match=f"^model: got Linear, {wanted}$"):
        fastiqa.rank(nn.Linear(1, 1), GOOD, [GOOD, GOOD])
    with pytest.raises(TypeError, match=f"^model: got int, {wanted}$"):
        fastiqa.rank(1, GOOD, [GOOD, GOOD])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^model: got 'prfnet', want .*: no weights of prfnet are published$"):
        fastiqa.rank("prfnet", GOOD, [GOOD, GOOD])
    with pytest.raises(ValueError, match=r"^model: in training mode, want model.eval\(\)"):
        fastiqa.rank(prfnet().train(), GOOD, [GOOD, GOOD])
    with pytest.raises(ValueError, match=r"^both_orders: got 1, want True or False$"):
        fastiqa.rank(prfnet(), GOOD, [GOOD, GOOD], both_orders=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^model: NaN in its comparisons, want numbers$"):
        by_table(torch.full((3, 3), math.nan))
