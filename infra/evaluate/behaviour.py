"""Behaviour of households on Complete Journey: repeat purchase, churn, and the time of the next order.

What is served is one curve for each event; every figure here is read from it. Floors are trees that are trained for one
horizon each, on every day, and for the time of the next order the customer's own mean gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, journey, trained
from infra.evaluate.asked import Asked, asked_rows
from infra.evaluate.floors import FEATURES, Activity, OrdersByCustomer, Trees, hand_made, visits_of
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Interval, Ints, auc, log_loss, logit, mean, median, sigmoid
from models.saved_model import read_card
from models.survival import INTERVAL, MOST_DAYS, days_until, within
from models.tasks.behaviour import ACTIVITY, ORDER
from streams.core.config import DAY_MS

ABOUT: Final = "repeat purchase, churn and the time of the next order, beside boosted trees"
ACTIVE_DAYS: Final = 28
_OURS: Final = "served model"
_TREES: Final = "LightGBM, hand-made features, daily"
_GAP: Final = "personal mean gap"
_REST: Final = "personal mean gap less recency"
_ERROR: Final = 0.02
_SLOPE: Final = (0.8, 1.2)


class Horizon(NamedTuple):
    """One probability that is judged."""

    name: str
    event: str
    days: int
    absent: bool

    def of(self, curve: Doubles) -> Doubles:
        """(N,) its probability."""
        found = within(curve, self.days)
        return 1.0 - found if self.absent else found


HORIZONS: Final = (
    Horizon("repeat purchase within 14 days", ORDER, 14, False),
    Horizon("repeat purchase within 28 days", ORDER, 28, False),
    Horizon("churn in 14 days", ACTIVITY, 14, True),
    Horizon("churn in 56 days", ACTIVITY, 56, True),
)


@dataclass(frozen=True)
class BehaviourSpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    model_until_ms: int
    """After the last training label is known, before the first test day."""
    train_from_ms: int
    test_days: tuple[int, ...]
    end_ms: int
    """Nothing is known behind it."""
    trees: int = 300


SPANS: Final = BehaviourSpans(
    plan=journey.PLAN,
    model_until_ms=journey.day_ms("2017-09-17"),
    train_from_ms=journey.TRAIN_DAYS[0],
    test_days=journey.TEST_DAYS,
    end_ms=journey.END,
)


@dataclass(frozen=True)
class _Log:
    """What labels and floors are made from."""

    activity: Activity
    visits: OrdersByCustomer


def run(options: EvaluationOptions, say: Say, spans: BehaviourSpans = SPANS) -> EvaluationFindings:
    """Judge what is said on the protocol's weekly days."""
    found = replay(spans.plan, options.folder, say)
    log = _Log(Activity(found.purchases), visits_of(found.purchases))
    rows = asked_rows(found, log.activity, spans.test_days, ACTIVE_DAYS)
    after_days = log.activity.next_days(rows.customer, rows.as_of_ms)
    hand = hand_made(log.visits, rows.customer, rows.as_of_ms)
    directories = [
        trained.trained(
            found,
            trained.ModelPlan(until_ms=spans.model_until_ms, seed=seed, epochs=options.epochs, size=options.size),
            options.folder,
            say,
        )
        for seed in range(options.seeds)
    ]
    name = ("behaviour", int(rows.as_of_ms[0]), int(rows.as_of_ms[-1]))

    def curves_of(directory: Path) -> dict[str, Doubles]:
        return trained.curves(directory, found, rows.snapshots, name, options.folder, say)

    said = {_OURS if seed == 0 else f"{_OURS}, seed {seed}": curves_of(at) for seed, at in enumerate(directories)}
    floors = {days: _floor(log, spans, days, say) for days in sorted({horizon.days for horizon in HORIZONS})}
    results: list[Estimate] = []
    targets: list[Goal] = []
    curves: list[Curve] = []
    for horizon in HORIZONS:
        kept = np.flatnonzero(rows.as_of_ms + horizon.days * DAY_MS <= spans.end_ms)
        if not len(kept):
            continue
        say(f"{horizon.name}: {len(kept):,} rows")
        came = (after_days[kept] < horizon.days).astype(np.float64)
        labels = 1.0 - came if horizon.absent else came
        of_trees = floors[horizon.days].logits(hand[kept])
        logits = {of: logit(horizon.of(by_event[horizon.event][kept])) for of, by_event in said.items()}
        logits[_TREES] = -of_trees if horizon.absent else of_trees
        judged = _Judged(horizon, labels, rows.customer[kept], logits)
        results += judged.figures(options)
        targets += judged.targets(options)
        binned = calibrated.Binned(labels, sigmoid(logits[_OURS]), rows.customer[kept])
        curves.append(Curve(name=f"{_OURS}, {horizon.name}", bins=binned.curve()))
    timed, time_targets = _times(rows, after_days, hand, said[_OURS][ORDER], spans, options)
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: customers active in the last {ACTIVE_DAYS} days, asked weekly from "
            f"{journey.day_of(spans.test_days[0])} to {journey.day_of(spans.test_days[-1])}, as long as the horizon "
            f"ends by {journey.day_of(spans.end_ms)}. "
            f"Training labels end before {journey.day_of(spans.model_until_ms)}."
        ),
        results=results + timed,
        targets=targets + time_targets,
        curves=curves,
        notes=[
            "Here, activity is purchases, so churn is the repeat purchase that does not come; it is read from the "
            "curve of activity, purchases from that of the next order. Trees are trained for each horizon, the served "
            "curves once for all.",
            f"Time of the next order: of rows that were followed for {MOST_DAYS:g} days; what comes later, is said to "
            f"come later, or never comes, counts as {MOST_DAYS:g} days. Of the interval's ends, shares of "
            f"{INTERVAL[0]:g} and {INTERVAL[1]:g}, the upper one may lie beyond. The mean gap is that of all orders so "
            "far; of who has ordered once, that of all customers.",
            f"Model: {steps_of(directories[0])}.",
        ],
        left_out=[
            "First purchases: no question is asked of who never bought.",
        ],
        models={"model": read_card(directories[0]).model_version},
    )


def _floor(log: _Log, spans: BehaviourSpans, days: int, say: Say) -> Trees:
    """Whether an order comes within so many days, of all days whose label was known when the model was trained."""
    last_ms = spans.model_until_ms - days * DAY_MS
    customer, as_of_ms = log.activity.active(range(spans.train_from_ms, last_ms + 1, DAY_MS), ACTIVE_DAYS)
    say(f"LightGBM for {days} days on {len(customer):,} daily rows of {len(FEATURES)} features")
    came = log.activity.next_days(customer, as_of_ms) < days
    return Trees(hand_made(log.visits, customer, as_of_ms), came, trees=spans.trees)


@dataclass(frozen=True)
class _Judged:
    """The rows of one horizon."""

    horizon: Horizon
    labels: Doubles
    customer: Ints
    logits: Mapping[str, Doubles]

    @property
    def group(self) -> str:
        people = len(np.unique(self.customer))
        positive = f"{self.labels.mean():.1%} positive"
        return f"{self.horizon.name}: {len(self.labels):,} questions of {people:,} customers, {positive}"

    def _role(self, name: str) -> str:
        return "floor" if name == _TREES else "ours"

    def _drawn(self, options: EvaluationOptions) -> Bootstrap:
        measures = {name: auc(self.labels, scores) for name, scores in self.logits.items()}
        measures |= {f"{name}: log loss": log_loss(self.labels, scores) for name, scores in self.logits.items()}
        return Bootstrap(measures, self.customer, rounds=options.rounds)

    def figures(self, options: EvaluationOptions) -> Iterator[Estimate]:
        drawn, count = self._drawn(options), len(self.labels)
        for name in self.logits:
            yield estimate(self.group, name, "AUC", drawn.interval(name), rows=count, role=self._role(name))
        both = f"{_OURS} less {_TREES}"
        yield estimate(self.group, both, "AUC", drawn.difference(_OURS, _TREES), rows=count, role="difference")
        for name in self.logits:
            loss = drawn.interval(f"{name}: log loss")
            yield estimate(self.group, name, "log loss", loss, rows=count, role=self._role(name))
        for name in (_OURS, _TREES):
            role = self._role(name)
            error, slope = self._calibration(name, options)
            yield estimate(self.group, name, "calibration error", error, rows=count, role=role)
            yield estimate(self.group, name, "calibration slope", slope, rows=count, role=role)

    def targets(self, options: EvaluationOptions) -> Iterator[Goal]:
        error, slope = self._calibration(_OURS, options)
        what, (least, most) = self.horizon.name, _SLOPE
        yield goal(f"{what}: calibration error", error, _ERROR, floor=None, at_most=True)
        yield goal(f"{what}: calibration slope", slope, least, floor=None)
        yield goal(f"{what}: calibration slope, at most", slope, most, floor=None, at_most=True)

    def _calibration(self, name: str, options: EvaluationOptions) -> tuple[Interval, Interval]:
        binned = calibrated.Binned(self.labels, sigmoid(self.logits[name]), self.customer)
        slope = calibrated.slope(self.labels, self.logits[name], self.customer, rounds=min(options.rounds, 200))
        return binned.error(rounds=options.rounds), slope


def _times(
    rows: Asked,
    after_days: Doubles,
    hand: trained.Floats,
    curve: Doubles,
    spans: BehaviourSpans,
    options: EvaluationOptions,
) -> tuple[list[Estimate], list[Goal]]:
    """How far the expected time is off, and how often the interval holds."""
    kept = np.flatnonzero(rows.as_of_ms + MOST_DAYS * DAY_MS <= spans.end_ms)
    if not len(kept):
        return [], []
    came = np.minimum(after_days[kept], MOST_DAYS)
    low, middle, high = (days_until(curve[kept], share) for share in (INTERVAL[0], 0.5, INTERVAL[1]))
    gap = hand[kept, FEATURES.index("mean gap")].astype(np.float64)
    gap = np.where(np.isfinite(gap), gap, np.nanmedian(gap))
    recency = hand[kept, FEATURES.index("recency")].astype(np.float64)
    guesses = {_OURS: middle, _GAP: gap, _REST: np.maximum(gap - recency, 0.0)}
    off = {name: np.abs(np.minimum(guess, MOST_DAYS) - came) for name, guess in guesses.items()}
    held = (low <= came) & ((came <= high) | (np.isinf(high) & (came >= MOST_DAYS)))
    width = np.minimum(high, MOST_DAYS) - np.minimum(low, MOST_DAYS)
    drawn = Bootstrap(
        {name: median(of_name) for name, of_name in off.items()}
        | {f"{name}: mean": mean(of_name) for name, of_name in off.items()}
        | {"held": mean(held), "width": mean(width)},
        rows.customer[kept],
        rounds=options.rounds,
    )
    count = len(kept)
    group = f"time of the next order: {count:,} questions of {len(np.unique(rows.customer[kept])):,} customers"
    found: list[Estimate] = []
    for name in off:
        role = "ours" if name == _OURS else "floor"
        found += [
            estimate(group, name, "median error, days", drawn.interval(name), rows=count, role=role),
            estimate(group, name, "mean error, days", drawn.interval(f"{name}: mean"), rows=count, role=role),
        ]
    for name in (_GAP, _REST):
        both = drawn.difference(_OURS, name)
        found.append(estimate(group, f"{_OURS} less {name}", "median error, days", both, rows=count, role="difference"))
    found += [
        estimate(group, _OURS, "share held by the 80 % interval", drawn.interval("held"), rows=count, role="ours"),
        estimate(group, _OURS, "width of the interval, days", drawn.interval("width"), rows=count, role="ours"),
    ]
    better = drawn.difference(_OURS, _REST)
    return found, [
        goal("80 % interval of the next order, share held", drawn.interval("held"), 0.77, floor=None),
        goal("the same, at most", drawn.interval("held"), 0.83, floor=None, at_most=True),
        goal(
            "median error less that of the mean gap less recency, days",
            better,
            0.0,
            floor=drawn.values[_REST],
            at_most=True,
            surely=True,
        ),
    ]
