"""The customer's edges: bounded, counted, and seen as of a time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS

from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS, SEND_EVENTS, Body, type_by_source
from schemas.graph import EDGE_INDEX, EDGE_TYPES
from schemas.snapshot import EDGE, age_hours
from schemas.words import Words, hash_of
from streams.core.config import DAY_MS, HOUR_MS
from streams.core.decay import forward_weight
from streams.core.graph import ENTITY_KINDS, Edge, Edges, Graph, blocks, edges_of, known_entities, neighbours, touch

HALF_LIFE_MS = 28 * DAY_MS


def draw(
    graph: Graph, entity_id: str, day: float, edge_type: str = "view>item", limit: int = 48, fresh: int = 10_000
) -> None:
    ts_ms = START_MS + int(day * DAY_MS)
    weight = forward_weight(ts_ms, HALF_LIFE_MS)
    touch(graph, [(edge_type, entity_id)], ts_ms, weight, fresh_limit=fresh, type_limit=limit)


def body(source_index: int, **said: Any) -> Body:
    made: Body = msgspec.convert({"event_ts_ms": START_MS} | said, list(type_by_source.values())[source_index])
    return made


TOUCHES = st.lists(
    st.tuples(st.sampled_from(["view>item", "purchase>item"]), st.sampled_from("abcdefgh"), st.integers(0, 40)),
    max_size=80,
)
"""(edge type, entity, days since the touch before)"""


def folded(touches: list[tuple[str, str, int]], limit: int, fresh: int = 10_000) -> tuple[Graph, int]:
    graph = Graph()
    day = 0
    for edge_type, entity_id, step in touches:
        day += step
        draw(graph, entity_id, day, edge_type, limit, fresh)
    return graph, START_MS + day * DAY_MS


def all_edges(graph: Graph) -> Edges:
    return {edge_type: graph.edges(edge_type) for edge_type in graph}


@given(touches=TOUCHES, fresh=st.integers(1, 12))
def test_counts_weights_and_times_without_a_limit(touches: list[tuple[str, str, int]], fresh: int) -> None:
    graph, _ = folded(touches, limit=1_000, fresh=fresh)
    days = list(itertools.accumulate(step for _, _, step in touches))
    for edge_type, of_type in all_edges(graph).items():
        for entity_id, (count, weight, first_ms, last_ms) in of_type.items():
            times = [
                START_MS + day * DAY_MS
                for day, (name, what, _) in zip(days, touches, strict=True)
                if (name, what) == (edge_type, entity_id)
            ]
            assert (count, first_ms, last_ms) == (len(times), times[0], times[-1])
            assert weight == pytest.approx(math.fsum(forward_weight(ts_ms, HALF_LIFE_MS) for ts_ms in times))
    assert sum(edge[0] for of_type in all_edges(graph).values() for edge in of_type.values()) == len(touches)
    assert graph.count("item") == sum(map(len, all_edges(graph).values())) and graph.count("page") == 0
    assert sum(map(len, graph.fresh.values())) == graph.fresh_edges < fresh


@given(touches=TOUCHES, limit=st.integers(1, 6), fresh=st.integers(1, 6))
def test_a_merge_keeps_the_heaviest_of_a_type(touches: list[tuple[str, str, int]], limit: int, fresh: int) -> None:
    graph = Graph()
    day = 0
    for edge_type, entity_id, step in touches:
        day += step
        before, merges = all_edges(graph), graph.merges
        draw(graph, entity_id, day, edge_type, limit, fresh)
        after = all_edges(graph)
        if graph.merges == merges:
            assert {name: dict.fromkeys(of_type) for name, of_type in after.items()} == {
                name: dict.fromkeys([*before.get(name, {}), *([entity_id] if name == edge_type else [])])
                for name in dict.fromkeys([*before, edge_type])
            }
            continue
        assert not graph.fresh and graph.older is not None and graph.older.as_of_ms == START_MS + day * DAY_MS
        for name, of_type in after.items():
            known = before.get(name, {}) | ({entity_id: of_type.get(entity_id)} if name == edge_type else {})
            gone = {one: edge for one, edge in known.items() if one not in of_type}
            assert 1 <= len(of_type) <= limit
            if gone:
                assert len(of_type) == max(1, limit * 2 // 3)
                lightest = min((edge[1], one) for one, edge in of_type.items())
                assert all(edge is None or (edge[1], one) < lightest for one, edge in gone.items())


@given(touches=TOUCHES, fresh=st.integers(1, 12))
def test_a_copy_goes_its_own_way(touches: list[tuple[str, str, int]], fresh: int) -> None:
    graph, now_ms = folded(touches, limit=4, fresh=fresh)
    before = msgspec.msgpack.encode(all_edges(graph))
    twin = graph.copy()
    for at in range(30):
        draw(twin, f"new{at}", (now_ms - START_MS) / DAY_MS + at, limit=4, fresh=fresh)
    assert msgspec.msgpack.encode(all_edges(graph)) == before


@given(touches=TOUCHES, fresh=st.integers(1, 12), later_days=st.integers(0, 100))
def test_a_snapshot_shows_every_edge_as_it_is_now(
    touches: list[tuple[str, str, int]], fresh: int, later_days: int
) -> None:
    """Whatever was merged when: word, count, weight and age, as far as 8 bytes can say them."""
    graph, now_ms = folded(touches, limit=1_000, fresh=fresh)
    as_of_ms = now_ms + later_days * DAY_MS
    shown: dict[tuple[str, bytes], tuple[float, int, float]] = {}
    for block in blocks(graph, as_of_ms, Words(), HALF_LIFE_MS):
        left = 2 ** -((as_of_ms - block.as_of_ms) / HALF_LIFE_MS)
        for index, column in block.edges.items():
            for word, weight, count, age in EDGE.iter_unpack(column):
                hours = age_hours(age) + (as_of_ms - block.as_of_ms) / HOUR_MS
                shown[EDGE_TYPES[index], word] = (weight * left, count, hours)
    expected = {
        (edge_type, hash_of(f"item:{entity_id}")): (weight / forward_weight(as_of_ms, HALF_LIFE_MS), count, last_ms)
        for edge_type, of_type in all_edges(graph).items()
        for entity_id, (count, weight, _, last_ms) in of_type.items()
    }
    assert shown.keys() == expected.keys()
    for key, (weight, count, last_ms) in expected.items():
        assert shown[key][0] == pytest.approx(weight, rel=0.01, abs=1e-6)
        assert shown[key][1] == count
        assert shown[key][2] == pytest.approx((as_of_ms - last_ms) / HOUR_MS, rel=0.05, abs=0.01)


def test_a_snapshot_shows_the_heaviest_of_many_older_edges() -> None:
    graph = Graph()
    for at in range(300):
        for _ in range(1 + (at == 7)):
            draw(graph, f"i{at}", at / 10, "cart>item", limit=1_000, fresh=300)
    assert graph.merges == 1
    (block,) = blocks(graph, START_MS + 30 * DAY_MS, Words(), HALF_LIFE_MS)
    words = [word for word, *_ in EDGE.iter_unpack(block.edges[EDGE_INDEX["cart>item"]])]
    assert len(words) == 16
    assert set(words) == {hash_of(f"item:i{at}") for at in [7, *range(285, 300)]}


def test_a_weight_beyond_all_bounds_is_the_largest() -> None:
    graph = Graph()
    weight = 1e9 * forward_weight(START_MS, HALF_LIFE_MS)
    touch(graph, [("view>item", "a")], START_MS, weight, fresh_limit=9, type_limit=9)
    (block,) = blocks(graph, START_MS, Words(), HALF_LIFE_MS)
    assert EDGE.unpack(block.edges[EDGE_INDEX["view>item"]])[1] == 65_504.0


@given(touches=TOUCHES, at_day=st.integers(0, 400), fresh=st.integers(1, 12))
def test_neighbours_leave_out_what_began_later(touches: list[tuple[str, str, int]], at_day: int, fresh: int) -> None:
    graph, _ = folded(touches, limit=1_000, fresh=fresh)
    as_of_ms = START_MS + at_day * DAY_MS
    found = neighbours(graph, "view>item", as_of_ms, HALF_LIFE_MS)
    known = graph.edges("view>item")
    assert {one.entity_id for one in found} == {name for name, edge in known.items() if edge[2] <= as_of_ms}
    assert [one.weight for one in found] == sorted((one.weight for one in found), reverse=True)
    assert all((one.count, one.first_ms, one.last_ms) == _without_weight(known[one.entity_id]) for one in found)


def _without_weight(edge: Edge) -> tuple[int, int, int]:
    count, _, first_ms, last_ms = edge
    return count, first_ms, last_ms


def test_an_edge_weighs_half_after_a_half_life() -> None:
    graph = Graph()
    draw(graph, "a", 0)
    draw(graph, "b", 28)
    seen = {one.entity_id: one.weight for one in neighbours(graph, "view>item", START_MS + 28 * DAY_MS, HALF_LIFE_MS)}
    assert seen == {"a": 0.5, "b": 1.0}


def test_recent_touches_outweigh_many_old_ones() -> None:
    graph = Graph()
    for _ in range(5):
        draw(graph, "old", 0)
    draw(graph, "new", 28 * 3)
    found = neighbours(graph, "view>item", START_MS + 84 * DAY_MS, HALF_LIFE_MS)
    assert [one.entity_id for one in found] == ["new", "old"]


def test_nothing_known_is_nothing_shown() -> None:
    assert blocks(Graph(), START_MS, Words(), HALF_LIFE_MS) == ()
    assert neighbours(Graph(), "view>item", START_MS, HALF_LIFE_MS) == []
    assert known_entities(Graph()) == set()


@pytest.mark.parametrize(
    ("source_index", "said", "expected"),
    [
        (
            CLICKSTREAM,
            {"event": "purchase", "item_id": "i", "category": "c"},
            ["purchase>item:i", "purchase>category:c"],
        ),
        (CLICKSTREAM, {"event": "add_to_cart", "item_id": "i", "category": "c"}, ["cart>item:i", "view>category:c"]),
        (CLICKSTREAM, {"event": "remove_from_cart", "item_id": "i", "category": "c"}, ["uncart>item:i"]),
        (CLICKSTREAM, {"event": "page_view", "page": "p", "channel": "app"}, ["view>page:p", "via>channel:app"]),
        (CLICKSTREAM, {"event": "app_open", "item_id": "i"}, []),
        (CLICKSTREAM, {"event": "loyalty_scan", "item_id": "i"}, ["custom>item:i"]),
        (
            CAMPAIGN_SENDS,
            {"event": "send", "campaign_id": "x", "template_id": "t", "offer_id": "o", "channel": "email"},
            ["received>campaign:x", "received>template:t", "received>offer:o", "received>channel:email"],
        ),
        (CAMPAIGN_SENDS, {"event": "bounce", "campaign_id": "x", "channel": "email"}, []),
        (CAMPAIGN_SENDS, {"event": "unsubscribe", "campaign_id": "x", "channel": "email"}, ["left>campaign:x"]),
        (REDEMPTIONS, {"offer_id": "o", "campaign_id": "x"}, ["redeemed>offer:o", "redeemed>campaign:x"]),
        (REDEMPTIONS, {"offer_id": "o"}, ["redeemed>offer:o"]),
        (PROFILES, {"timezone": "UTC"}, []),
    ],
)
def test_edges_of_events(source_index: int, said: dict[str, Any], expected: list[str]) -> None:
    assert [f"{edge_type}:{entity_id}" for edge_type, entity_id in edges_of(body(source_index, **said))] == expected


@given(event=st.sampled_from([*SEND_EVENTS, "purchase", "search", "item_view", "custom"]))
def test_every_edge_drawn_has_a_declared_type(event: str) -> None:
    source_index = CAMPAIGN_SENDS if event in SEND_EVENTS else CLICKSTREAM
    said = {"campaign_id": "x"} if source_index == CAMPAIGN_SENDS else {"item_id": "i", "category": "c", "page": "p"}
    drawn = list(edges_of(body(source_index, event=event, channel="email", **said)))
    assert {edge_type for edge_type, _ in drawn} <= set(EDGE_TYPES)


def test_edge_types_are_named_once() -> None:
    assert len(EDGE_TYPES) == len(set(EDGE_TYPES))
    kinds = {edge_type.partition(">")[2] for edge_type in EDGE_TYPES}
    assert kinds >= ENTITY_KINDS and kinds - ENTITY_KINDS == {"category", "page"}


@pytest.mark.parametrize("fresh", [2, 9])
def test_known_entities_are_those_whose_side_is_kept(fresh: int) -> None:
    graph = Graph()
    for edge_type, entity_id in (("view>item", "i"), ("cart>item", "i"), ("view>page", "p"), ("via>channel", "app")):
        draw(graph, entity_id, 0, edge_type, fresh=fresh)
    assert known_entities(graph) == {"item:i", "channel:app"}
