"""Produce any stream of source records to Kafka, in order, with heartbeats that carry event time along.

Kafka's record timestamp is the wall time of producing; event time is in the values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException

from schemas import cloudevents, heartbeat
from schemas.catalog import CatalogEntry
from schemas.errors import DeliveryFailed, TopicMismatch
from schemas.events import SOURCES
from streams.kafka import clients
from streams.kafka.partitioning import partition_for
from streams.sources.datasets.record import EncodedRecord, SourceRecord, erasure_headers
from streams.sources.pacing import Pacer

HEARTBEAT_MS: Final = 3_600_000
_FULL_QUEUE_POLL_S: Final = 0.05

Headers = Sequence[tuple[str, bytes]]


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was produced and acknowledged."""

    produced: dict[str, int]
    """Events by logical topic; heartbeats not counted."""
    heartbeats: int
    bytes: int
    """Keys and values of events."""
    wall_s: float
    last_event_ts_ms: int | None
    """Highest event time replayed; None where there was no record."""

    @property
    def events(self) -> int:
        return sum(self.produced.values())

    @property
    def events_per_s(self) -> float:
        return self.events / self.wall_s if self.wall_s > 0 else 0.0


class Transport(Protocol):
    """The part of a confluent-kafka producer that a replay uses; a test's double has it too."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        *,
        timestamp: int = 0,
        headers: Any = None,
    ) -> None: ...
    def poll(self, timeout: float, /) -> int: ...
    def flush(self, timeout: float, /) -> int: ...


class OrderedProducer:
    """A producer that keeps the order, waits while its queue is full and remembers what was not delivered.

    Args:
        bootstrap: ``host:port`` of the brokers, separated by commas.
        timeout_s: time within which a record must be acknowledged.
        config: librdkafka settings that replace ours.
        transport: stands in for the producer in tests.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        timeout_s: float = 60.0,
        config: Mapping[str, str | int | float | bool] | None = None,
        transport: Callable[[dict[str, Any]], Transport] = clients.Producer,
    ) -> None:
        self._timeout_s = timeout_s
        self._failures: list[str] = []
        self._producer = transport(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "pulsegraph-replay",
                "acks": "all",
                # One batch in flight: a retry cannot overtake, on brokers without idempotent producers too.
                "max.in.flight.requests.per.connection": 1,
                "linger.ms": 20,
                "batch.size": 1 << 20,
                "message.timeout.ms": int(timeout_s * 1000),
                "delivery.report.only.error": True,
                "on_delivery": self._on_failure,
                **(config or {}),
            }
        )

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        headers: Headers = (),
        timestamp_ms: int = 0,
    ) -> None:
        """Hand one record over; waits while the queue is full. A timestamp of 0 is the time of sending.

        Raises:
            DeliveryFailed: an earlier record was refused, or the queue does not drain.
        """
        give_up_s = 0.0
        while True:
            try:
                if headers:
                    self._producer.produce(topic, value, key, partition, timestamp=timestamp_ms, headers=list(headers))
                else:
                    self._producer.produce(topic, value, key, partition, timestamp=timestamp_ms)
                return
            except BufferError:
                give_up_s = give_up_s or time.monotonic() + self._timeout_s
                self._producer.poll(_FULL_QUEUE_POLL_S)
                if time.monotonic() > give_up_s:
                    raise DeliveryFailed(f"the producer's queue stayed full for {self._timeout_s:g} s") from None
            except KafkaException as error:
                raise DeliveryFailed(f"{topic}[{partition}]: {error}") from error
            self._check()

    def serve(self) -> None:
        """Take delivery reports; call it every few thousand records.

        Raises:
            DeliveryFailed: a record was refused.
        """
        self._producer.poll(0)
        self._check()

    def deliver(self) -> None:
        """Return once every record is acknowledged.

        Raises:
            DeliveryFailed: one was not, in time.
        """
        left = self._producer.flush(self._timeout_s)
        self._check()
        if left:
            self._check_refusal()
            raise DeliveryFailed(f"{left} records were not acknowledged within {self._timeout_s:g} s")

    def partitions(self, prefix: str = "") -> int:
        """Number of partitions that all source topics have.

        Raises:
            TopicMismatch: a topic is absent or the numbers differ.
            ConfigError: the broker refused the login.
            Retry: no broker answered.
        """
        assert isinstance(self._producer, clients.Producer), "a double has no topics"
        topics = clients.metadata(self._producer, timeout_s=self._timeout_s).topics
        counts = {
            prefix + name: len(topics[prefix + name].partitions) if prefix + name in topics else 0 for name in SOURCES
        }
        if min(counts.values()) == 0 or len(set(counts.values())) > 1:
            raise TopicMismatch(
                f"source topics need equal partition counts, found {counts}: `pulsegraph topics create`"
            )
        return next(iter(counts.values()))

    def _on_failure(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failures.append(f"{message.topic()}[{message.partition()}]: {error}")

    def _check(self) -> None:
        if self._failures:
            self._check_refusal()
            raise DeliveryFailed(f"{len(self._failures)} records were refused, the first with {self._failures[0]}")

    def _check_refusal(self) -> None:
        if isinstance(self._producer, clients.Producer):
            self._producer.refusal.check()


def replay(
    records: Iterable[SourceRecord | EncodedRecord],
    producer: OrderedProducer,
    *,
    partitions: int,
    prefix: str = "",
    heartbeat_ms: int = HEARTBEAT_MS,
    until_ms: int | None = None,
    pacer: Pacer | None = None,
    with_cloudevents: bool = False,
    shift_ms: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ReplayReport:
    """Produce ``records`` in their order and return when all are acknowledged.

    Args:
        records: in event-time order, or out of it by less than the consumers' lateness bound.
        partitions: partition count of the source topics, see :meth:`OrderedProducer.partitions`.
        prefix: stands before every topic name.
        heartbeat_ms: event time after which every partition of every source topic hears of it; 0 for never.
        until_ms: event time of the last heartbeats, so that timers due by then fire; the last event's where None.
            Not in the future of the wall clock: consumers refuse such a heartbeat.
        pacer: limits the pace; none for as fast as it goes.
        with_cloudevents: write CloudEvents headers on records that have an event id. Costs more than half
            of the speed.
        shift_ms: give records the Kafka timestamp ``event time + shift_ms`` instead of the time of sending, so that
            two replays of a stream are the same log, byte for byte. Freshness then means nothing, and the broker
            deletes what is older than a topic's retention: shift to the present.
        clock: seconds, monotonic; for the report.

    Raises:
        DeliveryFailed: not everything was acknowledged. What was is not taken back; event ids make a
            second replay harmless.
    """
    started_s = clock()
    pacer = pacer if pacer is not None else Pacer()
    encode = msgspec.json.Encoder().encode
    send = producer.send
    names = {name: prefix + name for name in SOURCES}
    produced = dict.fromkeys(SOURCES, 0)
    size = heartbeats = 0
    newest_ms = -1
    due_ms = 0 if heartbeat_ms > 0 else 1 << 62
    stride = pacer.stride
    headers: Headers = ()

    def beat(event_ts_ms: int) -> int:
        key, value, beat_headers = heartbeat.encode(event_ts_ms)
        for name in names.values():
            for partition in range(partitions):
                send(name, key, value, partition, beat_headers, 0 if shift_ms is None else event_ts_ms + shift_ms)
        return len(names) * partitions

    since_wait = 0
    for record in records:
        topic, event_ts_ms = record.topic, record.event_ts_ms
        if event_ts_ms > newest_ms:
            newest_ms = event_ts_ms
            if event_ts_ms >= due_ms:
                aligned_ms = event_ts_ms - event_ts_ms % heartbeat_ms
                heartbeats += beat(aligned_ms)
                due_ms = aligned_ms + heartbeat_ms
        if isinstance(record, SourceRecord):
            body = record.body
            key: bytes | None = record.key.encode()
            value = None if body is None else encode(body)
            if with_cloudevents and body is not None and body.event_id is not None:
                headers = cloudevents.headers(body.event_id, getattr(body, "event", topic), event_ts_ms)
            elif body is None:
                headers = erasure_headers(record.key, event_ts_ms)
            else:
                headers = ()
        else:
            key, value, headers = record.key, record.value, record.headers
        partition = partition_for(key, partitions) if key is not None else event_ts_ms % partitions
        send(names[topic], key, value, partition, headers, 0 if shift_ms is None else event_ts_ms + shift_ms)
        produced[topic] += 1
        size += len(key or b"") + len(value or b"")
        since_wait += 1
        if since_wait >= stride:
            pacer.wait(since_wait)
            producer.serve()
            since_wait = 0
    last_ms = max(newest_ms, until_ms if until_ms is not None else -1)
    if last_ms >= 0 and heartbeat_ms > 0:
        heartbeats += beat(last_ms)
    producer.deliver()
    return ReplayReport(
        produced=produced,
        heartbeats=heartbeats,
        bytes=size,
        wall_s=clock() - started_s,
        last_event_ts_ms=newest_ms if newest_ms >= 0 else None,
    )


def publish_catalog(
    entries: Iterable[CatalogEntry], producer: OrderedProducer, *, partitions: int, prefix: str = ""
) -> int:
    """Produce catalog entries, keyed ``kind:id``, and return their number when all are acknowledged.

    Raises:
        DeliveryFailed: not everything was acknowledged.
    """
    encode = msgspec.json.Encoder().encode
    count = 0
    for entry in entries:
        key = entry.key.encode()
        producer.send(prefix + "catalog", key, encode(entry), partition_for(key, partitions))
        count += 1
    producer.deliver()
    return count
