"""A valid event on its way into a customer's state."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.events import SOURCES, Body, Profile, type_by_source

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_body: Final = tuple(msgspec.msgpack.Decoder(type_by_source[source]).decode for source in SOURCES)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One decoded event with its place in the log.

    Order is event time, then topic, then event id: it depends on what was said and not on how it
    arrived, so that a log in another order folds into the same state. An event without an id is known by
    its origin. A late one has the event time that its topic had reached; when it happened is in its body.
    """

    ts_ms: int
    source_index: int
    event_id: str
    uid: int
    offset: int
    ingest_ms: int
    body: Body
    edges: list[tuple[str, str]] | None = None
    """What :func:`streams.core.graph.edges_of` says of the body; None where nobody has asked yet."""

    @property
    def is_late(self) -> bool:
        """Whether it came too late for its place."""
        return self.body.event_ts_ms < self.ts_ms

    @property
    def order(self) -> tuple[int, int, str]:
        return self.ts_ms, self.source_index, self.event_id


class StoredEvent(msgspec.Struct, array_like=True, gc=False):
    """The same inside a stored record; the body's type follows from the source_index."""

    ts_ms: int
    source_index: int
    event_id: str
    uid: int
    offset: int
    ingest_ms: int
    body: msgspec.Raw


def store(event: Event) -> StoredEvent:
    return StoredEvent(
        event.ts_ms,
        event.source_index,
        event.event_id,
        event.uid,
        event.offset,
        event.ingest_ms,
        msgspec.Raw(_encode(event.body)),
    )


def restore(stored: StoredEvent) -> Event:
    body: Any = _decode_body[stored.source_index](stored.body)
    return Event(stored.ts_ms, stored.source_index, stored.event_id, stored.uid, stored.offset, stored.ingest_ms, body)


def consent_of(profile: Profile) -> tuple[str, ...]:
    """Granted ``channel:purpose`` pairs, sorted."""
    granted = profile.consent or {}
    return tuple(
        sorted(
            f"{channel}:{purpose}"
            for channel, purposes in granted.items()
            for purpose, given in purposes.items()
            if given
        )
    )
