"""CloudEvents 1.0, binary mode over Kafka: the headers on what we publish."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

SPEC_VERSION: Final = b"1.0"
SOURCE: Final = b"pulsegraph"


def headers(event_id: str, event_type: str, time_ms: int) -> list[tuple[str, bytes]]:
    """Headers of one published record; ``time_ms`` is the event time it speaks about."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", event_id.encode()),
        ("ce_source", SOURCE),
        ("ce_type", f"pulsegraph.{event_type}".encode()),
        ("ce_time", moment.encode()),
        ("content-type", b"application/json"),
    ]
