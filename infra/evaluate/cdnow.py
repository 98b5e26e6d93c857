"""CDNOW: who buys again within 28 days, beside BG/NBD, in the months that follow those all models were fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, trained
from infra.evaluate.asked import Asked, asked_rows
from infra.evaluate.bg_nbd import WEEK_DAYS, BgNbd, histories
from infra.evaluate.floors import FEATURES, Activity, OrdersByCustomer, Trees, hand_made, visits_of
from infra.evaluate.journey import day_ms, day_of, weekly
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import (
    Bootstrap,
    Doubles,
    Ints,
    Measure,
    auc,
    correlation,
    log_loss,
    logit,
    mean,
    sigmoid,
)
from models.saved_model import read_card
from models.survival import MOST_DAYS, within
from models.tasks.behaviour import ORDER
from streams.core.config import DAY_MS
from streams.sources.datasets.cdnow import YEARS_LATER

ABOUT: Final = "repeat purchase on CDNOW, beside BG/NBD"
DAYS: Final = 28
_WEEKS: Final = DAYS / WEEK_DAYS
_OURS: Final = "served model"
_RANDOM: Final = "served model, random encoder"
_BG_NBD: Final = "BG/NBD"
_EXPECTED: Final = "BG/NBD, expected purchases"
_TREES: Final = "LightGBM, hand-made features"
_RECENCY: Final = "recency alone"
_PROBABILITIES: Final = (_OURS, _BG_NBD, _TREES, _RANDOM)
_ROLES: Final[Mapping[str, str]] = {_OURS: "ours", _RANDOM: "control"}


@dataclass(frozen=True)
class CdnowSpans:
    """What a test makes smaller."""

    plan: ReplayPlan
    train_days: tuple[int, ...]
    """Of the trees; their labels are known by the split."""
    split_ms: int
    """Nothing behind it is known to a model when it is fitted."""
    test_days: tuple[int, ...]
    end_ms: int
    trees: int = 300


_SPLIT: Final = "2014-10-01"
_TEST: Final = weekly(_SPLIT, "2015-06-03")
SPANS: Final = CdnowSpans(
    plan=ReplayPlan(data="cdnow", one_in=4, churn_active_ms=39 * WEEK_DAYS * DAY_MS, days_ms=_TEST),
    train_days=weekly("2014-02-05", "2014-09-03"),
    split_ms=day_ms(_SPLIT),
    test_days=_TEST,
    end_ms=day_ms("2015-07-01"),
)


def run(options: EvaluationOptions, say: Say, spans: CdnowSpans = SPANS) -> EvaluationFindings:
    """Judge what is said of everybody on the weekly days of the second 39 weeks."""
    found = replay(spans.plan, options.folder, say)
    activity, visits = Activity(found.purchases), visits_of(found.purchases)
    rows = asked_rows(found, activity, spans.test_days, None)
    came = activity.next_days(rows.customer, rows.as_of_ms)
    labels = (came < DAYS).astype(np.float64)
    say(f"{len(labels):,} questions, {labels.mean():.1%} positive")
    floor = _fitted(visits, spans.split_ms)
    parameters = ", ".join(f"{name} {value:.3f}" for name, value in floor.parameters.items())
    say(f"BG/NBD: {parameters}")
    plan = trained.ModelPlan(until_ms=spans.split_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    name = ("cdnow", int(rows.as_of_ms[0]), int(rows.as_of_ms[-1]))

    def curve_of(where: Path) -> Doubles:
        return trained.curves(where, found, rows.snapshots, name, options.folder, say)[ORDER]

    curve = curve_of(directory)
    known = histories(visits, rows.customer, rows.as_of_ms)
    hand = hand_made(visits, rows.customer, rows.as_of_ms)
    judged = _Judged(
        labels,
        rows.customer,
        {
            _OURS: logit(within(curve, DAYS)),
            _BG_NBD: logit(floor.any(_WEEKS, known)),
            _EXPECTED: floor.expected(_WEEKS, known),
            _TREES: _trees(activity, visits, spans).logits(hand),
            _RECENCY: -hand[:, FEATURES.index("recency")].astype(np.float64),
            _RANDOM: logit(within(curve_of(trained.randomised(directory, 0, options.folder)), DAYS)),
        },
    )
    awake = judged.take(np.flatnonzero(activity.any(rows.customer, rows.as_of_ms - DAYS * DAY_MS, rows.as_of_ms)))
    drawn = judged.drawn(options)
    who = "all customers" if spans.plan.one_in == 1 else f"one customer in {spans.plan.one_in}, by a hash of the id"
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}, {who}: an order within {DAYS} days, of everybody who has bought before, asked weekly "
            f"from {day_of(spans.test_days[0])} to {day_of(spans.test_days[-1])}. Models are fitted on what was known "
            f"by {day_of(spans.split_ms)}, and asked with what was known by each day."
        ),
        results=[
            *judged.figures("everybody", drawn, options),
            *awake.figures(f"whose last order is at most {DAYS} days old", awake.drawn(options), options),
            *_whole_holdout(floor, visits, rows, curve, spans, options),
        ],
        targets=list(judged.targets(drawn, options)),
        curves=[
            Curve(name=of, bins=calibrated.Binned(labels, sigmoid(judged.scores[of]), rows.customer).curve())
            for of in (_OURS, _BG_NBD)
        ],
        notes=[
            f"Days are {YEARS_LATER} years later than in the data, since events before 2000 are refused.",
            "BG/NBD (Fader, Hardie and Lee, 2005) as lifetimes fits it on what is known by the split: "
            f"{parameters}, in weeks. Its probability is that of still being there, times that of an order by who is.",
            f"Customers here buy rarely, so `core.churn_active_ms` is {spans.plan.churn_active_ms // DAY_MS} days, not "
            "28: with the default the model learns nothing of customers who have been silent for longer.",
            "The random encoder goes with the heads of the served model.",
            f"Model: {steps_of(directory)}.",
        ],
        left_out=[f"Our number of orders in the whole holdout: the served curve ends after {MOST_DAYS:g} days."],
        models={"model": read_card(directory).model_version},
    )


def _fitted(visits: OrdersByCustomer, split_ms: int) -> BgNbd:
    """BG/NBD of everybody who has bought by the split."""
    customers = np.arange(len(visits.start) - 1)
    first_ms = np.array([visits.ts_ms[visits.of(number)].min(initial=split_ms) for number in customers.tolist()])
    bought = customers[first_ms < split_ms]
    return BgNbd(histories(visits, bought, np.full(len(bought), split_ms)))


def _trees(activity: Activity, visits: OrdersByCustomer, spans: CdnowSpans) -> Trees:
    customer, as_of_ms = activity.active(spans.train_days, None)
    came = activity.next_days(customer, as_of_ms) < DAYS
    return Trees(hand_made(visits, customer, as_of_ms), came, trees=spans.trees)


@dataclass(frozen=True)
class _Judged:
    """Questions and what is said of them, (N,) each."""

    labels: Doubles
    customer: Ints
    scores: Mapping[str, Doubles]
    """Logits, of those in ``_PROBABILITIES``."""

    def take(self, rows: Ints) -> _Judged:
        return _Judged(
            self.labels[rows], self.customer[rows], {name: scores[rows] for name, scores in self.scores.items()}
        )

    def drawn(self, options: EvaluationOptions) -> Bootstrap:
        measures: dict[str, Measure] = {name: auc(self.labels, scores) for name, scores in self.scores.items()}
        measures |= {f"{name}: log loss": log_loss(self.labels, self.scores[name]) for name in _PROBABILITIES}
        return Bootstrap(measures, self.customer, rounds=options.rounds)

    def figures(self, who: str, drawn: Bootstrap, options: EvaluationOptions) -> Iterator[Estimate]:
        count = len(self.labels)
        group = (
            f"{who}: {count:,} questions of {len(np.unique(self.customer)):,} customers, "
            f"{self.labels.mean():.1%} positive"
        )
        others = [name for name in self.scores if name != _OURS]
        for name in self.scores:
            yield estimate(group, name, "AUC", drawn.interval(name), rows=count, role=_ROLES.get(name, "floor"))
        for name in others:
            less = drawn.difference(_OURS, name)
            yield estimate(group, f"{_OURS} less {name}", "AUC", less, rows=count, role="difference")
        for name in _PROBABILITIES:
            loss = drawn.interval(f"{name}: log loss")
            yield estimate(group, name, "log loss", loss, rows=count, role=_ROLES.get(name, "floor"))
        for name in _PROBABILITIES[1:]:
            less = drawn.difference(f"{_OURS}: log loss", f"{name}: log loss")
            yield estimate(group, f"{_OURS} less {name}", "log loss", less, rows=count, role="difference")
        for name in _PROBABILITIES:
            binned = calibrated.Binned(self.labels, sigmoid(self.scores[name]), self.customer)
            error = binned.error(rounds=options.rounds)
            yield estimate(group, name, "calibration error", error, rows=count, role=_ROLES.get(name, "floor"))
            slope = calibrated.slope(self.labels, self.scores[name], self.customer, rounds=min(options.rounds, 200))
            yield estimate(group, name, "calibration slope", slope, rows=count, role=_ROLES.get(name, "floor"))

    def targets(self, drawn: Bootstrap, options: EvaluationOptions) -> Iterator[Goal]:
        losses = f"{_OURS}: log loss", f"{_BG_NBD}: log loss"
        binned = calibrated.Binned(self.labels, sigmoid(self.scores[_OURS]), self.customer)
        # Of the two, its expected purchases rank the better.
        auc_less = drawn.difference(_OURS, _EXPECTED)
        yield goal("AUC less that of BG/NBD", auc_less, 0.0, floor=drawn.values[_EXPECTED], surely=True)
        yield goal(
            "log loss less that of BG/NBD",
            drawn.difference(*losses),
            0.0,
            floor=drawn.values[losses[1]],
            at_most=True,
            surely=True,
        )
        yield goal("calibration error", binned.error(rounds=options.rounds), 0.02, floor=None, at_most=True)


def _whole_holdout(
    floor: BgNbd, visits: OrdersByCustomer, rows: Asked, curve: Doubles, spans: CdnowSpans, options: EvaluationOptions
) -> Iterator[Estimate]:
    """Days with an order from the split to the end, as the papers on this data have it."""
    first = np.flatnonzero(rows.as_of_ms == spans.split_ms)
    customer = rows.customer[first]
    by_split = histories(visits, customer, rows.as_of_ms[first])
    by_end = histories(visits, customer, np.full(len(customer), spans.end_ms))
    came = by_end.repeats - by_split.repeats
    expected = floor.expected((spans.end_ms - spans.split_ms) / (WEEK_DAYS * DAY_MS), by_split)
    soon = within(curve[first], MOST_DAYS)
    drawn = Bootstrap(
        {
            "error": mean(np.abs(expected - came)),
            "nothing": mean(came),
            _BG_NBD: correlation(expected, came),
            _OURS: correlation(soon, came),
        },
        customer,
        rounds=options.rounds,
    )
    count = len(customer)
    group = f"orders from {day_of(spans.split_ms)} to {day_of(spans.end_ms)}: {count:,} customers, as of the split"
    yield estimate(group, _BG_NBD, "mean absolute error", drawn.interval("error"), rows=count, role="floor")
    yield estimate(
        group, "no order of anybody", "mean absolute error", drawn.interval("nothing"), rows=count, role="floor"
    )
    yield estimate(group, _BG_NBD, "correlation", drawn.interval(_BG_NBD), rows=count, role="floor")
    note = f"of the probability of an order within {MOST_DAYS:g} days"
    yield estimate(group, _OURS, "correlation", drawn.interval(_OURS), rows=count, role="ours", note=note)
    less = drawn.difference(_OURS, _BG_NBD)
    yield estimate(group, f"{_OURS} less {_BG_NBD}", "correlation", less, rows=count, role="difference", note=note)
