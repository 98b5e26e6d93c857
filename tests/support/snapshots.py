"""A customer's snapshot with nothing in it but what a test says."""

from __future__ import annotations

from typing import Any

import msgspec
from support.logs import START_MS

from schemas.snapshot import Snapshot

_PLAIN = Snapshot(
    customer_id="c1",
    kind="event",
    as_of_ms=START_MS,
    source=("clickstream", 0, 0),
    applied={"clickstream": 0},
    event_ts_ms=START_MS,
    ingest_ts_ms=START_MS,
    tokens=b"",
    features=b"",
    consent=None,
    sends=(),
    holdout=False,
    edges={},
    model_hint="test",
)


def plain_snapshot(**said: Any) -> Snapshot:
    """A live snapshot of customer ``c1`` at ``START_MS``, of whom no profile was seen."""
    made: Snapshot = msgspec.structs.replace(_PLAIN, **said)
    return made
