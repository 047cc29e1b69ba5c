"""Correlation of predictions with people's scores: SRCC, KRCC, PLCC and RMSE.

    SRCC   Pearson's correlation of the ranks (Spearman); ties share the mean of their ranks
    KRCC   pairs in the same order minus pairs in the opposite order (Kendall's τ-b, corrected for ties)
    PLCC   Pearson's correlation, of the predictions as they are or mapped to the scores by a fitted logistic curve
    RMSE   root of the mean squared difference, of the predictions as they are or mapped likewise

    logistic4   f(x) = β₂ + (β₁ − β₂) / (1 + exp(−(x − β₃) / |β₄|))
    logistic5   f(x) = β₁ (1/2 − 1 / (1 + exp(β₂ (x − β₃)))) + β₄ x + β₅

Both are linear in all parameters except the place β₃ and the steepness of the logistic. Levenberg-Marquardt searches
for these two; linear least squares give the others. For poor predictions the usual start, mean x and 4 / std x, misses
the best curve, so the best of six starts counts.

Sources: VQEG, final report of the FR-TV test, phase I, 2000; Sheikh et al., TIP 2006, doi 10.1109/TIP.2006.881959.
"""

from __future__ import annotations

import itertools
import math
import reprlib
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastiqa.common import arguments

Fit = Literal["none", "logistic4", "logistic5"]
Values = ArrayLike | Tensor
FITS = ("none", "logistic4", "logistic5")
FEWEST = 3
PARAMETERS = {"logistic4": 4, "logistic5": 5}
STARTS = tuple(itertools.product((0.0, -1.0, 1.0), (4.0, 1.0)))  # place and steepness, for x with mean 0 and std 1


def srcc(prediction: Values, score: Values) -> float:
    """Spearman's rank correlation, from -1 to 1.

    Args:
        prediction, score: (N,), N at least 3, finite; tensors, arrays or lists.

    Returns:
        The correlation; NaN, undefined, if all predictions or all scores are equal.

    Raises:
        ValueError: naming the argument: other shapes, fewer values, NaN or infinity, no numbers.
        ImportError: without scipy.

    Example:
        >>> round(srcc([0.1, 0.2, 0.4, 0.9], [1.0, 3.0, 2.0, 4.0]), 6)
        0.8
    """
    from scipy.stats import rankdata

    x, y = _checked(prediction, score)
    return _pearson(rankdata(x), rankdata(y))


def krcc(prediction: Values, score: Values) -> float:
    """Kendall's rank correlation τ-b, from -1 to 1; arguments, NaN and errors as for `srcc`.

    Example:
        >>> round(krcc([1, 2, 3, 4], [1, 2, 4, 3]), 6)
        0.666667
    """
    from scipy.stats import kendalltau

    x, y = _checked(prediction, score)
    return float(kendalltau(x, y).statistic)


def plcc(prediction: Values, score: Values, fit: Fit = "none") -> float:
    """Pearson's linear correlation, from -1 to 1.

    Args:
        prediction, score: as for `srcc`.
        fit: curve that first maps predictions to scores: "none", "logistic4" or "logistic5".

    Returns:
        The correlation; NaN if all predictions or all scores are equal.

    Raises: as `srcc`; ValueError for an unknown fit, or fewer values than the curve has parameters.

    Example:
        >>> round(plcc([1, 2, 3, 4], [1, 3, 5, 7]), 6)
        1.0
    """
    return _pearson(fitted(prediction, score, fit), _checked(prediction, score)[1])


def rmse(prediction: Values, score: Values, fit: Fit = "none") -> float:
    """Root mean squared error in the units of the scores; arguments, NaN and errors as for `plcc`.

    Without a fit the result is never NaN: predictions and scores may be constant.

    Example:
        >>> rmse([1, 2, 3], [1, 2, 6])
        1.7320508075688772
    """
    return float(np.sqrt(np.mean((fitted(prediction, score, fit) - _checked(prediction, score)[1]) ** 2)))


def fitted(prediction: Values, score: Values, fit: Fit) -> NDArray[np.float64]:
    """Map predictions (N,) to the scores by the best-fitting curve; arguments and errors as for `plcc`.

    Returns:
        (N,), float64; all NaN if predictions or scores are constant.
    """
    arguments.one_of("fit", fit, FITS)
    x, y = _checked(prediction, score)
    if fit == "none":
        return x
    if len(x) < PARAMETERS[fit]:
        raise ValueError(f"prediction: got {len(x)} values, want at least {PARAMETERS[fit]} for {fit}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.full_like(x, math.nan)
    from scipy.optimize import least_squares
    from scipy.special import expit

    x = (x - x.mean()) / x.std()
    linear = [x, np.ones_like(x)] if fit == "logistic5" else [np.ones_like(x)]

    def best_with(logistic: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best curve with this place and steepness."""
        terms = np.stack([expit(logistic[1] * (x - logistic[0])), *linear], axis=1)
        mapped: NDArray[np.float64] = terms @ np.linalg.lstsq(terms, y)[0]
        return mapped

    fits = [least_squares(lambda logistic: best_with(logistic) - y, start, method="lm") for start in STARTS]
    return best_with(min(fits, key=lambda found: float(found.cost)).x)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN if x or y is constant or NaN."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # subtracting the mean from a constant may leave rounding errors
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def _checked(prediction: Values, score: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 (N,). Raises ValueError for other shapes or too few values."""
    x, y = finite("prediction", prediction), finite("score", score)
    if x.shape != y.shape or x.ndim != 1 or len(x) < FEWEST:
        shapes = f"{x.shape} and {y.shape}"
        raise ValueError(f"prediction, score: got shapes {shapes}, want the same (N,) of both, N at least {FEWEST}")
    return x, y


def finite(name: str, values: Values) -> NDArray[np.float64]:
    """Convert values of any shape to float64. Raises ValueError, naming the argument, unless they are finite."""
    try:
        array = np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError):  # strings and ragged lists, for which NumPy has messages of its own
        got = " ".join(reprlib.repr(values).split())
        raise ValueError(f"{name}: got {got}, want numbers of the shape (N,)") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got NaN or infinity, want finite numbers")
    return array
