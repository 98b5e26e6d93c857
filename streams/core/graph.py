"""The customer's side of the interaction graph: typed, directed, timestamped, bounded edges.

A customer has a few hundred edges, and an event touches a few of them. So they are kept in two parts: *fresh* ones,
as they are since the last merge, and *older* ones, which change at a merge only and are written then. When a merge
comes depends on the events alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

import msgspec

from schemas.events import CampaignSend, Clickstream, Profile, Redemption, Said, Withdrawal
from schemas.graph import EDGE_INDEX, EDGE_TYPES
from schemas.snapshot import EDGE, EdgeBlock, age_code
from schemas.words import Words
from streams.core.baskets import basket_of, is_return
from streams.core.decay import present_weight

#: (edges so far, forward-decayed weight, first ms, last ms)
Edge = tuple[int, float, int, int]
Edges = dict[str, dict[str, Edge]]
_NO_EDGES: Final[dict[str, Edge]] = {}
_NOTHING: Final[Edges] = {}

_CLICK_EDGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "purchase": (("purchase>item", "item_id"), ("purchase>category", "category")),
    "item_view": (("view>item", "item_id"), ("view>category", "category")),
    "add_to_cart": (("cart>item", "item_id"), ("view>category", "category")),
    "remove_from_cart": (("uncart>item", "item_id"),),
    "page_view": (("view>page", "page"),),
    "search": (("search>category", "category"),),
    "app_open": (),
}
_CUSTOM_EDGES: Final = (("custom>item", "item_id"), ("custom>category", "category"))
_RETURN_EDGES: Final = (("returned>item", "item_id"),)
_SEND_EDGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "send": (
        ("received>campaign", "campaign_id"),
        ("received>template", "template_id"),
        ("received>offer", "offer_id"),
    ),
    "delivered": (),
    "open": (("opened>campaign", "campaign_id"), ("opened>template", "template_id")),
    "click": (("clicked>campaign", "campaign_id"), ("clicked>template", "template_id")),
    "bounce": (),
    "unsubscribe": (("left>campaign", "campaign_id"),),
    "complaint": (("left>campaign", "campaign_id"),),
}
_REDEMPTION_EDGES: Final = (("redeemed>offer", "offer_id"), ("redeemed>campaign", "campaign_id"))
_CHANNEL_EDGE: Final = {"send": "received>channel", "open": "opened>channel", "click": "clicked>channel"}

_KIND: Final = {edge_type: edge_type.partition(">")[2] for edge_type in EDGE_TYPES}
_TYPES: Final = {
    kind: tuple(edge_type for edge_type in EDGE_TYPES if _KIND[edge_type] == kind)
    for kind in dict.fromkeys(_KIND.values())
}
"""Kind of entity -> types of the edges that lead there."""

ENTITY_KINDS: Final = frozenset({"item", "campaign", "template", "offer", "channel"})
"""Kinds whose in-edges the entities role keeps; categories and pages live on the customer's side only."""

ENTITY_OF: Final = {
    edge_type: f"{kind}:" for edge_type in EDGE_TYPES if (kind := edge_type.partition(">")[2]) in ENTITY_KINDS
}
"""Edge type -> what the names of its entities begin with, for those whose in-edges are kept."""


class Neighbour(msgspec.Struct, frozen=True):
    """One edge as seen at a time; ``weight`` is decayed to that time."""

    entity_id: str
    count: int
    weight: float
    first_ms: int
    last_ms: int


def edges_of(body: Said) -> list[tuple[str, str]]:
    """(edge type, entity id) of each edge that an event draws: every line its own, so that one may come twice."""
    rules: tuple[tuple[str, str], ...]
    match body:
        case Clickstream():
            if body.items is not None or is_return(body):
                return _line_edges(body)
            rules, channel, channel_edge = _CLICK_EDGES.get(body.event, _CUSTOM_EDGES), body.channel, "via>channel"
        case CampaignSend():
            rules, channel, channel_edge = _SEND_EDGES[body.event], body.channel, _CHANNEL_EDGE.get(body.event, "")
        case Redemption():
            rules, channel, channel_edge = _REDEMPTION_EDGES, None, ""
        case Profile() | Withdrawal():
            return []
    drawn: list[tuple[str, str]] = []
    for edge_type, field in rules:
        entity_id = getattr(body, field)
        if entity_id is not None:
            drawn.append((edge_type, entity_id))
    if channel is not None and channel_edge:
        drawn.append((channel_edge, channel))
    return drawn


def _line_edges(body: Clickstream) -> list[tuple[str, str]]:
    """Edges of an event with lines, or of one that gives back: those of what is given back are a type of their own."""
    taken, given_back = basket_of(body)
    rules = _CLICK_EDGES.get(body.event, _CUSTOM_EDGES)
    drawn = [
        (edge_type, entity_id)
        for product, of_product in (
            *(((body, rules),) if taken else ()),  # what no line says, as a page
            *((line, rules) for line in taken),
            *((line, _RETURN_EDGES) for line in given_back),
        )
        for edge_type, field in of_product
        if (entity_id := getattr(product, field, None)) is not None
    ]
    if taken and body.channel is not None:
        drawn.append(("via>channel", body.channel))
    return drawn


_SHOWN: Final = {
    "purchase>item": 192,
    "purchase>category": 64,
    "view>item": 32,
    "view>category": 16,
    "cart>item": 16,
    "returned>item": 8,
    "received>campaign": 32,
    "opened>campaign": 16,
    "clicked>campaign": 16,
    "redeemed>campaign": 64,
    "redeemed>offer": 32,
    "via>channel": 8,
    "received>channel": 8,
    "opened>channel": 8,
    "clicked>channel": 8,
}
"""How many older edges of a type a snapshot carries, the heaviest, and all fresh ones. Of other types it has none."""
_MOST_WEIGHT: Final = 65_504.0  # of a float16


class MergedEdges:
    """Edges as the last merge left them. Never changed, so that copies of a state share it."""

    __slots__ = ("_counts", "_packed", "as_of_ms", "edges")

    def __init__(self, edges: Edges, as_of_ms: int) -> None:
        self.edges = edges
        self.as_of_ms = as_of_ms
        """Time of the merge."""
        self._packed: EdgeBlock | None = None
        self._counts: dict[str, int] = {}

    def count(self, kind: str) -> int:
        """Edges to entities of a kind, of all types."""
        known = self._counts.get(kind)
        if known is None:
            known = self._counts[kind] = sum([len(self.edges.get(edge_type, _NO_EDGES)) for edge_type in _TYPES[kind]])
        return known

    def packed(self, words: Words, half_life_ms: int) -> EdgeBlock:
        """For snapshots; the same until the next merge."""
        if self._packed is None:
            shown = {
                edge_type: {entity_id: of_type[entity_id] for _, entity_id in _ranked(of_type)[:count]}
                for edge_type, count in _SHOWN.items()
                if (of_type := self.edges.get(edge_type))
            }
            self._packed = pack(shown, self.as_of_ms, words, half_life_ms)
        return self._packed


class Graph(msgspec.Struct, array_like=True, gc=False):
    """All edges of one customer."""

    fresh: Edges = {}
    fresh_edges: int = 0
    """How many there are in ``fresh``."""
    merges: int = 0
    """How many there were: ``older`` is of the last one."""
    older: MergedEdges | None = None
    """Not part of the customer's record, but a piece of its own."""

    def copy(self) -> Graph:
        fresh = {edge_type: of_type.copy() for edge_type, of_type in self.fresh.items()}
        return Graph(fresh, self.fresh_edges, self.merges, self.older)

    @property
    def older_edges(self) -> Edges:
        """Those of the last merge; empty before the first."""
        return _NOTHING if self.older is None else self.older.edges

    def edges(self, edge_type: str) -> dict[str, Edge]:
        """Entity id -> edge of all edges of a type."""
        return self.older_edges.get(edge_type, _NO_EDGES) | self.fresh.get(edge_type, _NO_EDGES)

    def __iter__(self) -> Iterator[str]:
        """Types that have edges."""
        return iter(dict.fromkeys((*self.older_edges, *self.fresh)))

    def count(self, kind: str) -> int:
        """Edges to entities of a kind, of all types."""
        fresh, older = self.fresh, self.older
        total = 0 if older is None else older.count(kind)
        for edge_type in _TYPES[kind]:
            if of_type := fresh.get(edge_type):
                known = None if older is None else older.edges.get(edge_type)
                total += sum([entity_id not in known for entity_id in of_type]) if known else len(of_type)
        return total


def known_entities(graph: Graph) -> set[str]:
    """``kind:id`` of every entity that a customer's graph still leads to and whose side keeps its neighbours."""
    return {
        f"{ENTITY_OF[edge_type]}{entity_id}"
        for edge_type in graph
        if edge_type in ENTITY_OF
        for entity_id in graph.edges(edge_type)
    }


def touch(
    graph: Graph, edges: Sequence[tuple[str, str]], ts_ms: int, weight: float, *, fresh_limit: int, type_limit: int
) -> None:
    """Add one event to its edges, (type, entity id) each; ``ts_ms`` never decreases between calls.

    Args:
        fresh_limit: as many fresh edges are merged with the older ones.
        type_limit: a merge cuts a type that has more edges back to two thirds of it, heaviest first; ties go by
            entity id, so the result depends on the events only.
    """
    fresh, older = graph.fresh, graph.older_edges
    for edge_type, entity_id in edges:
        of_type = fresh.get(edge_type)
        if of_type is None:
            of_type = fresh[edge_type] = {}
        known = of_type.get(entity_id)
        if known is not None:
            of_type[entity_id] = (known[0] + 1, known[1] + weight, known[2], ts_ms)
            continue
        known = older.get(edge_type, _NO_EDGES).get(entity_id)
        if known is None:
            of_type[entity_id] = (1, weight, ts_ms, ts_ms)
        else:
            of_type[entity_id] = (known[0] + 1, known[1] + weight, known[2], ts_ms)
        graph.fresh_edges += 1
        if graph.fresh_edges >= fresh_limit:
            _merge(graph, ts_ms, type_limit)
            fresh, older = graph.fresh, graph.older_edges


def _merge(graph: Graph, ts_ms: int, type_limit: int) -> None:
    merged: Edges = {}
    for edge_type in graph:
        of_type = graph.edges(edge_type)
        if len(of_type) > type_limit:
            kept = _ranked(of_type)[: max(1, type_limit * 2 // 3)]
            of_type = {entity_id: of_type[entity_id] for entity_id in sorted([name for _, name in kept])}
        merged[edge_type] = of_type
    graph.fresh, graph.fresh_edges = {}, 0
    graph.merges += 1
    graph.older = MergedEdges(merged, ts_ms)


def _ranked(of_type: dict[str, Edge]) -> list[tuple[float, str]]:
    """(forward weight, entity id), heaviest first; ties go by entity id."""
    return sorted([(edge[1], entity_id) for entity_id, edge in of_type.items()], reverse=True)


def blocks(graph: Graph, as_of_ms: int, words: Words, half_life_ms: int) -> tuple[EdgeBlock, ...]:
    """The edges that a snapshot shows: older ones as of the last merge, fresh ones as of now."""
    found = () if graph.older is None else (graph.older.packed(words, half_life_ms),)
    return (*found, pack(graph.fresh, as_of_ms, words, half_life_ms)) if graph.fresh else found


def pack(edges: Edges, as_of_ms: int, words: Words, half_life_ms: int) -> EdgeBlock:
    """Edges of the types that snapshots show, those of a type in the order given."""
    scale, packed = present_weight(1.0, as_of_ms, half_life_ms), EDGE.pack
    most = _MOST_WEIGHT / scale if scale else inf
    found: dict[int, bytes] = {}
    ages: dict[int, int] = {}  # edges of one order share an instant
    for edge_type, of_type in edges.items():
        if edge_type not in _SHOWN:
            continue
        hashes = words.of_kind[_KIND[edge_type]]
        rows: list[bytes] = []
        for entity_id, (count, weight, _, last_ms) in of_type.items():
            age = ages.get(last_ms)
            if age is None:
                age = ages[last_ms] = age_code(as_of_ms - last_ms)
            weight = weight * scale if weight < most else _MOST_WEIGHT
            rows.append(packed(hashes[entity_id], weight, count if count < 255 else 255, age))
        found[EDGE_INDEX[edge_type]] = b"".join(rows)
    return EdgeBlock(as_of_ms, found)


def neighbours(graph: Graph, edge_type: str, as_of_ms: int, half_life_ms: int) -> list[Neighbour]:
    """Edges of a type, heaviest first, with weights decayed to ``as_of_ms``.

    An edge that began after ``as_of_ms`` is left out. One that was touched since keeps its later count:
    state holds aggregates, not every event.
    """
    seen = (
        Neighbour(entity_id, count, present_weight(weight, max(as_of_ms, last_ms), half_life_ms), first_ms, last_ms)
        for entity_id, (count, weight, first_ms, last_ms) in graph.edges(edge_type).items()
        if first_ms <= as_of_ms
    )
    return sorted(seen, key=lambda edge: (-edge.weight, edge.entity_id))
