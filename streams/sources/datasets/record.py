"""One event on its way to a source topic, as structs or as the bytes that are produced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from schemas import cloudevents
from schemas.codec import Headers
from schemas.events import SOURCE_INDEX, Body


class SourceRecord(msgspec.Struct, frozen=True, gc=False):
    """An event with the topic and key it is produced to.

    ``body`` is None for an erasure: a null value on ``profiles``. ``event_ts_ms`` equals the body's.
    """

    topic: str
    key: str
    body: Body | None
    event_ts_ms: int


class EncodedRecord(msgspec.Struct, frozen=True, gc=False):
    """The same as bytes. Anything may be in them: this is also what broken producers send.

    ``event_ts_ms`` is the stream's event time at this record, even where the bytes say otherwise.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    event_ts_ms: int
    headers: Headers = ()


def erasure_headers(customer_id: str, event_ts_ms: int) -> Headers:
    """An erasure has no body to carry its event time."""
    return cloudevents.headers(f"erase-{customer_id}-{event_ts_ms}"[:128], "erase", event_ts_ms)


def order(record: SourceRecord) -> tuple[int, int, str, str]:
    """Sort key of a merged stream: event time, then topic source_index, event id and customer.

    Example:
        >>> order(SourceRecord("profiles", "7", None, 5))
        (5, 3, '', '7')
    """
    event_id = record.body.event_id if record.body is not None else None
    return record.event_ts_ms, SOURCE_INDEX[record.topic], event_id or "", record.key


def selected(
    records: Sequence[SourceRecord], from_ms: int | None, to_ms: int | None, keys: Collection[str] | None
) -> list[SourceRecord]:
    """Those with ``from_ms <= event time < to_ms`` and one of the keys; None bounds nothing.

    Example:
        >>> [record.key for record in selected([SourceRecord("profiles", "7", None, 5)], None, 6, None)]
        ['7']
    """
    wanted = None if keys is None else frozenset(keys)
    return [
        record
        for record in records
        if (from_ms is None or record.event_ts_ms >= from_ms)
        and (to_ms is None or record.event_ts_ms < to_ms)
        and (wanted is None or record.key in wanted)
    ]


def encoded(records: Iterable[SourceRecord]) -> Iterator[EncodedRecord]:
    """The records as they are produced: UTF-8 keys, JSON values, null for an erasure."""
    encode = msgspec.json.Encoder().encode
    for record in records:
        key = record.key.encode()
        if record.body is None:
            headers = erasure_headers(record.key, record.event_ts_ms)
            yield EncodedRecord(record.topic, key, None, record.event_ts_ms, headers)
        else:
            yield EncodedRecord(record.topic, key, encode(record.body), record.event_ts_ms)
