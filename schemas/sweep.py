"""What an operator asks of ingest: look at all customers again, and emit snapshots of those who match."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.limits import MAX_EVENT_TS_MS, Id, Word

SWEEP_VERSION: Final = 1
MOST_PER_S: Final = 1_000
SWEEPS: Final = "sweeps"
"""The topic that such orders are sent to, one record a partition."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """Whose snapshots a sweep emits: customers to whom every condition applies that is set."""

    version: int = SWEEP_VERSION
    sweep_id: Id
    """A name for people; the same for all partitions."""
    active_within_ms: Annotated[int, Meta(ge=1, le=MAX_EVENT_TS_MS)] | None = None
    """The last event is at most so old."""
    channels: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()
    """Consent is given for one of these, for any purpose."""
    entities: Annotated[tuple[Annotated[str, Meta(min_length=3, max_length=160)], ...], Meta(max_length=256)] = ()
    """``kind:id`` of which the customer's graph leads to one."""
    per_s: Annotated[int, Meta(ge=1, le=MOST_PER_S)] = 200
    """Customers looked at per second and partition; one may cost a millisecond, in which no event is applied."""
