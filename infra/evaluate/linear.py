"""Logistic regression with a ridge and an offset: probes of embeddings, and what an embedding adds to a floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.evaluate.statistics import Doubles, Ints, sigmoid

RIDGES: Final = (10.0, 100.0, 1_000.0, 10_000.0)
CLIP: Final = 6.0


class Probe:
    """A fitted one: ``logit = offset + bias + sum(z * weight)``, columns standardised, unknown ones at their mean."""

    def __init__(self, mean: Doubles, deviation: Doubles, weight: Doubles, bias: float, ridge: float) -> None:
        self.mean, self.deviation, self.weight, self.bias, self.ridge = mean, deviation, weight, bias, ridge

    def logits(self, raw: npt.ArrayLike, offset: Doubles | float = 0.0) -> Doubles:
        """(N, D) → (N,)."""
        out: Doubles = standardised(raw, self.mean, self.deviation) @ self.weight + self.bias + offset
        return out


def standardised(raw: npt.ArrayLike, mean: Doubles, deviation: Doubles) -> Doubles:
    z = (np.asarray(raw, dtype=np.float64) - mean) / deviation
    return np.clip(np.nan_to_num(z, nan=0.0, posinf=CLIP, neginf=-CLIP), -CLIP, CLIP)


def fit_probe(
    raw: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Ints,
    *,
    offset: Doubles | None = None,
    ridges: Sequence[float] = RIDGES,
    folds: int = 3,
) -> Probe:
    """Fit to convergence; the ridge is the best of ``ridges`` on held-out groups.

    Args:
        raw: (N, D), NaN for unknown.
        labels: (N,) of 0 and 1.
        groups: (N,) customer of each row; rows of one customer are held out together.
        offset: (N,) logits to start from, e.g. of a floor for rows that it was not fitted on.
    """
    given = np.asarray(raw, dtype=np.float64)
    mean = np.nan_to_num(np.nanmean(given, axis=0))
    deviation = np.nan_to_num(np.nanstd(given, axis=0))
    constant = deviation < 1e-9
    deviation = np.where(constant, 1.0, deviation)
    z = standardised(given, mean, deviation)
    z[:, constant] = 0.0
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    label = np.asarray(labels, dtype=np.float64)
    start = np.zeros(len(label)) if offset is None else offset
    ridge = ridges[0]
    if len(ridges) > 1:
        fold = np.unique(groups, return_inverse=True)[1] * 7919 % folds
        losses = [_held_out_loss(design, label, start, fold, candidate) for candidate in ridges]
        ridge = ridges[int(np.argmin(losses))]
    found = newton(design, label, start, ridge)
    return Probe(mean, deviation, found[:-1], float(found[-1]), ridge)


def _held_out_loss(design: Doubles, label: Doubles, offset: Doubles, fold: Ints, ridge: float) -> float:
    loss = 0.0
    for held_out in range(int(fold.max()) + 1):
        fit, test = fold != held_out, fold == held_out
        logits = offset[test] + design[test] @ newton(design[fit], label[fit], offset[fit], ridge)
        loss += float(np.sum(np.logaddexp(0.0, logits) - label[test] * logits))
    return loss


def newton(design: Doubles, label: Doubles, offset: Doubles, ridge: float, steps: int = 15) -> Doubles:
    """Weights of the columns; the last column is the intercept, which no ridge holds."""
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 1e-6
    found = np.zeros(design.shape[1])
    for _ in range(steps):
        probability = sigmoid(offset + design @ found)
        gradient = design.T @ (label - probability) - penalty * found
        spread = probability * (1 - probability)
        curvature = (design * spread[:, None]).T @ design
        curvature[np.diag_indices_from(curvature)] += penalty
        step = np.linalg.solve(curvature, gradient)
        largest = float(np.abs(step).max())
        found = found + step * min(1.0, 4.0 / max(largest, 1e-12))
        if largest < 1e-5:
            break
    return found
