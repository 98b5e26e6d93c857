"""Heartbeats: control records that carry event time through partitions where nothing happens.

A producer that knows how far event time has come (a replay, a scheduled job) says so on every partition of
every source topic; a quiet topic then does not hold the watermark back. The promise of a heartbeat at ``t`` is
the promise of an event at ``t``: what follows is at most the lateness bound older.

The key is reserved: no customer can be named by it. The value is not null, because a null on ``profiles``
erases. ``profiles`` is compacted, so in the long run it keeps one heartbeat per partition.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.errors import InvalidField, Malformed
from schemas.limits import TimestampMs
from schemas.nesting import too_deep

HEARTBEAT_KEY: Final = b"\x00heartbeat"
HEARTBEAT_TYPE: Final = b"pulsegraph.heartbeat"
#: Kafka headers of a heartbeat; recognising one needs the key alone.
HEARTBEAT_HEADERS: Final[tuple[tuple[str, bytes], ...]] = (("ce_type", HEARTBEAT_TYPE),)


class _Heartbeat(msgspec.Struct, frozen=True):
    event_ts_ms: TimestampMs


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Heartbeat)


def encode(event_ts_ms: int) -> tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]:
    """Key, value and headers of a heartbeat at ``event_ts_ms``.

    Example:
        >>> encode(1_500_000_000_000)[1]
        b'{"event_ts_ms":1500000000000}'
    """
    return HEARTBEAT_KEY, _encoder.encode(_Heartbeat(event_ts_ms)), HEARTBEAT_HEADERS


def event_ts_ms(value: bytes | None) -> int:
    """Event time in a heartbeat's value.

    Raises:
        InvalidField: the time is missing, no integer or beyond the limits.
        Malformed: the value is null or no JSON object.
    """
    if value is None:
        raise Malformed("a heartbeat has a null value")
    if too_deep(value):
        raise Malformed("heartbeat: nested too deeply")
    try:
        return _decoder.decode(value).event_ts_ms
    except msgspec.ValidationError as error:
        raise InvalidField(f"heartbeat: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"heartbeat: {error}") from error
