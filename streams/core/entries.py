"""What the records of a batch are: events, heartbeats, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas import codec, heartbeat
from schemas.codec import NO_TIME_MS, DecodedEvent
from schemas.deadletter import Refused, refuse
from schemas.errors import DeadLetter, OutOfTime, WrongPartition
from schemas.events import SOURCES, Withdrawal
from schemas.heartbeat import HEARTBEAT_KEY
from schemas.records import RawRecord
from streams.core.config import CoreConfig
from streams.core.event_clock import EventClock

Home = Callable[[bytes], int]
"""Key -> the partition that Kafka's default partitioner puts it into."""

Entry = DecodedEvent | int | None
"""A record's event, the time of a heartbeat in ms, or None for what is refused. A refused record that may have taken
consent back has a :class:`schemas.events.Withdrawal`."""


def observe(clock: EventClock, record: RawRecord, entry: Entry) -> None:
    """Let a topic's clock hear what a record says: the lesser of its event time and its Kafka timestamp."""
    if isinstance(entry, int):
        clock.beat(min(entry, record.timestamp))
    elif entry is not None and entry.body is not None and entry.event_ts_ms != NO_TIME_MS:
        assert record.key is not None
        at_ms, sent_ms = entry.event_ts_ms, record.timestamp
        clock.confirm(record.key, at_ms if at_ms < sent_ms else sent_ms)


def _misplaced(key: bytes, partition: int, home: int) -> WrongPartition:
    codec.decode_key(key)  # what is no key says so
    return WrongPartition(
        f"the record is in partition {partition}, and its key belongs to {home}, where the customer's state is: set "
        "partitioner=murmur2_random for a client built on librdkafka (Python, Go, .NET), leave out what sets "
        "partitions, then send it again with `pulsegraph dead-letters replay --reason wrong_partition`; "
        "PULSEGRAPH_CORE_MISPLACED=accept takes records wherever they are"
    )


def read_entries(
    source_index: int, partition: int, records: Sequence[RawRecord], config: CoreConfig, home: Home | None = None
) -> tuple[list[Entry], list[Refused]]:
    """Decode records of one source topic.

    Args:
        source_index: position of the topic in :data:`schemas.events.SOURCES`.
        config: says how far an event time may be past its record's timestamp, and what becomes of records that are
            in another partition than theirs.
        home: where keys belong; absent, nobody asks.

    Returns:
        An entry for every record, and the dead letters of those that were refused.
    """
    entries: list[Entry] = []
    refused: list[Refused] = []
    decode, max_future_ms = codec.decode_event, config.max_future_ms
    if config.misplaced == "accept":
        home = None
    for record in records:
        try:
            key, timestamp = record.key, record.timestamp
            if key != HEARTBEAT_KEY:
                if home is not None and key and home(key) != partition:
                    raise _misplaced(key, partition, home(key))
                entries.append(decode(source_index, key, record.value, record.headers, timestamp, max_future_ms))
            elif (observed_ms := heartbeat.event_ts_ms(record.value)) <= timestamp + max_future_ms:
                entries.append(observed_ms)
            else:
                raise OutOfTime("a heartbeat from the future would make every event late")
        except DeadLetter as error:
            taken = error.withdraws
            entries.append(None if taken is None else DecodedEvent(taken, None, NO_TIME_MS, Withdrawal(NO_TIME_MS)))
            refused.append(refuse(error, SOURCES[source_index], partition, record))
    return entries, refused
