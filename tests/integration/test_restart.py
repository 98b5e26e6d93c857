"""A worker that is stopped or killed halfway leaves no trace: not in state, not in outcomes, not in predictions.

On the broker of the session, which is Apache Kafka where it can be; and once on the embedded one, which has to give the
same bytes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.brokers import HasBootstrap
from support.pipeline import Pipeline, differences, stored

from models.encoder import EncoderSize
from models.sequence import SequenceSize
from models.training import TrainSettings
from schemas.events import SOURCES
from schemas.topics import DAY_MS, TOPICS
from streams.brokers.embedded import EmbeddedBroker
from streams.core.config import CoreConfig
from streams.kafka import admin
from streams.offline.training import train_on_events
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer, publish_catalog, replay

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

FROM_MS = 1_498_867_200_000  # 2017-07-01
TO_MS = 1_514_764_800_000  # 2018-01-01
EVENTS = 21_500
SHIFT_MS = int(time.time() * 1000) - TO_MS - 3_600_000  # equal in all runs, and nothing lies in the future
#: The shifted records are half a year old, and retention would take them before they are read: Kafka looks 30 s after
#: its start and every five minutes.
KEPT = [
    msgspec.structs.replace(topic, retention_ms=None, replaced_ms=3_650 * DAY_MS) if topic.name in SOURCES else topic
    for topic in TOPICS.values()
]
PARTITIONS = 2
#: It need not be good.
SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=64, sequence=SequenceSize(recent=12, history=6, graph=8))
JUDGED = ("horizon", "send")


@pytest.fixture(scope="module")
def journey() -> CompleteJourney:
    return CompleteJourney.load()


@pytest.fixture(scope="module")
def events(journey: CompleteJourney) -> list[Any]:
    found = list(journey.events(FROM_MS, TO_MS, journey.households_for(EVENTS, FROM_MS, TO_MS)))
    assert len(found) >= 20_000
    return found


@pytest.fixture(scope="module")
def model(journey: CompleteJourney, events: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "model"
    train_on_events(
        [(record.topic, record.key, record.body, record.event_ts_ms) for record in events],
        {entry.key: entry for entry in journey.catalog()},
        directory,
        config=CoreConfig(),
        until_ms=TO_MS,
        settings=TrainSettings(epochs=1, size=SMALL),
        progress=lambda share, text: None,
    )
    return directory


class Run:
    """One replay of the same log through workers that may be disturbed; what came of it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.outcomes = pipeline.outcomes()
        self.snapshots = pipeline.last_snapshots()
        self.churn = pipeline.predictions("predictions.churn")
        self.redemption = pipeline.predictions("predictions.redemption")
        self.actions = pipeline.predictions("predictions.next-best-action")
        pipeline.stop()
        self.state = stored([pipeline.state_dir()])


Go = Callable[[str, str, Callable[[Pipeline], None]], Run]


@pytest.fixture(scope="module")
def go(journey: CompleteJourney, events: list[Any], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Go:
    def run(bootstrap: str, name: str, disturb: Callable[[Pipeline], None]) -> Run:
        client = admin.connect({"bootstrap.servers": bootstrap})
        prefix = f"restart-{name}."
        admin.create_topics(client, prefix=prefix, partitions=PARTITIONS, topics=KEPT)
        producer = OrderedProducer(bootstrap)
        publish_catalog(journey.catalog(min_sold=100), producer, partitions=PARTITIONS, prefix=prefix)
        pipeline = Pipeline(bootstrap, prefix, PARTITIONS, model, tmp_path_factory.mktemp(name))
        try:
            pipeline.start_worker()
            replaying = threading.Thread(
                target=replay,
                args=(events, producer),
                kwargs={
                    "partitions": PARTITIONS,
                    "prefix": prefix,
                    "heartbeat_ms": 6 * 3_600_000,
                    "until_ms": TO_MS,
                    "pacer": Pacer(6_000),
                    "shift_ms": SHIFT_MS,
                },
            )
            replaying.start()
            disturb(pipeline)
            replaying.join()
            pipeline.await_drained()
            return Run(pipeline)
        finally:
            pipeline.stop()
            admin.delete(client, prefix=prefix)

    return run


@pytest.fixture(scope="module")
def undisturbed(broker: HasBootstrap, go: Go) -> Run:
    return go(broker.bootstrap, "never", lambda pipeline: None)


def stop_and_kill(pipeline: Pipeline) -> None:
    pipeline.await_taken(EVENTS // 3)
    pipeline.workers[-1].stop(timeout_s=30.0)
    assert pipeline.workers[-1].returncode == 0
    pipeline.start_worker()
    pipeline.await_taken(2 * EVENTS // 3)
    pipeline.workers[-1].send_signal(signal.SIGKILL)
    pipeline.workers[-1].wait(10.0)
    pipeline.start_worker()


def lose_the_disk(pipeline: Pipeline) -> None:
    """Killed, and replaced by a worker that has nothing but the changelog."""
    pipeline.await_taken(EVENTS // 2)
    pipeline.workers[-1].send_signal(signal.SIGKILL)
    pipeline.workers[-1].wait(10.0)
    pipeline.state_dir().rename(pipeline.state_dir().with_name("lost"))
    pipeline.start_worker()


def test_a_worker_that_is_stopped_and_killed_changes_nothing(broker: HasBootstrap, go: Go, undisturbed: Run) -> None:
    assert_equal(go(broker.bootstrap, "same-disk", stop_and_kill), undisturbed)


def test_a_worker_that_loses_its_disk_on_the_embedded_broker_leaves_the_same(go: Go, undisturbed: Run) -> None:
    with EmbeddedBroker() as embedded:
        assert_equal(go(embedded.bootstrap, "embedded", lose_the_disk), undisturbed)


def assert_equal(disturbed: Run, undisturbed: Run) -> None:
    assert not differences(disturbed.state, undisturbed.state)
    assert len(undisturbed.state) > 1_000
    assert disturbed.outcomes == undisturbed.outcomes
    assert disturbed.snapshots == undisturbed.snapshots
    for head in ("churn", "redemption"):
        same_predictions(getattr(disturbed, head), getattr(undisturbed, head))
    assert newest(disturbed.actions).keys() == newest(undisturbed.actions).keys()


def same_predictions(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Judged ones are the same set, each customer's last live one is the same; ids agree within 1e-3."""
    assert expected
    assert judged(found) == judged(expected)
    assert newest(found).keys() == newest(expected).keys()
    for prediction_id in found.keys() & expected.keys():
        assert abs(said(found[prediction_id]) - said(expected[prediction_id])) < 1e-3


def said(prediction: dict[str, Any]) -> float:
    """What the model said. What outcomes made of it is as of the moment, and who was killed comes to it later."""
    applied = prediction.get("recalibration")
    probability: float = applied["model_probability"] if applied else prediction["probability"]
    return probability


def judged(predictions: dict[str, Any]) -> set[str]:
    return {key for key, prediction in predictions.items() if prediction.get("snapshot_kind") in JUDGED}


def newest(predictions: dict[str, Any]) -> dict[str, str]:
    """Prediction id -> customer, of each customer's last live prediction."""
    last: dict[str, str] = {}
    for prediction_id, prediction in predictions.items():
        if prediction.get("snapshot_kind", "event") == "event":
            last[prediction["customer_id"]] = prediction_id
    return {prediction_id: customer for customer, prediction_id in last.items()}
