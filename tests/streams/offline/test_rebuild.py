"""Every snapshot that ingest emits can be rebuilt from the log, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Log, Worker, arrivals, log_of, sent_events

from schemas import codec, ids
from schemas.events import SOURCES
from schemas.snapshot import Snapshot
from streams.brokers.embedded import EmbeddedBroker
from streams.core.config import DAY_MS, CoreConfig
from streams.core.durable import IngestCheckpoint
from streams.kafka import admin
from streams.kafka.reader import TopicReader
from streams.offline.rebuild import SourceLogRecord, check, rebuild
from streams.sources.replay import OrderedProducer


class Keeping(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Keeps every snapshot, not only the last."""

    def __init__(self) -> None:
        self.all: list[Snapshot] = []
        super().__init__()

    def deliver(self, done: IngestCheckpoint) -> None:
        super().deliver(done)
        self.all += [*done.awaiting_label, *done.snapshots]


def _log_up_to(log: Log, applied: dict[str, int]) -> list[SourceLogRecord]:
    return [
        SourceLogRecord(source_index, record.offset, record.key, record.value, record.headers, record.timestamp)
        for source_index, topic in enumerate(SOURCES)
        for record in log[source_index][: applied.get(topic, -1) + 1]
    ]


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_any_snapshot_is_rebuilt_from_the_log_at_its_offsets(data):
    events = data.draw(sent_events())
    log = log_of(events, until_ms=max(event.ts_ms for event in events) + 40 * DAY_MS)
    worker = Keeping()
    for source_index, batch in arrivals(data.draw, log):
        worker.take(source_index, batch)
        if data.draw(st.booleans()):
            worker.checkpoint()
    worker.checkpoint()
    assert worker.all
    for snapshot in worker.all:
        found = rebuild(snapshot, _log_up_to(log, snapshot.applied), CONFIG)
        assert found is not None
        assert codec.msgpack_encode(found) == codec.msgpack_encode(snapshot), snapshot.kind


def _events() -> list:
    from support.logs import Sent

    body = {"event": "purchase", "item_id": "a", "value": 2.5}
    return [
        Sent(0, "c1", START_MS + at * DAY_MS, body | {"event_ts_ms": START_MS + at * DAY_MS, "event_id": f"e{at}"})
        for at in range(5)
    ]


@pytest.mark.broker
def test_a_prediction_on_topics_is_found_and_checked():
    log = log_of(_events(), until_ms=START_MS + 9 * DAY_MS)
    worker = Keeping()
    for source_index, records in enumerate(log):
        worker.take(source_index, records)
    worker.checkpoint()
    with EmbeddedBroker() as broker:
        client = {"bootstrap.servers": broker.bootstrap}
        admin.create_topics(admin.connect(client), prefix="r.", partitions=1)
        producer = OrderedProducer(broker.bootstrap)
        for topic, records in zip(SOURCES, log, strict=True):
            for record in records:
                producer.send("r." + topic, record.key, record.value, 0, record.headers, record.timestamp)
        for snapshot in worker.all:
            producer.send("r.session-snapshots", b"c1", codec.msgpack_encode(snapshot), 0)
            told = {
                "prediction_id": ids.prediction_id("churn", snapshot),
                "customer_id": "c1",
                "as_of_ms": snapshot.as_of_ms,
                "source": snapshot.source,
            }
            producer.send("r.predictions.churn", b"c1", codec.json_encode(told), 0)
        producer.deliver()
        with TopicReader(client) as reader:
            for snapshot in worker.all:
                name = ids.prediction_id("churn", snapshot)
                found = check(reader, "r.", name, CONFIG, customer_id="c1")
                assert found.same and found.kind == snapshot.kind and found.records_read
                assert not check(
                    reader,
                    "r.",
                    name,
                    CoreConfig(timeline_words=8),
                    topic="predictions.churn",
                ).same
