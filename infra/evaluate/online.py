"""Probabilities as they would have been recalibrated when they were asked: by the outcomes that were known by then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.evaluate.statistics import Doubles, Ints
from streams.core.config import DAY_MS
from streams.core.recalibration import Of, Recalibration, Tallies, drift_of_error, recalibration


@dataclass(frozen=True)
class Recalibrated:
    """Row by row, in the order of the rows."""

    probability: Doubles
    """(N,)"""
    outcomes: Ints
    """(N,) known when it was asked."""
    drift: Doubles
    """(N,) of the error, see :func:`streams.core.recalibration.drift_of_error`, as it was known then."""


def recalibrated(probability: Doubles, labels: Doubles, as_of_ms: Ints, due_ms: Ints) -> Recalibrated:
    """Of one model and one kind of snapshot; the line is solved anew every day.

    Args:
        probability: (N,) as the model says.
        labels: (N,) of 0 and 1.
        as_of_ms: (N,) when it was asked.
        due_ms: (N,) from when on the outcome counts, whatever it was.
    """
    of, tallies, line = Of("", "", ""), Tallies(), Recalibration()
    told, known = probability.copy(), np.zeros(len(probability), dtype=np.int64)
    drifts = np.zeros(len(probability))
    asked, due = np.argsort(as_of_ms, kind="stable"), np.argsort(due_ms, kind="stable")
    days = as_of_ms[asked] // DAY_MS
    counted, drift = 0, 0.0
    for day in np.unique(days).tolist():
        until = int(np.searchsorted(due_ms[due], day * DAY_MS, side="right"))
        for row in due[counted:until].tolist():
            tallies.add(of, int(as_of_ms[row]), float(probability[row]), int(labels[row]))
        if until > counted:
            weeks = tallies.weeks(of)
            line, drift = recalibration(weeks), drift_of_error(weeks)
        counted = until
        rows = asked[np.searchsorted(days, day) : np.searchsorted(days, day, side="right")]
        told[rows] = [line(said) for said in probability[rows].tolist()]
        known[rows], drifts[rows] = counted, drift
    return Recalibrated(told, known, drifts)
