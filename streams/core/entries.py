"""What the records of a batch are: events, heartbeats, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from schemas import codec, heartbeat
from schemas.codec import DecodedEvent
from schemas.deadletter import Refused, refuse
from schemas.errors import DeadLetter, OutOfTime
from schemas.events import SOURCES
from schemas.heartbeat import HEARTBEAT_KEY
from schemas.records import RawRecord
from streams.core.event_clock import EventClock

Entry = DecodedEvent | int | None
"""A record's event, the time of a heartbeat in ms, or None for what is refused."""


def observe(clock: EventClock, record: RawRecord, entry: Entry) -> None:
    """Let a topic's clock hear what a record says: the lesser of its event time and its Kafka timestamp."""
    if isinstance(entry, int):
        clock.beat(min(entry, record.timestamp))
    elif entry is not None and entry.body is not None:
        assert record.key is not None
        clock.confirm(record.key, min(entry.event_ts_ms, record.timestamp))


def read_entries(
    source_index: int, partition: int, records: Sequence[RawRecord], max_future_ms: int
) -> tuple[list[Entry], list[Refused]]:
    """Decode records of one source topic.

    Args:
        source_index: position of the topic in :data:`schemas.events.SOURCES`.
        max_future_ms: how far an event time may be past its record's timestamp.

    Returns:
        An entry for every record, and the dead letters of those that have none.
    """
    entries: list[Entry] = []
    refused: list[Refused] = []
    decode = codec.decode_event
    for record in records:
        try:
            key, timestamp = record.key, record.timestamp
            if key != HEARTBEAT_KEY:
                entries.append(decode(source_index, key, record.value, record.headers, timestamp, max_future_ms))
            elif (observed_ms := heartbeat.event_ts_ms(record.value)) <= timestamp + max_future_ms:
                entries.append(observed_ms)
            else:
                raise OutOfTime("a heartbeat from the future would make every event late")
        except DeadLetter as error:
            entries.append(None)
            refused.append(refuse(error, SOURCES[source_index], partition, record))
    return entries, refused
