"""How much of the deep part to keep, and Platt's scale and shift, from held-out rows.

Sources of the ideas: Platt, "Probabilistic outputs for support vector machines" (1999), with a prior towards leaving
the logit alone, so that a hundred rows cannot distort it; James and Stein, "Estimation with quadratic loss" (1961), for
how much of the deep part its evidence is worth.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.metrics import log_loss
from models.wide import Doubles, Ints

GATES: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
#: A deep part must earn its place: less than this, in nats, is noise.
MARGIN: Final = 2e-4
MIN_POSITIVES: Final = 20
PRIOR: Final = 10.0


class Calibration(NamedTuple):
    """``logit = scale * (wide + gate * deep) + shift``."""

    gate: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def apply(self, wide: Doubles, deep: Doubles) -> Doubles:
        return self.scale * (wide + self.gate * deep) + self.shift


def platt(labels: Doubles, logits: Doubles, steps: int = 20) -> tuple[float, float]:
    """Scale and shift that minimise log loss plus a pull towards (1, 0); the scale stays positive.

    Example:
        >>> scale, shift = platt(np.array([0.0, 1.0] * 5000), np.array([-4.0, 4.0, 4.0, -4.0] * 2500))
        >>> round(scale, 1), abs(round(shift, 1))
        (0.1, 0.0)
    """
    if not len(labels):
        return 1.0, 0.0
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    origin = np.array([1.0, 0.0])
    found = origin.copy()

    def loss(weights: Doubles) -> float:
        return log_loss(labels, design @ weights) * len(labels) + 0.5 * PRIOR * float(np.sum((weights - origin) ** 2))

    for _ in range(steps):
        probability = 1 / (1 + np.exp(-np.clip(design @ found, -40, 40)))
        gradient = design.T @ (probability - labels) + PRIOR * (found - origin)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size, before = 1.0, loss(found)
        while size > 1e-6 and loss(found - size * step) > before:
            size /= 2
        found = found - size * step
        if float(np.abs(size * step).max()) < 1e-6:
            break
    return max(0.05, float(found[0])), float(found[1])


def level(labels: Doubles, logits: Doubles, steps: int = 50) -> float:
    """The shift with which the mean probability is the rate of the labels, which are of both classes.

    Example:
        >>> round(level(np.array([0.0, 1.0, 0.0, 0.0]), np.zeros(4)), 4) == round(float(np.log(1 / 3)), 4)
        True
    """
    low, high = -30.0, 30.0
    for _ in range(steps):
        middle = (low + high) / 2
        if float((1 / (1 + np.exp(-(logits + middle)))).mean()) < labels.mean():
            low = middle
        else:
            high = middle
    return (low + high) / 2


class GateChoice(NamedTuple):
    """A calibration, and how much its rows could tell."""

    calibration: Calibration
    visible_gain: float | None
    """Mean gain of the whole deep part, in nats a row, above which its gate begins to open: a standard error of the
    paired difference. None where the rows can show none."""


def choose(labels: Doubles, wide: Doubles, deep: Doubles, customers: Ints) -> GateChoice:
    """The gate with the least log loss, opened as far as its gain is evidence, and the calibration for it.

    Of a gain of t standard errors, in which the rows of a customer count as one, 1 - 1/t² is kept: nothing of one that
    chance gives as easily, most of one that is sure. It must rest on :data:`MIN_POSITIVES` rows of the rarer class: on
    Complete Journey a gate opened by two positives cost 0.05 of AUC on later data.
    """
    shut = Calibration(0.0, *platt(labels, wide))
    if _rarer(labels) < MIN_POSITIVES:
        return GateChoice(shut, None)
    base = _losses(labels, shut.apply(wide, deep))
    best, least = shut, base
    visible = MARGIN
    for gate in GATES[1:]:
        found = Calibration(gate, *platt(labels, wide + gate * deep))
        losses = _losses(labels, found.apply(wide, deep))
        if gate == 1.0:  # of a smaller share the difference is smaller, and so are its error and its worth
            visible = max(MARGIN, standard_error(base - losses, customers))
        if losses.mean() < least.mean() - MARGIN:
            best, least = found, losses
    if not best.gate:
        return GateChoice(shut, visible)
    gain = base - least
    kept = max(0.0, 1.0 - (standard_error(gain, customers) / float(gain.mean())) ** 2)
    gate = best.gate * kept
    return GateChoice(Calibration(gate, *platt(labels, wide + gate * deep)), visible)


def better(labels: Doubles, logits: Doubles, base: Doubles) -> bool:
    """Whether ``logits`` have a lesser log loss than ``base``, each calibrated; not of too few rows to tell.

    No proof is asked: it is for the mean of two fits of the same columns, which is seldom the worse one.
    """
    if _rarer(labels) < MIN_POSITIVES:
        return False
    loss, of_base = (_losses(labels, Calibration(0.0, *platt(labels, z)).apply(z, z)).mean() for z in (logits, base))
    return bool(loss < of_base)


def standard_error(values: Doubles, customers: Ints) -> float:
    """Of the mean of values (N,), in which the rows of a customer count as one.

    Example:
        >>> round(standard_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])), 3)
        0.354
    """
    _, member = np.unique(customers, return_inverse=True)
    by_customer = np.bincount(member, values - values.mean())
    return float(np.sqrt(np.sum(by_customer**2)) / len(values))


def _rarer(labels: Doubles) -> float:
    """Rows of the class that has fewer."""
    return min(float(labels.sum()), float(len(labels) - labels.sum()))


def _losses(labels: Doubles, logits: Doubles) -> Doubles:
    out: Doubles = np.logaddexp(0.0, logits) - labels * logits
    return out
