"""Bytes to records and back. Every refusal is a :class:`schemas.errors.DeadLetter`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from schemas import consent, errors, keys, repair
from schemas.advice import field_error
from schemas.events import (
    CAMPAIGN_SENDS,
    CLICKSTREAM_EVENTS,
    PROFILES,
    REDEMPTIONS,
    SEND_EVENTS,
    SOURCES,
    Body,
    Clickstream,
    Said,
    type_by_source,
)
from schemas.limits import MAX_EVENT_TS_MS, MAX_HEADERS_BYTES, MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MIN_EVENT_TS_MS
from schemas.names import OPT_OUTS, is_plainly_opt_out, may_opt_out, spelling
from schemas.nesting import too_deep
from schemas.rfc3339 import NotATime, parse_ms

Headers = Sequence[tuple[str, bytes]]

json_encode: Final = msgspec.json.Encoder().encode
msgpack_encode: Final = msgspec.msgpack.Encoder().encode

_decode_body: Final[tuple[Callable[[bytes], Body], ...]] = tuple(
    msgspec.json.Decoder(type_by_source[source]).decode for source in SOURCES
)
_decode_any: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode
_MAX_ID: Final = 128
_MAX_SOURCE: Final = 1_024  # a URI


#: Of an event whose own time cannot be true, and whose record has none either.
NO_TIME_MS: Final = 0


class DecodedEvent(msgspec.Struct, frozen=True, gc=False):
    """A valid event. ``body`` is None for the erasure of a customer."""

    customer_id: str
    event_id: str | None
    event_ts_ms: int
    """:data:`NO_TIME_MS` of an opt-out that happened nobody knows when."""
    body: Said | None
    repairs: tuple[str, ...] = ()
    """See :class:`schemas.repair.Repaired`."""


@lru_cache(maxsize=1 << 16)
def decode_key(key: bytes | None) -> str:
    """The customer's id from a record key.

    Raises:
        NullKey, InvalidKey: the record belongs to no customer.
    """
    if key is None:
        raise errors.NullKey("the record has no key: set it to the customer's id")
    if not key or len(key) > MAX_KEY_BYTES:
        raise errors.InvalidKey(f"a key has 1 to {MAX_KEY_BYTES} bytes, this one has {len(key)}")
    wrong = keys.wrapped(key)
    if wrong is not None:
        raise errors.InvalidKey(wrong)
    customer_id = key.decode()
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
        DeadLetter: with the class that says why. Where the record may have taken consent back, ``withdraws`` names
            the customer.

    Example:
        >>> decode_event(2, b"c1", b'{"event_ts_ms":1498867200000,"offer_id":"o"}', (), 1498867200000, 0).body.offer_id
        'o'
    """
    customer_id = decode_key(key)
    try:
        return _decode(source_index, customer_id, value, headers, record_ts_ms, max_future_ms)
    except errors.DeadLetter as error:
        if not isinstance(error, errors.KeyMismatch) and _is_about_consent(source_index, value):
            raise error.withdrawing(customer_id) from None
        raise


def _decode(
    source_index: int, customer_id: str, value: bytes | None, headers: Headers, record_ts_ms: int, max_future_ms: int
) -> DecodedEvent:
    if headers and sum(len(name) + len(header or b"") for name, header in headers) > MAX_HEADERS_BYTES:
        raise errors.Oversized(f"headers are limited to {MAX_HEADERS_BYTES} bytes")
    if value is None:
        if source_index != PROFILES:
            raise errors.UnexpectedTombstone(
                f"a null value on {SOURCES[source_index]} means nothing; only profiles erase"
            )
        return DecodedEvent(
            customer_id, _erasure_id(headers), _erasure_ts_ms(headers, record_ts_ms, max_future_ms), None
        )
    body, repairs = _decode_value(source_index, value, record_ts_ms, max_future_ms)
    if body.customer_id is not None and body.customer_id != customer_id:
        raise errors.KeyMismatch("the record key and customer_id in the body name different customers")
    _check_is_heard(source_index, value, body)
    event_ts_ms = body.event_ts_ms
    leaves = source_index == CAMPAIGN_SENDS and body.event in OPT_OUTS  # type: ignore[union-attr]
    undated = leaves and event_ts_ms == repair.UNDATED_MS
    if undated or event_ts_ms > record_ts_ms + max_future_ms:
        if not leaves:
            raise errors.OutOfTime(_ahead(event_ts_ms, record_ts_ms))
        # An opt-out needs the customer, and nothing else.
        event_ts_ms = record_ts_ms if MIN_EVENT_TS_MS <= record_ts_ms <= MAX_EVENT_TS_MS else NO_TIME_MS
        body = msgspec.structs.replace(body, event_ts_ms=event_ts_ms)
        repairs = (*repairs, "event_ts_ms converted")
    elif event_ts_ms == MAX_EVENT_TS_MS and not leaves:
        # So that an opt-out can always be put behind the consent that it takes back.
        raise errors.OutOfTime(f"event_ts_ms {event_ts_ms} is not a time in epoch milliseconds from 2000 to 2100")
    if not headers or body.event_id:
        return DecodedEvent(customer_id, body.event_id, event_ts_ms, body, repairs)
    event_id, of_headers = _cloud_event_id(headers)
    return DecodedEvent(customer_id, event_id, event_ts_ms, body, (*repairs, *of_headers))


def _ahead(event_ts_ms: int, record_ts_ms: int) -> str:
    if record_ts_ms <= 0:
        return (
            f"the record has no Kafka timestamp ({record_ts_ms}), so its time cannot be checked: let the producer set "
            "one, or set message.timestamp.type=LogAppendTime on the topic"
        )
    return (
        f"event_ts_ms {event_ts_ms} is {event_ts_ms - record_ts_ms} ms ahead of the record's Kafka timestamp: correct "
        "the clock of whoever sets it"
    )


def _is_about_consent(source_index: int, value: bytes | None) -> bool:
    """Whether a refused record may have taken consent back."""
    if value is None:
        return source_index == PROFILES  # who wants to be erased wants no mail
    fields = _object(value)
    if source_index == PROFILES:
        return fields is None or consent.speaks_of_consent(fields)
    if source_index == CAMPAIGN_SENDS:
        if fields is None or not isinstance(fields.get("event"), str):
            return may_opt_out(value)
        if repair.opt_out_of(source_index, fields) is not None:
            return True
        return spelling(fields["event"], SEND_EVENTS) is None and consent.takes_back(fields)
    return fields is not None and _misplaced_opt_out(fields.get("event"))


def _misplaced_opt_out(name: object) -> bool:
    return isinstance(name, str) and is_plainly_opt_out(name)


def _check_is_heard(source_index: int, value: bytes, body: Body) -> None:
    """Refuse a record that takes consent back where nobody would hear it.

    Raises:
        InvalidField: it says where that belongs.
    """
    name: object = None
    if source_index == PROFILES:
        fields = _object(value) or {}
        if (field := consent.unheard(fields)) is not None:
            raise errors.InvalidField(
                f"{field[:64]!r} speaks of consent, which is read from the field consent alone: channel -> purpose -> "
                "true or false"
            )
    elif isinstance(body, Clickstream):
        name = None if body.event in CLICKSTREAM_EVENTS else body.event
    elif source_index == REDEMPTIONS and b'"event"' in value:
        name = (_object(value) or {}).get("event")
    if _misplaced_opt_out(name):
        raise errors.InvalidField(f"event is {name!r}, which belongs on {SOURCES[CAMPAIGN_SENDS]}")


def _object(value: bytes) -> consent.Fields | None:
    """A record's JSON object; None where there is none."""
    if len(value) > MAX_PAYLOAD_BYTES or too_deep(value) or value.lstrip()[:1] != b"{":
        return None
    try:
        found = _decode_any(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):  # numbers beyond all bounds, perhaps
        try:
            found = repair.loosely(value)
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) else None


def _cloud_event_id(headers: Headers) -> tuple[str | None, tuple[str, ...]]:
    """CloudEvents tells events apart by source and id together: two tills may both count from 1.

    A header that does not fit is made to, and the same bytes give the same id; an empty one is none.

    Returns:
        The id, and repairs as of a :class:`DecodedEvent`.
    """
    event_id, of_id = _fit_header(headers, "ce_id", _MAX_ID)
    source, of_source = _fit_header(headers, "ce_source", _MAX_SOURCE)
    return event_id if event_id is None or source is None else f"{source} {event_id}", (*of_id, *of_source)


def _fit_header(headers: Headers, name: str, longest: int) -> tuple[str | None, tuple[str, ...]]:
    for header, raw in headers:
        if header == name:
            if not raw:
                return None, (f"{name} {consent.DROPPED}",)
            text = raw.decode(errors="backslashreplace")
            kinds = () if text.encode() == raw else (f"{name} {consent.CONVERTED}",)
            if len(text) <= longest:
                return text, kinds
            return repair.shortened(text, longest), (*kinds, f"{name} {repair.CUT}")
    return None, ()


def _erasure_id(headers: Headers) -> str | None:
    """An erasure is known by its time: an id that cannot be read is none."""
    try:
        return header_text(headers, "ce_id")
    except errors.InvalidField:
        return None


def _decode_value(
    source_index: int, value: bytes, record_ts_ms: int, max_future_ms: int
) -> tuple[Body, tuple[str, ...]]:
    if len(value) > MAX_PAYLOAD_BYTES:
        raise errors.Oversized(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes, this one has {len(value)}")
    if too_deep(value):
        raise errors.Malformed("nested too deeply")
    try:
        if not value.isascii():
            value.decode()
        body = _decode_body[source_index](value)
    except msgspec.ValidationError as error:
        return _decode_repaired(source_index, value, error, record_ts_ms, max_future_ms)
    except UnicodeError as error:
        raise errors.Malformed(f"not UTF-8: {error}") from None
    except msgspec.DecodeError as error:
        raise errors.Malformed(f"not JSON: {error}") from None
    if not isinstance(body, Clickstream) or body.event in CLICKSTREAM_EVENTS:
        return body, ()
    meant = _click_name(body.event)
    return (body, ()) if meant is None else (msgspec.structs.replace(body, event=meant), ("event converted",))


@lru_cache(maxsize=4_096)
def _click_name(name: str) -> str | None:
    """The known name that a custom one is a spelling of."""
    return spelling(name, sorted(CLICKSTREAM_EVENTS))


def _decode_repaired(
    source_index: int, value: bytes, strict: msgspec.ValidationError, record_ts_ms: int, max_future_ms: int
) -> tuple[Body, tuple[str, ...]]:
    """What the strict decoder refused, without what nobody reads; see :mod:`schemas.repair`."""
    if value.lstrip()[:1] != b"{":
        raise errors.InvalidField(f"{strict}: a record's value is one JSON object") from None
    try:
        fields = repair.loosely(value)
    except (ValueError, RecursionError) as error:
        raise errors.Malformed(f"not JSON: {error}") from None
    fit, repairs = repair.repaired(source_index, fields, record_ts_ms, max_future_ms)
    try:
        body = msgspec.convert(fit, type_by_source[SOURCES[source_index]])
        json_encode(body)
    except (msgspec.ValidationError, OverflowError) as error:
        raise field_error(source_index, fields, str(error)) from None
    except UnicodeError as error:
        raise errors.Malformed(f"not UTF-8: {error}") from None
    return body, repairs


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
        return parse_ms(text)
    except NotATime as error:
        raise errors.InvalidField(f"header ce_time: {error}") from None


def source_of(headers: Headers, name: str = "ce_source") -> str:
    """Who sent a record, as the header of this name says; ``unknown`` where it does not."""
    try:
        return header_text(headers, name, _MAX_SOURCE) or "unknown"
    except errors.InvalidField:
        return "unknown"


def decoder(record: type[Any]) -> Callable[[bytes], Any]:
    """msgpack decoder of an internal record."""
    return msgspec.msgpack.Decoder(record).decode
