"""Behaviour from simulated events to records: the core's labels, the real trainer, and what encode publishes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from models import training
from models.encoder import EncoderSize
from models.inference import Predictor
from models.metrics import auc
from models.outcomes import by_question, matured
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.predictions import BehaviourPrediction, ChurnPrediction
from schemas.snapshot import Outcome, Snapshot
from streams.core.config import DAY_MS, CoreConfig
from streams.core.decisions import DecisionPolicy
from streams.offline.training import build_vocabulary, outcomes_of
from streams.serving.news import News
from streams.serving.predict import Predictions
from streams.sources.source import SIMULATION_START_MS, load_source

UNTIL_MS = SIMULATION_START_MS + 130 * DAY_MS
SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))


@pytest.mark.slow
def test_simulated_customers_are_learned_and_served() -> None:
    source = load_source("simulation", seed=5, customers=120, days=200)
    catalog, whole = source.catalog(), source.until_ms
    every = outcomes_of(source.history(whole), CoreConfig(), whole, lambda _share, _text: None)
    known = matured(every, UNTIL_MS)
    ticks = itertools.count()
    model = training.train(
        known, catalog, build_vocabulary(source.history(UNTIL_MS), catalog, CoreConfig()),
        clock=lambda: float(next(ticks)), settings=training.TrainSettings(epochs=1, size=SMALL), tasks=TASKS,
    )  # fmt: skip
    report = model.report.heads["behaviour"]
    assert {"repeat_purchase_7d", "churn_14d", "churn_56d"} <= report.others.keys() and report.measures

    # Of younger ones only orders that came are known.
    whole_ones = by_question(matured(every, whole), ["churn"])["churn"]
    asked = [outcome for outcome in whole_ones if outcome.as_of_ms >= UNTIL_MS and "order" in outcome.labels]
    predict = Predictions(
        Predictor(model, "test", half=False), SimpleNamespace(current=(catalog, 1)), DecisionPolicy(),
        lambda: UNTIL_MS, news=News(0.02),
    )  # fmt: skip
    told = _told(predict, [outcome.seen for outcome in asked])
    assert len(told) == len(asked) > 100, "what will be judged is always sent"
    churned = np.array([float(outcome.label) for outcome in asked])
    probability = np.array([told[outcome.question_id].churn_28d for outcome in asked])
    assert (auc(churned, probability) or 0) > 0.6
    assert abs(float(probability.mean() - churned.mean())) < 0.1
    held = [_holds(told[outcome.question_id], outcome) for outcome in asked]
    assert 0.65 < float(np.mean(held)) < 0.95, "four of five"


def _told(predict: Predictions, snapshots: list[Snapshot]) -> dict[str, BehaviourPrediction]:
    records = [record for record in predict(snapshots).records if record.topic == "predictions.behaviour"]
    found = [msgspec.json.decode(record.value or b"", type=BehaviourPrediction) for record in records]
    return {record.question_id: record for record in found}


def _holds(record: BehaviourPrediction, outcome: Outcome) -> bool:
    after_ms = outcome.labels.get("order_after_ms")
    came = float(after_ms) / DAY_MS if isinstance(after_ms, int) else np.inf
    low, high = record.next_order_from_days or np.inf, record.next_order_to_days or np.inf
    return low - 0.05 <= came <= high + 0.05


@pytest.mark.slow
def test_live_records_are_sent_where_they_say_something_new() -> None:
    """How many that is: the same customer asked again says it once, and a later day says something else."""
    from support import model_worlds as worlds

    ticks = itertools.count()
    model = training.train(
        worlds.outcomes(900), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1, size=SMALL), tasks=TASKS,
    )  # fmt: skip
    predictor = Predictor(model, "test", half=False)
    predict = Predictions(
        predictor, SimpleNamespace(current=(worlds.catalog(), 1)), DecisionPolicy(), lambda: worlds.START_MS,
        news=News(0.02),
    )  # fmt: skip
    said = [worlds.snapshot(1, as_of_ms=worlds.START_MS + step, days_since=1.0) for step in range(5)]
    records = [record for snapshot in said for record in predict([snapshot]).records]
    topics = [record.topic for record in records]
    assert topics.count("predictions.churn") == 5 and topics.count("predictions.behaviour") == 1
    assert msgspec.json.decode(records[0].value or b"", type=ChurnPrediction).snapshot_kind == "event"
    later = predict([worlds.snapshot(1, as_of_ms=worlds.START_MS + 5, days_since=25.0)]).records
    assert "predictions.behaviour" in [record.topic for record in later]
    again = predict([said[-1]], erased=["1"]).records
    assert "predictions.behaviour" in [record.topic for record in again], "who was erased is not remembered"
    predict.hand_over()
    assert "predictions.behaviour" in [record.topic for record in predict([said[-1]]).records]
