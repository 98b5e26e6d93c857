"""What the encoder sees, and what training reads: msgpack records on internal topics."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

SNAPSHOT_VERSION: Final = 1
OUTCOME_VERSION: Final = 1

Head = Literal["churn", "redemption"]
SnapshotKind = Literal["event", "horizon", "send"]


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The campaign side of a (customer, campaign) pair: what a send named."""

    campaign_id: str
    offer_id: str | None = None
    template_id: str | None = None
    channel: str | None = None


class SendCount(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Recent sends on one channel, newest last, for caps that are set where decisions are made."""

    channel: str
    sent_ms: tuple[int, ...]
    campaigns: tuple[str, ...] = ()
    """What each of them was, in the same order."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A customer as seen at one point of event time; the only input of the encoder and of every head.

    ``applied`` makes it reproducible: the events up to those offsets that are not younger than
    ``as_of_ms`` give the same bytes on any machine.
    """

    version: int = SNAPSHOT_VERSION
    customer_id: str
    kind: SnapshotKind
    """``event``: after an event, from all that is known. ``horizon``, ``send``: with a label, from settled state."""
    as_of_ms: int
    source: tuple[str, int, int]
    """topic, partition and offset of the newest event in it."""
    applied: dict[str, int]
    event_ts_ms: int
    ingest_ts_ms: int
    """The newest event's Kafka record timestamp."""
    tokens: bytes
    """Token ids, uint16 little-endian, oldest first."""
    features: bytes
    """float32 little-endian in the order of :data:`schemas.features.NAMES`."""
    consent: tuple[str, ...] | None
    """Granted ``channel:purpose`` pairs, sorted; None where no profile was seen."""
    sends: tuple[SendCount, ...]
    holdout: bool
    """The customer belongs to the group that is never contacted."""
    edges: dict[str, tuple[tuple[str, float], ...]]
    """Edge type -> (entity id, decayed weight), heaviest first, a few of each: what reasons are made of."""
    model_hint: str
    """Fingerprint of the tokeniser that made ``tokens``."""
    candidate: Candidate | None = None
    """Set on ``send`` snapshots: what the redemption outcome is about."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A past snapshot and the label it got."""

    version: int = OUTCOME_VERSION
    outcome_id: str
    """Equal to the ``prediction_id`` that a head gives to the same snapshot."""
    head: Head
    label: int
    """churn: 1 where no activity came within the horizon. redemption: 1 where the offer was used in its window."""
    due_ms: int
    """End of the horizon or window."""
    resolved_ms: int
    """Event time at which the label became known."""
    snapshot: Snapshot
