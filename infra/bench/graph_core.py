"""The small graph job that every contender of ``state`` does: a decayed edge per item, and the running session's tail.

This is our side of it, for one partition: what :class:`streams.core.partition.Ingest` is to the real role. Pure; time
is the events' own.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import exp, log
from typing import Any, Final, NamedTuple, Protocol, Self, cast

import msgspec
from msgspec import Struct

from streams.core.cache import CustomerCache
from streams.core.durable import RecordChange

HALF_LIFE_MS: Final = 28 * 86_400_000
DECAY_PER_MS: Final = log(2) / HALF_LIFE_MS
SESSION_GAP_MS: Final = 1_800_000
TAIL_EVENTS: Final = 64


class JobEvent(Struct, gc=False):
    """What the job needs of an event; other fields of the JSON are skipped."""

    customer_id: str
    item_id: str
    event_ts_ms: int


class Packed(Struct, array_like=True, gc=False):
    """A customer as it is stored: columns of machine numbers, which cost next to nothing to encode and decode."""

    n: int
    applied: int
    items: msgspec.Raw
    weights: bytes
    counts: bytes
    lasts_ms: bytes
    tail_ms: bytes
    tail_at: bytes


class JobGraph:
    """A customer. An edge is a place in the columns; ``items`` says which item has which place."""

    __slots__ = ("applied", "counts", "encoded_items", "items", "lasts_ms", "n", "tail_at", "tail_ms", "weights")

    def __init__(self) -> None:
        self.n = 0
        """Events ever."""
        self.applied = -1
        """Highest offset in it: what is read twice after a crash is not counted twice. Peers have no such thing."""
        self.items: dict[str, int] = {}
        self.weights = array("d")
        """Each as of the edge's own last event."""
        self.counts = array("q")
        self.lasts_ms = array("q")
        self.tail_ms = array("q")
        """The running session's newest events, and in ``tail_at`` the places of their items."""
        self.tail_at = array("q")
        self.encoded_items: msgspec.Raw | None = None

    def apply(self, item: str, ms: int) -> None:
        """One event, in order."""
        at = self.items.get(item)
        if at is None:
            at = self.items[item] = len(self.weights)
            self.weights.append(1.0)
            self.counts.append(1)
            self.lasts_ms.append(ms)
            self.encoded_items = None
        else:
            weights, lasts_ms = self.weights, self.lasts_ms
            weights[at] = weights[at] * exp((lasts_ms[at] - ms) * DECAY_PER_MS) + 1.0
            self.counts[at] += 1
            lasts_ms[at] = ms
        tail_ms = self.tail_ms
        if tail_ms and ms - tail_ms[-1] > SESSION_GAP_MS:
            del tail_ms[:], self.tail_at[:]
        elif len(tail_ms) == TAIL_EVENTS:
            del tail_ms[0], self.tail_at[0]
        tail_ms.append(ms)
        self.tail_at.append(at)
        self.n += 1

    def pack(self) -> bytes:
        """The stored form. Items are encoded again only after a new one."""
        items = self.encoded_items
        if items is None:
            items = self.encoded_items = msgspec.Raw(encode(list(self.items)))
        return encode(
            (
                self.n,
                self.applied,
                items,
                self.weights.tobytes(),
                self.counts.tobytes(),
                self.lasts_ms.tobytes(),
                self.tail_ms.tobytes(),
                self.tail_at.tobytes(),
            )
        )

    @classmethod
    def unpack(cls, record: bytes) -> Self:
        packed = _decode(record)
        graph = cls()
        graph.n, graph.applied = packed.n, packed.applied
        graph.encoded_items = packed.items
        graph.items = {item: at for at, item in enumerate(_decode_items(packed.items))}
        graph.weights.frombytes(packed.weights)
        graph.counts.frombytes(packed.counts)
        graph.lasts_ms.frombytes(packed.lasts_ms)
        graph.tail_ms.frombytes(packed.tail_ms)
        graph.tail_at.frombytes(packed.tail_at)
        return graph


class Stored(Protocol):
    """What is durable of this partition."""

    def load(self, identities: Sequence[str]) -> list[bytes | None]: ...


class GraphCheckpoint(NamedTuple):
    """What a checkpoint leaves to be written."""

    changes: list[RecordChange]
    pieces: tuple[()]
    meta: bytes
    next_offsets: dict[str, int]

    @property
    def is_news(self) -> bool:
        """Whether anything was touched."""
        return bool(self.changes)


encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Packed).decode
_decode_items: Final = msgspec.msgpack.Decoder(list[str]).decode
_decode_event: Final = msgspec.json.Decoder(JobEvent).decode


class GraphPartition:
    """State of one partition between two cuts.

    Args:
        topic: logical name of the topic of events.
        stored: what is durable.
        meta: encoded next offset, None for a partition that was never written.
        cache_bytes: bound of decoded customers, as :class:`CustomerCache` estimates them.
    """

    def __init__(self, topic: str, stored: Stored, meta: bytes | None, *, cache_bytes: int) -> None:
        self._topic = topic
        self._stored = stored
        self._next_offset = 0 if meta is None else msgspec.msgpack.decode(meta, type=int)
        # The cache is the product's own; it never looks into what it keeps.
        self._cache: Any = CustomerCache(cache_bytes)
        self._dirty: dict[str, JobGraph] = {}

    @property
    def next_offsets(self) -> dict[str, int]:
        return {self._topic: self._next_offset}

    def take(self, records: Sequence[Any]) -> None:
        """Apply records in offset order; those taken in before are skipped."""
        if records[0].offset < self._next_offset:
            records = [record for record in records if record.offset >= self._next_offset]
            if not records:
                return
        decode = _decode_event
        events = [decode(record.value) for record in records]
        graphs = self._graphs({event.customer_id for event in events})
        for event, record in zip(events, records, strict=True):
            graph, offset = graphs[event.customer_id], record.offset
            if offset > graph.applied:
                graph.apply(event.item_id, event.event_ts_ms)
                graph.applied = offset
        self._dirty.update(graphs)
        self._next_offset = records[-1].offset + 1

    def checkpoint(self, now_ms: int) -> GraphCheckpoint:
        """End the checkpoint. There are no timers: ``now_ms`` is not used."""
        resize = self._cache.resize
        changes = []
        for customer_id, graph in self._dirty.items():
            record = graph.pack()
            resize(customer_id, len(record))
            changes.append(RecordChange(customer_id, record, -1, -1))
        self._dirty = {}
        return GraphCheckpoint(changes, (), encode(self._next_offset), self.next_offsets)

    def written(self) -> None:
        """The last checkpoint is durable: customers that are clean may leave the cache."""
        self._cache.shrink(self._dirty)

    def _graphs(self, wanted: set[str]) -> dict[str, JobGraph]:
        """Each customer once, however many events it has in the batch."""
        get = self._cache.get
        known = {customer_id: get(customer_id) for customer_id in wanted}
        missing = sorted(customer_id for customer_id, graph in known.items() if graph is None)
        for customer_id, record in zip(missing, self._stored.load(missing) if missing else (), strict=True):
            graph = JobGraph() if record is None else JobGraph.unpack(record)
            known[customer_id] = graph
            self._cache.put(customer_id, graph, 0 if record is None else len(record))
        return cast("dict[str, JobGraph]", known)
