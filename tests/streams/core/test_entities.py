"""The entity's side of the graph: the same bytes whatever the order in which partitions' edges come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS

from schemas.codec import msgpack_encode
from schemas.errors import StateCorrupt
from schemas.graph import ERASED, GRAPH_EDGES_VERSION, GraphEdge, GraphEdges
from schemas.records import LogRecord
from streams.core.cache import DECODED_PER_ENCODED
from streams.core.config import DAY_MS
from streams.core.entities import (
    DAYS_KEPT,
    NEIGHBOURS_KEPT,
    Entities,
    Entity,
    decode_entity,
    draw,
    encode_entity,
    neighbours,
    weight,
)
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore

HALF_LIFE_MS = 28 * DAY_MS


def edge(
    partition: int, offset: int, day: int, customer: str = "c", type: str = "purchase>item", entity: str = "item:1"
) -> GraphEdge:
    return GraphEdge(
        customer_id=customer,
        type=type,
        entity=entity,
        event_ts_ms=START_MS + day * DAY_MS,
        source=("clickstream", partition, offset),
    )


@st.composite
def partitions(draw_: Any) -> list[list[GraphEdge]]:
    """Edges of three ingest partitions, each in offset order; customers belong to one partition."""
    days = st.integers(0, 2 * DAYS_KEPT)
    return [
        [
            edge(partition, offset, draw_(days), f"c{partition}-{draw_(st.integers(0, 40))}")
            for offset in range(draw_(st.integers(0, 60)))
        ]
        for partition in range(3)
    ]


@given(sources=partitions(), data=st.data())
def test_order_between_partitions_and_repetition_change_nothing(sources: list[list[GraphEdge]], data: Any) -> None:
    expected, found = Entity(applied={}, edges={}), Entity(applied={}, edges={})
    for source in sources:
        for one in source:
            assert draw(expected, one)
    rest = [list(source) for source in sources]
    while any(rest):
        source = data.draw(st.sampled_from([source for source in rest if source]))
        count = data.draw(st.integers(1, len(source)))
        for one in source[:count]:
            draw(found, one)
        # A crash: the last few are sent again.
        for one in source[data.draw(st.integers(0, count)) : count]:
            assert not draw(found, one)
        del source[:count]
    assert encode_entity(found) == encode_entity(expected)


@given(sources=partitions())
def test_an_entity_is_bounded_and_round_trips(sources: list[list[GraphEdge]]) -> None:
    entity = Entity(applied={}, edges={})
    for source in sources:
        for one in source:
            draw(entity, one)
    for one_type in entity.edges.values():
        assert len(one_type.days) <= DAYS_KEPT
        assert len(one_type.neighbours) <= NEIGHBOURS_KEPT
        assert sum(one_type.days.values()) <= one_type.count == sum(map(len, sources))
    assert encode_entity(decode_entity(encode_entity(entity))) == encode_entity(entity)


def test_popularity_and_neighbours_as_of_a_time() -> None:
    entity = Entity(applied={}, edges={})
    draw(entity, edge(0, 0, day=0, customer="early"))
    draw(entity, edge(0, 1, day=28, customer="late"))
    edges = entity.edges["purchase>item"]
    at = START_MS - START_MS % DAY_MS
    assert weight(edges, at, HALF_LIFE_MS) == 1.0
    assert abs(weight(edges, at + 28 * DAY_MS, HALF_LIFE_MS) - 1.5) < 0.01
    assert neighbours(edges, START_MS + 27 * DAY_MS) == [("early", START_MS)]
    assert [who for who, _ in neighbours(edges, START_MS + 28 * DAY_MS)] == ["late", "early"]


def test_an_erased_customer_is_no_neighbour_any_more() -> None:
    entity = Entity(applied={}, edges={})
    draw(entity, edge(0, 0, day=0, customer="gone"))
    draw(entity, edge(0, 1, day=0, customer="stays"))
    draw(entity, edge(0, 2, day=1, customer="gone", type=ERASED))
    assert entity.edges["purchase>item"].neighbours.keys() == {"stays"}
    draw(entity, edge(0, 3, day=2, customer="gone"))
    assert entity.edges["purchase>item"].neighbours.keys() == {"stays", "gone"}


def batch(offset: int, edges: list[GraphEdge], version: int = GRAPH_EDGES_VERSION) -> LogRecord:
    return LogRecord(offset, None, msgpack_encode(GraphEdges(version=version, edges=tuple(edges))), (), START_MS)


@given(sources=partitions(), data=st.data())
def test_edges_in_any_batches_are_taken_once(sources: list[list[GraphEdge]], data: Any) -> None:
    """After a crash the same edges come again, in other records."""
    expected = Entity(applied={}, edges={})
    entities, offset = Entities(0, StoredRecords(MemoryStore()), None), 0
    for source in sources:
        for one in source:
            draw(expected, one)
        done = 0
        while done < len(source):
            again = data.draw(st.integers(0, done), "again")
            until = data.draw(st.integers(done + 1, len(source)), "until")
            assert entities.take([batch(offset, source[done - again : until])]) == []
            done, offset = until, offset + 1
    assert encode_entity(entities.entity("item:1")) == encode_entity(expected)
    assert entities.counts["applied"] == sum(map(len, sources))


@given(gaps=st.lists(st.integers(1, 3), min_size=1, max_size=8), data=st.data())
def test_records_behind_a_gap_are_taken_and_those_that_come_again_are_not(gaps: list[int], data: Any) -> None:
    """Markers of transactions take offsets, and so do records that compaction or a retention took."""
    offsets = list(accumulate(gaps))
    records = [batch(offset, [edge(0, offset, 1)]) for offset in offsets]
    entities = Entities(0, StoredRecords(MemoryStore()), None)
    first = data.draw(st.integers(0, len(records)), "first")
    assert entities.take(records[:first]) == []
    assert entities.take(records) == []
    assert entities.counts["applied"] == len(records)
    assert entities.counts["duplicates"] == 0, "they are not even looked at"
    assert entities.next_offsets == {"graph-edges": offsets[-1] + 1}


def test_a_record_of_the_version_before_is_read_and_an_older_one_is_not() -> None:
    entity = Entity(applied={}, edges={})
    draw(entity, edge(0, 1, day=1))
    fields = msgspec.msgpack.decode(encode_entity(entity))
    assert fields[0] == 2
    assert encode_entity(decode_entity(msgspec.msgpack.encode([1, *fields[1:3]]))) == encode_entity(entity)
    for version in (0, 3):
        with pytest.raises(StateCorrupt, match=f"version {version}"):
            decode_entity(msgspec.msgpack.encode([version, *fields[1:]]))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "no graph edge"),
        (b"\x93\x01", "no graph edge"),
        (batch(0, [edge(0, 1, 1)], version=3).value, "version 3 of edges, this worker knows 2"),
    ],
)
def test_what_holds_no_edges_is_refused_and_the_next_one_taken(value: bytes | None, said: str) -> None:
    entities = Entities(0, StoredRecords(MemoryStore()), None)
    (letter,) = entities.take([LogRecord(0, None, value, (), START_MS), batch(1, [edge(0, 1, 1)])])
    assert said.encode() in dict(letter.headers)["dl_message"]
    assert entities.counts == {"applied": 1, "dead_lettered": 1}
    assert entities.next_offsets == {"graph-edges": 2}


class Kept:
    """Durable records of entities in a dict."""

    def __init__(self) -> None:
        self.records: dict[str, bytes | None] = {}

    def load(self, identities: Sequence[str]) -> list[bytes | None]:
        return [self.records.get(identity) for identity in identities]


def test_memory_is_bounded_by_bytes_and_changes_nothing() -> None:
    """An entity grows for months: a number of them bounds nothing."""

    unknown = Entities(0, cast(Any, Kept()), None)
    unknown.entity("item:unknown")
    nothing = unknown.used_bytes

    def run(cache_bytes: int) -> tuple[dict[str, bytes | None], list[int]]:
        kept, used = Kept(), list[int]()
        entities = Entities(0, cast(Any, kept), None, cache_bytes=cache_bytes)
        for day in range(60):
            drawn = [
                edge(0, day, day=day, customer=f"c{day * 7 % 50}", entity=f"item:{item}")
                for item in range(day % 5, 200, 1 + day % 3)
            ]
            entities.take([batch(day, drawn)])
            kept.records |= {change.identity: change.record for change in entities.checkpoint(0).changes}
            if cache_bytes > 1 << 30:  # nothing leaves: what is used is the size of all that was written
                encoded = sum(len(record or b"") for record in kept.records.values())
                assert entities.used_bytes == encoded * DECODED_PER_ENCODED + len(kept.records) * nothing
            entities.written()
            used.append(entities.used_bytes)
        return kept.records, used

    whole, grew = run(1 << 40)
    bounded, used = run(100_000)
    assert bounded == whole
    assert max(used) <= 100_000 < grew[-1]
