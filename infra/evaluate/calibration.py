"""Whether churn probabilities are rates, for what is asked weekly, in sessions, and after any event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, journey, trained
from infra.evaluate.floors import Activity
from infra.evaluate.online import recalibrated
from infra.evaluate.replays import CHECKPOINT_EVENTS, Replay, ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, auc, log_loss, logit, sigmoid
from models.saved_model import read_card
from schemas.features import INDEX
from schemas.snapshot import Snapshot, SnapshotKind
from streams.core.config import DAY_MS, CoreConfig

ABOUT: Final = "calibration of churn by kind of snapshot"
KINDS: Final[tuple[SnapshotKind, ...]] = ("event", "horizon", "sample")
HORIZON_DAYS: Final = 28
_ERROR: Final = 0.010
_SLOPE: Final = (0.9, 1.1)
_EVERY_DAYS: Final = CoreConfig().horizon_every_ms // DAY_MS
_JUDGED_DAYS: Final = CoreConfig().churn_active_ms // DAY_MS - _EVERY_DAYS


@dataclass(frozen=True)
class CalibrationSpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    model_until_ms: int
    """Snapshots from then on are judged."""
    end_ms: int


SPANS: Final = CalibrationSpans(plan=journey.PLAN, model_until_ms=journey.SECOND_HALF, end_ms=journey.END)


@dataclass(frozen=True)
class _Kind:
    kind: SnapshotKind
    snapshots: list[Snapshot]
    customer: Ints
    labels: Doubles
    due_ms: Ints
    """From when on the outcome counts for learn."""

    @property
    def as_of_ms(self) -> Ints:
        return np.array([snapshot.as_of_ms for snapshot in self.snapshots], dtype=np.int64)


def run(options: EvaluationOptions, say: Say, spans: CalibrationSpans = SPANS) -> EvaluationFindings:
    """Judge the demo's model on the second half of the year."""
    found = replay(spans.plan, options.folder, say)
    plan = trained.ModelPlan(until_ms=spans.model_until_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    random = trained.randomised(directory, 0, options.folder)
    results: list[Estimate] = []
    targets: list[Goal] = []
    curves: list[Curve] = []
    for kind in KINDS:
        rows = _live(found, spans) if kind == "event" else _questions(found, spans, kind)
        name = ("calibration", kind, spans.model_until_ms, spans.end_ms)
        say(f"{kind}: {len(rows.labels):,} rows, {rows.labels.mean():.1%} positive")
        logits = {
            "served model": trained.answers(directory, found, rows.snapshots, name, options.folder, say).churn_logits,
            "random encoder": trained.answers(random, found, rows.snapshots, name, options.folder, say).churn_logits,
        }
        said = sigmoid(logits["served model"])
        served = recalibrated(said, rows.labels, rows.as_of_ms, rows.due_ms).probability
        results += _figures(rows, "served", logit(served), "ours", options)
        results += _figures(rows, "model alone", logits["served model"].astype(np.float64), "floor", options)
        results += _figures(rows, "random encoder", logits["random encoder"].astype(np.float64), "control", options)
        targets += _targets(kind, results)
        for what, probability in (("served", served), ("model alone", said)):
            binned = calibrated.Binned(rows.labels, probability, rows.customer)
            curves.append(Curve(name=f"{what}, {kind}", bins=binned.curve()))
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: the demo's model, trained on what was known by "
            f"{journey.day_of(spans.model_until_ms)}, asked from then on; no purchase within {HORIZON_DAYS} days, "
            f"which end by {journey.day_of(spans.end_ms)}. Customers active in the {HORIZON_DAYS} days before."
        ),
        results=results,
        targets=targets,
        curves=curves,
        notes=[
            "Error: ten bins of equal mass, root mean square, less what chance alone gives "
            "(infra/evaluate/calibrated.py: Bröcker 2012; Kumar et al. 2019; the variance of a bin is taken over "
            "customers). Slope: logistic regression of the label on the logit. Mean gap: mean probability less rate.",
            f"event: live snapshots, one a customer and checkpoint of {CHECKPOINT_EVENTS} events, one in "
            f"{spans.plan.live_in} of them by a hash. Their label is whether a purchase came later than the snapshot's "
            "time; lines of the same instant are the same basket.",
            "Served: as encode publishes it, recalibrated by the outcomes that were due before the day of asking "
            "(streams/core/recalibration.py), here those of the rows themselves. Model alone: without that.",
            f"Model: {steps_of(directory)}.",
        ],
        left_out=[
            "Live snapshots of customers who bought nothing for 28 days (a mailing reached them): no question is asked "
            "of them, so training never saw such rows.",
            "Shuffled labels: calibration is no claim of a gain.",
        ],
        models={"model": read_card(directory).model_version},
    )


def _live(found: Replay, spans: CalibrationSpans) -> _Kind:
    chosen = [
        snapshot
        for snapshot in found.live
        if spans.model_until_ms <= snapshot.as_of_ms <= spans.end_ms - HORIZON_DAYS * DAY_MS - 1
        and 0.0 <= _days_since_activity(snapshot) <= HORIZON_DAYS
    ]
    customer = found.purchases.number_of(snapshot.customer_id for snapshot in chosen)
    after_ms = np.array([snapshot.as_of_ms for snapshot in chosen], dtype=np.int64) + 1
    returned = Activity(found.purchases).any(customer, after_ms, after_ms + HORIZON_DAYS * DAY_MS)
    # A week after the horizon's end everybody's is known, see streams/core/live_answers.py; of who was silent for
    # longer than three weeks, none is.
    judged = np.array([_days_since_activity(snapshot) <= _JUDGED_DAYS for snapshot in chosen], dtype=np.bool_)
    due_ms = np.where(judged, after_ms + (HORIZON_DAYS + _EVERY_DAYS) * DAY_MS, np.iinfo(np.int64).max)
    return _Kind("event", chosen, customer, (~returned).astype(np.float64), due_ms)


def _days_since_activity(snapshot: Snapshot) -> float:
    place = 4 * INDEX["days_since_activity"]
    return float(np.frombuffer(snapshot.features[place : place + 4], dtype="<f4")[0])


def _questions(found: Replay, spans: CalibrationSpans, kind: SnapshotKind) -> _Kind:
    chosen = [
        outcome
        for outcome in found.outcomes
        if outcome.head == "churn"
        and outcome.seen.kind == kind
        and outcome.as_of_ms >= spans.model_until_ms
        and outcome.due_ms <= spans.end_ms
    ]
    snapshots = [outcome.seen for outcome in chosen]
    return _Kind(
        kind,
        snapshots,
        found.purchases.number_of(snapshot.customer_id for snapshot in snapshots),
        np.array([outcome.label for outcome in chosen], dtype=np.float64),
        np.array([outcome.due_ms for outcome in chosen], dtype=np.int64),
    )


def _figures(rows: _Kind, name: str, logits: Doubles, role: str, options: EvaluationOptions) -> list[Estimate]:
    people, count = len(np.unique(rows.customer)), len(rows.labels)
    group = f"{rows.kind}: {count:,} snapshots of {people:,} customers, {rows.labels.mean():.1%} churned"
    probability = sigmoid(logits)

    def gap(weights: Doubles) -> float:
        return float(weights @ (probability - rows.labels) / weights.sum())

    measures = {"mean gap": gap, "log loss": log_loss(rows.labels, logits), "AUC": auc(rows.labels, logits)}
    drawn = Bootstrap(measures, rows.customer, rounds=options.rounds)
    binned = calibrated.Binned(rows.labels, probability, rows.customer)
    intervals = {
        "calibration error": binned.error(rounds=options.rounds),
        "calibration slope": calibrated.slope(rows.labels, logits, rows.customer),
    } | {measure: drawn.interval(measure) for measure in measures}
    return [estimate(group, name, measure, found, rows=count, role=role) for measure, found in intervals.items()]


def _targets(kind: str, results: list[Estimate]) -> list[Goal]:
    found = {(row.name, row.measure): row for row in results if row.group.startswith(f"{kind}:")}
    error, slope = found["served", "calibration error"], found["served", "calibration slope"]
    least, most = _SLOPE
    return [
        goal(
            f"{kind}: calibration error",
            error.interval,
            _ERROR,
            floor=found["model alone", "calibration error"].value,
            at_most=True,
        ),
        goal(f"{kind}: calibration slope", slope.interval, least, floor=None),
        goal(f"{kind}: calibration slope, at most", slope.interval, most, floor=None, at_most=True),
    ]
