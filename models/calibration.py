"""How much of the deep part to keep, and Platt's scale and shift, from held-out rows.

Source of the idea: Platt, "Probabilistic outputs for support vector machines" (1999), with a prior towards leaving the
logit alone, so that a hundred rows cannot distort it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.metrics import log_loss
from models.wide import Doubles

GATES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
#: A deep part must earn its place: less than this, in nats, is noise.
MARGIN: Final = 2e-4
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
        >>> round(scale, 1), round(shift, 1)
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


def choose(labels: Doubles, wide: Doubles, deep: Doubles) -> Calibration:
    """The gate and calibration with the least log loss; the smaller gate where the gain is within :data:`MARGIN`."""
    best, least = Calibration(0.0, *platt(labels, wide)), np.inf
    for gate in GATES:
        found = Calibration(gate, *platt(labels, wide + gate * deep))
        loss = log_loss(labels, found.apply(wide, deep)) if len(labels) else 0.0
        if loss < least - MARGIN:
            best, least = found, loss
    return best
