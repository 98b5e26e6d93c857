"""The demo's sums and what it reads of a worker; the run itself is in the integration tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_model import save_small_model
from support.snapshots import plain_snapshot

from models.saved_model import CARD_FILE
from models.training import RECIPE
from schemas import codec
from schemas.ids import prediction_id
from schemas.predictions import ChurnPrediction, Prediction, RedemptionPrediction
from schemas.snapshot import LIVE_KINDS, Head, Outcome, SnapshotKind
from streams.brokers.processes import free_port
from streams.commands.demo import describe
from streams.core.quality import Quality, quality
from streams.demo import collector, run
from streams.demo.collector import Collector, percentile
from streams.demo.run import CHURN_AUC_FLOOR, EncoderShare, Summary, _steer
from streams.demo.scrape import WorkerNumbers, parse, scrape
from streams.telemetry.metrics import Metrics
from streams.telemetry.server import serve

GOOD: Final = Summary(
    events=1_000,
    applied=990,
    duplicates=7,
    dead_lettered=3,
    predictions={"predictions.churn": 400},
    events_per_s=2_000.0,
    freshness_p50_ms=80.0,
    freshness_p95_ms=200.0,
    churn_auc=0.85,
    wall_s=60.0,
    churn_scored=5_000,
    redemption_auc=None,
    redemption_scored=0,
    snapshots=500,
    encoded=400,
    coalesced=100,
    late=0,
    model_version="v1",
    broker="embedded",
    warm_events=900,
    warm_applied=898,
    warm_duplicates=1,
    warm_dead_lettered=1,
    warm_snapshots=450,
    warm_s=9.0,
    quality={
        "churn": {
            "event": Quality(
                pairs=2_000, auc=0.7, log_loss=0.15, predicted=0.01, observed=0.038, calibration_error=0.028
            ),
            "refresh": quality([]),
        }
    },
    encoder={"churn": EncoderShare(without=0.85, beside=0.853, alone=0.848, gate=1.0)},
)


def summary(**said: Any) -> Summary:
    changed: Summary = msgspec.structs.replace(GOOD, **said)
    return changed


def test_a_demo_that_worked_has_no_problems() -> None:
    assert GOOD.problems == []


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ({"applied": 989}, "applied + duplicates + dead-lettered"),
        ({"duplicates": 8}, "applied + duplicates + dead-lettered"),
        ({"warm_applied": 897}, "events of the warm-up"),
        ({"encoded": 399}, "encoded + coalesced"),
        ({"coalesced": 101}, "encoded + coalesced"),
        ({"churn_auc": CHURN_AUC_FLOOR - 0.01}, "AUC 0.790 is below 0.8"),
    ],
)
def test_what_does_not_add_up_is_named(said: dict[str, Any], part: str) -> None:
    (problem,) = summary(**said).problems
    assert part in problem
    assert f"PROBLEM: {problem}" in describe(summary(**said))


def test_every_problem_is_named() -> None:
    assert len(summary(events=0, snapshots=0, churn_auc=0.1).problems) == 3


@pytest.mark.parametrize("said", [{"churn_auc": 0.5, "churn_scored": 1_999}, {"churn_auc": None, "churn_scored": 0}])
def test_an_auc_of_few_outcomes_is_not_reported(said: dict[str, Any]) -> None:
    assert summary(**said).problems == []


def test_the_floor_itself_is_enough() -> None:
    assert summary(churn_auc=CHURN_AUC_FLOOR).problems == []


@pytest.mark.parametrize(("recipe", "cached"), [(RECIPE, True), (RECIPE - 1, False), (None, False)])
def test_a_model_of_an_older_recipe_is_trained_again(
    recipe: int | None, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = save_small_model(tmp_path / "model") / CARD_FILE
    said = json.loads(card.read_text())
    if recipe is None:
        del said["report"]["recipe"]
    else:
        said["report"]["recipe"] = recipe
    card.write_text(json.dumps(said))
    trained: list[Path] = []
    monkeypatch.setattr(run, "_train", lambda directory, small, bar: trained.append(directory))
    assert run.ensure_model(tmp_path, small=False, fresh=False, bar=object) == tmp_path / "model"
    assert trained == ([] if cached else [tmp_path / "model"])


def test_the_summary_for_a_person_says_the_sums() -> None:
    lines = "\n".join(describe(GOOD))
    assert "1,000 events produced = 990 applied + 7 duplicates + 3 dead-lettered" in lines
    assert "900 events produced = 898 applied + 1 duplicates + 1 dead-lettered, in 9 s; 450 snapshots" in lines
    assert "churn event             2,000   0.700    0.1500     0.0100    0.0380      0.0280" in lines
    assert "refresh" not in lines
    assert "500 snapshots = 400 encoded + 100 coalesced" in lines
    assert "400 records on predictions.churn" in lines
    assert "redemption - over 0" in lines
    assert "features 0.850, with the encoder 0.853 (share 1), the embedding alone 0.848" in lines
    assert "PROBLEM" not in lines


def test_the_summary_for_a_program_is_one_line() -> None:
    said = codec.json_encode(GOOD)
    assert b"\n" not in said
    assert msgspec.json.decode(said, type=Summary) == GOOD
    assert msgspec.json.decode(said)["redemption_auc"] is None


def test_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.95, 96), (0.99, 100), (1.0, 100)])
def test_percentiles_of_a_hundred(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


@given(values=st.lists(st.integers(-1_000, 1_000), min_size=1, max_size=50), share=st.floats(0, 1))
def test_a_percentile_has_its_share_below(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values)
    if share < 1:
        assert sum(value <= found for value in values) > share * len(values) - 1e-9
    assert found <= percentile(values, 1.0) == max(values)  # type: ignore[operator]


QUEUES = st.integers(0, 100_000)
RATES: Final = (400.0, 20_000.0)


@given(rate=st.floats(1, 1e6), queue=QUEUES, lag=QUEUES)
def test_the_pace_stays_within_its_bounds(rate: float, queue: int, lag: int) -> None:
    assert RATES[0] <= _steer(rate, queue, lag) <= RATES[1]


@given(rate=st.floats(*RATES), queue=QUEUES, lag=QUEUES, more=st.integers(0, 1_000))
def test_a_longer_queue_never_speeds_up(rate: float, queue: int, lag: int, more: int) -> None:
    assert _steer(rate, queue + more, lag) <= _steer(rate, queue, lag)
    assert _steer(rate, queue, lag + more) <= _steer(rate, queue, lag)


def test_the_pace_rises_while_fresh_and_falls_when_behind() -> None:
    assert _steer(1_000.0, 0, 0) > 1_000.0
    assert _steer(1_000.0, 100, 0) > 1_000.0
    assert _steer(1_000.0, 1_000, 0) < 1_000.0
    assert _steer(1_000.0, 0, 401) < 1_000.0
    rate = RATES[0]
    for _ in range(100):
        rate = _steer(rate, 0, 0)
    assert rate == RATES[1]
    for _ in range(100):
        rate = _steer(rate, 10_000, 0)
    assert rate == RATES[0]


def exposition() -> Metrics:
    """A worker's metrics after some work, with other roles' numbers beside those that count."""
    metrics = Metrics()
    for outcome, count in {"applied": 90, "duplicates": 7, "dead_lettered": 3, "late": 2, "replayed": 5}.items():
        metrics.events_total.labels(role="ingest", outcome=outcome).inc(count)
        metrics.events_total.labels(role="entities", outcome=outcome).inc(1_000)
    metrics.snapshots_total.labels(kind="event").inc(40)
    metrics.snapshots_total.labels(kind="send").inc(10)
    metrics.encode_queue(waiting=4, coalesced=6)
    metrics.encoded(0.01, [("event", 10.0)] * 25, [])
    metrics.encoded(0.01, [("horizon", 10.0)] * 15, [])
    for partition in range(3):
        metrics.restored("ingest", partition, 0, 0, 0.0)
        metrics.restored("entities", partition, 0, 0, 0.0)
        metrics.state_bytes.labels(role="ingest", partition=str(partition)).set(100)
    return metrics


EXPECTED: Final = WorkerNumbers(
    applied=90,
    duplicates=7,
    dead_lettered=3,
    late=2,
    replayed=5,
    snapshots=50,
    encoded=40,
    coalesced=6,
    queue=4,
    state_bytes=300,
    partitions=3,
)


def test_numbers_are_read_from_what_a_worker_serves() -> None:
    server = serve(exposition(), free_port())
    assert server is not None
    try:
        known = scrape(server.port)
    finally:
        server.stop()
    assert known == EXPECTED
    assert known.events == 100 and known.snapshots_waiting == 4


def test_nobody_there_is_no_number() -> None:
    assert scrape(free_port()) is None


def test_a_worker_that_did_nothing_yet_has_zeros() -> None:
    assert parse("") == WorkerNumbers()
    assert WorkerNumbers().events == WorkerNumbers().snapshots_waiting == 0


def test_large_counts_are_read_to_the_last_one() -> None:
    text = (
        "# TYPE pulsegraph_events counter\n"
        'pulsegraph_events_total{outcome="applied",role="ingest"} 1.234567e+06\n'
        'pulsegraph_events_total{outcome="applied",role="encode"} 5.0\n'
        "# TYPE other counter\nother_total 4.0\n"
    )
    assert parse(text) == WorkerNumbers(applied=1_234_567)


class Published:
    """What lies on the topics, in the place of a broker."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def put(self, topic: str, value: bytes) -> None:
        said: dict[str, Any] = {"topic": topic, "value": value, "error": None, "headers": [], "timestamp": (1, 0)}
        self.messages.append(SimpleNamespace(**{name: lambda found=found: found for name, found in said.items()}))

    def predict(self, head: Head, number: int, probability: float, kind: SnapshotKind, model: str = "v1") -> None:
        common: dict[str, Any] = {
            "prediction_id": prediction_id(head, f"q{number}", model),
            "question_id": f"q{number}",
            "customer_id": f"c{number}",
            "as_of_ms": 0,
            "model_version": model,
            "valid_until_ms": 1,
            "source": ("clickstream", 0, number),
            "event_ts_ms": 0,
            "latency_ms": 5,
            "snapshot_kind": kind,
            "probability": probability,
        }
        if head == "churn":
            made: Prediction = ChurnPrediction(**common, horizon_days=28)
        else:
            made = RedemptionPrediction(**common, campaign_id="x")
        self.put(f"predictions.{head}", codec.json_encode(made))

    def answer(self, head: Head, number: int, label: int, kind: SnapshotKind = "horizon") -> None:
        outcome = Outcome(
            question_id=f"q{number}",
            head=head,
            labels={head: label},
            due_ms=10,
            resolved_ms=10,
            customer_id="c",
            as_of_ms=0,
            snapshot=plain_snapshot(kind=kind),
        )
        self.put("outcomes", codec.msgpack_encode(outcome))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    found = Published()

    def available(*_: object) -> list[Any]:
        taken, found.messages = found.messages, []
        return taken

    monkeypatch.setattr(collector, "available", available)
    monkeypatch.setattr(collector, "Consumer", lambda _: SimpleNamespace(assign=lambda _: None, close=lambda: None))
    return found


def collected(published: Published) -> Collector:
    found = Collector({}, "", 1)
    found.start()
    found.stop()
    assert found.failure is None
    return found


@pytest.mark.parametrize("kind", [kind for kind in get_args(SnapshotKind) if kind != "send"])
def test_questions_are_scored_and_what_is_live_is_timed(published: Published, kind: SnapshotKind) -> None:
    for number, label in enumerate([0, 0, 1, 1]):
        published.predict("churn", number, 0.2 * number, kind)
        published.answer("churn", number, label, kind)
    found = collected(published)
    assert found.predictions == {"predictions.churn": 4}
    live = kind in LIVE_KINDS
    assert found.score(10)["churn"] == ((None, 0) if live else (1.0, 4))
    assert len(found.freshness_ms) == (4 if live else 0)


def test_a_question_of_both_heads_has_two_answers(published: Published) -> None:
    for number, label in enumerate([0, 1]):
        published.predict("churn", number, 0.9 - 0.5 * number, "horizon")
        published.predict("redemption", number, 0.1 + 0.5 * number, "send")
        published.answer("churn", number, label)
        published.answer("redemption", number, label, "send")
    assert collected(published).score(10) == {"churn": (0.0, 2), "redemption": (1.0, 2)}


def test_a_repeated_prediction_counts_once_and_one_of_another_model_again(published: Published) -> None:
    for model in ("v1", "v1", "v2"):
        published.predict("churn", 1, 0.5, "horizon", model)
    published.answer("churn", 1, 1)
    found = collected(published)
    assert (found.predictions.total(), found.repeated) == (2, 1)
    assert found.score(10)["churn"] == (None, 1), "it is one question"
