"""What an operator asks of ingest: look at all customers again, and emit snapshots of those who match."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.limits import Id

SWEEP_VERSION: Final = 1
SWEEPS: Final = "sweeps"
"""The topic that such orders are sent to, one record a partition."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """Whose snapshots a sweep emits: customers to whom every condition applies that is set."""

    version: int = SWEEP_VERSION
    sweep_id: Id
    """A name for people; the same for all partitions."""
    active_within_ms: Annotated[int, Meta(ge=1)] | None = None
    """The last event is at most so old."""
    channels: tuple[str, ...] = ()
    """Consent is given for one of these, for any purpose."""
    entities: tuple[str, ...] = ()
    """``kind:id`` of which the customer's graph leads to one."""
    per_s: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """Customers looked at per second and partition."""
