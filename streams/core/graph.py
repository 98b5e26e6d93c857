"""The customer's side of the interaction graph: typed, directed, timestamped, bounded edges."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.events import Body, CampaignSend, Clickstream, Profile, Redemption
from streams.core.baskets import basket_of, is_return
from streams.core.decay import present_weight

#: (edges so far, forward-decayed weight, first ms, last ms)
Edge = tuple[int, float, int, int]
Edges = dict[str, dict[str, Edge]]

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

_RULES: Final = (*_CLICK_EDGES.values(), _CUSTOM_EDGES, _RETURN_EDGES, *_SEND_EDGES.values(), _REDEMPTION_EDGES)

EDGE_TYPES: Final = (
    *dict.fromkeys(edge_type for rules in _RULES for edge_type, _ in rules),
    "via>channel",
    *_CHANNEL_EDGE.values(),
)
"""Every edge type: what the customer did, ``>``, the kind of entity."""

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


def edges_of(body: Body) -> list[tuple[str, str]]:
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
        case Profile():
            return []
    drawn = [(edge_type, entity_id) for edge_type, field in rules if (entity_id := getattr(body, field)) is not None]
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


def known_entities(edges: Edges) -> set[str]:
    """``kind:id`` of every entity that a customer's graph still leads to and whose side keeps its neighbours."""
    return {
        f"{ENTITY_OF[edge_type]}{entity_id}"
        for edge_type, of_type in edges.items()
        if edge_type in ENTITY_OF
        for entity_id in of_type
    }


def touch(edges: Edges, edge_type: str, entity_id: str, ts_ms: int, weight: float, limit: int) -> None:
    """Add one event to an edge; cut the type back to two thirds of ``limit`` when it grows past it.

    Cutting in steps keeps the cost of a new edge constant; ties go by entity id, so the result depends on
    the events only. ``ts_ms`` never decreases between calls.
    """
    of_type = edges.get(edge_type)
    if of_type is None:
        of_type = edges[edge_type] = {}
    edge = of_type.get(entity_id)
    if edge is not None:
        of_type[entity_id] = (edge[0] + 1, edge[1] + weight, edge[2], ts_ms)
        return
    of_type[entity_id] = (1, weight, ts_ms, ts_ms)
    if len(of_type) > limit:
        kept = _ranked(of_type)[: max(1, limit * 2 // 3)]
        edges[edge_type] = {entity_id: of_type[entity_id] for entity_id in sorted([name for _, name in kept])}


def _ranked(of_type: dict[str, Edge]) -> list[tuple[float, str]]:
    """(forward weight, entity id), heaviest first; ties go by entity id."""
    return sorted([(edge[1], entity_id) for entity_id, edge in of_type.items()], reverse=True)


def heaviest(
    edges: Edges, edge_type: str, count: int, as_of_ms: int, half_life_ms: int
) -> tuple[tuple[str, float], ...]:
    """The ``count`` heaviest edges of a type with their weights as of a time, heaviest first."""
    of_type = edges.get(edge_type)
    if not of_type:
        return ()
    scale = present_weight(1.0, as_of_ms, half_life_ms)
    return tuple([(entity_id, weight * scale) for weight, entity_id in _ranked(of_type)[:count]])


def neighbours(edges: Edges, edge_type: str, as_of_ms: int, half_life_ms: int) -> list[Neighbour]:
    """Edges of a type, heaviest first, with weights decayed to ``as_of_ms``.

    An edge that began after ``as_of_ms`` is left out. One that was touched since keeps its later count:
    state holds aggregates, not every event.
    """
    seen = (
        Neighbour(entity_id, count, present_weight(weight, max(as_of_ms, last_ms), half_life_ms), first_ms, last_ms)
        for entity_id, (count, weight, first_ms, last_ms) in edges.get(edge_type, {}).items()
        if first_ms <= as_of_ms
    )
    return sorted(seen, key=lambda edge: (-edge.weight, edge.entity_id))
