"""Measures of a probability: ranking (AUC), log loss and calibration, with intervals over customers."""

from __future__ import annotations

import msgspec
import numpy as np

from models.wide import Doubles, Ints


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a head reached on the validation split."""

    rows: int
    positives: int
    auc: float | None
    """None where only one class was seen."""
    auc_low: float | None
    """2.5 % and 97.5 % points of a bootstrap over customers."""
    auc_high: float | None
    log_loss: float | None
    calibration_error: float | None
    """Mean distance of predicted and observed rate over ten equally filled bins."""


def auc(labels: Doubles, scores: Doubles, weights: Doubles | None = None) -> float | None:
    """Probability that a positive outranks a negative, ties counted half; None where a class is missing.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,), any monotone scale.
        weights: (N,) or None for ones.

    Example:
        >>> auc(np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.9]))
        0.75
    """
    weight = np.ones(len(labels)) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0]) if len(order) else np.zeros(0, dtype=np.int64)
    return _auc_sorted(labels[order], weight[order], starts)


def _auc_sorted(labels: Doubles, weights: Doubles, starts: Ints) -> float | None:
    if not len(starts):
        return None
    positive = np.add.reduceat(weights * labels, starts)
    negative = np.add.reduceat(weights * (1 - labels), starts)
    if positive.sum() <= 0 or negative.sum() <= 0:
        return None
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2)) / (positive.sum() * negative.sum()))


def auc_interval(
    labels: Doubles, scores: Doubles, customers: Ints, *, rounds: int = 200, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the AUC, customers drawn with replacement; None where it is not defined."""
    _, member = np.unique(customers, return_inverse=True)
    people = int(member.max()) + 1 if len(member) else 0
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0]) if len(order) else np.zeros(0, dtype=np.int64)
    generator = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(rounds if people > 1 else 0):
        times = np.bincount(generator.integers(0, people, people), minlength=people).astype(np.float64)
        value = _auc_sorted(labels[order], times[member][order], starts)
        if value is not None:
            drawn.append(value)
    if not drawn:
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def log_loss(labels: Doubles, logits: Doubles) -> float:
    """Mean negative log likelihood, in nats, from logits."""
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def calibration_error(labels: Doubles, probabilities: Doubles, bins: int = 10) -> float:
    """Expected calibration error over equally filled bins."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(probabilities[p].mean() - labels[p].mean())) * len(p) for p in parts]
    return float(sum(gaps) / max(1, len(labels)))


def score(labels: Doubles, logits: Doubles, customers: Ints, *, seed: int = 0) -> Score:
    """All measures at once, from calibrated logits."""
    if not len(labels):
        return Score(rows=0, positives=0, auc=None, auc_low=None, auc_high=None, log_loss=None, calibration_error=None)
    interval = auc_interval(labels, logits, customers, seed=seed)
    return Score(
        rows=len(labels),
        positives=int(labels.sum()),
        auc=auc(labels, logits),
        auc_low=interval[0] if interval else None,
        auc_high=interval[1] if interval else None,
        log_loss=log_loss(labels, logits),
        calibration_error=calibration_error(labels, 1 / (1 + np.exp(-logits))),
    )
