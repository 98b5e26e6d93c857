"""Whether outcomes bring probabilities back when the world changes: a drift planted in the simulator, weeks apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, trained
from infra.evaluate.online import recalibrated
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Doubles, Interval, Ints, logit, sigmoid
from models.saved_model import read_card
from schemas.errors import Stop
from streams.core.config import DAY_MS, CoreConfig
from streams.sources.simulate.simulator import Simulator
from streams.sources.source import SIMULATION_START_MS

ABOUT: Final = "churn and redemption after a planted drift, with and without the recalibration by outcomes"
SENDS: Final = (1, 1_000, 2_500, 5_000)
"""The same of redemption."""
_ODDS: Final = 0.3
_ERROR: Final = 0.02
_SHARE: Final = 1 / 3


@dataclass(frozen=True)
class DriftSpans:
    """What a test replaces by fewer customers."""

    plan: ReplayPlan
    model_until_ms: int
    """Outcomes that were known by then train the model; what is asked from then on is judged."""
    outcomes: tuple[int, ...] = (1, 1_000, 2_500, 5_000, 7_500)
    """Of churn: bounds of groups of rows, see :func:`_judged`."""
    sent_customers: int = 4_000
    """Customers whose redemptions are judged."""


def spans_of(seed: int, customers: int) -> DriftSpans:
    """A model of 90 days serves 50 days as it learned; then customers leave at 1 in 150 days more than before."""
    plan = ReplayPlan(
        data="simulation",
        seed=seed,
        customers=customers,
        sim_days=300,
        campaign_every_days=28,
        leave_from_ms=SIMULATION_START_MS + 140 * DAY_MS,
        leave_days=150.0,
    )
    return DriftSpans(plan=plan, model_until_ms=SIMULATION_START_MS + 90 * DAY_MS)


SPANS: Final = spans_of(8, 2_400)  # the curve, its weights and the numbers of outcomes were chosen on seeds 5 to 7


def run(options: EvaluationOptions, say: Say, spans: DriftSpans = SPANS) -> EvaluationFindings:
    """Train before the drift, ask weekly through it, and recalibrate by what was known on each day.

    Raises:
        Stop: too few customers for so many outcomes.
    """
    found = replay(spans.plan, options.folder, say)
    plan = trained.ModelPlan(until_ms=spans.model_until_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    asked = [
        outcome
        for outcome in found.outcomes
        if outcome.head == "churn"
        and outcome.seen.kind == "horizon"
        and outcome.as_of_ms >= spans.model_until_ms
        and outcome.due_ms <= found.source.until_ms
    ]
    snapshots = [outcome.seen for outcome in asked]
    labels = np.array([outcome.label for outcome in asked], dtype=np.float64)
    as_of_ms = np.array([outcome.as_of_ms for outcome in asked], dtype=np.int64)
    due_ms = np.array([outcome.due_ms for outcome in asked], dtype=np.int64)
    customer = _numbers(outcome.customer_id for outcome in asked)
    answers = trained.answers(directory, found, snapshots, ("drift", spans.model_until_ms), options.folder, say)
    churn = _Asked("churn", sigmoid(answers.churn_logits), labels, as_of_ms, due_ms, customer)
    drift_ms = spans.plan.leave_from_ms
    judged = [_judged(churn, drift_ms, spans.outcomes, options), _judged(_sends(spans), drift_ms, SENDS, options)]
    return EvaluationFindings(
        data=(
            f"simulation, {spans.plan.customers:,} customers over {spans.plan.sim_days} days, seed {spans.plan.seed}; "
            f"the model is of {_day(spans.model_until_ms)} days, and from day {_day(drift_ms)} on customers leave for "
            f"good at a rate of 1 in {spans.plan.leave_days:g} days beside those who do anyway. Weekly questions of "
            f"active customers, no activity within {(due_ms[0] - as_of_ms[0]) // DAY_MS} days. Redemption: sends to "
            f"{spans.sent_customers:,} customers, whose true probability stands for a model's, until from the same day "
            f"on the odds are {_ODDS:g} of that."
        ),
        results=[row for one in judged for row in one.results],
        targets=[target for one in judged for target in one.targets],
        notes=[
            "Recalibrated: by streams/core/recalibration.py from the outcomes that were due before the day of asking, "
            "as encode applies it. Outcomes are counted from the drift on; the first come a horizon later.",
            "Error: ten bins of equal mass, root mean square, less what chance alone gives.",
            *(one.noticed for one in judged),
            "Redemption: labels are drawn from the simulator's truth, of customers who stay.",
            f"Model: {steps_of(directory)}.",
        ],
        models={"model": read_card(directory).model_version},
    )


@dataclass(frozen=True)
class _Asked:
    """Predictions and what became of them, row by row."""

    head: str
    said: Doubles
    labels: Doubles
    as_of_ms: Ints
    due_ms: Ints
    customer: Ints


@dataclass(frozen=True)
class _Judged:
    results: list[Estimate]
    targets: list[Goal]
    noticed: str


def _sends(spans: DriftSpans) -> _Asked:
    """Weekly campaigns, what is true of each send before the drift, and labels by what is true then."""
    plan = spans.plan
    simulator = Simulator(plan.seed, spans.sent_customers, SIMULATION_START_MS, plan.sim_days, campaign_every_days=7)
    window_ms = CoreConfig().redemption_window_ms
    sent = [
        (truth.customer_id, response)
        for truth in simulator.truth()
        for response in truth.responses
        if response.send_ms + window_ms <= simulator.end_ms
    ]
    said = np.array([response.p_redeem for _, response in sent])
    send_ms = np.array([response.send_ms for _, response in sent], dtype=np.int64)
    true = np.where(send_ms < plan.leave_from_ms, said, sigmoid(logit(said) + np.log(_ODDS)))
    return _Asked(
        head="redemption",
        said=said,
        labels=(np.random.default_rng(plan.seed).random(len(sent)) < true).astype(np.float64),
        as_of_ms=send_ms,
        due_ms=send_ms + window_ms,
        customer=_numbers(customer_id for customer_id, _ in sent),
    )


def _judged(asked: _Asked, drift_ms: int, outcomes: tuple[int, ...], options: EvaluationOptions) -> _Judged:
    """Rows by how many outcomes were known of what was asked since the drift; the last number has to do.

    Raises:
        Stop: so many were never known.
    """
    online = recalibrated(asked.said, asked.labels, asked.as_of_ms, asked.due_ms)
    since = asked.as_of_ms >= drift_ms
    known = _known(asked.as_of_ms, np.sort(asked.due_ms[since]))
    bounds = (*outcomes, 1 << 62)
    groups = {"before the drift": ~since, "no outcome since": since & (known == 0)}
    for least, most in pairwise(bounds):
        until = f" to {most - 1:,}" if most < bounds[-1] else " and more"
        groups[f"{least:,}{until} outcomes since"] = since & (known >= least) & (known < most)
    if not next(reversed(groups.values())).any():
        raise Stop(f"{asked.head}: {outcomes[-1]:,} outcomes since the drift were never known: take more customers")
    results: list[Estimate] = []
    errors: dict[str, Interval] = {}
    for group, rows in groups.items():
        count = int(rows.sum())
        if not count:
            continue
        name = f"{asked.head}, {group}: {count:,} predictions, {asked.labels[rows].mean():.1%} happened"
        for what, told in (("model", asked.said[rows]), ("recalibrated", online.probability[rows])):
            role = "floor" if what == "model" else "ours"
            errors[what] = calibrated.Binned(asked.labels[rows], told, asked.customer[rows]).error(
                rounds=options.rounds
            )
            gap = Interval(float((told - asked.labels[rows]).mean()), np.nan, np.nan)
            results.append(estimate(name, what, "calibration error", errors[what], rows=count, role=role))
            results.append(estimate(name, what, "mean gap", gap, rows=count, role=role))
    late = f"{asked.head}, after {outcomes[-1]:,} outcomes"
    share = Interval(errors["recalibrated"].value / max(errors["model"].value, 1e-9), np.nan, np.nan)
    floor = errors["model"].value
    order = np.argsort(asked.as_of_ms, kind="stable")
    found = np.flatnonzero(online.drift[order] > 1)
    return _Judged(
        results,
        [
            goal(f"{late}: calibration error", errors["recalibrated"], _ERROR, floor=floor, at_most=True),
            goal(f"{late}: of the error without", share, _SHARE, floor=1.0, at_most=True),
        ],
        f"Drift of {asked.head}: "
        + (f"found with {known[order[found[0]]]:,} outcomes since it began." if len(found) else "not found."),
    )


def _numbers(names: Iterable[str]) -> Ints:
    return np.unique(list(names), return_inverse=True)[1].astype(np.int64)


def _known(as_of_ms: Ints, due_ms: Ints) -> Ints:
    """How many of the sorted ``due_ms`` lay before the day of each row."""
    return np.searchsorted(due_ms, as_of_ms // DAY_MS * DAY_MS, side="right").astype(np.int64)


def _day(at_ms: int) -> int:
    return (at_ms - SIMULATION_START_MS) // DAY_MS
