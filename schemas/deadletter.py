"""A refused record: the bytes as they came, and why in headers."""

from __future__ import annotations

from typing import NamedTuple

from schemas.codec import Headers
from schemas.errors import DeadLetter
from schemas.ids import refused_id


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
    """Wrap a record for the dead-letter topic. Original headers keep their names behind ``orig_``."""
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
    return Refused(key, value, ours + [(f"orig_{name}", raw) for name, raw in headers], error.reason)
