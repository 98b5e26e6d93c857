"""A few simulated customers through the whole of an evaluation, and what keeps its results honest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from infra.evaluate import NAMES, behaviour, cache, calibration, churn, drift, journey, module_of, trained
from infra.evaluate.asked import asked_rows
from infra.evaluate.floors import FEATURES, Activity, hand_made, visits_of
from infra.evaluate.page import page
from infra.evaluate.purchases import Purchases, read_purchases
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import (
    EvaluationOptions,
    EvaluationReport,
    Goal,
    markdown,
    read_reports,
    report_of,
    write_reports,
)
from infra.evaluate.shelves import NEVER_DAYS, Shelf
from models import saved_model
from schemas.errors import Stop
from schemas.events import Clickstream
from schemas.snapshot import HOUR_MS
from streams.core.config import DAY_MS, CoreConfig
from streams.offline.training import outcomes_of
from streams.sources.source import SIMULATION_START_MS

START = SIMULATION_START_MS
TRAIN_DAYS = tuple(START + day * DAY_MS for day in (35, 42, 49))
TEST_DAYS = tuple(START + day * DAY_MS for day in (84, 91))
PLAN = ReplayPlan(
    data="simulation",
    seed=3,
    customers=60,
    sim_days=125,
    days_ms=TRAIN_DAYS + TEST_DAYS,
    active_within_ms=28 * DAY_MS,
    live_from_ms=START + 80 * DAY_MS,
    live_until_ms=START + 96 * DAY_MS,
    live_in=2,
)


def quiet(text: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def found(folder: Path) -> Replay:
    return replay(PLAN, folder, quiet)


@pytest.mark.slow
def test_outcomes_are_those_of_a_replay_that_asks_nothing(found: Replay) -> None:
    until_ms = found.source.until_ms
    plain = outcomes_of(found.events(until_ms), CoreConfig(), until_ms, lambda _share, _text: None)
    assert len(plain) > 200
    assert sorted(plain, key=lambda o: (o.resolved_ms, o.outcome_id)) == found.outcomes


@pytest.mark.slow
def test_a_replay_is_made_once(found: Replay, folder: Path) -> None:
    again = replay(PLAN, folder, pytest.fail)
    assert again.folder == found.folder and again.asked == found.asked
    assert cache.code_of("schemas") != cache.code_of("models")


@pytest.mark.slow
def test_days_hold_everybody_who_is_active_and_nothing_from_after(found: Replay) -> None:
    bought = found.purchases
    rows = asked_rows(found, Activity(bought), TEST_DAYS, 28)
    assert len(rows.snapshots) > 40
    recency = hand_made(visits_of(bought), rows.customer, rows.as_of_ms)[:, FEATURES.index("recency")]
    known = [np.frombuffer(snapshot.features, dtype="<f4")[0] for snapshot in rows.snapshots]
    assert recency == pytest.approx(known, abs=1e-3), "the core and the floor see the same past"
    assert {snapshot.kind for snapshot in rows.snapshots} == {"refresh"}


@pytest.mark.slow
def test_labels_of_questions_are_those_of_the_log(found: Replay) -> None:
    chosen = [outcome for outcome in found.outcomes if outcome.head == "churn" and outcome.seen.kind == "horizon"]
    activity = Activity(found.purchases)
    customer = found.purchases.number_of(outcome.customer_id for outcome in chosen)
    as_of_ms = np.array([outcome.as_of_ms for outcome in chosen])
    churned = ~activity.any(customer, as_of_ms, as_of_ms + 28 * DAY_MS)
    assert churned.tolist() == [bool(outcome.label) for outcome in chosen]


@pytest.fixture(scope="module")
def report(folder: Path, found: Replay) -> EvaluationReport:
    pytest.importorskip("lightgbm")
    spans = churn.ChurnSpans(
        plan=PLAN,
        model_until_ms=START + 80 * DAY_MS,
        train_days=TRAIN_DAYS,
        test_days=TEST_DAYS,
        end_ms=START + 125 * DAY_MS,
        trees=20,
    )
    options = EvaluationOptions(folder=folder, epochs=1, rounds=20)
    return report_of("churn", churn.run(options, quiet, spans), command="a test", date="2026-11-27", seconds=1.0)


@pytest.mark.slow
def test_behaviour_end_to_end(folder: Path, found: Replay) -> None:
    pytest.importorskip("lightgbm")
    spans = behaviour.BehaviourSpans(
        plan=PLAN,
        model_until_ms=START + 80 * DAY_MS,
        train_from_ms=START + 20 * DAY_MS,
        test_days=TEST_DAYS,
        end_ms=START + 125 * DAY_MS,
        trees=20,
    )
    options = EvaluationOptions(folder=folder, epochs=1, rounds=20)
    made = behaviour.run(options, quiet, spans)
    groups = {row.group.partition(":")[0] for row in made.results}
    assert groups == {"repeat purchase within 14 days", "repeat purchase within 28 days", "churn in 14 days"}
    for row in made.results:
        assert row.rows > 20 and np.isfinite(row.value), row
    pair = {row.name: row.value for row in made.results if row.group.startswith("churn in 14") and row.measure == "AUC"}
    assert pair["served model less LightGBM, hand-made features, daily"] == pytest.approx(
        pair["served model"] - pair["LightGBM, hand-made features, daily"]
    )
    report_of("behaviour", made, command="a test", date="2026-11-27", seconds=1.0)


@pytest.mark.slow
def test_churn_end_to_end(report: EvaluationReport) -> None:
    names = {row.name for row in report.results if row.measure == "AUC"}
    assert {"served model", "LightGBM, hand-made features, daily", "embedding alone, features masked"} <= names
    for row in report.results:
        assert row.rows > 20 and np.isfinite(row.value), row
        if row.low is not None and row.high is not None:
            assert row.low <= row.high, row
    assert {target.name for target in report.targets} >= {"served model less the good LightGBM, AUC"}
    assert report.models["model"].startswith("pg-")


@pytest.mark.slow
def test_calibration_end_to_end(folder: Path, found: Replay) -> None:
    spans = calibration.CalibrationSpans(plan=PLAN, model_until_ms=START + 80 * DAY_MS, end_ms=START + 125 * DAY_MS)
    options = EvaluationOptions(folder=folder, epochs=1, rounds=20)
    findings = calibration.run(options, quiet, spans)
    expected = [f"{name}, {kind}" for kind in calibration.KINDS for name in ("served", "model alone")]
    assert [curve.name for curve in findings.curves] == expected
    assert len(findings.targets) == 9


@pytest.mark.slow
def test_drift_end_to_end(folder: Path) -> None:
    plan = msgspec.structs.replace(
        PLAN, days_ms=(), live_in=10**6, sim_days=200, leave_from_ms=START + 90 * DAY_MS, leave_days=30.0
    )
    spans = drift.DriftSpans(plan=plan, model_until_ms=START + 60 * DAY_MS, outcomes=(1, 40), sent_customers=4_000)
    options = EvaluationOptions(folder=folder, epochs=1, rounds=20)
    findings = drift.run(options, quiet, spans)
    groups = {row.group.partition(":")[0]: row.group for row in findings.results}
    assert [group for group in groups if group.startswith("churn")] == [
        "churn, before the drift", "churn, no outcome since", "churn, 1 to 39 outcomes since",
        "churn, 40 and more outcomes since",
    ]  # fmt: skip
    gaps = {(row.group, row.name): row.value for row in findings.results if row.measure == "mean gap"}
    late = groups["churn, 40 and more outcomes since"]
    assert gaps[late, "model"] < -0.1, "more leave than it learned"
    assert gaps[late, "model"] < gaps[late, "recalibrated"]
    met = {target.name: target.met for target in findings.targets}
    assert met["redemption, after 5,000 outcomes: of the error without"], findings.targets
    # The target is 0.02. It is missed since the pull towards the identity is 40 (docs/log.md): 0.033 of 0.147.
    error = next(target.value for target in findings.targets if target.name.startswith("redemption, after 5,000"))
    assert error < 0.035
    left = replay(plan, folder, quiet)
    last_ms = max(event[3] for event in left.events(left.source.until_ms))
    assert last_ms < max(event[3] for event in left.source.history(left.source.until_ms))
    with pytest.raises(Stop, match="more customers"):
        drift.run(options, quiet, dataclasses.replace(spans, outcomes=(1, 100_000)))


@pytest.mark.slow
def test_reports_are_written_and_read_again(report: EvaluationReport, tmp_path: Path) -> None:
    text, html = (path.read_text() for path in write_reports(tmp_path, [report]))
    assert "| served model | ours | AUC |" in text
    assert html.count("<svg") > 4 and "<script" not in html and "http" not in html.replace("https://", "")
    lines = tmp_path / "evaluation.jsonl"
    older = msgspec.structs.replace(report, date="2026-11-01")
    lines.write_bytes(msgspec.json.encode(older) + b"\n" + msgspec.json.encode(report))
    assert read_reports(lines) == [report], "the newest of each evaluation"
    assert next(markdown(report)) == "### churn"
    assert page([report]).startswith("<!doctype html>")


@pytest.mark.slow
def test_a_random_encoder_is_another_model_with_the_same_heads(report: EvaluationReport, folder: Path) -> None:
    models = sorted((folder / "models").glob("*/model"))
    random = trained.randomised(models[0], 0, folder)
    assert random != models[0] and trained.randomised(models[0], 0, folder) == random
    one, other = (saved_model.load(path)[0] for path in (models[0], random))
    weights = [(a, b) for a, b in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True)]
    # A table of one row of zeros, which nobody reads, stays one: the body's own words.
    assert all(not bool((a == b).all()) for a, b in weights if a.dim() > 1 and bool(a.any()))
    assert all(bool((a == b).all()) for a, b in zip(one.heads.parameters(), other.heads.parameters(), strict=True))


def test_every_evaluation_is_a_module() -> None:
    import importlib

    for name in NAMES:
        module = importlib.import_module(module_of(name))
        assert module.ABOUT and callable(module.run)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "surely", "met"),
    [(-1.0, 3.0, False, False, True), (-1.0, 3.0, False, True, False), (0.5, 3.0, False, True, True),
     (-1.0, 3.0, True, False, False), (-2.0, -0.5, True, True, True)],
)  # fmt: skip
def test_a_goal_is_met_by_its_value_or_surely(low: float, high: float, at_most: bool, surely: bool, met: bool) -> None:
    value = (low + high) / 2
    found = Goal(name="a", value=value, low=low, high=high, floor=None, target=0.0, at_most=at_most, surely=surely)
    assert found.met is met


def _bought(*lines: tuple[str, int, str, str]) -> Purchases:
    events = [
        (
            "clickstream",
            customer,
            Clickstream(event="purchase", event_ts_ms=at_ms, event_id=str(n), category=category, order_id=order),
            at_ms,
        )
        for n, (customer, at_ms, category, order) in enumerate(lines)
    ]
    return read_purchases(events)


def test_a_shelf_counts_a_visit_once_and_never_the_future() -> None:
    day = journey.day_ms("2017-03-01")
    bought = _bought(
        ("a", day - 14 * DAY_MS, "milk", "1"),
        ("a", day - 14 * DAY_MS, "milk", "1"),
        ("a", day, "bread", "2"),
        ("b", day + 13 * DAY_MS, "milk", "1"),
        ("b", day + 14 * DAY_MS + HOUR_MS, "bread", "4"),
    )
    shelf = Shelf(bought, bought.category, np.array([1, 0]))  # milk, bread
    customer, as_of_ms = np.array([0, 1]), np.array([day, day])
    milk, bread = shelf.features(customer, as_of_ms)[0]
    assert milk == pytest.approx([0.5, 2 ** (-14 / 60), 14.0])
    assert bread.tolist() == [0.0, 0.0, NEVER_DAYS]
    assert shelf.features(customer, as_of_ms)[1, :, 0].tolist() == [0.0, 0.0]
    assert shelf.labels(customer, as_of_ms, 14).tolist() == [[False, True], [True, False]]
