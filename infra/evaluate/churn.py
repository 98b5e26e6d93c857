"""Churn of households in 28 days, on Complete Journey: the served model, its embedding alone, and the floors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, journey, trained
from infra.evaluate.asked import Asked, asked_rows
from infra.evaluate.floors import FEATURES, Activity, OrdersByCustomer, Trees, hand_made, visits_of
from infra.evaluate.linear import Probe, fit_probe
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, Measure, auc, log_loss, sigmoid
from models.saved_model import read_card
from schemas.features import NAMES
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS

ABOUT: Final = "churn in 28 days, beside boosted trees"
HORIZON_DAYS: Final = 28
SHUFFLES: Final = 20
_CLOSE: Final = -0.002
_ALONE: Final = 0.82


@dataclass(frozen=True)
class ChurnSpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    model_until_ms: int
    """After the last training label is known, before the first test day."""
    train_days: tuple[int, ...]
    test_days: tuple[int, ...]
    end_ms: int
    """Nothing is known behind it."""
    trees: int = 300


SPANS: Final = ChurnSpans(
    plan=journey.PLAN,
    model_until_ms=journey.day_ms("2017-09-17"),
    train_days=tuple(at for at in journey.TRAIN_DAYS if at <= journey.day_ms("2017-08-20")),
    test_days=tuple(at for at in journey.TEST_DAYS if at + HORIZON_DAYS * DAY_MS <= journey.END),
    end_ms=journey.END,
)


@dataclass(frozen=True)
class _Rows:
    """Questions with their labels."""

    name: str
    snapshots: list[Snapshot]
    customer: Ints
    as_of_ms: Ints
    labels: Doubles


def run(options: EvaluationOptions, say: Say, spans: ChurnSpans = SPANS) -> EvaluationFindings:
    """Judge the model on the protocol's days and on the core's own weekly questions."""
    found = replay(spans.plan, options.folder, say)
    activity, visits = Activity(found.purchases), visits_of(found.purchases)
    train = _asked(asked_rows(found, activity, spans.train_days, HORIZON_DAYS), activity, "train")
    tests = [
        _asked(asked_rows(found, activity, spans.test_days, HORIZON_DAYS), activity, "weekly days"),
        _horizons(found, spans),
    ]
    say(f"{len(train.labels):,} rows to train on, {' and '.join(f'{len(t.labels):,}' for t in tests)} to test on")
    floors = _Floors(visits, activity, train, spans, say)
    directories = [
        trained.trained(
            found,
            trained.ModelPlan(until_ms=spans.model_until_ms, seed=seed, epochs=options.epochs, size=options.size),
            options.folder,
            say,
        )
        for seed in range(options.seeds)
    ]
    random = trained.randomised(directories[0], 0, options.folder)

    def asked_of(rows: _Rows, directory: Path, *, masked: bool = False) -> trained.Answers:
        name = (rows.name, int(rows.as_of_ms[0]), int(rows.as_of_ms[-1]))
        return trained.answers(directory, found, rows.snapshots, name, options.folder, say, masked=masked)

    results: list[Estimate] = []
    targets: list[Goal] = []
    curves: list[Curve] = []
    probes = {
        "embedding alone": (directories[0], False, "ours"),
        "embedding alone, features masked": (directories[0], True, "ours"),
        "random encoder, features masked": (random, True, "control"),
    }
    fitted = {}
    for name, (directory, masked, _) in probes.items():
        say(f"probe: {name}")
        fitted[name] = fit_probe(asked_of(train, directory, masked=masked).embeddings, train.labels, train.customer)
    shuffled = _shuffled(asked_of(train, directories[0], masked=True).embeddings, train)
    for rows in tests:
        logits: dict[str, tuple[str, Doubles]] = {}
        for seed, directory in enumerate(directories):
            name = "served model" if seed == 0 else f"served model, seed {seed}"
            logits[name] = ("ours", asked_of(rows, directory).churn_logits.astype(np.float64))
        logits |= {name: ("floor", scores) for name, scores in floors(rows).items()}
        for name, (directory, masked, role) in probes.items():
            logits[name] = (role, fitted[name].logits(asked_of(rows, directory, masked=masked).embeddings))
        drawn = _bootstrap(rows, logits, options)
        results += _figures(rows, logits, drawn, options)
        masked_test = asked_of(rows, directories[0], masked=True).embeddings
        ones = np.ones(len(rows.labels))
        chance = [auc(rows.labels, probe.logits(masked_test))(ones) for probe in shuffled]
        results.append(
            Estimate(
                group=_group(rows),
                name="shuffled labels, features masked",
                measure="AUC",
                value=float(np.mean(chance)),
                low=float(np.min(chance)),
                high=float(np.max(chance)),
                rows=len(rows.labels),
                role="control",
                note=f"mean, least and most of {SHUFFLES} shuffles",
            )
        )
        if rows is tests[0]:
            targets = _targets(drawn)
        for name in ("served model", _GOOD):
            binned = calibrated.Binned(rows.labels, sigmoid(logits[name][1]), rows.customer)
            curves.append(Curve(name=f"{name}, {rows.name}", bins=binned.curve()))
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: customers active in the last {HORIZON_DAYS} days; churn is no purchase within "
            f"{HORIZON_DAYS} days. Training labels end before {journey.day_of(spans.model_until_ms)}; test days from "
            f"{journey.day_of(spans.test_days[0])} to {journey.day_of(spans.test_days[-1])}, "
            f"{tests[0].labels.mean():.1%} positive."
        ),
        results=results,
        targets=targets,
        curves=curves,
        notes=[
            "Weekly days are the protocol's: a sweep of the core asks about everybody as of that midnight (UTC); the "
            "model answers what it would have served. Horizon questions are the core's own: one a week of each active "
            "customer, at a time of the week that a hash of the customer gives, so the same weeks but other instants; "
            "they end where their 28 days do. Floors are made from the purchases at exactly the same instants.",
            "A probe is a logistic regression on the embedding alone, fitted on the weekly training days. Masked: all "
            "numeric features of the snapshot are unknown before it is encoded.",
            f"Model: {steps_of(directories[0])}.",
        ],
        left_out=["Daily training days for the trees on snapshot features: they have the weekly ones."],
        models={"model": read_card(directories[0]).model_version},
    )


_GOOD: Final = "LightGBM, hand-made features, daily"


class _Floors:
    """Trees, trained once and asked about several sets of rows."""

    def __init__(self, visits: OrdersByCustomer, activity: Activity, train: _Rows, spans: ChurnSpans, say: Say) -> None:
        self._visits = visits
        days = range(spans.train_days[0], spans.train_days[-1] + 1, DAY_MS)
        customer, as_of_ms = activity.active(days, HORIZON_DAYS)
        say(f"LightGBM on {len(customer):,} daily rows of {len(FEATURES)} features, and on snapshots' features")
        labels = _churned(activity, customer, as_of_ms)
        self._daily = Trees(hand_made(visits, customer, as_of_ms), labels, trees=spans.trees)
        self._weekly = Trees(_features(train.snapshots), train.labels, trees=spans.trees)

    def __call__(self, rows: _Rows) -> dict[str, Doubles]:
        hand = hand_made(self._visits, rows.customer, rows.as_of_ms)
        return {
            _GOOD: self._daily.logits(hand),
            "LightGBM, snapshot features": self._weekly.logits(_features(rows.snapshots)),
            "recency alone": hand[:, FEATURES.index("recency")].astype(np.float64),
        }


def _features(snapshots: Sequence[Snapshot]) -> Doubles:
    flat = np.frombuffer(b"".join(snapshot.features for snapshot in snapshots), dtype="<f4")
    return flat.reshape(len(snapshots), len(NAMES)).astype(np.float64)


def _churned(activity: Activity, customer: Ints, as_of_ms: Ints) -> Doubles:
    return (~activity.any(customer, as_of_ms, as_of_ms + HORIZON_DAYS * DAY_MS)).astype(np.float64)


def _asked(rows: Asked, activity: Activity, name: str) -> _Rows:
    return _Rows(name, rows.snapshots, rows.customer, rows.as_of_ms, _churned(activity, rows.customer, rows.as_of_ms))


def _horizons(found: Replay, spans: ChurnSpans) -> _Rows:
    chosen = [
        outcome
        for outcome in found.outcomes
        if outcome.head == "churn"
        and outcome.seen.kind == "horizon"
        and outcome.as_of_ms >= spans.test_days[0]
        and outcome.due_ms <= spans.end_ms
    ]
    chosen.sort(key=lambda outcome: (outcome.as_of_ms, outcome.customer_id))
    snapshots = [outcome.seen for outcome in chosen]
    return _Rows(
        "horizon questions",
        snapshots,
        found.purchases.number_of(snapshot.customer_id for snapshot in snapshots),
        np.array([snapshot.as_of_ms for snapshot in snapshots], dtype=np.int64),
        np.array([outcome.label for outcome in chosen], dtype=np.float64),
    )


def _shuffled(embeddings: trained.Floats, train: _Rows) -> list[Probe]:
    generator = np.random.default_rng(0)
    return [
        fit_probe(embeddings, generator.permutation(train.labels), train.customer, ridges=(100.0,))
        for _ in range(SHUFFLES)
    ]


def _group(rows: _Rows) -> str:
    return f"{rows.name}: {len(rows.labels):,} questions of {len(np.unique(rows.customer)):,} customers"


_COMPARED: Final = (
    ("served model", _GOOD),
    ("served model", "LightGBM, snapshot features"),
    ("embedding alone, features masked", "random encoder, features masked"),
)


def _bootstrap(rows: _Rows, logits: Mapping[str, tuple[str, Doubles]], options: EvaluationOptions) -> Bootstrap:
    measures: dict[str, Measure] = {name: auc(rows.labels, scores) for name, (_, scores) in logits.items()}
    for name, (_, scores) in logits.items():
        if name != "recency alone":
            measures[f"{name}: log loss"] = log_loss(rows.labels, scores)
    return Bootstrap(measures, rows.customer, rounds=options.rounds)


def _figures(
    rows: _Rows, logits: Mapping[str, tuple[str, Doubles]], drawn: Bootstrap, options: EvaluationOptions
) -> Iterator[Estimate]:
    group, count = _group(rows), len(rows.labels)
    for name, (role, _) in logits.items():
        yield estimate(group, name, "AUC", drawn.interval(name), rows=count, role=role)
    for name, other in _COMPARED:
        both = f"{name} less {other}"
        yield estimate(group, both, "AUC", drawn.difference(name, other), rows=count, role="difference")
    for name, (role, _) in logits.items():
        loss = f"{name}: log loss"
        if loss in drawn.values:
            yield estimate(group, name, "log loss", drawn.interval(loss), rows=count, role=role)
    for name in ("served model", _GOOD):
        role, scores = logits[name]
        binned = calibrated.Binned(rows.labels, sigmoid(scores), rows.customer)
        yield estimate(group, name, "calibration error", binned.error(rounds=options.rounds), rows=count, role=role)
        found = calibrated.slope(rows.labels, scores, rows.customer)
        yield estimate(group, name, "calibration slope", found, rows=count, role=role)


def _targets(drawn: Bootstrap) -> list[Goal]:
    alone, control = "embedding alone, features masked", "random encoder, features masked"
    return [
        goal(
            "served model less the good LightGBM, AUC",
            drawn.difference("served model", _GOOD),
            _CLOSE,
            floor=drawn.values[_GOOD],
        ),
        goal("embedding alone, features masked, AUC", drawn.interval(alone), _ALONE, floor=drawn.values[control]),
        goal(
            "embedding alone less a random encoder's, AUC",
            drawn.difference(alone, control),
            0.0,
            floor=drawn.values[control],
            surely=True,
        ),
    ]
