"""Hour and channel on simulated customers: whether the best slot that is true of each is among the first that are told.

The truth of the simulator knows no weekday: what is best is an hour of the day and a channel that the customer allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated
from infra.evaluate.cache import code_of, kept
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, auc, mean
from models.encoder import SIZES
from models.inference import Predictor
from models.outcomes import by_question, matured
from models.saved_model import read_card
from models.task import Encoded
from models.tasks.send_time import SendTimeScorer, SendTimeTask, answered, consented
from models.training import TrainSettings
from schemas.snapshot import Outcome, Snapshot
from streams.core.config import DAY_MS, CoreConfig
from streams.offline.training import build_vocabulary, train_on_outcomes
from streams.sources.simulate import CustomerTruth, truth
from streams.sources.simulate.campaigns import hour_match
from streams.sources.source import SIMULATION_START_MS, SimulationSource

ABOUT: Final = "hour and channel of a message, on simulated customers whose truth is known"
TOP: Final = 5
RESPONSES: Final = 20
"""Answers of a customer about whom the target speaks."""
_WANTED: Final = 0.8
_HOURS: Final = 24
_BATCH: Final = 256


@dataclass(frozen=True)
class SendTimeSpans:
    """What a test replaces by a few weeks of fewer customers."""

    plan: ReplayPlan
    responses: int = RESPONSES


_DAYS: Final = 270
SPANS: Final = SendTimeSpans(
    plan=ReplayPlan(
        data="simulation",
        seed=11,
        customers=500,
        sim_days=_DAYS,
        campaign_every_days=1,
        days_ms=(SIMULATION_START_MS + (_DAYS - 1) * DAY_MS,),
    )
)


@dataclass(frozen=True)
class _Judged:
    """Customers, their true chances and what was said of each: (N, 24 hours, C channels), -inf of what is barred."""

    names: list[str]
    true: Doubles
    told: Doubles
    people: Doubles
    responses: Ints


def run(options: EvaluationOptions, say: Say, spans: SendTimeSpans = SPANS) -> EvaluationFindings:
    """Train on what was answered until the day of asking, and judge what is said of everybody on that day."""
    found = replay(spans.plan, options.folder, say)
    (asked_ms,) = spans.plan.days_ms
    known = matured(found.outcomes, asked_ms)
    directory = _trained(found, known, asked_ms, options, say)
    predictor = Predictor.load(directory, device="cpu", threads=1)
    predictor.know(found.catalog())
    assert isinstance(found.source, SimulationSource)
    judged = _judge(predictor, found.asked, found.source.simulator.truth(), asked_ms)
    say(f"{len(judged.names):,} customers who may be sent something")
    results: list[Estimate] = []
    target = None
    for least, group in ((spans.responses, f"{spans.responses} or more answers"), (0, "everybody")):
        rows = judged.responses >= least
        if rows.sum() < 2:
            continue
        drawn = _drawn(judged, rows, options)
        name = f"customers with {group}" if least else "everybody who may be sent something"
        count = int(rows.sum())
        for what, role in (("ours", "ours"), ("best slots of everybody", "floor"), ("chance", "control")):
            label = "served model" if what == "ours" else what
            results.append(
                estimate(name, label, f"true best in top {TOP}", drawn.interval(what), rows=count, role=role)
            )
        gain = drawn.difference("ours", "best slots of everybody")
        about = "served model less everybody's best"
        results.append(estimate(name, about, f"true best in top {TOP}", gain, rows=count, role="difference"))
        results += [
            estimate(name, f"served model, {what}", measure, drawn.interval(what), rows=count, role="ours")
            for what, measure in (
                ("channel", "first slot right"),
                ("hour within 1", "first slot right"),
                ("worth", "true P(open) of the first slot over that of the best"),
            )
        ]
        if target is None and least:
            floor = drawn.values["best slots of everybody"]
            target = goal(
                f"true best in top {TOP}, customers with {group}", drawn.interval("ours"), _WANTED, floor=floor
            )
    card = read_card(directory)
    later = _later(found, asked_ms)
    curves = []
    if len(later) > 50:
        figures, curve = _calibration(predictor, later, options)
        results += figures
        curves.append(curve)
    return EvaluationFindings(
        data=(
            f"simulation, {spans.plan.customers:,} customers over {spans.plan.sim_days} days with a campaign every "
            f"{spans.plan.campaign_every_days} days, seed {spans.plan.seed}: numbers about the simulator. Trained on "
            f"{len(known):,} outcomes that were known on the day before the last, when everybody was asked about."
        ),
        results=results,
        targets=[] if target is None else [target],
        curves=curves,
        notes=[
            f"A slot is an hour of the day and a channel with consent, so {_HOURS} to {_HOURS * 3} of them: the "
            "simulator's truth knows no weekday. Told is what the model says of the next 24 hours. Chance is five "
            "slots drawn evenly; one of all 168 hours of a week would be right in 1/168.",
            "True chances are those of opening a message at the middle of the hour, with no other sent lately; the "
            "terms and coefficients are in streams/sources/simulate/truth.py.",
            *(
                f"{name}: split by {head.split}, AUC {head.model.auc or float('nan'):.3f}, calibration error "
                f"{head.model.calibration_error or float('nan'):.3f} on {head.model.rows:,} rows of the report."
                for name, head in card.report.heads.items()
            ),
            f"Model: {steps_of(directory)}.",
        ],
        models={"model": card.model_version},
    )


def _trained(found: Replay, known: Sequence[Outcome], asked_ms: int, options: EvaluationOptions, say: Say) -> Path:
    settings = TrainSettings(epochs=options.epochs, size=SIZES[options.size])

    def make(fresh: Path) -> None:
        say(f"training on {len(known):,} outcomes")
        catalog = found.catalog()
        vocabulary = build_vocabulary(found.events(asked_ms), catalog, CoreConfig())
        train_on_outcomes(
            known,
            catalog,
            vocabulary,
            fresh / "model",
            config=CoreConfig(),
            settings=settings,
            progress=lambda _share, _text: None,
        )

    key = {
        "replay": found.name,
        "until": asked_ms,
        "settings": settings,
        "code": code_of("models", "infra/evaluate/send_time.py"),
    }
    return kept(options.folder, "send-time", key, make) / "model"


def _judge(
    predictor: Predictor, asked: Sequence[Snapshot], customers: Sequence[CustomerTruth], asked_ms: int
) -> _Judged:
    """Those who may be sent something and are still there."""
    scorer = predictor.scorers[SendTimeTask.name]
    assert isinstance(scorer, SendTimeScorer)
    by_id = {customer.customer_id: customer for customer in customers}
    there = [s for s in asked if consented(s) and by_id[s.customer_id].death_ms > asked_ms]
    names = sorted(set().union(*(consented(snapshot) for snapshot in there)))
    channels = [scorer.rates.channel(name) for name in names]
    told = np.full((len(there), _HOURS, len(names)), -np.inf)
    for begin in range(0, len(there), _BATCH):
        batch = there[begin : begin + _BATCH]
        answers = scorer(predictor.encode(batch), channels)
        for row, hours in enumerate(answers.hour):
            told[begin + row, hours[:_HOURS] % _HOURS] = answers.probability[row, :_HOURS]
    true = np.array(
        [[[_open(by_id[s.customer_id], hour, name) for name in names] for hour in range(_HOURS)] for s in there]
    )
    rates = np.array([scorer.rates.channel_rates[c.place] if c.place >= 0 else scorer.rates.rate for c in channels])
    by_hour = scorer.rates.answered.reshape(7, _HOURS).mean(0)
    people = np.tile(by_hour[:, None] + np.log(rates / (1 - rates)), (len(there), 1, 1))
    for row, snapshot in enumerate(there):
        barred = [place for place, name in enumerate(names) if name not in consented(snapshot)]
        for scores in (told, true, people):
            scores[row][:, barred] = -np.inf
    responses = np.array(
        [sum(one.opened and one.send_ms < asked_ms for one in by_id[s.customer_id].responses) for s in there],
        dtype=np.int64,
    )
    return _Judged([s.customer_id for s in there], true, told, people, responses)


def _open(customer: CustomerTruth, hour: int, channel: str) -> float:
    terms = {
        "channel_match": customer.channel_preference[channel],
        "hour_match": hour_match(hour + 0.5, customer.peak_hour),
        "recent_sends": 0.0,
    }
    return truth.probability(truth.OPEN_INTERCEPT, truth.OPEN_COEFFICIENTS, terms)


def _drawn(judged: _Judged, rows: np.typing.NDArray[np.bool_], options: EvaluationOptions) -> Bootstrap:
    count = int(rows.sum())
    true, told, people = (scores[rows].reshape(count, -1) for scores in (judged.true, judged.told, judged.people))
    best = true.argmax(1)
    channels = judged.true.shape[2]
    first = told.argmax(1)
    apart = np.abs(first // channels - best // channels)
    each = np.arange(count)
    measures = {
        "ours": mean(_among(told, best)),
        "best slots of everybody": mean(_among(people, best)),
        "chance": mean(np.minimum(1.0, TOP / np.isfinite(true).sum(1))),
        "channel": mean(first % channels == best % channels),
        "hour within 1": mean(np.minimum(apart, _HOURS - apart) <= 1),
        "worth": mean(true[each, first] / true[each, best]),
    }
    return Bootstrap(measures, each, rounds=options.rounds)


def _among(scores: Doubles, best: Ints) -> Doubles:
    """(N,) whether the best is among the first few."""
    first = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return np.asarray((first == best[:, None]).any(1), dtype=np.float64)


def _later(found: Replay, asked_ms: int) -> list[Outcome]:
    """Messages whose campaigns had not ended on the day of asking, so that nothing was learned of them."""
    sent = by_question(found.outcomes, ["redemption"])["redemption"]
    return [one for one in sent if one.due_ms > asked_ms and one.as_of_ms < asked_ms - 8 * DAY_MS]


def _calibration(
    predictor: Predictor, later: Sequence[Outcome], options: EvaluationOptions
) -> tuple[list[Estimate], Curve]:
    """Of the probabilities themselves, on messages that were sent later, at their own hour and channel."""
    scorer = predictor.scorers[SendTimeTask.name]
    assert isinstance(scorer, SendTimeScorer)
    sent = [o for o in later if o.seen.candidate and o.seen.candidate.channel]
    told, labels, customers = [], [], []
    for begin in range(0, len(sent), _BATCH):
        batch = [outcome.seen for outcome in sent[begin : begin + _BATCH]]
        encoded: Encoded = predictor.encode(batch)
        told += scorer.of_sends(encoded).tolist()
        labels += [answered(outcome) or 0 for outcome in sent[begin : begin + _BATCH]]
        customers += [snapshot.customer_id for snapshot in batch]
    clusters = np.unique(customers, return_inverse=True)[1].astype(np.int64)
    label, chances = np.array(labels, dtype=np.float64), np.array(told)
    binned = calibrated.Binned(label, chances, clusters)
    drawn = Bootstrap({"auc": auc(label, chances)}, clusters, rounds=options.rounds)
    group = f"{len(sent):,} messages of later campaigns, {label.mean():.1%} answered"
    return [
        estimate(group, "served model", "AUC", drawn.interval("auc"), rows=len(sent), role="ours"),
        estimate(
            group, "served model", "calibration error", binned.error(rounds=options.rounds), rows=len(sent), role="ours"
        ),
    ], Curve(name="send time, later messages", bins=binned.curve())
