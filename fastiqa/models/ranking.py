"""rank: candidates in the order of their closeness to one reference, from comparisons of pairs.

    l_ij = f(ref, i, j)                     log-odds that j is closer to the reference than i, for each pair i < j
    s = argmax Σ_{i<j} p_ij log σ(s_j − s_i) + (1 − p_ij) log σ(s_i − s_j),    p_ij = σ(l_ij),   Σ_i s_i = 0

Each image is encoded once: K + 1 backbone passes instead of 3 K (K − 1) / 2 for as many triplets.

Sources: Bradley and Terry, Biometrika 39 (1952). Hunter, Annals of Statistics 32 (2004): the maximum exists, since no
probability is 0 or 1. Sun and Tran-Dinh, Mathematical Programming 178 (2019): the length of the Newton steps.
Grassmann, Taksar and Heyman, Operations Research 33 (1985): elimination without subtraction.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastiqa.common import arguments
from fastiqa.models.creation import create_model
from fastiqa.models.prfnet import PRFNet
from fastiqa.models.published import DEFAULTS, card_of
from fastiqa.models.registry import model_class

Images = Sequence[Tensor] | Tensor

# Log-odds are clipped to this: σ(30) = 1 − 1e-13 is still less than 1.
LARGEST_LOGIT = 30.0
# The search ends at steps of this size. Strengths are ordered after rounding to it, so that last digits break no tie.
TOLERANCE = 1e-9
# The most steps of a search for each candidate: ten times as many as any table was seen to need.
LONGEST_SEARCH = 100


class Ranking(NamedTuple):
    """Candidates in order.

    Attributes:
        order: indices of the candidates, the closest to the reference first; among equals the lower index first.
        scores: (K,), float64, on the CPU: Bradley-Terry strengths of mean zero; larger is closer. Their differences
            are log-odds.
        probability: (K, K), float64, on the CPU: [i, j] is the model's probability for this pair alone that j is closer
            than i; [j, i] is 1 - [i, j], and the diagonal is 0.5.
    """

    order: tuple[int, ...]
    scores: Tensor
    probability: Tensor


@overload
def rank(model: nn.Module | str, ref: Tensor, candidates: Images, both_orders: bool = False) -> Ranking: ...


@overload
def rank(ref: Tensor, candidates: Images, /, *, both_orders: bool = False) -> Ranking: ...


@torch.no_grad()
def rank(
    model: nn.Module | str | Tensor | None = None,
    ref: Tensor | Images | None = None,
    candidates: Images | None = None,
    both_orders: bool = False,
) -> Ranking:
    """Order images by their closeness to a reference: ``rank(ref, candidates)`` or ``rank(model, ref, candidates)``.

    Every image is encoded once; then every pair is compared. Feature maps are kept until the end, 96 MB an image in
    float32 for PRFNet at 448x448.

    Args:
        model: a PRFNet, or another module with its methods `encode` and `compare`, in eval mode; or the name of
            published weights, for float32 images on any device. Without a model the published weights rank that
            `fastiqa compare` uses, and a warning of the logger "fastiqa" says once how far to trust them.
        ref: one image, (3, H, W) or (1, 3, H, W), RGB in [0, 1], in the model's dtype.
        candidates: K images of the same shape, dtype and device, K at least 2, or one tensor (K, 3, H, W).
        both_orders: compare each pair in both orders and take the mean log-odds, for twice the comparisons. The result
            then does not depend on the order of the candidates. PRFNet with `symmetric=True` needs one order alone, and
            compares in one.

    Returns:
        A `Ranking`. Log-odds are clipped to ±30.

    Raises:
        TypeError: a model without `encode` and `compare`; candidates that are no sequence; an image that is no tensor
            or has the wrong dtype.
        ValueError: a model in training mode or with NaN in its comparisons; fewer than two candidates; an image of the
            wrong shape, size, device or range; a name without published weights.
        ImportError: published weights that need the extra `weights`.

    Example:
        >>> import fastiqa
        >>> model = fastiqa.create_model("prfnet", layers=(1, 1, 1, 1), width=8).eval()
        >>> ref = torch.rand(3, 64, 64)
        >>> ranking = fastiqa.rank(model, ref, [ref, 0.9 * ref, 0.5 * ref])
        >>> sorted(ranking.order), ranking.probability.shape
        ([0, 1, 2], torch.Size([3, 3]))
        >>> fastiqa.rank(ref, [ref, 0.9 * ref, 0.5 * ref]).order  # by published weights  # doctest: +SKIP
        (0, 1, 2)
    """
    if isinstance(model, Tensor):
        if ref is not None and candidates is not None:
            raise TypeError("model: got a Tensor, want a module or a name: rank(ref, candidates) takes no third image")
        model, ref, candidates = None, model, ref if candidates is None else candidates
    if model is None or isinstance(model, str):
        model = _published(model, ref.device if isinstance(ref, Tensor) else torch.device("cpu"))
    network: Any = model
    if not (isinstance(model, nn.Module) and hasattr(model, "encode") and hasattr(model, "compare")):
        raise TypeError(f"model: got {type(model).__name__}, want a module with `encode` and `compare`, such as PRFNet")
    if model.training:
        raise ValueError("model: in training mode, want model.eval(): dropout and batch statistics make results random")
    arguments.flag("both_orders", both_orders)
    images = _images(model, ref, candidates)
    of_ref, *maps = [network.encode(image) for image in images.values()]

    # One pair at a time: for eight candidates, batches took 0.69 s instead of 0.86, but their copies 0.4 (one thread).
    def log_odds(pairs: list[tuple[int, int]]) -> Tensor:
        logits = torch.cat([network.compare(of_ref, maps[i], maps[j]) for i, j in pairs])
        return logits.cpu().double().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)

    pairs = list(itertools.combinations(range(len(maps)), 2))
    logits = log_odds(pairs)
    if both_orders and not getattr(model, "symmetric", False):
        logits = (logits - log_odds([(j, i) for i, j in pairs])) / 2
    if logits.isnan().any():
        raise ValueError("model: NaN in its comparisons, want numbers")
    matrix = torch.zeros(len(maps), len(maps), dtype=torch.float64, device="cpu")
    matrix[tuple(torch.tensor(pairs, device="cpu").t())] = logits
    matrix = matrix - matrix.t()
    scores = _strengths(matrix)
    order = torch.argsort((scores / TOLERANCE).round(), descending=True, stable=True)
    return Ranking(tuple(order.tolist()), scores, torch.sigmoid(matrix))


def _published(name: str | None, device: torch.device) -> nn.Module:
    """The network of published weights; without a name the default's, which a warning names."""
    try:
        card = card_of(DEFAULTS["comparison"] if name is None else name)
    except ValueError as error:
        raise ValueError(f"model: got {name!r}, want a PRFNet or the name of one's weights: {error}") from None
    if not issubclass(model_class(card.model), PRFNet):
        raise ValueError(f"model: got {name!r}, want a network that compares images: {DEFAULTS['comparison']!r}")
    network = _loaded(card.name, card.sha256, device)
    if name is None:
        _warn(card.line)
    return network


@functools.lru_cache(maxsize=2)
def _loaded(name: str, sha256: str, device: torch.device) -> nn.Module:
    return create_model(name, pretrained=True).eval().to(device)


@functools.cache
def _warn(line: str) -> None:
    logging.getLogger("fastiqa").warning(line)


def _images(model: nn.Module, ref: Any, candidates: Any) -> dict[str, Tensor]:
    """The reference and the candidates, (1, 3, H, W) each, by argument name."""
    if isinstance(candidates, Tensor):
        if candidates.dim() != 4:
            raise ValueError(f"candidates: got shape {tuple(candidates.shape)}, want (K, 3, H, W)")
    elif not isinstance(candidates, Sequence):
        want = "a sequence of images or a tensor (K, 3, H, W)"
        raise TypeError(f"candidates: got {type(candidates).__name__}, want {want}")
    if len(candidates) < 2:
        raise ValueError(f"candidates: got {len(candidates)}, want at least 2")
    images = {"ref": ref} | {f"candidates[{i}]": image for i, image in enumerate(candidates)}
    for name, image in images.items():
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}, want a torch.Tensor")
        if image.shape[:-2] not in ((3,), (1, 3)):
            raise ValueError(f"{name}: got shape {tuple(image.shape)}, want (3, H, W) or (1, 3, H, W)")
    images = {name: image.reshape(1, *image.shape[-3:]) for name, image in images.items()}
    arguments.check_images(next(model.parameters(), ref), 1, **images)
    return images


def _strengths(logits: Tensor) -> Tensor:
    """Maximum-likelihood strengths s, (K,), of mean zero for antisymmetric log-odds (K, K): [i, j] that j is closer.

    Newton's method starts from the least-squares fit of s_j − s_i to the log-odds, which is the maximum if they have
    that form. A step that changes no difference by more than β is multiplied by log(1 + β) / β, so that each ascends.
    In 6,000 random tables of up to eight candidates it took at most 10 K steps, for 100 in strict order 498.
    """
    table = logits.numpy()
    sign = np.where(table > 0, -1.0, 1.0)
    given = _sigmoid(sign * table)
    strengths: NDArray[np.float64] = table.mean(0)
    for _ in range(LONGEST_SEARCH * len(table)):
        differences = strengths - strengths[:, None]
        # p − σ(d) as a difference of the smaller tails: near 1 both would round to 1.
        residuals = sign * (given - _sigmoid(sign * differences))
        # Strengths hundreds apart have weight 0; this minimum keeps every candidate joined to the others.
        weights = np.maximum(_sigmoid(differences) * _sigmoid(-differences), np.finfo(np.float64).tiny)
        step = _newton_step(weights, residuals)
        spread = float(np.ptp(step))
        strengths = strengths + step * (math.log1p(spread) / spread if spread else 1.0)
        if spread <= TOLERANCE:
            break
    return torch.from_numpy(strengths - strengths.mean())


def _newton_step(weights: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Δ of Σ_j w_jk (Δ_k − Δ_j) = Σ_j r_jk for each k, with Δ_0 = 0; w, (K, K), is symmetric and r antisymmetric.

    Candidates are eliminated one by one; a residual between two is passed on to residuals between others. Sums of
    weights then contain no differences, and residuals within a group of candidates never meet those between groups, of
    1e-13. Added up candidate by candidate they would drown these, and steps never got below 1e-3.
    """
    count = len(weights)
    weights, residuals, step = weights.copy(), residuals.copy(), np.zeros(count)
    for k in range(count - 1, 0, -1):
        to_k = weights[:k, k].copy()
        shares = to_k / to_k.sum()
        weights[:k, :k] += shares[:, None] * to_k
        passed_on = residuals[:k, k, None] * shares
        residuals[:k, :k] += passed_on - passed_on.T
    for k in range(1, count):
        to_k = weights[:k, k]
        step[k] = (residuals[:k, k].sum() + to_k @ step[:k]) / to_k.sum()
    return step


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = torch.sigmoid(torch.from_numpy(x)).numpy()
    return result
