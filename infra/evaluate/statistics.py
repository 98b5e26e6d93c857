"""Measures and their intervals: bootstraps over whole clusters, the same draws for everything that is compared.

Rows of one customer are alike, so a bootstrap over rows would be too sure of itself; customers are drawn with
replacement, and all of their rows come with them (Field and Welsh, 2007). Differences are taken draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Measure = Callable[[Doubles], float]
"""Row weights (N,) → a figure; weights of 1 give the figure itself. NaN where it is not defined."""

ROUNDS: Final = 1_000


class Interval(NamedTuple):
    """A figure with the 2.5 % and 97.5 % points of its bootstrap."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Figures over one set of rows, and over the same resamples of its clusters.

    Args:
        measures: name → measure.
        clusters: (N,) cluster of each row, any numbers.
        rounds: resamples.
        seed: of the draws.

    Example:
        >>> rows = np.arange(1000.0)
        >>> drawn = Bootstrap({"mean": lambda w: float(w @ rows / w.sum())}, np.arange(1000), rounds=200)
        >>> drawn.interval("mean").low < 499.5 < drawn.interval("mean").high
        True
    """

    def __init__(self, measures: Mapping[str, Measure], clusters: Ints, *, rounds: int = ROUNDS, seed: int = 0) -> None:
        found, member = np.unique(clusters, return_inverse=True)
        ones = np.ones(len(member))
        self.values = {name: measure(ones) for name, measure in measures.items()}
        self.drawn: dict[str, Doubles] = {name: np.empty(rounds) for name in measures}
        generator = np.random.default_rng(seed)
        for number in range(rounds):
            times = np.bincount(generator.integers(0, len(found), len(found)), minlength=len(found))
            weights = times[member].astype(np.float64)
            for name, measure in measures.items():
                self.drawn[name][number] = measure(weights)

    def interval(self, name: str) -> Interval:
        return _interval(self.values[name], self.drawn[name])

    def difference(self, name: str, other: str) -> Interval:
        """``name`` less ``other``, paired."""
        return _interval(self.values[name] - self.values[other], self.drawn[name] - self.drawn[other])

    def ratio(self, name: str, other: str) -> Interval:
        """``name`` by ``other``, paired."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = self.drawn[name] / self.drawn[other]
            value = float(np.divide(self.values[name], self.values[other]))
        return _interval(value, drawn)


def _interval(value: float, drawn: Doubles) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Measure:
    """Probability that a positive outranks a negative, ties counted half.

    Example:
        >>> auc([0, 1, 1], [0.1, 0.1, 0.9])(np.ones(3))
        0.75
    """
    label, score = np.asarray(labels, dtype=np.float64), np.asarray(scores)
    order = np.argsort(score, kind="stable")
    ranked = label[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])

    def measure(weights: Doubles) -> float:
        weight = weights[order]
        positive = np.add.reduceat(weight * ranked, starts)
        negative = np.add.reduceat(weight, starts) - positive
        pairs = positive.sum() * negative.sum()
        if pairs <= 0:
            return float("nan")
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs)

    return measure


def macro_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Measure:
    """Mean AUC of the columns, (N, C) each; a column with one class only does not count."""
    label, score = np.asarray(labels), np.asarray(scores)
    columns = [auc(label[:, c], score[:, c]) for c in range(label.shape[1])]

    def measure(weights: Doubles) -> float:
        found = [one for column in columns if not np.isnan(one := column(weights))]
        return float(np.mean(found)) if found else float("nan")

    return measure


def log_loss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Measure:
    """Mean negative log likelihood in nats."""
    label, logit = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    losses = np.logaddexp(0.0, logit) - label * logit
    return mean(losses)


def mean(values: npt.ArrayLike) -> Measure:
    """Weighted mean of one number a row."""
    each = np.asarray(values, dtype=np.float64)
    return lambda weights: float(weights @ each / weights.sum())


def correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> Measure:
    """Weighted correlation of two numbers a row (Pearson); NaN where one of them is constant.

    Example:
        >>> round(correlation([1.0, 2.0, 3.0], [0.0, 1.0, 5.0])(np.ones(3)), 3)
        0.945
    """
    columns = np.stack([np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)])

    def measure(weights: Doubles) -> float:
        off = columns - (columns @ weights / weights.sum())[:, None]
        (first, both), (_, second) = (off * weights) @ off.T
        return float(both / np.sqrt(first * second)) if first * second > 0 else float("nan")

    return measure


def median(values: npt.ArrayLike) -> Measure:
    """Weighted median of one number a row, the lower one of two.

    Example:
        >>> median([3.0, 1.0, 2.0, 9.0])(np.ones(4))
        2.0
    """
    each = np.asarray(values, dtype=np.float64)
    order = np.argsort(each, kind="stable")

    def measure(weights: Doubles) -> float:
        below = np.cumsum(weights[order])
        return float(each[order][np.searchsorted(below, below[-1] / 2)])

    return measure


def sigmoid(logits: npt.ArrayLike) -> Doubles:
    out: Doubles = 1 / (1 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -40, 40)))
    return out


def logit(probability: npt.ArrayLike) -> Doubles:
    """The inverse of :func:`sigmoid`, for probabilities that may be 0 or 1."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1 - 1e-7)
    out: Doubles = np.log(p) - np.log1p(-p)
    return out
