"""One customer: settled past, unsettled tail, and what makes replay harmless.

State is a function of the events and not of their arrival. ``settled`` is folded in event-time order up
to a bound that no event that is on time can come before any more; ``tail`` holds the few events behind that
bound, sorted. What is seen is ``settled`` with the tail folded on top.

A checkpoint writes what changed. The customer's record is small and written whole; what may be large and changes less
often are pieces under keys of their own: older edges and sessions, tail events but for the newest, and the snapshots
of pending labels. What is in the record depends on the state alone, so that equal states give equal bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.errors import StateCorrupt
from schemas.snapshot import Snapshot
from streams.core import stored
from streams.core.context import Context
from streams.core.event import Event, StoredEvent, restore, store
from streams.core.fold import fire_due, fold, next_due_ms
from streams.core.graph import Edges, MergedEdges
from streams.core.labels import CARRIERS, Awaiting, Resolved
from streams.core.pace import Pace
from streams.core.snapshots import snapshot_of
from streams.core.state import Effect, Folded

RECORD_VERSION: Final = 6
_BEFORE: Final = 5
"""Read, and written as the newest: it waited for no orders and no responses."""
_ONE_TIME: Final = 4
"""The same; it had one time for consent and for the rest of a profile."""
#: So much of the tail is in the record: what a person does inside the lateness bound, a large basket included.
_NEWEST_EVENTS: Final = 64
_NEWEST_BYTES: Final = 16 << 10
_EVENT_BYTES: Final = 200  # of most events
TAIL: Final = b"e"
EDGES: Final = b"g"
HISTORY: Final = b"h"
_SNAPSHOT: Final = b"s"
PIECE_VERSION: Final = 1
_CALLED: Final = "the stored state of a customer"
_order = attrgetter("order")
_time = attrgetter("ts_ms")


class CustomerRecord(msgspec.Struct, array_like=True, gc=False):
    """The stored form, msgpack. The version comes first, so that an old worker can refuse a new record."""

    version: int
    due_ms: int
    """When event time next changes this state, -1 for never: enough to rebuild the timer index."""
    erased_ms: int
    """Events at or before this belong to someone who was erased; -1 where nobody was."""
    pace: Pace
    older: int
    """Tail events before ``tail``, each a piece."""
    tail: list[StoredEvent]
    settled: Folded
    """Without its older edges and sessions, which are pieces where there were merges."""

    @property
    def apart(self) -> tuple[bytes, ...]:
        """Kinds of pieces that merges made."""
        edges = (EDGES,) if self.settled.graph.merges else ()
        return (*edges, HISTORY) if self.settled.timeline.history.merges else edges

    @property
    def is_tombstone(self) -> bool:
        """Whether nothing but the memory of an erasure is left."""
        return self.erased_ms >= 0 and not (self.older or self.tail or self.settled.events)


class OlderEdges(msgspec.Struct, array_like=True, gc=False):
    """The piece that a merge of edges makes."""

    version: int
    merges: int
    """As in the record it belongs to."""
    as_of_ms: int
    edges: Edges


class OlderSessions(msgspec.Struct, array_like=True, gc=False):
    """The piece that a merge of the history makes."""

    version: int
    merges: int
    """As in the record it belongs to."""
    entries: bytes


#: What the pieces of a kind hold, by the first byte of their names.
PIECES: Final[dict[bytes, type]] = {
    TAIL: StoredEvent,
    EDGES: OlderEdges,
    HISTORY: OlderSessions,
    _SNAPSHOT: Snapshot,
}
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_event: Final = msgspec.msgpack.Decoder(StoredEvent).decode
_decode_edges: Final = msgspec.msgpack.Decoder(OlderEdges).decode
_decode_sessions: Final = msgspec.msgpack.Decoder(OlderSessions).decode
_decode_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode
_decode: Final = msgspec.msgpack.Decoder(CustomerRecord).decode


class RecordHead(msgspec.Struct, array_like=True):
    """The first fields of a :class:`CustomerRecord`, read without the rest."""

    version: int
    due_ms: int


_decode_head: Final = msgspec.msgpack.Decoder(RecordHead).decode


def due_of(record: bytes) -> RecordHead:
    """The head of a stored record.

    Raises:
        StateCorrupt: it cannot be read.
    """
    return stored.read(_decode_head, record, _CALLED)


class Advanced(NamedTuple):
    """What a customer leaves to be written when event time has moved on."""

    snapshot: Snapshot | None
    """What is seen now; None where nothing new is."""
    effects: list[Effect]
    """What became known, in order; each exactly once over any sequence of calls."""
    overflowed: int
    """Events settled before their time, for want of room."""


class Pieces(NamedTuple):
    """What is stored of a customer beside the record; empty where the record says that there is nothing."""

    edges: bytes = b""
    history: bytes = b""
    older: Sequence[bytes] = ()
    """Older tail events, in any order."""


class Encoded(NamedTuple):
    """What a customer leaves in the store."""

    record: bytes
    pieces: list[tuple[bytes, bytes | None]]
    """Name and value of those that changed; None deletes one."""
    size_bytes: int
    """About what the customer takes, other than snapshots."""


def snapshot_piece(question_id: str) -> bytes:
    """Name of the piece that holds the snapshot of pending labels."""
    return _SNAPSHOT + question_id.encode()


def read_snapshot(piece: bytes | None) -> Snapshot:
    """The snapshot of a pending label.

    Raises:
        StateCorrupt: it is not there, or cannot be read.
    """
    return stored.read(_decode_snapshot, piece or b"", "the stored snapshot of a pending label")


def _in_order(before: Event, event: Event) -> bool:
    """Whether ``before`` is not behind an event, by :attr:`Event.order`, whose tuples cost more than most answers."""
    if before.ts_ms != event.ts_ms:
        return before.ts_ms < event.ts_ms
    if before.source_index != event.source_index:
        return before.source_index < event.source_index
    return before.event_id <= event.event_id


def _event_piece(event: Event) -> bytes:
    return TAIL + event.ts_ms.to_bytes(8, "big") + bytes([event.source_index]) + event.uid.to_bytes(8, "big")


def read_record(record: bytes) -> CustomerRecord:
    """What :meth:`Customer.of` makes a customer from.

    Raises:
        StateCorrupt: not a record of a version this code knows.
    """
    known = stored.read_version(
        _decode,
        record,
        RECORD_VERSION,
        _CALLED,
        written_as="stored state",
        newer=": run the newer release",
        older=": no release reads it any more, so replay the events under another PULSEGRAPH_KAFKA_PREFIX",
        also=(_BEFORE, _ONE_TIME),
    )
    if known.version == _ONE_TIME:
        known.settled.profile_ms = known.settled.consent_ms
    return known


def _check_piece(piece: OlderEdges | OlderSessions, merges: int, what: str) -> None:
    if (piece.version, piece.merges) != (PIECE_VERSION, merges):
        raise StateCorrupt(
            f"the stored {what} of a customer have version {piece.version} and are of merge {piece.merges}; this "
            f"worker knows version {PIECE_VERSION}, and the record is of merge {merges}"
        )


def no_pieces(kind: bytes) -> list[bytes]:
    """For a customer that has none."""
    return []


class Customer:
    """Decoded state of one customer in the cache of a partition.

    :meth:`insert` takes events as they arrive, :meth:`advance` follows the watermark, :meth:`snapshot` is what is seen.
    """

    __slots__ = (
        "_awaiting",
        "_edges_written",
        "_history_written",
        "_known",
        "_stored",
        "_view",
        "_view_effects",
        "context",
        "erased_ms",
        "indexed_ms",
        "pace",
        "settled",
        "tail",
    )

    def __init__(self, context: Context) -> None:
        self.context = context
        self.erased_ms = -1
        self.indexed_ms = -1
        """Due time that the store's timer index has for this customer; -1 for none."""
        self.tail: list[Event] = []
        self.settled = Folded()
        self.pace = Pace()
        self._awaiting: dict[str, Snapshot] = {}
        """Question id -> snapshot of labels that became pending since the last :meth:`encode`."""
        self._stored: dict[bytes, None] = {}
        """Names of the pieces in the store."""
        self._edges_written, self._history_written = (0, 0), (0, 0)
        """Merges that the stored pieces are of, and how long these are."""
        self._known: set[int] | None = None
        self._view: Folded | None = None
        self._view_effects: list[Effect] = []

    @staticmethod
    def decode(context: Context, record: bytes, pieces: Callable[[bytes], Sequence[bytes]] = no_pieces) -> Customer:
        """Read what is stored.

        Args:
            pieces: the customer's pieces of a kind; asked only where there are any.

        Raises:
            StateCorrupt: not a record of a version this code knows, or pieces are missing.
        """
        known = read_record(record)
        edges, history = (b"".join(pieces(kind)) if kind in known.apart else b"" for kind in (EDGES, HISTORY))
        return Customer.of(context, known, Pieces(edges, history, pieces(TAIL) if known.older else ()))

    @staticmethod
    def of(context: Context, known: CustomerRecord, pieces: Pieces) -> Customer:
        """The customer of a stored record.

        Raises:
            StateCorrupt: pieces are missing, or cannot be read.
        """
        if len(pieces.older) != known.older:
            raise StateCorrupt(f"{_CALLED} has {known.older} older tail events, and {len(pieces.older)} are there")
        customer = Customer(context)
        customer.settled, customer.pace = known.settled, known.pace
        customer.erased_ms, customer.indexed_ms = known.erased_ms, known.due_ms
        graph, history = known.settled.graph, known.settled.timeline.history
        if graph.merges:
            edges = stored.read(_decode_edges, pieces.edges, "the stored edges of a customer")
            _check_piece(edges, graph.merges, "edges")
            graph.older = MergedEdges(edges.edges, edges.as_of_ms)
            customer._edges_written = graph.merges, len(pieces.edges)
        if history.merges:
            sessions = stored.read(_decode_sessions, pieces.history, "the stored history of a customer")
            _check_piece(sessions, history.merges, "sessions")
            history.older = sessions.entries
            customer._history_written = history.merges, len(pieces.history)
        events = sorted([restore(stored.read(_decode_event, piece, _CALLED)) for piece in pieces.older], key=_order)
        customer.tail = events + [restore(event) for event in known.tail]
        customer._stored = customer._piece_names(events)
        return customer

    def encode(self) -> Encoded:
        """What to store, given that what was said before is stored; equal states give equal bytes."""
        newest: list[StoredEvent] = []
        size = 0
        for event in reversed(self.tail[-_NEWEST_EVENTS:]):
            written = store(event)
            size += len(written.body)
            if size > _NEWEST_BYTES:
                break
            newest.append(written)
        newest.reverse()
        older = self.tail[: len(self.tail) - len(newest)]
        settled = self.settled
        merged = self._changed_merges()
        graph, timeline = settled.graph, settled.timeline
        if graph.merges:
            settled = replace(settled, graph=replace(graph, older=None))
        if timeline.history.merges:
            settled = replace(settled, timeline=replace(timeline, history=replace(timeline.history, older=b"")))
        record = CustomerRecord(
            RECORD_VERSION,
            self.due_or_never_ms(),
            self.erased_ms,
            self.pace,
            len(older),
            newest,
            settled,
        )
        encoded = _encode(record)
        return Encoded(encoded, self._changed_pieces(older, merged), self.size_bytes(encoded))

    def size_bytes(self, record: bytes) -> int:
        """About what is stored of the customer, snapshots left out."""
        older = max(0, len(self.tail) - _NEWEST_EVENTS)
        return len(record) + _EVENT_BYTES * older + self._edges_written[1] + self._history_written[1]

    def _changed_merges(self) -> list[tuple[bytes, bytes | None]]:
        """The pieces of merges since the last time."""
        changed: list[tuple[bytes, bytes | None]] = []
        graph, history = self.settled.graph, self.settled.timeline.history
        if graph.merges != self._edges_written[0]:
            edges = b""
            if graph.older is not None:
                edges = _encode(OlderEdges(PIECE_VERSION, graph.merges, graph.older.as_of_ms, graph.older.edges))
                changed.append((EDGES, edges))
            self._edges_written = graph.merges, len(edges)
        if history.merges != self._history_written[0]:
            entries = _encode(OlderSessions(PIECE_VERSION, history.merges, history.older)) if history.merges else b""
            if entries:
                changed.append((HISTORY, entries))
            self._history_written = history.merges, len(entries)
        return changed

    def _changed_pieces(
        self, older: list[Event], merged: list[tuple[bytes, bytes | None]]
    ) -> list[tuple[bytes, bytes | None]]:
        before, awaiting, self._awaiting = self._stored, self._awaiting, {}
        if not (older or before or merged or self.settled.pending):
            return []
        self._stored = names = self._piece_names(older)
        changed: list[tuple[bytes, bytes | None]] = [(name, None) for name in before if name not in names]
        events = {name: event for name, event in zip(names, older, strict=False) if name not in before}
        changed += [(name, _encode(store(event))) for name, event in events.items()]
        changed += merged
        for question_id, snapshot in awaiting.items():
            if (name := snapshot_piece(question_id)) in names:
                changed.append((name, _encode(snapshot)))
        return changed

    def _piece_names(self, older: list[Event]) -> dict[bytes, None]:
        """In order: those of the older tail events, then those of pending labels, then those of merges."""
        names = dict.fromkeys([_event_piece(event) for event in older])
        questions = [label.question_id for label in self.settled.pending if label.head in CARRIERS]
        names.update(dict.fromkeys([snapshot_piece(question) for question in questions]))
        if self.settled.graph.merges:
            names[EDGES] = None
        if self.settled.timeline.history.merges:
            names[HISTORY] = None
        return names

    def knows(self, uid: int) -> bool:
        """Whether an event with this id is in the tail or among the last settled ones."""
        if self._known is None:
            self._known = {event.uid for event in self.tail}
            self._known.update([uid for _, uid in self.settled.recent])
        return uid in self._known

    def insert(self, event: Event) -> None:
        """Put an event in its place; in order it costs one fold step, out of order a refold of the tail."""
        tail = self.tail
        if self._known is not None:
            self._known.add(event.uid)
        if not tail or _in_order(tail[-1], event):
            tail.append(event)
            if self._view is not None:
                fold(self._view, event, self.context, self._view_effects)
            return
        insort(tail, event, key=_order)
        self._forget_view()

    def erase(self, at_ms: int) -> None:
        """Forget everything up to ``at_ms``. Only the time stays, until no event from before it can come any more."""
        if at_ms <= self.erased_ms:
            return
        self.erased_ms = at_ms
        self.settled = Folded()
        self.pace = Pace()
        self._edges_written, self._history_written = (-1, 0), (-1, 0)  # the first merge after it is not the one stored
        self._awaiting = {}
        # By when they were: a late one may stand behind the erasure.
        self.tail = [event for event in self.tail if event.body.event_ts_ms > at_ms]
        self._known = None
        self._forget_view()

    @property
    def is_tombstone(self) -> bool:
        """Whether nothing but the memory of an erasure is left."""
        return self.erased_ms >= 0 and not self.tail and not self.settled.events

    @property
    def forgotten_ms(self) -> int:
        """Once event time is past this, no event from before the erasure can come any more, however late."""
        return self.erased_ms + self.context.config.ids_kept_ms

    def view(self) -> Folded:
        """Settled state with the tail folded on top. Not to be changed by the caller."""
        if self._view is None:
            if not self.tail:
                return self.settled
            self._view = self.settled.copy()
            self._view_effects = []
            for event in self.tail:
                fold(self._view, event, self.context, self._view_effects)
        return self._view

    def advance(self, until_ms: int, *, observed: bool) -> Advanced:
        """Settle what is older than ``until_ms`` and fire what is due by then.

        Args:
            observed: whether something was taken in that others should see.
        """
        effects: list[Effect] = []
        self._settle(until_ms, effects)
        overflowed = self._shorten(self.context.config.tail_limit, effects)
        # Before the timers fire, so that it does not depend on how far event time had come when it was taken.
        snapshot = self.snapshot() if observed else None
        self._fire_timers(until_ms, effects)
        return Advanced(snapshot, self._with_outcomes(effects) if effects else effects, overflowed)

    def _with_outcomes(self, effects: list[Effect]) -> list[Effect]:
        """Labels that became pending are remembered; one that is known already has its snapshot still at hand."""
        found: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Awaiting):
                self._awaiting[effect.pending.question_id] = effect.snapshot
            elif isinstance(effect, Resolved) and effect.pending.head not in CARRIERS:
                found.append(effect.outcome(self.context.customer_id, None))
            elif isinstance(effect, Resolved) and effect.pending.question_id in self._awaiting:
                found.append(effect.outcome(self.context.customer_id, self._awaiting[effect.pending.question_id]))
            else:
                found.append(effect)
        return found

    def snapshot_as(self, other: Snapshot) -> Snapshot | None:
        """The snapshot of the kind, time and cause of another, of a customer whose events end there.

        Ends the customer's use: event time has moved on to its ``as_of_ms`` afterwards.
        """
        kind, as_of_ms = other.kind, other.as_of_ms
        if kind == "event":
            return self.snapshot()
        effects: list[Effect] = []
        self._settle(as_of_ms + 1, effects)
        self._fire_timers(as_of_ms, effects)
        if kind == "send":  # taken just before the send, which is not among the events
            if not self.settled.events:
                return None
            return snapshot_of(self.settled, "send", as_of_ms, self.context, other.candidate)
        if kind == "refresh":
            return self.refreshed(as_of_ms)
        for taken in effects:
            if isinstance(taken, Snapshot) and (taken.kind, taken.as_of_ms, taken.source) == (
                kind, as_of_ms, other.source
            ):  # fmt: skip
                return taken
        return None

    def due_or_never_ms(self) -> int:
        """As the timer index has it: :meth:`due_ms`, -1 for never."""
        due_ms = self.due_ms()
        return -1 if due_ms is None else due_ms

    def due_ms(self) -> int | None:
        """When event time next changes the settled state; None where nothing waits."""
        if self.is_tombstone:
            return self.forgotten_ms + 1
        due_ms = next_due_ms(self.settled, self.context.config)
        if self.tail:
            oldest_ms = self.tail[0].ts_ms + 1
            due_ms = oldest_ms if due_ms is None else min(due_ms, oldest_ms)
        return due_ms

    def snapshot(self) -> Snapshot | None:
        """What the encoder should see: the customer at the newest event; None where nothing is known."""
        seen = self.view()
        if not seen.events:
            return None
        return snapshot_of(seen, "event", seen.last_ms, self.context)

    def refreshed(self, as_of_ms: int) -> Snapshot | None:
        """The customer as seen when event time has come to ``as_of_ms``, or at the newest event where that is later.

        None where nothing is known. What is due by ``as_of_ms`` has fired already.
        """
        seen = self.view()
        if not seen.events:
            return None
        return snapshot_of(seen, "refresh", max(as_of_ms, seen.last_ms), self.context)

    def _settle(self, until_ms: int, effects: list[Effect]) -> None:
        """Fold tail events older than ``until_ms`` into the settled state."""
        self._known = None  # settling forgets the oldest ids
        tail = self.tail
        ready = len(tail) if tail and tail[-1].ts_ms < until_ms else bisect_left(tail, until_ms, key=_time)
        self._settle_first(ready, effects)

    def _shorten(self, limit: int, effects: list[Effect]) -> int:
        """Settle the oldest events of a tail that grew past ``limit``; returns how many."""
        excess = len(self.tail) - limit
        if excess <= 0:
            return 0
        self._known = None
        self._settle_first(excess, effects)
        return excess

    def _fire_timers(self, until_ms: int, effects: list[Effect]) -> None:
        before = len(effects)
        fire_due(self.settled, until_ms, self.context, effects)
        self._repeated_in_view(len(effects) - before)

    def _settle_first(self, count: int, effects: list[Effect]) -> None:
        if not count:
            return
        if count == len(self.tail) and self._view is not None:
            self.settled = self._view  # already folded: take it over instead of folding twice
            effects += self._view_effects
            self.tail = []
            self._forget_view()
            return
        before = len(effects)
        for event in self.tail[:count]:
            fold(self.settled, event, self.context, effects)
        del self.tail[:count]
        if not self.tail:
            self._forget_view()
        else:
            self._repeated_in_view(len(effects) - before)

    def _repeated_in_view(self, count: int) -> None:
        """The settled state has come to what the view made known first."""
        if self._view is not None and count:
            del self._view_effects[:count]

    def _forget_view(self) -> None:
        self._view = None
        self._view_effects = []
