"""How good probabilities were, in a few numbers: ranking, log loss, and whether they mean what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from streams.core.scoring import auc

_BINS: Final = 10
_LEAST: Final = 1e-6
"""Probabilities are published with six digits: a 0 among them is no promise that costs an infinite loss."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Of the predictions of one head and kind whose outcome is known."""

    pairs: int
    """Predictions that it rests on."""
    auc: float | None
    """None where one of the labels is missing."""
    log_loss: float | None
    """Mean, in nats. This and what follows: None where there is no pair."""
    predicted: float | None
    """Mean of the probabilities."""
    observed: float | None
    """Share of the labels that are 1. What is calibrated predicts as much as happens."""
    calibration_error: float | None
    """Mean distance of the two over ten equally filled bins of the probabilities."""


def quality(pairs: Sequence[tuple[float, int]]) -> Quality:
    """The measures of (probability, label) pairs. A probability that is no number counts for nothing.

    Example:
        >>> found = quality([(0.9, 1), (0.8, 0), (0.7, 1), (0.2, 0)])
        >>> found.auc, round(found.predicted, 2), found.observed
        (0.75, 0.65, 0.5)
    """
    known = sorted(pair for pair in pairs if not math.isnan(pair[0]))
    count = len(known)
    if not count:
        return Quality(pairs=0, auc=None, log_loss=None, predicted=None, observed=None, calibration_error=None)
    return Quality(
        pairs=count,
        auc=auc(known),
        log_loss=sum(_loss(probability, label) for probability, label in known) / count,
        predicted=sum(probability for probability, _ in known) / count,
        observed=sum(label for _, label in known) / count,
        calibration_error=calibration_error(known),
    )


def _loss(probability: float, label: int) -> float:
    bounded = min(1 - _LEAST, max(_LEAST, probability))
    return -math.log(bounded if label else 1 - bounded)


def calibration_error(pairs: Sequence[tuple[float, int]]) -> float | None:
    """As :func:`models.metrics.calibration_error`, which is for training and needs numpy; None where there is none."""
    ranked, count = sorted(pairs), len(pairs)
    if not count:
        return None
    ends = [count * bin_ // _BINS for bin_ in range(_BINS + 1)]
    bins = [ranked[begin:end] for begin, end in pairwise(ends)]
    return sum(abs(sum(probability - label for probability, label in part)) for part in bins) / count
