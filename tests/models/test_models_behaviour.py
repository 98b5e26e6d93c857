"""Behaviour: what outcomes tell of orders and activity, and what is said of customers."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds

from models import training
from models.hazard_lesson import _fit
from models.hazards import Hazard
from models.inference import Predictor
from models.metrics import auc
from models.survival import BINS, MOST_DAYS, survival, within
from models.task import Moment
from models.tasks import TASKS
from models.tasks.behaviour import ACTIVITY, FIRST, ORDER, BehaviourScorer, BehaviourTask, has_bought, times
from models.wide import COLUMNS, PLAIN
from schemas import features
from schemas.predictions import BehaviourPrediction
from schemas.snapshot import DAY_MS, Outcome, Snapshot

MOMENT = Moment(worlds.catalog(), 1, worlds.START_MS)
#: A long log, so that rows of every customer are there in every stage.
FOUND = worlds.outcomes(1_200)


def outcome(labels: dict[str, Any], **said: Any) -> Outcome:
    made = worlds.outcome("o", worlds.snapshot(), 0)
    found: Outcome = msgspec.structs.replace(made, labels=labels, **said)
    return found


def never_bought(snapshot: Snapshot) -> Snapshot:
    values = np.frombuffer(snapshot.features, dtype="<f4").copy()
    for days in features.HALF_LIFE_DAYS:
        values[features.INDEX[f"orders_{days}d"]] = 0.0
    return msgspec.structs.replace(snapshot, features=values.tobytes())


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    ticks = itertools.count()
    model = training.train(
        FOUND, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1), tasks=(BehaviourTask(),),
    )  # fmt: skip
    return Predictor(model, "test", half=False)


def said_of(predictor: Predictor, snapshots: list[Snapshot]) -> list[BehaviourPrediction]:
    scorer = predictor.scorers[BehaviourTask.name]
    assert isinstance(scorer, BehaviourScorer)
    return list(scorer.predictions(predictor.encode(snapshots), MOMENT))


def fresh(count: int = 300) -> list[Outcome]:
    return [found for found in worlds.outcomes(count, seed=9) if found.head == "churn"]


def test_records_agree_with_themselves(predictor: Predictor) -> None:
    for record in said_of(predictor, [found.seen for found in fresh()]):
        assert record.churn_14d >= record.churn_28d >= record.churn_56d
        repeat = (record.repeat_purchase_7d, record.repeat_purchase_14d, record.repeat_purchase_28d)
        assert None not in repeat and list(repeat) == sorted(repeat)  # type: ignore[type-var]
        middle = record.next_order_days
        if middle is not None and middle < 6.9:
            assert record.repeat_purchase_7d >= 0.5  # type: ignore[operator]
        if record.repeat_purchase_28d < 0.5:  # type: ignore[operator]
            assert middle is None or middle >= 27.9
        low, high = record.next_order_from_days, record.next_order_to_days
        assert (low or MOST_DAYS) <= (middle or MOST_DAYS) <= (high or MOST_DAYS)
        assert record.first_purchase_14d is None


def test_what_it_says_comes_true_more_often_than_not(predictor: Predictor) -> None:
    found = fresh(900)
    records = said_of(predictor, [outcome.seen for outcome in found])
    churned = np.array([float(outcome.label) for outcome in found])
    assert (auc(churned, np.array([record.churn_28d for record in records])) or 0) > 0.65
    after = np.array([float(outcome.labels.get("order_after_ms", np.inf)) for outcome in found]) / DAY_MS  # type: ignore[arg-type]
    low = np.array([record.next_order_from_days or np.inf for record in records])
    high = np.array([record.next_order_to_days or np.inf for record in records])
    assert 0.7 < float(((low <= after + 0.05) & (after <= high + 0.05)).mean()) < 0.9
    assert abs(np.mean([record.churn_28d for record in records]) - churned.mean()) < 0.06


def test_reasons_are_of_the_next_order_and_the_other_way_round_than_churns(predictor: Predictor) -> None:
    soon, late = (worlds.snapshot(days_since=days, gap=6.0) for days in (1.0, 26.0))
    one, other = said_of(predictor, [soon, late])
    assert one.repeat_purchase_14d > other.repeat_purchase_14d  # type: ignore[operator]
    recency = next(reason for reason in other.reason_codes if reason.code.startswith("RECENCY"))
    assert recency.code == "RECENCY_HIGH" and recency.weight < 0


def test_who_has_never_bought_has_no_repeat_purchase(predictor: Predictor) -> None:
    """None of them was learned of here, so nothing is said of their orders."""
    (record,) = said_of(predictor, [never_bought(worlds.snapshot())])
    assert record.repeat_purchase_28d is record.next_order_days is record.first_purchase_14d is None
    assert record.reason_codes == [] and record.churn_14d > 0
    assert has_bought([never_bought(worlds.snapshot()), worlds.snapshot()]).tolist() == [False, True]


def test_activation_is_learned_of_those_who_have_never_bought() -> None:
    found = [msgspec.structs.replace(o, snapshot=never_bought(o.seen)) if int(o.customer_id) % 2 else o for o in FOUND]
    ticks = itertools.count()
    model = training.train(
        found, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1), tasks=(BehaviourTask(),),
    )  # fmt: skip
    report = model.report.heads["behaviour"]
    assert report.others["first_purchase_14d"].rows and report.others["churn_56d"].auc
    said = said_of(Predictor(model, "test", half=False), [never_bought(o.seen) for o in fresh()])
    came = [o.labels.get("order_after_ms", np.inf) < 14 * DAY_MS for o in fresh()]  # type: ignore[operator]
    probability = np.array([record.first_purchase_14d for record in said], dtype=np.float64)
    assert (auc(np.array(came, dtype=np.float64), probability) or 0) > 0.6
    assert all(record.repeat_purchase_7d is None for record in said)


def test_orders_tell_of_56_days_and_churn_alone_of_its_horizon() -> None:
    whole = outcome({"churn": 0, "after_ms": DAY_MS, "order": 1, "order_after_ms": 30 * DAY_MS})
    other = outcome({"churn": 1, "order": 1, "order_after_ms": DAY_MS})  # where orders are no activity
    quiet = outcome({"churn": 1, "order": 0})
    young = outcome({"churn": 0, "after_ms": 2 * DAY_MS})
    silent = outcome({"churn": 1})
    found = times([whole, quiet, young, silent, other])
    assert found[ORDER].after_days.tolist() == [30, np.inf, np.inf, np.inf, 1]
    assert np.array_equal(found[ORDER].followed_days, [56, 56, np.nan, np.nan, 56], equal_nan=True)
    assert found[ACTIVITY].after_days.tolist() == [1, np.inf, 2, np.inf, np.inf]
    assert found[ACTIVITY].followed_days.tolist() == [56, 56, 28, 28, 28]
    assert np.isnan(found[FIRST].followed_days).all()


def test_where_activity_is_orders_young_rows_tell_of_orders_too() -> None:
    whole = outcome({"churn": 0, "order": 1, "order_after_ms": DAY_MS, "active_after_ms": DAY_MS})
    young = outcome({"churn": 0, "after_ms": 2 * DAY_MS})
    found = times([whole, outcome({"churn": 1, "order": 0}), young])
    assert found[ORDER].after_days.tolist() == [1, np.inf, 2]
    assert found[ORDER].followed_days.tolist() == [56, 56, 28]


def test_without_labels_of_orders_it_is_not_learned() -> None:
    plain = [msgspec.structs.replace(o, labels={o.head: o.label}) for o in FOUND]
    ticks = itertools.count()
    model = training.train(
        plain, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=0.1), tasks=TASKS,
    )  # fmt: skip
    assert model.report.left_out["behaviour"] == "no outcomes" and "behaviour" not in model.heads


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_contributions_add_up(seed: int, mixed: bool) -> None:
    """What columns add is what the wide part says beyond its base, weighted as reasons weigh the bins."""
    random = torch.Generator().manual_seed(seed)
    hazard = Hazard()
    hazard.weight.copy_(torch.randn((BINS, COLUMNS), generator=random))
    hazard.bias.copy_(torch.randn(BINS, generator=random))
    hazard.scale.fill_(0.8)
    columns = torch.randn((4, COLUMNS), generator=random)
    weights = torch.softmax(torch.randn((4, BINS), generator=random), dim=1)
    base = hazard.bias
    if mixed:
        hazard.share.fill_(0.5)
        hazard.trees.value.copy_(torch.randn(hazard.trees.value.shape, generator=random) / 50)
        hazard.trees.column[:, 0], hazard.trees.left[:, 0], hazard.trees.right[:, 0] = seed % PLAIN, 1, 2
        base = 0.5 * hazard.bias + 0.5 * hazard.trees.base
    logits = hazard(columns, torch.zeros(4, BINS))
    wanted = (weights * (logits - hazard.scale * base)).sum(1)
    same, parts = hazard.explained(columns, torch.zeros(4, BINS), lambda _: weights)
    assert same == pytest.approx(logits, abs=1e-5)
    assert parts.sum(1) == pytest.approx(wanted, abs=2e-3)


def test_true_hazards_are_found_from_rows_that_are_not_followed_to_the_end() -> None:
    """Rates that depend on a column, half of the rows followed for 28 days: curves of 56 days are the true ones."""
    random = np.random.default_rng(3)
    columns = np.zeros((12_000, COLUMNS), dtype=np.float32)
    columns[:, 0] = random.standard_normal(len(columns))
    rate = 0.06 * np.exp(0.8 * columns[:, 0])
    from models.survival import seen

    followed = np.where(random.random(len(columns)) < 0.5, 28.0, MOST_DAYS)
    fits = _fit(columns, seen(random.exponential(1 / rate), followed), np.arange(len(columns)))
    curve = survival(1 / (1 + np.exp(-np.stack([found.logits(columns) for found in fits], axis=1))))
    for days in (7, 28, 56):
        assert np.abs(within(curve, days) - -np.expm1(-rate * days)).mean() < 0.02, days
