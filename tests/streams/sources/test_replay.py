"""A replay against a broker and against doubles that fail: order, partitions, heartbeats, delivery."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas import heartbeat
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError, DeliveryFailed, InvalidField, Malformed, Retry, TopicMismatch
from schemas.events import SOURCES, Clickstream, Profile
from streams.kafka.partitioning import partition_for
from streams.sources.datasets.record import EncodedRecord, SourceRecord, encoded
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer, publish_catalog, replay
from streams.sources.simulate import Simulator

START_MS = 1_700_006_400_000
HOUR_MS = 3_600_000
PARTITIONS = 3


class HasBootstrap(Protocol):
    bootstrap: str


@pytest.fixture
def prefix(make_topics: Callable[[int], str]) -> str:
    """Fresh topics under a prefix of their own."""
    return make_topics(PARTITIONS)


def _create(broker: HasBootstrap, partitions_by_topic: dict[str, int]) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    topics = [NewTopic(name, count, 1) for name, count in partitions_by_topic.items()]
    for created in admin.create_topics(topics).values():
        created.result(10)
    deadline = time.monotonic() + 10
    while any(
        name not in (known := admin.list_topics().topics) or not known[name].partitions for name in partitions_by_topic
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _read(broker: HasBootstrap, topic: str, partitions: int = PARTITIONS) -> dict[int, list[Message]]:
    """Everything in a topic, by partition, in the order of the log."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(partitions)}
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        found: dict[int, list[Message]] = defaultdict(list)
        deadline = time.monotonic() + 10
        while any(len(found[partition]) < end for partition, end in ends.items()):
            assert time.monotonic() < deadline, f"{topic} ends at {ends}, read {[len(found[p]) for p in ends]}"
            for message in consumer.consume(5_000, 0.1):
                assert message.error() is None
                found[message.partition() or 0].append(message)
        return found
    finally:
        consumer.close()


def _body(event_ts_ms: int, event_id: str = "e") -> Clickstream:
    return Clickstream(event="purchase", event_ts_ms=event_ts_ms, event_id=event_id)


def test_everything_arrives_in_order_in_its_partition(broker: HasBootstrap, prefix: str) -> None:
    simulator = Simulator(3, 150, START_MS, 5, campaign_every_days=1, erased_share=0.1)
    until_ms = simulator.end_ms + 30 * HOUR_MS
    producer = OrderedProducer(broker.bootstrap)
    partitions = producer.partitions(prefix)
    assert partitions == PARTITIONS
    report = replay(simulator.records(), producer, partitions=partitions, prefix=prefix, until_ms=until_ms)

    expected: dict[tuple[str, int], list[EncodedRecord]] = defaultdict(list)
    for raw in encoded(simulator.records()):
        assert raw.key is not None
        expected[raw.topic, partition_for(raw.key, PARTITIONS)].append(raw)
    beats = 0
    for topic in SOURCES:
        for partition, messages in _read(broker, prefix + topic).items():
            events = [message for message in messages if message.key() != heartbeat.HEARTBEAT_KEY]
            assert [(m.key(), m.value()) for m in events] == [(r.key, r.value) for r in expected[topic, partition]]
            times = [heartbeat.event_ts_ms(m.value()) for m in messages if m.key() == heartbeat.HEARTBEAT_KEY]
            beats += len(times)
            assert times == sorted(times)
            assert len(set(times)) == len(times) > 5 * 20
            assert times[-1] == until_ms
            assert all(m.headers() is None or m.value() is None for m in events), "only erasures carry their time apart"
            assert all(
                m.headers() == list(heartbeat.HEARTBEAT_HEADERS) for m in messages if m.key() == heartbeat.HEARTBEAT_KEY
            )
            # What follows a heartbeat is not older than it.
            promised_ms = 0
            by_value = {raw.value: raw.event_ts_ms for raw in expected[topic, partition] if raw.value is not None}
            for message in messages:
                if message.key() == heartbeat.HEARTBEAT_KEY:
                    promised_ms = heartbeat.event_ts_ms(message.value())
                elif message.value() is not None:
                    assert by_value[message.value() or b""] >= promised_ms
    assert beats == report.heartbeats
    counts = {topic: sum(len(found) for (name, _), found in expected.items() if name == topic) for topic in SOURCES}
    assert report.produced == counts
    assert report.events == sum(counts.values())
    assert report.bytes == sum(len(r.key or b"") + len(r.value or b"") for rs in expected.values() for r in rs)
    assert report.last_event_ts_ms == max(record.event_ts_ms for record in simulator.records())
    assert report.events_per_s > 0


def test_raw_records_arrive_as_they_are(broker: HasBootstrap, prefix: str) -> None:
    records = [
        EncodedRecord("clickstream", None, b"no json", START_MS),
        EncodedRecord("profiles", b"c1", None, START_MS + 1),
        EncodedRecord("redemptions", b"\xff", b"", START_MS + 2),
    ]
    report = replay(records, OrderedProducer(broker.bootstrap), partitions=PARTITIONS, prefix=prefix, heartbeat_ms=0)
    assert report.heartbeats == 0
    for record in records:
        (message,) = [m for found in _read(broker, prefix + record.topic).values() for m in found]
        assert (message.key(), message.value()) == (record.key, record.value)


def test_cloudevents_headers_on_request(broker: HasBootstrap, prefix: str) -> None:
    records = [
        SourceRecord("clickstream", "c1", _body(START_MS, "e1"), START_MS),
        SourceRecord("profiles", "c1", Profile(event_ts_ms=START_MS, event_id="p1"), START_MS),
        SourceRecord("profiles", "c1", None, START_MS),
    ]
    producer = OrderedProducer(broker.bootstrap)
    replay(records, producer, partitions=PARTITIONS, prefix=prefix, heartbeat_ms=0, with_cloudevents=True)
    (click,) = [m for found in _read(broker, prefix + "clickstream").values() for m in found]
    headers = dict(click.headers() or [])
    assert headers["ce_id"] == b"e1"
    assert headers["ce_type"] == b"pulsegraph.purchase"
    assert headers["ce_time"] == b"2023-11-15T00:00:00.000Z"
    updated, erased = [m for found in _read(broker, prefix + "profiles").values() for m in found]
    assert dict(updated.headers() or [])["ce_id"] == b"p1"
    assert dict(erased.headers() or [])["ce_time"] == b"2023-11-15T00:00:00.000Z", "a null value has no other time"


def test_a_catalog_is_keyed_by_kind_and_id(broker: HasBootstrap, prefix: str) -> None:
    entries = Simulator(3, 1, START_MS, 30).catalog()
    producer = OrderedProducer(broker.bootstrap)
    assert publish_catalog(entries, producer, partitions=PARTITIONS, prefix=prefix) == len(entries)
    found = {
        message.key(): msgspec.json.decode(message.value() or b"", type=CatalogEntry)
        for messages in _read(broker, prefix + "catalog").values()
        for message in messages
    }
    assert found == {entry.key.encode(): entry for entry in entries}


def test_source_topics_must_have_equal_partition_counts(broker: HasBootstrap) -> None:
    name = f"t{uuid.uuid4().hex[:8]}."
    producer = OrderedProducer(broker.bootstrap, timeout_s=5)
    with pytest.raises(TopicMismatch, match="topics create"):
        producer.partitions(name)
    _create(broker, {name + topic: 1 + (topic == "profiles") for topic in SOURCES})
    with pytest.raises(TopicMismatch, match="profiles': 2"):
        producer.partitions(name)


def test_a_broker_that_is_not_there_is_a_failed_delivery() -> None:
    producer = OrderedProducer("127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(Retry, match="does not answer"):
        producer.partitions()
    with pytest.raises(DeliveryFailed):
        replay([SourceRecord("clickstream", "c", _body(START_MS), START_MS)], producer, partitions=1)


class Double:
    """A producer in memory whose queue holds ``room`` records; acknowledges on poll and flush."""

    def __init__(self, config: dict[str, Any], room: int = 10, refuse: str | None = None) -> None:
        self._report = config["on_delivery"]
        self._capacity = room
        self._refuse = refuse
        self._queued: list[tuple[str, int]] = []
        self.sent: list[tuple[str, bytes | None, bytes | None, int]] = []

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        *,
        timestamp: int = 0,
        headers: Any = None,
    ) -> None:
        if len(self._queued) >= self._capacity:
            raise BufferError
        self._queued.append((topic, partition))
        self.sent.append((topic, key, value, partition))

    def poll(self, timeout: float, /) -> int:
        for topic, partition in self._queued:
            if topic == self._refuse:
                self._report("refused", _Refused(topic, partition))
        self._queued.clear()
        return 0

    def flush(self, timeout: float, /) -> int:
        return self.poll(timeout)


class _Refused:
    def __init__(self, topic: str, partition: int) -> None:
        self._at = topic, partition

    def topic(self) -> str:
        return self._at[0]

    def partition(self) -> int:
        return self._at[1]


def _hourly(count: int) -> Iterator[SourceRecord]:
    for number in range(count):
        event_ts_ms = START_MS + number * HOUR_MS // 2
        yield SourceRecord("clickstream", f"c{number % 7}", _body(event_ts_ms, f"e{number:03d}"), event_ts_ms)


def test_a_full_queue_is_waited_for() -> None:
    doubles: list[Double] = []

    def transport(config: dict[str, Any]) -> Double:
        doubles.append(Double(config))
        return doubles[0]

    report = replay(_hourly(100), OrderedProducer("", transport=transport), partitions=2)
    assert report.events == 100
    assert report.heartbeats == 4 * 2 * (50 + 1)  # one an hour, and the last
    assert len(doubles[0].sent) == report.events + report.heartbeats


def test_a_queue_that_never_drains_is_a_failed_delivery() -> None:
    class Stuck(Double):
        def poll(self, timeout: float, /) -> int:
            return 0

    with pytest.raises(DeliveryFailed, match="full"):
        replay(_hourly(100), OrderedProducer("", transport=Stuck, timeout_s=0.05), partitions=2)


@pytest.mark.parametrize("count", [3, 20_000])
def test_a_refused_record_is_a_failed_delivery(count: int) -> None:
    producer = OrderedProducer("", transport=lambda config: Double(config, refuse="clickstream"))
    with pytest.raises(DeliveryFailed, match=r"clickstream\[0\]: refused"):
        replay(_hourly(count), producer, partitions=1)


def test_unacknowledged_records_are_a_failed_delivery() -> None:
    class Silent(Double):
        def flush(self, timeout: float, /) -> int:
            return 3

    with pytest.raises(DeliveryFailed, match="3 records"):
        replay(_hourly(1), OrderedProducer("", transport=Silent), partitions=1)


def test_an_error_of_the_client_is_a_failed_delivery() -> None:
    class Broken(Double):
        def produce(self, *args: Any, **kwargs: Any) -> None:
            raise KafkaException("message too large")

    with pytest.raises(DeliveryFailed, match="too large"):
        replay(_hourly(1), OrderedProducer("", transport=Broken), partitions=1)


def test_nothing_to_replay_is_nothing_produced() -> None:
    report = replay([], OrderedProducer("", transport=Double), partitions=2)
    assert (report.events, report.heartbeats, report.last_event_ts_ms) == (0, 0, None)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def test_a_rate_is_kept() -> None:
    clock = Clock()
    pacer = Pacer(200.0, clock=clock, sleep=clock.sleep)
    report = replay(
        _hourly(1_000), OrderedProducer("", transport=Double), partitions=1, heartbeat_ms=0, pacer=pacer, clock=clock
    )
    assert report.wall_s == pytest.approx(5.0, abs=0.05)
    assert max(clock.slept) <= 0.05


def test_a_stall_is_not_caught_up_with_a_burst() -> None:
    clock = Clock()
    pacer = Pacer(100.0, clock=clock, sleep=clock.sleep)
    clock.now_s += 60.0
    before_s = clock.now_s
    for _ in range(100):
        pacer.wait(pacer.stride)
    assert clock.now_s - before_s == pytest.approx(100 * pacer.stride / 100.0, abs=0.1)


def test_a_backlog_holds_the_replay() -> None:
    clock = Clock()
    backlog = [0, 500, 400, 90, 0]
    pacer = Pacer(backlog=lambda: backlog.pop(0), max_backlog=100, clock=clock, sleep=clock.sleep)
    pacer.wait(1)
    assert clock.slept == []
    clock.now_s += 1.0
    pacer.wait(1)
    assert len(clock.slept) == 2
    assert backlog == [0]


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="rate"):
        Pacer(rate)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, Malformed),
        (b"", Malformed),
        (b"\xff", Malformed),
        (b"{}", InvalidField),
        (b"[]", InvalidField),
        (b'{"event_ts_ms": 5}', InvalidField),
        (b'{"event_ts_ms": "x"}', InvalidField),
    ],
)
def test_a_broken_heartbeat_is_refused(value: bytes | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        heartbeat.event_ts_ms(value)


def test_heartbeats_round_trip() -> None:
    key, value, headers = heartbeat.encode(START_MS)
    assert key == heartbeat.HEARTBEAT_KEY
    assert heartbeat.event_ts_ms(value) == START_MS
    assert dict(headers) == {"ce_type": b"pulsegraph.heartbeat"}
