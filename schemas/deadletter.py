"""A refused record: the bytes as they came, and why in headers."""

from __future__ import annotations

from typing import Final

from schemas.errors import DeadLetter
from schemas.ids import refused_id
from schemas.records import OutputRecord, RawRecord

TOPIC: Final = "dead-letter"
ORIGINAL: Final = "orig_"
#: How often a record was replayed from here; a record that comes for the first time has none.
ATTEMPT: Final = "dl_attempt"
#: ``dl_id`` of the dead letter that a replayed record comes from.
REPLAYED_FROM: Final = "dl_replayed_from"
#: The full size of a record that a dead letter truncates: ``key`` and ``value`` in bytes, number of ``headers``.
CUT: Final = "dl_cut"
MAX_DEAD_LETTER_BYTES: Final = 2 << 20
"""What the topic takes. A record of a source may be larger: Kafka's limit there is on compressed batches."""
_ROOM_BYTES: Final = 1 << 16  # for our own headers, and the record's frame
_KEPT_BYTES: Final = 1 << 16
_MAX_OURS: Final = 512  # a sender may put anything into headers that have our names
_MAX_ATTEMPTS: Final = 1_000_000


class Refused(OutputRecord, frozen=True, kw_only=True):
    """Ready for the ``dead-letter`` topic: original key, value and headers, ours in front."""

    reason: str
    offset: int
    """Of the record that was refused, in the topic it came from."""


def refuse(error: DeadLetter, topic: str, partition: int, record: RawRecord) -> Refused:
    """Wrap a record for the dead-letter topic.

    Original headers keep their names behind ``orig_``. Those that a replay had put on the record stay ours, so that a
    record that is refused again says how often it was tried. A record that is too large is truncated; the whole
    record stays at its origin for as long as that topic keeps it.
    """
    ours = [
        ("dl_id", refused_id(topic, partition, record.offset).encode()),
        ("dl_reason", error.reason.encode()),
        ("dl_error", type(error).__name__.encode()),
        ("dl_message", str(error)[:1024].encode("utf-8", "replace")),
        ("dl_topic", topic.encode()),
        ("dl_partition", str(partition).encode()),
        ("dl_offset", str(record.offset).encode()),
        ("dl_record_ts_ms", str(record.timestamp).encode()),
    ]
    key, value = record.key, record.value
    replay = [(name, raw and raw[:_MAX_OURS]) for name, raw in record.headers if name in (ATTEMPT, REPLAYED_FROM)]
    theirs = [(f"{ORIGINAL}{name}", raw) for name, raw in record.headers if name not in (ATTEMPT, REPLAYED_FROM)]
    if len(key or b"") + len(value or b"") + _size(theirs) > MAX_DEAD_LETTER_BYTES - _ROOM_BYTES:
        sizes = {"key": len(key or b""), "value": len(value or b""), "headers": len(record.headers)}
        ours.append((CUT, ", ".join(f"{name} {size}" for name, size in sizes.items()).encode()))
        key, value = key and key[:_KEPT_BYTES], value and value[:_KEPT_BYTES]
        while _size(theirs) > _KEPT_BYTES:
            del theirs[len(theirs) // 2 :]
    return Refused(TOPIC, key, value, ours + replay + theirs, reason=error.reason, offset=record.offset)


def _size(headers: list[tuple[str, bytes]]) -> int:
    return sum(len(name.encode("utf-8", "replace")) + len(raw or b"") for name, raw in headers)


def attempts(raw: bytes | None) -> int:
    """Value of the :data:`ATTEMPT` header as a number, 0 where it is absent or no number of ours.

    Example:
        >>> attempts(b"2"), attempts(None), attempts(b"often")
        (2, 0, 0)
    """
    if raw is None or len(raw) > 7 or not raw.isdigit():
        return 0
    return min(int(raw), _MAX_ATTEMPTS)
