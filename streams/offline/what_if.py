"""What would be predicted: a customer's state with events added, and the snapshots that would be made of it.

Added events go the way of producers' events: the same decoder, the same refusals, the same fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from schemas.errors import DeadLetter, InvalidField, Malformed
from schemas.events import SOURCE_INDEX, SOURCES, CampaignSend
from schemas.snapshot import Snapshot
from streams.core.customer import Customer
from streams.core.entries import read_entries
from streams.core.event import Event, event_name, uid_of
from streams.core.event_clock import EventClock
from streams.offline.rebuild import SourceLogRecord, admitted

_TOPIC: Final = "topic"


class RefusedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of added events that changes nothing."""

    line: int
    """1 for the first."""
    reason: str
    """As of a dead letter, or ``duplicate``, or ``erased``."""
    message: str


class Added(NamedTuple):
    """What became of the lines of a file."""

    events: list[Event]
    refused: list[RefusedLine]


def add_events(customer: Customer, lines: Iterable[bytes]) -> Added:
    """Put events into a customer's state.

    Args:
        lines: each a JSON object, an event as on its topic and the topic's name beside its fields; blank ones are
            skipped.
    """
    added = Added([], [])
    applied = list(customer.view().applied)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            topic, value, sent_ms = _record(line)
        except DeadLetter as error:
            added.refused.append(RefusedLine(line=number, reason=error.reason, message=str(error)))
            continue
        source_index = SOURCE_INDEX[topic]
        # As if it were the next record of its topic. Its Kafka timestamp is its own time, as the future may be asked.
        applied[source_index] += 1
        record = SourceLogRecord(
            source_index, applied[source_index], customer.context.customer_id.encode(), value, (), sent_ms
        )
        event, refused = _event(customer, source_index, record)
        added.refused.extend(msgspec.structs.replace(one, line=number) for one in refused)
        if event is not None:
            customer.insert(event)
            added.events.append(event)
    return added


def snapshots_at(customer: Customer, as_of_ms: int, added: Iterable[Event] = ()) -> list[Snapshot]:
    """The snapshots that predictions of a time are made from; the last one is of the customer at that time.

    Where the newest event is of that very time, it is the ``event`` snapshot that ingest emits behind it, else the
    ``refresh`` of a sweep. Before it come the ``send`` snapshots of added sends. Ends the customer's use.

    Args:
        as_of_ms: not before the newest event.
        added: events that were put in by :func:`add_events`.
    """
    seen = customer.snapshot()
    if seen is None:
        return []
    sends = Counter(
        (event.ts_ms, event.body.campaign_id or "")
        for event in added
        if isinstance(event.body, CampaignSend) and event.body.event == "send"
    )
    last_ms = customer.view().last_ms
    found: list[Snapshot] = []
    for effect in reversed(customer.advance(last_ms + 1, observed=False).effects if sends else ()):
        if isinstance(effect, Snapshot) and effect.kind == "send" and effect.candidate is not None:
            key = effect.as_of_ms, effect.candidate.campaign_id
            if sends[key]:  # the log may have had one of the same campaign and instant
                sends[key] -= 1
                found.insert(0, effect)
    if as_of_ms > last_ms:
        refreshed = customer.snapshot_as(msgspec.structs.replace(seen, kind="refresh", as_of_ms=as_of_ms))
        assert refreshed is not None
        seen = refreshed
    return [*found, seen]


def _record(line: bytes) -> tuple[str, bytes, int]:
    """Topic, value and time of a line.

    Raises:
        Malformed, InvalidField: it is no JSON object, or names no topic of events.
    """
    try:
        fields: Any = msgspec.json.decode(line)
        if isinstance(fields, dict) and (topic := fields.pop(_TOPIC, None)) in SOURCES:
            said = fields.get("event_ts_ms")
            sent_ms = said if isinstance(said, int) and not isinstance(said, bool) else 0
            return str(topic), msgspec.json.encode(fields), sent_ms
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    raise InvalidField(f'name the topic beside the event\'s fields, as "topic": one of {", ".join(SOURCES)}')


def _event(customer: Customer, source_index: int, record: SourceLogRecord) -> tuple[Event | None, list[RefusedLine]]:
    """What ingest would make of a record: an event, or why there is none, or both of an opt-out that is refused."""
    context, partition = customer.context, customer.context.partition
    ((entry,), refusals) = read_entries(source_index, partition, [record], context.config)
    refused = [
        RefusedLine(line=0, reason=one.reason, message=dict(one.headers)["dl_message"].decode()) for one in refusals
    ]
    clock = EventClock(context.config.watermark_keys)
    body = admitted(entry, record, clock, context.config, customer.view().consent_ms)
    if body is None:
        return None, refused
    event_id = getattr(entry, "event_id", None) or event_name(source_index, partition, record.offset, body)
    uid = uid_of(source_index, event_id, body)
    if customer.knows(uid):
        refused.append(RefusedLine(line=0, reason="duplicate", message=f"an event with the id {event_id!r} is known"))
        return None, refused
    if body.event_ts_ms <= customer.erased_ms:
        refused.append(RefusedLine(line=0, reason="erased", message="the customer was erased after it"))
        return None, refused
    placed_ms = max(body.event_ts_ms, customer.settled.last_ms)  # what is settled stays: it comes too late
    return Event(placed_ms, source_index, event_id, uid, record.offset, record.timestamp, body), refused
