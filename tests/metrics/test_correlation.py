"""SRCC, KRCC, PLCC, RMSE against their definitions and scipy; evaluations of rated images and their tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import expit

from fastiqa.data import RatedImage
from fastiqa.evaluation.rated import evaluate_rated, medians
from fastiqa.evaluation.tables import markdown_table, markdown_table_by_group, write_csv
from fastiqa.metrics.correlation import fitted, krcc, plcc, rmse, srcc


def random_pair(n=40, ties=False, seed=0):
    generator = np.random.default_rng(seed)
    score = generator.normal(size=n)
    prediction = score + generator.normal(size=n)
    return (prediction.round(), score.round()) if ties else (prediction, score)


def ranks(values):
    """Ranks from 1 by counting; ties share their mean rank."""
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_those_of_their_definitions(ties):
    x, y = random_pair(ties=ties)
    assert srcc(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1], abs=1e-12)
    assert srcc(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    signs_x, signs_y = (np.sign(v[:, None] - v[None]) for v in (x, y))
    tau = (signs_x * signs_y).sum() / math.sqrt((signs_x**2).sum() * (signs_y**2).sum())
    assert krcc(x, y) == pytest.approx(tau, abs=1e-12)
    assert plcc(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    assert rmse(x, y) == pytest.approx(math.sqrt(((x - y) ** 2).mean()))


def test_tensors_lists_and_arrays_are_alike():
    x, y = random_pair()
    assert srcc(torch.tensor(x), torch.tensor(y, requires_grad=True)) == srcc(x.tolist(), y) == srcc(x, y)
    assert srcc(torch.tensor(x, dtype=torch.bfloat16), y) == srcc(torch.tensor(x).bfloat16().double(), y)


def test_order_alone_counts_for_ranks():
    x, y = random_pair()
    assert srcc(np.exp(x), y) == pytest.approx(srcc(x, y))
    assert krcc(-x, y) == pytest.approx(-krcc(x, y))
    assert srcc(y**3, y) == krcc(y**3, y) == pytest.approx(1)
    assert plcc(y**3, y) < 0.95


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
def test_constants_have_no_correlation(constant):
    x, y = np.full(20, constant), random_pair(20)[1]
    for measure in (srcc, krcc, plcc):
        assert math.isnan(measure(x, y))
        assert math.isnan(measure(y, x))
    assert math.isnan(plcc(x, y, "logistic4"))
    assert math.isnan(rmse(y, x, "logistic5"))
    assert rmse(x, x + 2) == pytest.approx(2)


@pytest.mark.parametrize("measure", [srcc, krcc, plcc, rmse])
def test_what_cannot_be_measured_is_refused_by_name(measure):
    with pytest.raises(ValueError, match="prediction: got NaN or infinity"):
        measure([1, math.nan, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="score: got NaN or infinity"):
        measure([1, 2, 3], [1, math.inf, 3])
    for x, y in (([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([[1, 2, 3]], [[1, 2, 3]]), ([], [])):
        with pytest.raises(ValueError, match=r"prediction, score: got shapes .*, want the same \(N,\) of both, N at l"):
            measure(x, y)


@pytest.mark.parametrize("measure", [srcc, krcc, plcc, rmse])
@pytest.mark.parametrize(
    ("values", "got"),
    [
        (["a", "b", "c"], r"\['a', 'b', 'c'\]"),
        ([[1, 2], [3], [4]], r"\[\[1, 2\], \[3\], \[4\]\]"),
        ([{}, {}, {}], r"\[\{\}, \{\}, \{\}\]"),
        (list("0123456789abc"), r"\['0', '1', '2', '3', '4', '5', \.\.\.\]"),
    ],
    ids=["strings", "ragged", "mappings", "many"],
)
def test_what_is_no_number_is_refused_by_name(measure, values, got):
    wanted = f": got {got}, want numbers of the shape \\(N,\\)$"
    with pytest.raises(ValueError, match="^prediction" + wanted):
        measure(values, [1, 2, 3])
    with pytest.raises(ValueError, match="^score" + wanted):
        measure([1, 2, 3], values)
    with pytest.raises(ValueError, match="^predictions" + wanted):
        evaluate_rated(values, rated(3)[0], method="net", dataset="LIVE")


def test_fits_are_refused_by_name():
    with pytest.raises(ValueError, match="fit: got 'cubic', want one of 'none', 'logistic4', 'logistic5'"):
        plcc([1, 2, 3], [1, 2, 3], "cubic")
    with pytest.raises(ValueError, match="prediction: got 4 values, want at least 5 for logistic5"):
        plcc([1, 2, 3, 4], [1, 3, 2, 4], "logistic5")


# the published curves, in the units of the data
def logistic4(x, high, low, centre, width):
    return low + (high - low) * expit((x - centre) / abs(width))


def logistic5(x, height, steepness, centre, slope, offset):
    return height * (0.5 - 1 / (1 + np.exp(steepness * (x - centre)))) + slope * x + offset


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("fit", "curve", "parameters"),
    [("logistic4", logistic4, (80, 10, 1020, 7)), ("logistic5", logistic5, (60, 0.2, 1020, 0.3, -250))],
)
def test_a_fit_finds_the_curve_again(fit, curve, parameters, sign):
    """Also for opposite directions of predictions and scores, and far from zero."""
    x = np.random.default_rng(0).uniform(980, 1060, 80)
    y = sign * curve(x, *parameters)
    np.testing.assert_allclose(fitted(x, y, fit), y, rtol=1e-6)
    assert plcc(x, y, fit) == pytest.approx(1)
    assert rmse(x, y, fit) == pytest.approx(0, abs=1e-4)
    assert abs(plcc(x, y)) < 0.99


@pytest.mark.parametrize("fit", ["logistic4", "logistic5"])
def test_a_fit_is_the_best_of_its_curve_and_never_worse_than_a_line(fit):
    x, y = random_pair(60)
    best = rmse(x, y, fit)
    assert best == pytest.approx(rmse(100 - 7 * x, y, fit), rel=1e-4)  # in any unit of the predictions
    slope, offset = np.polyfit(x, y, 1)
    line = rmse(slope * x + offset, y)
    assert best < line if fit == "logistic5" else best < 1.02 * line
    assert plcc(x, y, fit) > abs(plcc(x, y)) - (0 if fit == "logistic5" else 0.01)


# evaluations


def rated(n=30, groups=("blur", "noise"), seed=0):
    """Images with random scores, and predictions near them."""
    generator = np.random.default_rng(seed)
    score = generator.uniform(0, 9, n)
    images = [RatedImage(Path(f"{i}.png"), s, f"ref{i}", groups[i % len(groups)]) for i, s in enumerate(score)]
    return images, score + generator.normal(size=n)


def test_an_evaluation_measures_all_and_every_group():
    images, prediction = rated()
    evaluation = evaluate_rated(prediction, images, method="net", dataset="TID2013", split="7")
    score = np.array([image.score for image in images])
    assert evaluation.overall == (
        30, plcc(prediction, score), srcc(prediction, score), krcc(prediction, score),
        plcc(prediction, score, "logistic4"), rmse(prediction, score, "logistic4"),
    )  # fmt: skip
    assert list(evaluation.groups) == ["blur", "noise"]
    assert evaluation.groups["noise"].srcc == srcc(prediction[1::2], score[1::2])
    fifth = evaluate_rated(prediction, images, method="net", dataset="TID2013", fit="logistic5")
    assert fifth.overall.plcc_fitted == plcc(prediction, score, "logistic5")


def test_a_quality_is_turned_round_against_differences():
    images, prediction = rated(groups=("",))
    forth = evaluate_rated(prediction, images, method="net", dataset="CSIQ").overall
    back = evaluate_rated(-prediction, images, method="net", dataset="LIVE", opposite=True).overall
    assert back == forth
    assert evaluate_rated(prediction, images, method="net", dataset="CSIQ").groups == {}


def test_groups_too_small_to_measure_are_undefined():
    images, prediction = rated(12, groups=("a", "b", "b", "b", "b", "b"))
    images = [*images, images[0]._replace(group="c"), images[1]._replace(group="d"), images[1]._replace(group="d")]
    images[-3:] = [image._replace(group="few") for image in images[-3:]]
    evaluation = evaluate_rated([*prediction, 1, 2, 3], images, method="net", dataset="KADID-10k")
    assert evaluation.groups["a"].images == 2
    assert all(math.isnan(value) for value in evaluation.groups["a"][1:])
    few = evaluation.groups["few"]
    assert math.isfinite(few.srcc)
    assert math.isnan(few.plcc_fitted)  # three images, four parameters
    with pytest.raises(ValueError, match="fit: got 'none', want one of 'logistic4', 'logistic5'"):
        evaluate_rated([*prediction, 1, 2, 3], images, method="net", dataset="KADID-10k", fit="none")


def test_an_evaluation_names_its_own_arguments():
    images, prediction = rated(4)
    for predictions, count, got in (
        ([1.0] * 3, 4, r"shape \(3,\) and 4 images"),
        (prediction[:2], 2, r"shape \(2,\) and 2 images"),
        (prediction[None], 4, r"shape \(1, 4\) and 4 images"),
        (1.0, 4, r"shape \(\) and 4 images"),
    ):
        message = rf"^predictions, images: got {got}, want \(N,\) of N images, N at least 3$"
        with pytest.raises(ValueError, match=message):
            evaluate_rated(predictions, images[:count], method="net", dataset="LIVE")
    with pytest.raises(ValueError, match=r"^predictions: got NaN or infinity"):
        evaluate_rated([*prediction[:3], math.inf], images, method="net", dataset="LIVE")
    images[1] = images[1]._replace(score=math.nan)
    with pytest.raises(ValueError, match=r"^scores of the images: got NaN or infinity"):
        evaluate_rated(prediction, images, method="net", dataset="LIVE")


def test_the_median_is_taken_measure_by_measure_over_the_splits():
    splits = []
    for seed in range(3):
        images, prediction = rated(seed=seed, groups=("blur", "noise") if seed else ("blur",))
        splits.append(evaluate_rated(prediction, images, method="net", dataset="LIVE", split=str(seed)))
    crossed = evaluate_rated(prediction, images, method="net", dataset="CSIQ", trained_on="LIVE")
    median, alone = medians([*splits, crossed])
    assert median.split == "median of 3"
    assert median.overall.srcc == sorted(e.overall.srcc for e in splits)[1]
    assert median.overall.plcc == sorted(e.overall.plcc for e in splits)[1]
    assert median.groups["noise"].srcc == pytest.approx(sum(e.groups["noise"].srcc for e in splits[1:]) / 2)
    assert (alone.overall, alone.trained_on, alone.split) == (crossed.overall, "LIVE", "median of 1")


# tables


def evaluations():
    images, prediction = rated()
    noisy = prediction + 3 * np.random.default_rng(9).normal(size=30)
    return [
        evaluate_rated(prediction, images, method="net", dataset="LIVE"),
        evaluate_rated(noisy, images, method="a|b", dataset="LIVE"),
        evaluate_rated(noisy, images, method="net", dataset="CSIQ", trained_on="LIVE"),
    ]


def table(text):
    """Rows of cells of a Markdown table."""
    return [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in text.splitlines()]


def test_the_markdown_table_has_methods_in_rows_and_sets_in_columns():
    net, other, crossed = evaluations()
    head, rule, *rows = table(markdown_table([net, other, crossed]))
    assert head == ["method", "LIVE PLCC fitted", "LIVE SRCC", "CSIQ PLCC fitted", "CSIQ SRCC"]
    assert rule == ["---", *["---:"] * 4]
    assert rows == [
        ["net", f"**{net.overall.plcc_fitted:.3f}**", f"**{net.overall.srcc:.3f}**", "–", "–"],
        ["a/b", f"{other.overall.plcc_fitted:.3f}", f"{other.overall.srcc:.3f}", "–", "–"],
        ["net (trained on LIVE)", "–", "–", f"{crossed.overall.plcc_fitted:.3f}", f"{crossed.overall.srcc:.3f}"],
    ]
    assert table(markdown_table([net], fitted=False)) == [
        ["method", "LIVE PLCC", "LIVE SRCC"], ["---", "---:", "---:"],
        ["net", f"{net.overall.plcc:.3f}", f"{net.overall.srcc:.3f}"],
    ]  # fmt: skip


def test_the_table_by_group_has_types_in_rows_and_methods_in_columns():
    net, other, crossed = evaluations()
    head, _, *rows = table(markdown_table_by_group([net, other]))
    assert head == ["type", "net PLCC fitted", "net SRCC", "a/b PLCC fitted", "a/b SRCC"]
    assert [row[0] for row in rows] == ["blur", "noise"]
    assert rows[1][2] == f"**{net.groups['noise'].srcc:.3f}**"
    assert rows[1][4] == f"{other.groups['noise'].srcc:.3f}"
    with pytest.raises(ValueError, match="evaluations: got data sets 'LIVE' and 'CSIQ', want one"):
        markdown_table_by_group([net, crossed])


def test_tables_of_nothing_or_of_two_alike_are_refused():
    net, *_ = evaluations()
    with pytest.raises(ValueError, match="evaluations: got none with anything to show"):
        markdown_table([])
    with pytest.raises(ValueError, match=r"evaluations: got two of 'net' on 'LIVE', want one: take `medians` first"):
        markdown_table([net, net])


def test_the_csv_has_a_line_for_all_and_for_every_group(tmp_path):
    path = tmp_path / "results.csv"
    net, _, crossed = evaluations()
    write_csv(path, [net, crossed])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trained_on"], row["dataset"], row["group"]) for row in rows] == [
        ("", "LIVE", ""), ("", "LIVE", "blur"), ("", "LIVE", "noise"),
        ("LIVE", "CSIQ", ""), ("LIVE", "CSIQ", "blur"), ("LIVE", "CSIQ", "noise"),
    ]  # fmt: skip
    assert float(rows[1]["srcc"]) == pytest.approx(net.groups["blur"].srcc, rel=1e-5)
    assert rows[0]["images"] == "30"
    assert list(tmp_path.iterdir()) == [path]
