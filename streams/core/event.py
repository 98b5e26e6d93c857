"""A valid event on its way into a customer's state."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UnsetType

from schemas.channels import canonical
from schemas.events import PROFILES, SOURCES, CampaignSend, Profile, Said, Withdrawal, type_by_source
from schemas.ids import event_uid
from schemas.names import OPT_OUTS

_encode: Final = msgspec.msgpack.Encoder().encode
#: Said of a :class:`schemas.events.Withdrawal`: msgpack's nil, its time is the event's.
_WITHDRAWAL: Final = b"\xc0"
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
    body: Said
    edges: list[tuple[str, str]] | None = None
    """What :func:`streams.core.graph.edges_of` says of the body; None where nobody has asked yet."""

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
        msgspec.Raw(_WITHDRAWAL if isinstance(event.body, Withdrawal) else _encode(event.body)),
    )


def restore(stored: StoredEvent) -> Event:
    raw = stored.body
    body: Any = Withdrawal(stored.ts_ms) if bytes(raw) == _WITHDRAWAL else _decode_body[stored.source_index](raw)
    return Event(stored.ts_ms, stored.source_index, stored.event_id, stored.uid, stored.offset, stored.ingest_ms, body)


def event_name(source_index: int, partition: int, offset: int, body: Said) -> str:
    """By what an event without an id is known: its origin.

    That of a withdrawal is another one, so that its record may come again, once it is corrected.
    """
    origin = f"{SOURCES[source_index]}-{partition}-{offset:020d}"
    return f"withdrawn-{origin}" if isinstance(body, Withdrawal) else origin


def uid_of(source_index: int, event_id: str, body: Said) -> int:
    """By what an event is known when it is sent again.

    Whoever takes consent back is heard although the id was used before, as that of the message or of an earlier
    profile: only what says the same at the same time is the same.
    """
    if source_index == PROFILES and isinstance(body, Profile):
        granted = consent_of(body)
        event_id = "\x1f".join(
            [event_id, str(body.event_ts_ms), *(("consent", *granted) if granted is not None else ())]
        )
    elif isinstance(body, CampaignSend) and body.event in OPT_OUTS:
        event_id = "\x1f".join([event_id, str(body.event_ts_ms), body.event, body.channel or ""])
    return event_uid(source_index, event_id)


def consent_of(profile: Profile) -> tuple[str, ...] | None:
    """Granted ``channel:purpose`` pairs in canonical spelling, sorted; None where the profile says nothing of consent.

    Of two spellings of one name both have to grant.
    """
    if isinstance(profile.consent, UnsetType):
        return None
    granted: dict[str, bool] = {}
    for channel, purposes in (profile.consent or {}).items():
        for purpose, given in purposes.items():
            pair = f"{canonical(channel)}:{canonical(purpose)}"
            granted[pair] = given and granted.get(pair, True)
    return tuple(sorted([pair for pair, given in granted.items() if given]))
