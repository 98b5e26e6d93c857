"""Bytes to records and back. Every refusal is a :class:`schemas.errors.DeadLetter`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from schemas import errors
from schemas.events import PROFILES, SOURCES, Body, type_by_source
from schemas.limits import MAX_EVENT_TS_MS, MAX_HEADERS_BYTES, MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MIN_EVENT_TS_MS
from schemas.nesting import too_deep

Headers = Sequence[tuple[str, bytes]]

json_encode: Final = msgspec.json.Encoder().encode
msgpack_encode: Final = msgspec.msgpack.Encoder().encode

_decode_body: Final[tuple[Callable[[bytes], Body], ...]] = tuple(
    msgspec.json.Decoder(type_by_source[source]).decode for source in SOURCES
)
_MAX_ID: Final = 128
_MAX_SOURCE: Final = 1_024  # a URI


class DecodedEvent(msgspec.Struct, frozen=True, gc=False):
    """A valid event. ``body`` is None for the erasure of a customer."""

    customer_id: str
    event_id: str | None
    event_ts_ms: int
    body: Body | None


def decode_key(key: bytes | None) -> str:
    """The customer's id from a record key.

    Raises:
        NullKey, InvalidKey: the record belongs to no customer.
    """
    if key is None:
        raise errors.NullKey("the record has no key: set it to the customer's id")
    if not key or len(key) > MAX_KEY_BYTES:
        raise errors.InvalidKey(f"a key has 1 to {MAX_KEY_BYTES} bytes, this one has {len(key)}")
    try:
        customer_id = key.decode()
    except UnicodeDecodeError as error:
        raise errors.InvalidKey(f"the key is not UTF-8: {error}") from None
    if len(customer_id) > _MAX_ID:
        raise errors.InvalidKey(f"a customer id has at most {_MAX_ID} characters, this one has {len(customer_id)}")
    return customer_id


def decode_event(
    source_index: int, key: bytes | None, value: bytes | None, headers: Headers, record_ts_ms: int, max_future_ms: int
) -> DecodedEvent:
    """Validate one record of a source topic.

    Args:
        source_index: position of the topic in :data:`schemas.events.SOURCES`.
        record_ts_ms: the record's Kafka timestamp. Time bounds are checked against it and not against a
            clock, so that the verdict on a record never changes.

    Raises:
        DeadLetter: with the class that says why.

    Example:
        >>> decode_event(2, b"c1", b'{"event_ts_ms":1498867200000,"offer_id":"o"}', (), 1498867200000, 0).body.offer_id
        'o'
    """
    customer_id = decode_key(key)
    if headers and sum(len(name) + len(header or b"") for name, header in headers) > MAX_HEADERS_BYTES:
        raise errors.Oversized(f"headers are limited to {MAX_HEADERS_BYTES} bytes")
    if value is None:
        if source_index != PROFILES:
            raise errors.UnexpectedTombstone(
                f"a null value on {SOURCES[source_index]} means nothing; only profiles erase"
            )
        return DecodedEvent(
            customer_id, header_text(headers, "ce_id"), _erasure_ts_ms(headers, record_ts_ms, max_future_ms), None
        )
    body = _decode_value(source_index, value)
    if body.customer_id is not None and body.customer_id != customer_id:
        raise errors.KeyMismatch("the record key and customer_id in the body name different customers")
    event_ts_ms = body.event_ts_ms
    if event_ts_ms > record_ts_ms + max_future_ms:
        raise errors.OutOfTime(f"event_ts_ms {event_ts_ms} is {event_ts_ms - record_ts_ms} ms ahead of the record")
    event_id = body.event_id or (_cloud_event_id(headers) if headers else None)
    return DecodedEvent(customer_id, event_id, event_ts_ms, body)


def _cloud_event_id(headers: Headers) -> str | None:
    """CloudEvents tells events apart by source and id together: two tills may both count from 1."""
    event_id, source = header_text(headers, "ce_id"), header_text(headers, "ce_source", _MAX_SOURCE)
    return event_id if event_id is None or source is None else f"{source} {event_id}"


def _decode_value(source_index: int, value: bytes) -> Body:
    if len(value) > MAX_PAYLOAD_BYTES:
        raise errors.Oversized(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes, this one has {len(value)}")
    if too_deep(value):
        raise errors.Malformed("nested too deeply")
    try:
        if not value.isascii():
            value.decode()
        return _decode_body[source_index](value)
    except msgspec.ValidationError as error:
        raise _field_error(value, error) from None
    except UnicodeError as error:
        raise errors.Malformed(f"not UTF-8: {error}") from None
    except msgspec.DecodeError as error:
        raise errors.Malformed(f"not JSON: {error}") from None


def _field_error(value: bytes, error: msgspec.ValidationError) -> errors.DeadLetter:
    """A wrong field; a wrong time has a class of its own, because it is a producer's clock and not its schema."""
    if "event_ts_ms" in str(error):
        try:
            ts_ms = msgspec.json.decode(value).get("event_ts_ms")
        except (msgspec.DecodeError, AttributeError, UnicodeError):
            ts_ms = None
        if (
            isinstance(ts_ms, int | float)
            and not isinstance(ts_ms, bool)
            and not MIN_EVENT_TS_MS <= ts_ms <= MAX_EVENT_TS_MS
        ):
            return errors.OutOfTime(f"event_ts_ms {ts_ms} is not a time in epoch milliseconds")
    return errors.InvalidField(str(error))


def header_text(headers: Headers, name: str, longest: int = _MAX_ID) -> str | None:
    """Value of a CloudEvents header, None where absent.

    Raises:
        InvalidField: not UTF-8, empty, or longer than ``longest`` characters.
    """
    for header, raw in headers:
        if header == name:
            try:
                text = raw.decode()
            except (UnicodeDecodeError, AttributeError):
                raise errors.InvalidField(f"header {name} is not UTF-8 text") from None
            if not 0 < len(text) <= longest:
                raise errors.InvalidField(f"header {name} has {len(text)} characters; 1 to {longest} are allowed")
            return text
    return None


def _erasure_ts_ms(headers: Headers, record_ts_ms: int, max_future_ms: int) -> int:
    """Event time of an erasure: ``ce_time`` where given, else the record's timestamp.

    Raises:
        OutOfTime: it would erase nothing, or everything that is still to come.
        InvalidField: no time.
    """
    text = header_text(headers, "ce_time")
    ts_ms = record_ts_ms if text is None else _header_ms(text)
    if not MIN_EVENT_TS_MS <= ts_ms <= MAX_EVENT_TS_MS or ts_ms > record_ts_ms + max_future_ms:
        raise errors.OutOfTime(f"an erasure at {ts_ms} ms, in a record of {record_ts_ms} ms, cannot be true")
    return ts_ms


def _header_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise errors.InvalidField(f"header ce_time is not an RFC 3339 time: {text!r}") from None
    if moment.tzinfo is None:
        raise errors.InvalidField(f"header ce_time has no UTC offset: {text!r}")
    return int(moment.timestamp() * 1000)


def decoder(record: type[Any]) -> Callable[[bytes], Any]:
    """msgpack decoder of an internal record."""
    return msgspec.msgpack.Decoder(record).decode
