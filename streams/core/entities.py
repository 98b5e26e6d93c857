"""The entity's side of the interaction graph: in-edges of items, campaigns, templates, offers, channels.

Edges of one entity come from many ingest partitions in any interleaving, so everything kept here is
commutative: integers that are added, times of which the least or greatest counts, and the newest
neighbours. Decay is applied when it is read, from counts per day. Whatever the order of arrival, the
bytes are the same.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from schemas.codec import decoder
from schemas.deadletter import Refused, refuse
from schemas.errors import Malformed
from schemas.graph import ERASED, GRAPH_EDGES_VERSION, GraphEdge, GraphEdges
from schemas.records import RawRecord
from streams.core import stored
from streams.core.cache import DECODED_PER_ENCODED
from streams.core.config import DAY_MS
from streams.core.decay import factor
from streams.core.durable import Piece, RecordChange, Records

ENTITY_VERSION: Final = 2
#: Read, and written as the newest: it remembered nobody who was erased.
_BEFORE: Final = 1
ERASED_DAYS: Final = 30
"""So long, by the time of an entity's edges, a late one of somebody who was erased is known for that."""
DAYS_KEPT: Final = 90
NEIGHBOURS_KEPT: Final = 64
_OVERHEAD_BYTES: Final = 1_024


class InEdges(msgspec.Struct, array_like=True):
    """All edges of one type into one entity."""

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    days: dict[int, int] = {}
    """Day since the epoch -> edges on it, the last :data:`DAYS_KEPT` days before the newest edge."""
    neighbours: dict[str, int] = {}
    """Customer -> time of the last edge; the newest :data:`NEIGHBOURS_KEPT`."""


class Entity(msgspec.Struct, array_like=True):
    """Stored record of one entity, msgpack."""

    version: int = ENTITY_VERSION
    applied: dict[str, int] = {}
    """Source topic and partition -> highest offset of an edge taken in: a repeated edge changes nothing."""
    edges: dict[str, InEdges] = {}
    erased: dict[str, int] = {}
    """Hash of a customer who was erased -> until when; the last :data:`ERASED_DAYS` days."""


_pack: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entity).decode
_decode_meta: Final = msgspec.msgpack.Decoder(int).decode
_decode_edges: Final = decoder(GraphEdges)


def draw(entity: Entity, edge: GraphEdge) -> bool:
    """Take an edge in; False where it was there already.

    Edges of one source partition come in the order of their offsets; one event draws at most one edge
    of a type to an entity, and edges of different types to it come together, hence ``type`` in the key.
    """
    topic, partition, offset = edge.source
    place = f"{topic}-{partition}-{edge.type}"
    if offset <= entity.applied.get(place, -1):
        return False
    entity.applied[place] = offset
    if edge.type == ERASED:
        hashed = _hash_of(edge.customer_id)
        entity.erased[hashed] = max(edge.event_ts_ms, entity.erased.get(hashed, -1))
        for known in entity.edges.values():
            if known.neighbours.get(edge.customer_id, edge.event_ts_ms + 1) <= edge.event_ts_ms:
                del known.neighbours[edge.customer_id]
        return True
    edges = entity.edges.get(edge.type)
    if edges is None:
        edges = entity.edges[edge.type] = InEdges(first_ms=edge.event_ts_ms)
    ts_ms = edge.event_ts_ms
    edges.count += 1
    edges.first_ms = min(edges.first_ms, ts_ms)
    _count_day(edges, ts_ms)
    if not entity.erased or ts_ms > entity.erased.get(_hash_of(edge.customer_id), -1):
        _meet(edges.neighbours, edge.customer_id, ts_ms)
    return True


def _hash_of(customer_id: str) -> str:
    return blake2b(customer_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _count_day(edges: InEdges, ts_ms: int) -> None:
    day, newest = ts_ms // DAY_MS, edges.last_ms // DAY_MS
    edges.last_ms = max(edges.last_ms, ts_ms)
    if day > newest:
        for stale in [kept for kept in edges.days if kept <= day - DAYS_KEPT]:
            del edges.days[stale]
    elif day <= newest - DAYS_KEPT:
        return
    edges.days[day] = edges.days.get(day, 0) + 1


def _meet(neighbours: dict[str, int], customer_id: str, ts_ms: int) -> None:
    if neighbours.get(customer_id, -1) < ts_ms:
        neighbours[customer_id] = ts_ms
        if len(neighbours) > NEIGHBOURS_KEPT:
            del neighbours[min(neighbours, key=lambda known: (neighbours[known], known))]


def weight(edges: InEdges, as_of_ms: int, half_life_ms: int) -> float:
    """Decayed number of edges as of a time: the entity's popularity, to the day."""
    return sum(
        count * factor(day * DAY_MS, as_of_ms, half_life_ms)
        for day, count in sorted(edges.days.items())
        if day * DAY_MS <= as_of_ms
    )


def neighbours(edges: InEdges, as_of_ms: int) -> list[tuple[str, int]]:
    """(customer, last ms) of the newest neighbours whose last edge is not after a time, newest first."""
    met = [(customer_id, last_ms) for customer_id, last_ms in edges.neighbours.items() if last_ms <= as_of_ms]
    return sorted(met, key=lambda neighbour: (-neighbour[1], neighbour[0]))


def encode_entity(entity: Entity) -> bytes:
    """The stored form; equal entities give equal bytes, whatever the order in which their edges came."""
    edges = {
        edge_type: InEdges(
            one.count, one.first_ms, one.last_ms, dict(sorted(one.days.items())), dict(sorted(one.neighbours.items()))
        )
        for edge_type, one in sorted(entity.edges.items())
    }
    forgotten_ms = max([one.last_ms for one in edges.values()], default=0) - ERASED_DAYS * DAY_MS
    erased = {hashed: until_ms for hashed, until_ms in sorted(entity.erased.items()) if until_ms > forgotten_ms}
    entity.erased = erased.copy()
    return _pack(Entity(ENTITY_VERSION, dict(sorted(entity.applied.items())), edges, erased))


def decode_entity(record: bytes) -> Entity:
    """Read a stored record.

    Raises:
        StateCorrupt: not a record of a version this code knows.
    """
    return stored.read_version(
        _decode, record, ENTITY_VERSION, "the stored state of an entity", written_as="stored entity", also=(_BEFORE,)
    )


def _read_meta(meta: bytes | None) -> int:
    return (
        stored.read(_decode_meta, meta, "the stored meta record of a partition of entities") if meta is not None else 0
    )


class EntityCheckpoint(NamedTuple):
    """What a checkpoint of the entities role leaves to be written."""

    changes: list[RecordChange]
    pieces: Sequence[Piece]
    """Always none."""
    meta: bytes
    next_offsets: dict[str, int]
    counts: dict[str, int]
    """As :class:`streams.core.durable.IngestCheckpoint` has them."""

    @property
    def is_news(self) -> bool:
        """As :class:`streams.core.durable.IngestCheckpoint` says."""
        return bool(self.changes)


class Entities:
    """State of one partition of entities between two cuts.

    Args:
        cache_bytes: bound of decoded entities, by an estimate from their records. An entity grows for months, so
            that a number of them bounds nothing.
    """

    def __init__(self, partition: int, records: Records, meta: bytes | None, *, cache_bytes: int = 16 << 20) -> None:
        self.partition = partition
        self.counts: Counter[str] = Counter()
        self._records = records
        self._next_offset = _read_meta(meta)
        self.budget_bytes = cache_bytes
        self.used_bytes = 0
        self._cache: OrderedDict[str, Entity] = OrderedDict()
        self._cost: dict[str, int] = {}
        self._dirty: set[str] = set()

    def __len__(self) -> int:
        """Decoded entities in memory."""
        return len(self._cache)

    @property
    def next_offsets(self) -> dict[str, int]:
        return {"graph-edges": self._next_offset}

    def take(self, records: Sequence[RawRecord]) -> list[Refused]:
        """Apply records of ``graph-edges`` in offset order; returns those that hold none."""
        edges: list[GraphEdge] = []
        refused: list[Refused] = []
        for record in records:
            if record.offset < self._next_offset:
                continue
            try:
                drawn = _decode_edges(record.value or b"")
                if drawn.version != GRAPH_EDGES_VERSION:
                    raise Malformed(f"version {drawn.version} of edges, this worker knows {GRAPH_EDGES_VERSION}")
                edges += drawn.edges
            except (msgspec.DecodeError, UnicodeDecodeError, Malformed) as error:
                refused.append(self._refuse(record, error))
            self._next_offset = record.offset + 1
        self._load({edge.entity for edge in edges})
        for edge in edges:
            if draw(self._cache[edge.entity], edge):
                self._dirty.add(edge.entity)
                self.counts["applied"] += 1
            else:
                self.counts["duplicates"] += 1
        self.counts["dead_lettered"] += len(refused)
        return refused

    def checkpoint(self, now_ms: int) -> EntityCheckpoint:
        """End the checkpoint. Entities have no timers: ``now_ms`` is not used."""
        changes = [RecordChange(name, encode_entity(self._cache[name]), -1, -1) for name in sorted(self._dirty)]
        for change in changes:
            self._resize(change.identity, len(change.record or b""))
        self._dirty = set()
        meta = msgspec.msgpack.encode(self._next_offset)
        return EntityCheckpoint(changes, (), meta, self.next_offsets, dict(self.counts))

    def written(self) -> None:
        excess_bytes, leaving = self.used_bytes - self.budget_bytes, list[str]()
        for name in self._cache if excess_bytes > 0 else ():
            if name not in self._dirty:
                leaving.append(name)
                excess_bytes -= self._cost[name]
                if excess_bytes <= 0:
                    break
        for name in leaving:
            del self._cache[name]
            self.used_bytes -= self._cost.pop(name)

    def entity(self, name: str) -> Entity:
        """The entity ``kind:id`` as known now."""
        self._load({name})
        return self._cache[name]

    def _load(self, wanted: set[str]) -> None:
        missing = sorted(wanted - self._cache.keys())
        for name in wanted & self._cache.keys():
            self._cache.move_to_end(name)
        for name, record in zip(missing, self._records.load(missing) if missing else [], strict=True):
            self._cache[name] = decode_entity(record) if record is not None else Entity()
            self._resize(name, len(record or b""))

    def _resize(self, name: str, encoded_bytes: int) -> None:
        cost = encoded_bytes * DECODED_PER_ENCODED + _OVERHEAD_BYTES
        self.used_bytes += cost - self._cost.get(name, 0)
        self._cost[name] = cost

    def _refuse(self, record: RawRecord, error: Exception) -> Refused:
        wrong = error if isinstance(error, Malformed) else Malformed(f"no graph edge: {error}")
        return refuse(wrong, "graph-edges", self.partition, record)
