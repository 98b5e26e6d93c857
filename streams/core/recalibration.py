"""Recalibration of a probability by its outcomes: counts that only add up, and the curve that they say.

**Counts.** Of each head, model, kind of snapshot and week: how many predictions fell into each bin of the logit, and in
how many it happened. They are whole numbers, so their sum depends on no order, and an equal log gives equal counts.

**Curve.** ``logit' = low_slope * ln(p) - high_slope * ln(1 - p) + shift`` (Kull, Silva Filho and Flach, "Beta
calibration", 2017) by logistic regression, an older week counting for less, with a pull towards the identity. With
equal slopes it is Platt's line. But what changes for everybody, as customers who leave at a rate of their own, moves
small probabilities further than large ones, and no line does.

**Drift.** ADWIN's test (Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", 2007) of every
cut between two weeks: where the means of both sides differ by more than chance allows, the curve rests on the
younger side alone. ``river`` has it for one value after the other. There the answer depends on their order and cannot
be summed over partitions, so here it is made of the counts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

from schemas.recalibrations import MOST_BIN, WeekTally
from streams.core.config import DAY_MS

WEEK_MS: Final = 7 * DAY_MS
KEPT_WEEKS: Final = 26
HALF_LIFE_WEEKS: Final = 4.0
BINS_A_LOGIT: Final = 8
"""A logistic regression on bins of this width is off by a thousandth of its slope."""
MOST_LOGIT: Final = MOST_BIN / BINS_A_LOGIT
_ALIKE: Final = 2.5
"""A customer is asked about weekly and a horizon is four weeks, so predictions share outcomes: the variance of their
mean error is 2.0 to 2.7 times that of as many independent ones (docs/log.md)."""
_PRIOR: Final = 40.0
"""Precision of the pull towards the identity. With 10, as in :mod:`models.calibration`, a few dozen customers, each
asked about often, were taken for more evidence than they are (docs/log.md)."""
_DELTA: Final = 0.002
"""Chance of a false alarm, as ADWIN's authors set it."""
_STEPS: Final = 50
_CLOSE: Final = 1e-9

Bins = Mapping[int, tuple[int, int]]
"""Bin of the logit -> predictions, and those in which it happened."""
Weeks = Mapping[int, Bins]
"""Weeks since 1970-01-01 -> the predictions of snapshots of that week."""


class Of(NamedTuple):
    """What is counted by itself."""

    head: str
    model_version: str
    snapshot_kind: str


class Recalibration(NamedTuple):
    """``logit' = low_slope * ln(p) - high_slope * ln(1 - p) + shift``; no slope is below 0, so it never falls."""

    low_slope: float = 1.0
    high_slope: float = 1.0
    shift: float = 0.0

    def __call__(self, probability: float) -> float:
        """The probability as outcomes say it.

        Example:
            >>> round(Recalibration(shift=math.log(2.0))(0.5), 3)
            0.667
        """
        log, log_rest = logs(sigmoid(logit(probability)))
        return sigmoid(self.low_slope * log - self.high_slope * log_rest + self.shift)


class Tallies:
    """Counts of the newest :data:`KEPT_WEEKS` weeks."""

    def __init__(self, tallies: Iterable[WeekTally] = ()) -> None:
        self._weeks: dict[Of, dict[int, dict[int, tuple[int, int]]]] = {}
        self._newest = 0
        self.merge(tallies)

    def add(self, of: Of, as_of_ms: int, probability: float, label: int) -> None:
        """The outcome of a prediction: what the model said, and whether it happened."""
        self._count(of, as_of_ms // WEEK_MS, bin_of(probability), 1, label)

    def merge(self, tallies: Iterable[WeekTally]) -> None:
        """Add those of another partition, or of before."""
        for tally in tallies:
            of = Of(tally.head, tally.model_version, tally.snapshot_kind)
            for place, (outcomes, happened) in tally.bins.items():
                self._count(of, tally.week, place, outcomes, happened)

    def tallies(self) -> list[WeekTally]:
        """All of them, in one order whatever came first."""
        return [
            WeekTally(**of._asdict(), week=week, bins=dict(sorted(bins.items())))
            for of in sorted(self._weeks)
            for week, bins in self.weeks(of).items()
        ]

    def known(self) -> list[Of]:
        """Of what there are counts."""
        return [of for of in sorted(self._weeks) if self.weeks(of)]

    def weeks(self, of: Of) -> Weeks:
        """Those of a head, a model and a kind; none where nothing is known."""
        return dict(sorted(self._weeks.get(of, {}).items()))

    def _count(self, of: Of, week: int, place: int, outcomes: int, happened: int) -> None:
        if week > self._newest:
            self._newest = week
            for weeks in self._weeks.values():
                for old in [known for known in weeks if known <= week - KEPT_WEEKS]:
                    del weeks[old]
        elif week <= self._newest - KEPT_WEEKS:
            return  # as if it had come before what is newer
        bins = self._weeks.setdefault(of, {}).setdefault(week, {})
        before = bins.get(place, (0, 0))
        bins[place] = before[0] + outcomes, before[1] + happened


def newest_weeks(of_partitions: Iterable[Tallies], head: str, kind: str) -> Weeks:
    """All of one head and kind, of the model whose predictions are the newest; none where nothing is known."""
    merged = Tallies()
    for tallies in of_partitions:
        merged.merge(tally for tally in tallies.tallies() if (tally.head, tally.snapshot_kind) == (head, kind))
    return max((merged.weeks(of) for of in merged.known()), key=max, default={})


def logit(probability: float) -> float:
    """Of a probability that may be 0 or 1; within -8 and 8."""
    if probability <= 0.0:
        return -MOST_LOGIT
    if probability >= 1.0:
        return MOST_LOGIT
    return min(MOST_LOGIT, max(-MOST_LOGIT, math.log(probability) - math.log1p(-probability)))


def logs(probability: float) -> tuple[float, float]:
    """Of it and of what is left to 1; it is neither 0 nor 1."""
    return math.log(probability), math.log1p(-probability)


def sigmoid(value: float) -> float:
    """The inverse of :func:`logit`."""
    return 1 / (1 + math.exp(-value))


def bin_of(probability: float) -> int:
    """Its logit in eighths, rounded.

    Example:
        >>> bin_of(0.5), bin_of(0.0)
        (0, -64)
    """
    return round(logit(probability) * BINS_A_LOGIT)


def recalibration(weeks: Weeks) -> Recalibration:
    """The curve that counts say; the identity where there are none."""
    since, newest = since_drift(weeks), max(weeks, default=0)
    rows: dict[int, tuple[float, float]] = {}
    for week, bins in sorted(weeks.items()):
        if week >= since:
            weight = 0.5 ** ((newest - week) / HALF_LIFE_WEEKS)
            for place, (outcomes, happened) in sorted(bins.items()):
                before = rows.get(place, (0.0, 0.0))
                rows[place] = before[0] + weight * outcomes, before[1] + weight * happened
    points = [_Point(*logs(sigmoid(place / BINS_A_LOGIT)), *row) for place, row in sorted(rows.items())]
    found, slopes = _fit(points, Recalibration(), (0, 1, 2)), (0, 1)
    if falling := [slope for slope in slopes if found[slope] < 0]:
        # As the authors do: without that term. Where both fall, probabilities say nothing, and the rate alone is left.
        held = Recalibration(*(0.0 if slope in falling else 1.0 for slope in slopes))
        found = _fit(points, held, tuple(term for term in (0, 1, 2) if term not in falling))
    return Recalibration(max(0.0, found.low_slope), max(0.0, found.high_slope), found.shift)


class _Point(NamedTuple):
    """Predictions of one bin."""

    log: float
    log_rest: float
    weight: float
    happened: float
    """Weight of those in which it happened."""


def _fit(points: list[_Point], start: Recalibration, free: tuple[int, ...]) -> Recalibration:
    """Newton's method, in steps of at most 1, on log loss and pull, which are convex together.

    Args:
        free: places of the terms that are fitted; the others stay as in ``start``.
    """
    found, identity = list(start), Recalibration()
    for _ in range(_STEPS):
        downhill = [_PRIOR * (found[term] - identity[term]) for term in free]
        curvature = [[_PRIOR if row == column else 0.0 for column in free] for row in free]
        for point in points:
            terms = (point.log, -point.log_rest, 1.0)
            expected = sigmoid(sum(map(operator.mul, found, terms)))
            gap, spread = point.weight * expected - point.happened, point.weight * expected * (1 - expected)
            for row, term in enumerate(free):
                downhill[row] += gap * terms[term]
                for column, other in enumerate(free):
                    curvature[row][column] += spread * terms[term] * terms[other]
        step = _solved(curvature, downhill)
        longest = max(map(abs, step))
        cut = min(1.0, 1.0 / longest) if longest else 1.0
        for term, by in zip(free, step, strict=True):
            found[term] -= cut * by
        if longest < _CLOSE:
            break
    return Recalibration(*found)


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss's elimination; the matrix is symmetric and the pull keeps it positive, so it needs no pivoting."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at, pivot in enumerate(rows):
        for below in rows[at + 1 :]:
            factor = below[at] / pivot[at]
            below[at:] = [value - factor * above for value, above in zip(below[at:], pivot[at:], strict=True)]
    found = [0.0] * len(rows)
    for at in reversed(range(len(rows))):
        known = sum(rows[at][place] * found[place] for place in range(at + 1, len(rows)))
        found[at] = (rows[at][-1] - known) / rows[at][at]
    return found


class _Sums(NamedTuple):
    """Of values: how many, their sum and that of their squares."""

    values: float
    total: float
    squares: float


def since_drift(weeks: Weeks) -> int:
    """The first week after the last drift of the error; 0 where there was none."""
    since = 0
    while True:
        found = _clearest({week: _errors(bins) for week, bins in weeks.items() if week >= since})
        if found is None or found[0] <= 1:
            return since
        since = found[1]


def drift_of_error(weeks: Weeks) -> float:
    """How far what happened less what the model said differs between the weeks before and after the clearest cut, by
    what chance allows: above 1 it is a drift. 0 where there is nothing to compare."""
    return (_clearest({week: _errors(bins) for week, bins in weeks.items()}) or (0.0, 0))[0]


def drift_of_inputs(weeks: Weeks) -> float:
    """The same of what the model said, in which every drift of its inputs shows that it minds."""
    return (_clearest({week: _said(bins) for week, bins in weeks.items()}) or (0.0, 0))[0]


def _errors(bins: Bins) -> _Sums:
    total = squares = 0.0
    for place, (outcomes, happened) in sorted(bins.items()):
        said = sigmoid(place / BINS_A_LOGIT)
        total += happened - outcomes * said
        squares += happened * (1 - said) ** 2 + (outcomes - happened) * said**2
    return _Sums(sum(outcomes for outcomes, _ in bins.values()), total, squares)


def _said(bins: Bins) -> _Sums:
    said = [(outcomes, sigmoid(place / BINS_A_LOGIT)) for place, (outcomes, _) in sorted(bins.items())]
    return _Sums(
        sum(count for count, _ in said), sum(count * p for count, p in said), sum(count * p * p for count, p in said)
    )


def _clearest(weeks: Mapping[int, _Sums]) -> tuple[float, int] | None:
    """Difference by bound of the cut where it is greatest, and the first week of the younger side."""
    order = sorted(weeks)
    count, total, squares = (sum(weeks[week][field] for week in order) for field in range(3))
    if len(order) < 2 or count / _ALIKE <= math.e:
        return None
    variance = max(0.0, squares / count - (total / count) ** 2)
    chance = math.log(2 * math.log(count / _ALIKE) / _DELTA)
    best = (0.0, 0)
    of_older = total_older = 0.0
    for older, week in pairwise(order):
        of_older, total_older = of_older + weeks[older].values, total_older + weeks[older].total
        gap = abs(total_older / of_older - (total - total_older) / (count - of_older))
        by = (1 / of_older + 1 / (count - of_older)) * _ALIKE
        best = max(best, (gap / (math.sqrt(2 * by * variance * chance) + 2 / 3 * by * chance), week))
    return best
