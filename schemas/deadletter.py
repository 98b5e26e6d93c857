"""A refused record: the bytes as they came, and why in headers."""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.codec import Headers
from schemas.errors import DeadLetter
from schemas.ids import refused_id

ORIGINAL: Final = "orig_"
#: How often a record was replayed from here; a record that comes for the first time has none.
ATTEMPT: Final = "dl_attempt"
#: ``dl_id`` of the letter that a replayed record comes from.
REPLAYED_FROM: Final = "dl_replayed_from"
_MAX_ATTEMPTS: Final = 1_000_000


class Refused(NamedTuple):
    """Ready for the ``dead-letter`` topic: original key, value and headers, ours in front."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    reason: str


def refuse(
    error: DeadLetter,
    topic: str,
    partition: int,
    offset: int,
    record_ts_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> Refused:
    """Wrap a record for the dead-letter topic.

    Original headers keep their names behind ``orig_``. Those that a replay had put on the record stay ours, so that a
    record that is refused again says how often it was tried.
    """
    ours = [
        ("dl_id", refused_id(topic, partition, offset).encode()),
        ("dl_reason", error.reason.encode()),
        ("dl_error", type(error).__name__.encode()),
        ("dl_message", str(error)[:1024].encode("utf-8", "replace")),
        ("dl_topic", topic.encode()),
        ("dl_partition", str(partition).encode()),
        ("dl_offset", str(offset).encode()),
        ("dl_record_ts_ms", str(record_ts_ms).encode()),
    ]
    replay = [(name, raw) for name, raw in headers if name in (ATTEMPT, REPLAYED_FROM)]
    theirs = [(f"{ORIGINAL}{name}", raw) for name, raw in headers if name not in (ATTEMPT, REPLAYED_FROM)]
    return Refused(key, value, ours + replay + theirs, error.reason)


def origin_offset(letter: Refused) -> int:
    """Offset of a refused record in the topic it came from."""
    return next(int(raw) for name, raw in letter.headers if name == "dl_offset")


def attempts(raw: bytes | None) -> int:
    """Value of the :data:`ATTEMPT` header as a number, 0 where it is absent or no number of ours.

    Example:
        >>> attempts(b"2"), attempts(None), attempts(b"often")
        (2, 0, 0)
    """
    if raw is None or len(raw) > 7 or not raw.isdigit():
        return 0
    return min(int(raw), _MAX_ATTEMPTS)
