"""A prediction's snapshot, rebuilt from the log at its ``applied`` offsets by the code that made it.

A snapshot is a function of the customer's events up to ``applied`` that are not younger than ``as_of_ms``. Late ones
and duplicates among them are recognised as ingest recognises them: by the event time of their topic partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec
from msgspec import UNSET

from schemas.codec import NO_TIME_MS, DecodedEvent, msgpack_encode
from schemas.errors import ConfigError, DeadLetter
from schemas.events import SOURCES, Profile, Said, Withdrawal
from schemas.snapshot import SNAPSHOT_VERSION, Outcome, Snapshot
from schemas.topics import PREDICTION_TOPICS
from schemas.words import Words
from streams.core.config import CoreConfig
from streams.core.context import Context
from streams.core.customer import Customer
from streams.core.entries import Home, observe, read_entries
from streams.core.event import Event, event_name, uid_of
from streams.core.event_clock import EventClock
from streams.core.lateness import check_not_too_late, erased_until_ms, is_ahead, is_opt_out, opt_out_at
from streams.core.pace import is_sampled_out
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.settings.zones import INSTALLED

_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode
_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode


class SourceLogRecord(NamedTuple):
    """A :class:`schemas.records.RawRecord` of a source topic, and which topic that is."""

    source_index: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a rebuild."""

    prediction_id: str
    topic: str
    customer_id: str
    kind: str
    as_of_ms: int
    applied: dict[str, int]
    records_read: int
    same: bool
    differs_in: tuple[str, ...]
    """Fields of the snapshot that are not the same."""


def rebuild(
    snapshot: Snapshot, log: Iterable[SourceLogRecord], config: CoreConfig, home: Home | None = None
) -> Snapshot | None:
    """The snapshot as the log gives it; None where the log knows nothing of the customer.

    Args:
        snapshot: says of whom, as of when, of which kind and up to which offsets; nothing else is taken from it.
        log: the four source topics' partition, each topic in offset order, from its beginning to ``applied``.
        home: the partition that a key belongs to; absent, every record is where it belongs.
    """
    customer = customer_of_log(snapshot.customer_id, snapshot.source[1], snapshot.as_of_ms, log, config, home)
    return customer.snapshot_as(snapshot)


def customer_of_log(
    customer_id: str,
    partition: int,
    as_of_ms: int,
    log: Iterable[SourceLogRecord],
    config: CoreConfig,
    home: Home | None = None,
) -> Customer:
    """A customer whose events up to ``as_of_ms`` are those of a log; nothing of them is settled.

    Args:
        log: as in :func:`rebuild`.
        home: as in :func:`rebuild`.
    """
    customer = Customer(Context(config, Words(), partition, customer_id, INSTALLED))
    for event in _events(customer_id, partition, as_of_ms, log, config, customer, home):
        if customer.knows(event.uid) or is_sampled_out(customer.pace, event.body, event.uid, event.ingest_ms, config):
            continue
        if event.body.event_ts_ms > customer.erased_ms and event.ts_ms <= as_of_ms:
            customer.insert(event)
    return customer


def _events(
    customer_id: str,
    partition: int,
    as_of_ms: int,
    log: Iterable[SourceLogRecord],
    config: CoreConfig,
    customer: Customer,
    home: Home | None,
) -> Iterator[Event]:
    """The customer's events, late ones where their topic had come; an erasure is passed to ``customer`` on the way."""
    clocks = [EventClock(config.watermark_keys) for _ in SOURCES]
    key = customer_id.encode()
    for record in log:
        source_index = record.source_index
        clock = clocks[source_index]
        reached_ms = clock.newest_ms
        ((entry,), _) = read_entries(source_index, partition, [record], config, home)
        is_theirs = isinstance(entry, DecodedEvent) and record.key == key
        said_ms = customer.view().consent_ms if is_theirs else 0
        body = admitted(entry, record, clock, config, said_ms) if is_theirs else None
        observe(clock, record, entry)
        if not isinstance(entry, DecodedEvent) or not is_theirs:
            continue
        if entry.body is None:
            if entry.event_ts_ms <= as_of_ms:
                customer.erase(erased_until_ms(entry.event_ts_ms, reached_ms, config))
        elif body is not None:
            ts_ms = body.event_ts_ms
            event_id = entry.event_id or event_name(source_index, partition, record.offset, body)
            placed_ms = reached_ms if ts_ms < reached_ms - config.lateness_ms else ts_ms
            uid = uid_of(source_index, event_id, body)
            yield Event(placed_ms, source_index, event_id, uid, record.offset, record.timestamp, body)


def admitted(
    entry: object, record: SourceLogRecord, clock: EventClock, config: CoreConfig, said_ms: int
) -> Said | None:
    """What ingest takes of a record, before its topic's clock hears of it; None of what it refuses."""
    if not isinstance(entry, DecodedEvent) or entry.body is None:
        return None
    body, ts_ms = entry.body, entry.event_ts_ms
    try:
        if not is_opt_out(body):
            is_ahead(ts_ms, clock.newest_ms, config)
            check_not_too_late(ts_ms, clock.newest_ms, body, config)
            return body
    except DeadLetter:
        if not isinstance(body, Profile) or body.consent is UNSET:
            return None
        body, ts_ms = Withdrawal(NO_TIME_MS), NO_TIME_MS
    return opt_out_at(body, ts_ms, record.timestamp, clock, config, record.source_index, said_ms)


def check(
    reader: TopicReader,
    prefix: str,
    prediction_id: str,
    config: CoreConfig,
    *,
    customer_id: str | None = None,
    topic: str | None = None,
) -> Rebuilt:
    """Find a prediction and its snapshot, rebuild the snapshot from the log, and compare the bytes.

    Args:
        customer_id: whose prediction it is, so that one partition is searched and not all.
        topic: where to look, a key of :data:`PREDICTION_TOPICS`; everywhere where None.

    Raises:
        ConfigError: there is no such prediction or snapshot any more, or it is of another release.
    """
    found_on, prediction = _prediction(reader, prefix, prediction_id, customer_id, topic)
    if "question_id" not in prediction:
        raise ConfigError(f"{prediction_id} names no question_id: an older release made it, use that one")
    recorded = _recorded(reader, prefix, prediction)
    if recorded is None:
        raise ConfigError(
            f"the snapshot of {prediction_id} is not kept any more, or of another release: session-snapshots keeps a "
            "day, outcomes 400 days of those with a label"
        )
    snapshot = _snapshot(recorded)
    read = [0]
    partitions = reader.partitions(prefix + SOURCES[0])

    def home(record_key: bytes) -> int:
        return partition_for(record_key, partitions)

    rebuilt = rebuild(snapshot, _log(reader, prefix, snapshot, read), config, home)
    if rebuilt is None or msgpack_encode(rebuilt) != recorded:
        # Who was erased and came back has no offset of the erasure in `applied`: it is part of what was forgotten.
        again = rebuild(snapshot, _log(reader, prefix, snapshot, read, erasures=True), config, home)
        rebuilt = rebuilt if again is None else again
    if rebuilt is not None and msgpack_encode(rebuilt) == recorded:
        differs: tuple[str, ...] = ()
    elif rebuilt is None:
        differs = ("everything: the log gives no such snapshot",)
    else:
        names = Snapshot.__struct_fields__
        differs = tuple(name for name in names if getattr(rebuilt, name) != getattr(snapshot, name)) or ("encoding",)
    return Rebuilt(
        prediction_id=prediction_id,
        topic=found_on,
        customer_id=snapshot.customer_id,
        kind=snapshot.kind,
        as_of_ms=snapshot.as_of_ms,
        applied=snapshot.applied,
        records_read=read[0],
        same=not differs,
        differs_in=differs,
    )


def _prediction(
    reader: TopicReader, prefix: str, prediction_id: str, customer_id: str | None, topic: str | None
) -> tuple[str, Mapping[str, Any]]:
    wanted = prediction_id.encode()
    for name in [topic] if topic is not None else PREDICTION_TOPICS:
        partitions = reader.partitions(prefix + name)
        chosen = range(partitions) if customer_id is None else [partition_for(customer_id.encode(), partitions)]
        ends = reader.ends((prefix + name, partition) for partition in chosen)
        for (full, partition), end in ends.items():
            for message in reader.range(full, partition, 0, end):
                value = message.value()
                if value is not None and wanted in value:
                    found = msgspec.json.decode(value)
                    if found["prediction_id"] == prediction_id:
                        return name, found
    raise ConfigError(f"there is no prediction {prediction_id} on {topic or ', '.join(PREDICTION_TOPICS)}")


def _recorded(reader: TopicReader, prefix: str, prediction: Mapping[str, Any]) -> bytes | None:
    """The bytes of the snapshot that a prediction was made from."""
    partition, key = int(prediction["source"][1]), str(prediction["customer_id"]).encode()
    for topic in ("session-snapshots", "outcomes"):
        full = prefix + topic
        end = reader.ends([(full, partition)])[full, partition]
        for message in reader.range(full, partition, 0, end):
            value = message.value()
            if message.key() != key or value is None:
                continue
            try:
                snapshot = _snapshot(value) if topic == "session-snapshots" else _outcome(value).snapshot
            except msgspec.DecodeError:  # of a release with other fields
                continue
            if snapshot is None or snapshot.version != SNAPSHOT_VERSION:
                continue
            if snapshot.question_id == prediction["question_id"]:
                return msgpack_encode(snapshot)
    return None


def _log(
    reader: TopicReader, prefix: str, snapshot: Snapshot, read: list[int], *, erasures: bool = False
) -> Iterator[SourceLogRecord]:
    """The log up to ``applied``; ``erasures``: and the customer's erasures behind that, up to ``as_of_ms``."""
    partition, key = snapshot.source[1], snapshot.customer_id.encode()
    for source_index, topic in enumerate(SOURCES):
        full, applied = prefix + topic, snapshot.applied.get(topic, -1)
        stop = applied + 1
        if erasures and topic == "profiles":
            stop = reader.ends([(full, partition)])[full, partition]
        for message in reader.range(full, partition, 0, stop):
            offset, headers = int(message.offset() or 0), cast("Any", message.headers() or ())
            if offset > applied and not (message.key() == key and message.value() is None):
                continue
            read[0] += 1
            yield SourceLogRecord(
                source_index, offset, message.key(), message.value(), tuple(headers), message.timestamp()[1]
            )
