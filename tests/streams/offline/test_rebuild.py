"""Every snapshot that ingest emits can be rebuilt from the log, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Log, Sent, Worker, arrivals, log_of, sent_events

from schemas import codec, ids
from schemas.errors import ConfigError
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, SOURCES
from schemas.snapshot import Outcome, Snapshot
from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.core.config import DAY_MS, CoreConfig
from streams.core.durable import IngestCheckpoint
from streams.kafka import admin
from streams.kafka.reader import TopicReader
from streams.offline.rebuild import Rebuilt, SourceLogRecord, check, rebuild
from streams.sources.replay import OrderedProducer


class Keeping(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Keeps every snapshot, not only the last."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        self.all: list[Snapshot] = []
        super().__init__(config)

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


def test_an_erasure_of_long_ago_is_rebuilt_as_it_was_taken() -> None:
    """Ingest takes all that may have settled by then, and so does the rebuild."""
    hour_ms = DAY_MS // 24
    consent = {"consent": {"email": {"marketing": True}}}

    def profile(customer: str, at_ms: int) -> Sent:
        return Sent(PROFILES, customer, at_ms, consent | {"event_ts_ms": at_ms})

    def purchase(item: str, at_ms: int) -> Sent:
        return Sent(CLICKSTREAM, "c1", at_ms, {"event": "purchase", "item_id": item, "event_ts_ms": at_ms})

    reached_ms = START_MS + 10 * hour_ms
    log = log_of(
        [
            purchase("gone", START_MS + hour_ms),
            purchase("stays", reached_ms + hour_ms),
            profile("c2", reached_ms),
            Sent(PROFILES, "c1", START_MS, None),
            profile("c1", reached_ms + 1),
        ]
    )
    worker = Keeping()
    worker.take(CLICKSTREAM, log[CLICKSTREAM][:1])
    worker.take(PROFILES, log[PROFILES])
    worker.take(CLICKSTREAM, log[CLICKSTREAM][1:])
    worker.checkpoint()
    (snapshot,) = [known for known in worker.all if known.customer_id == "c1" and known.kind == "event"]
    assert snapshot.applied == {"clickstream": 1, "profiles": 2}, "the log of the rebuild has what was erased"
    assert snapshot.count_edges("purchase>item") == 1
    assert rebuild(snapshot, _log_up_to(log, snapshot.applied), CONFIG) == snapshot


EVERY = msgspec.structs.replace(CONFIG, sample_share=1.0)
"""So that each event of an active customer is asked about."""
PREFIX = "r."


def _log() -> Log:
    bought = {"event": "purchase", "item_id": "a", "value": 2.5}
    sent_ms = START_MS + 3 * DAY_MS
    told = {"event": "send", "campaign_id": "c18", "channel": "mail", "offer_id": "o5", "send_id": "s1"}
    events = [
        Sent(CLICKSTREAM, "c1", START_MS + at * DAY_MS, bought | {"event_ts_ms": START_MS + at * DAY_MS})
        for at in range(5)
    ]
    events.append(Sent(CAMPAIGN_SENDS, "c1", sent_ms, told | {"event_ts_ms": sent_ms}))
    return log_of(events, until_ms=START_MS + 9 * DAY_MS)


def _taken(log: Log, config: CoreConfig = EVERY) -> Keeping:
    worker = Keeping(config)
    for source_index, records in enumerate(log):
        worker.take(source_index, records)
    worker.checkpoint()
    return worker


def _predicted(snapshot: Snapshot, model: str = "pg-1") -> dict[str, Any]:
    """As much of a prediction as is read of it."""
    return {
        "prediction_id": ids.prediction_id("churn", snapshot.question_id, model),
        "question_id": snapshot.question_id,
        "customer_id": snapshot.customer_id,
        "as_of_ms": snapshot.as_of_ms,
        "source": snapshot.source,
    }


class Deployment:
    """Topics of one partition."""

    def __init__(self, bootstrap: str, reader: TopicReader) -> None:
        self.bootstrap = bootstrap
        self._producer, self._reader = OrderedProducer(bootstrap), reader

    def send(self, topic: str, value: bytes, key: bytes = b"c1") -> None:
        self._producer.send(PREFIX + topic, key, value, 0)

    def tell(self, log: Log) -> None:
        for topic, records in zip(SOURCES, log, strict=True):
            for record in records:
                self._producer.send(PREFIX + topic, record.key, record.value, 0, record.headers, record.timestamp)

    def predict(self, told: dict[str, Any]) -> str:
        self.send("predictions.churn", codec.json_encode(told))
        return str(told["prediction_id"])

    def check(self, name: str, config: CoreConfig = EVERY, **said: Any) -> Rebuilt:
        self._producer.deliver()
        return check(self._reader, PREFIX, name, config, **said)


@pytest.fixture
def there() -> Iterator[Deployment]:
    with EmbeddedBroker() as broker:
        client: dict[str, Any] = {"bootstrap.servers": broker.bootstrap}
        admin.create_topics(admin.connect(client), prefix=PREFIX, partitions=1)
        with TopicReader(client) as reader:
            yield Deployment(broker.bootstrap, reader)


@pytest.mark.broker
def test_a_prediction_on_topics_is_found_and_checked(there: Deployment) -> None:
    log = _log()
    worker = _taken(log)
    assert {snapshot.kind for snapshot in worker.all} == {"event", "horizon", "send", "sample"}
    assert len({snapshot.question_id for snapshot in worker.all}) == len(worker.all)
    there.tell(log)
    there.send("session-snapshots", b"of another release")
    for snapshot in worker.all:
        there.send("session-snapshots", codec.msgpack_encode(snapshot))
    for snapshot in worker.all:
        name = there.predict(_predicted(snapshot))
        found = there.check(name, customer_id="c1")
        assert found.same and found.kind == snapshot.kind and found.records_read
        assert (found.prediction_id, found.as_of_ms, found.applied) == (name, snapshot.as_of_ms, snapshot.applied)
    for snapshot in {snapshot.kind: snapshot for snapshot in worker.all}.values():
        assert there.check(there.predict(_predicted(snapshot, "pg-2"))).same, "another model was asked the same"
        name = there.predict(_predicted(snapshot))
        other = there.check(name, msgspec.structs.replace(EVERY, timeline_words=2), topic="predictions.churn")
        assert not other.same and other.differs_in == ("recent",)


@pytest.mark.broker
def test_a_snapshot_with_a_label_is_found_among_the_outcomes(there: Deployment) -> None:
    log = _log()
    worker = _taken(log)
    there.tell(log)
    written = [msgspec.msgpack.decode(value, type=Outcome) for value in worker.outcomes.values()]
    outcomes = [outcome for outcome in written if outcome.snapshot is not None]
    assert {(outcome.head, outcome.seen.kind) for outcome in outcomes} == {
        ("churn", "horizon"),
        ("churn", "sample"),
        ("redemption", "send"),
    }
    there.send("outcomes", b"of another release")
    for outcome in written:
        there.send("outcomes", codec.msgpack_encode(outcome))
    for outcome in outcomes:
        found = there.check(there.predict(_predicted(outcome.seen)))
        assert found.same and found.kind == outcome.seen.kind


@pytest.mark.broker
def test_the_command(there: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = _log()
    worker = _taken(log, CoreConfig())
    there.tell(log)
    snapshot = next(snapshot for snapshot in worker.all if snapshot.kind == "send")
    there.send("session-snapshots", codec.msgpack_encode(snapshot))
    name = there.predict(_predicted(snapshot))
    there.check(name)  # delivers
    argv = ["replay-to", name, "--customer", "c1", "--bootstrap", there.bootstrap, "--prefix", PREFIX]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert said.startswith("predictions.churn of customer c1, send as of 2017-07-17 02:40 UTC\n")
    assert said.endswith("the same, byte for byte\n")
    monkeypatch.setenv("PULSEGRAPH_CORE_TIMELINE_WORDS", "8")
    assert cli.main([*argv, "--json"]) == 1
    assert msgspec.json.decode(capsys.readouterr().out)["differs_in"] == ["recent"]


@pytest.mark.broker
def test_what_cannot_be_checked_is_explained(there: Deployment) -> None:
    log = _log()
    there.tell(log)
    snapshot = _taken(log).all[-1]
    with pytest.raises(ConfigError, match=r"no prediction unheard-of on predictions.churn, predictions.behaviour"):
        there.check("unheard-of")
    name = there.predict(_predicted(snapshot))
    with pytest.raises(ConfigError, match=f"the snapshot of {name} is not kept any more"):
        there.check(name)
    there.send("session-snapshots", codec.msgpack_encode(msgspec.structs.replace(snapshot, version=9)))
    with pytest.raises(ConfigError, match="or of another release"):
        there.check(name)
    older = _predicted(snapshot) | {"prediction_id": "of-old"}
    del older["question_id"]
    there.predict(older)
    with pytest.raises(ConfigError, match="of-old names no question_id: an older release made it"):
        there.check("of-old")
    there.send("session-snapshots", codec.msgpack_encode(snapshot), key=b"c2")
    with pytest.raises(ConfigError, match="not kept any more"):
        there.check(name, customer_id="c1")
