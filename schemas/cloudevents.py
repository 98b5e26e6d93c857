"""CloudEvents 1.0, binary mode over Kafka: the headers on what we publish."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

SPEC_VERSION: Final = b"1.0"
SOURCE: Final = b"pulsegraph"


def headers(event_id: str, event_type: str, time_ms: int | None) -> list[tuple[str, bytes]]:
    """Headers of one published record; ``time_ms`` is the event time it speaks about, None where it has none."""
    found = [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", event_id.encode()),
        ("ce_source", SOURCE),
        ("ce_type", f"pulsegraph.{event_type}".encode()),
        ("content-type", b"application/json"),
    ]
    if time_ms is not None:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        found.append(("ce_time", moment.replace("+00:00", "Z").encode()))
    return found
