"""How much of the deep part to keep, and Platt's scale and shift, from held-out rows.

Source of the idea: Platt, "Probabilistic outputs for support vector machines" (1999), with a prior towards leaving the
logit alone, so that a hundred rows cannot distort it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.metrics import log_loss
from models.wide import Doubles, Ints

GATES: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
#: A deep part must earn its place: less than this, in nats, is noise.
MARGIN: Final = 2e-4
SURE: Final = 1.5
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


def choose(labels: Doubles, wide: Doubles, deep: Doubles, customers: Ints) -> Calibration:
    """The gate and calibration with the least log loss, where the gain over no deep part is surely one.

    The gain must exceed :data:`SURE` standard errors, in which the rows of a customer count as one, and rest on
    :data:`MIN_POSITIVES` rows of the rarer class: on Complete Journey a gate opened by two positives cost 0.05 of AUC
    on later data.
    """
    shut = Calibration(0.0, *platt(labels, wide))
    if not len(labels):
        return shut
    base = _losses(labels, shut.apply(wide, deep))
    best, least = shut, base
    for gate in GATES[1:]:
        found = Calibration(gate, *platt(labels, wide + gate * deep))
        losses = _losses(labels, found.apply(wide, deep))
        if losses.mean() < least.mean() - MARGIN and _sure(labels, base - losses, customers):
            best, least = found, losses
    return best


def better(labels: Doubles, logits: Doubles, base: Doubles, customers: Ints) -> bool:
    """Whether ``logits`` surely have a lesser log loss than ``base``, each calibrated, as in :func:`choose`.

    Nothing is sure of no rows.
    """
    if not len(labels):
        return False
    losses, of_base = (_losses(labels, Calibration(0.0, *platt(labels, z)).apply(z, z)) for z in (logits, base))
    return bool(losses.mean() < of_base.mean() - MARGIN) and _sure(labels, of_base - losses, customers)


def _sure(labels: Doubles, gain: Doubles, customers: Ints) -> bool:
    if min(float(labels.sum()), float(len(labels) - labels.sum())) < MIN_POSITIVES:
        return False
    _, member = np.unique(customers, return_inverse=True)
    by_customer = np.bincount(member, gain - gain.mean())
    return bool(gain.mean() > SURE * np.sqrt(np.sum(by_customer**2)) / len(gain))


def _losses(labels: Doubles, logits: Doubles) -> Doubles:
    out: Doubles = np.logaddexp(0.0, logits) - labels * logits
    return out
