"""One customer: settled past, unsettled tail, and what makes replay harmless.

State is a function of the events and not of their arrival. ``settled`` is folded in event-time order up
to a bound that no event that is on time can come before any more; ``tail`` holds the few events behind that
bound, sorted. What is seen is ``settled`` with the tail folded on top.

A checkpoint writes what changed. The customer's record is small and written whole; what may be large and changes less
often are pieces under keys of their own: the edges, tail events but for the newest, and the snapshots of pending
labels. What is in the record depends on the state alone, so that equal states give equal bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.errors import StateCorrupt
from schemas.snapshot import Candidate, Snapshot, SnapshotKind
from streams.core import stored
from streams.core.event import Event, StoredEvent, restore, store
from streams.core.fold import fire_due, fold, next_due_ms
from streams.core.graph import Edges
from streams.core.labels import Awaiting, Resolved
from streams.core.pace import Pace
from streams.core.snapshots import snapshot_of
from streams.core.state import Context, Effect, Folded

RECORD_VERSION: Final = 3
#: So much of the tail is in the record: what a person does inside the lateness bound, a large basket included.
_NEWEST_EVENTS: Final = 64
_NEWEST_BYTES: Final = 16 << 10
_EVENT_BYTES: Final = 200  # of most events
#: Edges that take no more than this are in the record: most customers come a few times.
_FEW_EDGES_BYTES: Final = 512
TAIL: Final = b"e"
EDGES: Final = b"g"
_SNAPSHOT: Final = b"s"
#: What the pieces of a kind hold, by the first byte of their names.
PIECES: Final[dict[bytes, type]] = {TAIL: StoredEvent, EDGES: Edges, _SNAPSHOT: Snapshot}
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
    """Without its edges."""
    edges: Edges | None
    """None: they are a piece."""

    @property
    def is_tombstone(self) -> bool:
        """Whether nothing but the memory of an erasure is left."""
        return self.erased_ms >= 0 and not (self.older or self.tail or self.settled.events)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_event: Final = msgspec.msgpack.Decoder(StoredEvent).decode
_decode_edges: Final = msgspec.msgpack.Decoder(Edges).decode
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


class Encoded(NamedTuple):
    """What a customer leaves in the store."""

    record: bytes
    pieces: list[tuple[bytes, bytes | None]]
    """Name and value of those that changed; None deletes one."""
    size_bytes: int
    """About what the customer takes, other than snapshots."""


def snapshot_piece(outcome_id: str) -> bytes:
    """Name of the piece that holds the snapshot of a pending label."""
    return _SNAPSHOT + outcome_id.encode()


def read_snapshot(piece: bytes | None) -> Snapshot:
    """The snapshot of a pending label.

    Raises:
        StateCorrupt: it is not there, or cannot be read.
    """
    return stored.read(_decode_snapshot, piece or b"", "the stored snapshot of a pending label")


def _event_piece(event: Event) -> bytes:
    return TAIL + event.ts_ms.to_bytes(8, "big") + bytes([event.source_index]) + event.uid.to_bytes(8, "big")


def read_record(record: bytes) -> CustomerRecord:
    """What :meth:`Customer.of` makes a customer from.

    Raises:
        StateCorrupt: not a record of a version this code knows.
    """
    return stored.read_version(
        _decode,
        record,
        RECORD_VERSION,
        _CALLED,
        written_as="stored state",
        newer=": run the newer release",
        older=": no release reads it any more, so replay the events under another PULSEGRAPH_KAFKA_PREFIX",
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
        "_edges_apart",
        "_edges_bytes",
        "_edges_of",
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
        """Outcome id -> snapshot of labels that became pending since the last :meth:`encode`."""
        self._stored: dict[bytes, None] = {}
        """Names of the pieces in the store."""
        self._edges_of, self._edges_bytes, self._edges_apart = -1, 0, False
        """The edges as they were last encoded: after how many events, how long, and whether as a piece."""
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
        edges = b"".join(pieces(EDGES)) if known.edges is None else b""
        return Customer.of(context, known, edges, pieces(TAIL) if known.older else ())

    @staticmethod
    def of(context: Context, known: CustomerRecord, edges: bytes, older: Sequence[bytes]) -> Customer:
        """The customer of a stored record.

        Args:
            edges: the piece that holds them; not looked at where ``known`` has them.
            older: the pieces that hold its older tail events, in any order.

        Raises:
            StateCorrupt: pieces are missing, or cannot be read.
        """
        if len(older) != known.older:
            raise StateCorrupt(f"{_CALLED} has {known.older} older tail events, and {len(older)} are there")
        customer = Customer(context)
        customer.settled, customer.pace = known.settled, known.pace
        customer.erased_ms, customer.indexed_ms = known.erased_ms, known.due_ms
        if known.edges is None:
            known.settled.edges = stored.read(_decode_edges, edges, "the stored edges of a customer")
            customer._edges_bytes, customer._edges_apart = len(edges), True
        else:
            known.settled.edges = known.edges
        customer._edges_of = known.settled.events
        events = sorted([restore(stored.read(_decode_event, piece, _CALLED)) for piece in older], key=_order)
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
        edges = self._changed_edges()
        record = CustomerRecord(
            RECORD_VERSION,
            self.due_or_never_ms(),
            self.erased_ms,
            self.pace,
            len(older),
            newest,
            replace(self.settled, edges={}),
            None if self._edges_apart else self.settled.edges,
        )
        encoded = _encode(record)
        return Encoded(encoded, self._changed_pieces(older, edges), self.size_bytes(encoded))

    def size_bytes(self, record: bytes) -> int:
        """About what is stored of the customer, snapshots left out."""
        older = max(0, len(self.tail) - _NEWEST_EVENTS)
        return len(record) + _EVENT_BYTES * older + (self._edges_bytes if self._edges_apart else 0)

    def _changed_edges(self) -> bytes | None:
        """The edges encoded, where they are a piece and events were folded in since the last time."""
        if self.settled.events == self._edges_of:
            return None
        encoded = _encode(self.settled.edges)
        self._edges_of, self._edges_bytes = self.settled.events, len(encoded)
        self._edges_apart = len(encoded) > _FEW_EDGES_BYTES
        return encoded if self._edges_apart else None

    def _changed_pieces(self, older: list[Event], edges: bytes | None) -> list[tuple[bytes, bytes | None]]:
        before = self._stored
        if not (older or before or self.settled.pending or self._edges_apart):
            return []
        self._stored = names = self._piece_names(older)
        changed: list[tuple[bytes, bytes | None]] = [(name, None) for name in before if name not in names]
        events = {name: event for name, event in zip(names, older, strict=False) if name not in before}
        changed += [(name, _encode(store(event))) for name, event in events.items()]
        if edges is not None:
            changed.append((EDGES, edges))
        for outcome_id, snapshot in self._awaiting.items():
            if (name := snapshot_piece(outcome_id)) in names:
                changed.append((name, _encode(snapshot)))
        self._awaiting = {}
        return changed

    def _piece_names(self, older: list[Event]) -> dict[bytes, None]:
        """In order: those of the older tail events, then those of pending labels, then the edges."""
        names = dict.fromkeys([_event_piece(event) for event in older])
        names.update(dict.fromkeys([snapshot_piece(label.outcome_id) for label in self.settled.pending]))
        if self._edges_apart:
            names[EDGES] = None
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
        if not tail or tail[-1].ts_ms < event.ts_ms or _order(tail[-1]) <= _order(event):
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
        self._edges_of = -1
        self.tail = [event for event in self.tail if event.ts_ms > at_ms]
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
                self._awaiting[effect.pending.outcome_id] = effect.snapshot
            elif isinstance(effect, Resolved) and effect.pending.outcome_id in self._awaiting:
                found.append(effect.outcome(self._awaiting.pop(effect.pending.outcome_id)))
            else:
                found.append(effect)
        return found

    def snapshot_as_of(self, kind: SnapshotKind, as_of_ms: int, candidate: Candidate | None) -> Snapshot | None:
        """The snapshot of a kind that was taken at ``as_of_ms``, of a customer whose events end there.

        Ends the customer's use: event time has moved on to ``as_of_ms`` afterwards.
        """
        if kind == "event":
            return self.snapshot()
        effects: list[Effect] = []
        self._settle(as_of_ms + 1, effects)
        self._fire_timers(as_of_ms, effects)
        if kind == "send":  # taken just before the send, which is not among the events
            return snapshot_of(self.settled, "send", as_of_ms, self.context, candidate) if self.settled.events else None
        taken = (effect for effect in effects if isinstance(effect, Snapshot))
        return next((known for known in taken if known.kind == kind and known.as_of_ms == as_of_ms), None)

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
