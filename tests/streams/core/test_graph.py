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
from streams.core import graph
from streams.core.config import DAY_MS
from streams.core.decay import forward_weight
from streams.core.graph import EDGE_TYPES, ENTITY_KINDS, Edges, edges_of, heaviest, known_entities, neighbours, touch

HALF_LIFE_MS = 28 * DAY_MS


def draw(edges: Edges, entity_id: str, day: float, edge_type: str = "view>item", limit: int = 48) -> None:
    ts_ms = START_MS + int(day * DAY_MS)
    touch(edges, edge_type, entity_id, ts_ms, forward_weight(ts_ms, HALF_LIFE_MS), limit)


def body(source_index: int, **said: Any) -> Body:
    made: Body = msgspec.convert({"event_ts_ms": START_MS} | said, list(type_by_source.values())[source_index])
    return made


TOUCHES = st.lists(
    st.tuples(st.sampled_from(["view>item", "purchase>item"]), st.sampled_from("abcdefgh"), st.integers(0, 40)),
    max_size=80,
)
"""(edge type, entity, days since the touch before)"""


def folded(touches: list[tuple[str, str, int]], limit: int) -> tuple[Edges, int]:
    edges: Edges = {}
    day = 0
    for edge_type, entity_id, step in touches:
        day += step
        draw(edges, entity_id, day, edge_type, limit)
    return edges, START_MS + day * DAY_MS


@given(touches=TOUCHES)
def test_counts_weights_and_times_without_a_limit(touches: list[tuple[str, str, int]]) -> None:
    edges, _ = folded(touches, limit=1_000)
    days = list(itertools.accumulate(step for _, _, step in touches))
    for edge_type, of_type in edges.items():
        for entity_id, (count, weight, first_ms, last_ms) in of_type.items():
            times = [
                START_MS + day * DAY_MS
                for day, (name, what, _) in zip(days, touches, strict=True)
                if (name, what) == (edge_type, entity_id)
            ]
            assert (count, first_ms, last_ms) == (len(times), times[0], times[-1])
            assert weight == pytest.approx(math.fsum(forward_weight(ts_ms, HALF_LIFE_MS) for ts_ms in times))
    assert sum(edge[0] for of_type in edges.values() for edge in of_type.values()) == len(touches)


@given(touches=TOUCHES, limit=st.integers(1, 6))
def test_every_type_is_bounded_and_keeps_its_heaviest(touches: list[tuple[str, str, int]], limit: int) -> None:
    edges: Edges = {}
    day = 0
    for edge_type, entity_id, step in touches:
        day += step
        before = dict(edges.get(edge_type, {}))
        others = {name: dict(of_type) for name, of_type in edges.items() if name != edge_type}
        draw(edges, entity_id, day, edge_type, limit)
        after = edges[edge_type]
        assert 1 <= len(after) <= limit
        assert {name: of_type for name, of_type in edges.items() if name != edge_type} == others
        gone = {name: edge for name, edge in before.items() if name not in after}
        if gone:
            assert len(after) == max(1, limit * 2 // 3)
            lightest = min((edge[1], name) for name, edge in after.items())
            assert all((edge[1], name) < lightest for name, edge in gone.items())
            assert all(after[name] == edge for name, edge in before.items() if name in after)


@given(touches=TOUCHES, count=st.integers(0, 10), later_days=st.integers(0, 100), limit=st.integers(1, 12))
def test_heaviest_equals_a_brute_force(
    touches: list[tuple[str, str, int]], count: int, later_days: int, limit: int
) -> None:
    edges, now_ms = folded(touches, limit)
    as_of_ms = now_ms + later_days * DAY_MS
    for edge_type in ("view>item", "purchase>item", "cart>item"):
        found = heaviest(edges, edge_type, count, as_of_ms, HALF_LIFE_MS)
        rest = {name: edge[1] for name, edge in edges.get(edge_type, {}).items()}
        expected: list[tuple[str, float]] = []
        while rest and len(expected) < count:
            best = max(rest, key=lambda name: (rest[name], name))
            expected.append((best, rest.pop(best)))
        assert [name for name, _ in found] == [name for name, _ in expected]
        for (_, weight), (_, forward) in zip(found, expected, strict=True):
            assert weight == pytest.approx(forward / forward_weight(as_of_ms, HALF_LIFE_MS))


@given(touches=TOUCHES, at_day=st.integers(0, 400))
def test_neighbours_leave_out_what_began_later(touches: list[tuple[str, str, int]], at_day: int) -> None:
    edges, _ = folded(touches, limit=1_000)
    as_of_ms = START_MS + at_day * DAY_MS
    found = neighbours(edges, "view>item", as_of_ms, HALF_LIFE_MS)
    assert {one.entity_id for one in found} == {
        name for name, edge in edges.get("view>item", {}).items() if edge[2] <= as_of_ms
    }
    assert [one.weight for one in found] == sorted((one.weight for one in found), reverse=True)
    assert all((one.count, one.first_ms, one.last_ms) == _without_weight(edges, one.entity_id) for one in found)


def _without_weight(edges: Edges, entity_id: str) -> tuple[int, int, int]:
    count, _, first_ms, last_ms = edges["view>item"][entity_id]
    return count, first_ms, last_ms


def test_an_edge_weighs_half_after_a_half_life() -> None:
    edges: Edges = {}
    draw(edges, "a", 0)
    draw(edges, "b", 28)
    seen = {one.entity_id: one.weight for one in neighbours(edges, "view>item", START_MS + 28 * DAY_MS, HALF_LIFE_MS)}
    assert seen == {"a": 0.5, "b": 1.0}
    assert heaviest(edges, "view>item", 1, START_MS + 28 * DAY_MS, HALF_LIFE_MS) == (("b", 1.0),)


def test_recent_touches_outweigh_many_old_ones() -> None:
    edges: Edges = {}
    for _ in range(5):
        draw(edges, "old", 0)
    draw(edges, "new", 28 * 3)
    assert [name for name, _ in heaviest(edges, "view>item", 2, START_MS + 84 * DAY_MS, HALF_LIFE_MS)] == ["new", "old"]


def test_nothing_known_is_nothing_shown() -> None:
    assert heaviest({}, "view>item", 5, START_MS, HALF_LIFE_MS) == ()
    assert neighbours({}, "view>item", START_MS, HALF_LIFE_MS) == []
    assert known_entities({}) == set()


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


def test_known_entities_are_those_whose_side_is_kept() -> None:
    edges: Edges = {}
    for edge_type, entity_id in (("view>item", "i"), ("cart>item", "i"), ("view>page", "p"), ("via>channel", "app")):
        graph.touch(edges, edge_type, entity_id, START_MS, 1.0, 10)
    assert known_entities(edges) == {"item:i", "channel:app"}
