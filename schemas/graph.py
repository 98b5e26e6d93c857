"""One directed, timestamped edge on its way from a customer to an entity."""

from __future__ import annotations

from typing import Final

import msgspec

GRAPH_EDGES_VERSION: Final = 2

#: Type of the last edge from an erased customer: the entity forgets who it was.
ERASED: Final = "erased"


#: What customers do, ``>``, the kind of entity. A snapshot names them by their place here: new ones go to the end.
EDGE_TYPES: Final = (
    "purchase>item",
    "purchase>category",
    "view>item",
    "view>category",
    "cart>item",
    "uncart>item",
    "view>page",
    "search>category",
    "custom>item",
    "custom>category",
    "returned>item",
    "received>campaign",
    "received>template",
    "received>offer",
    "opened>campaign",
    "opened>template",
    "clicked>campaign",
    "clicked>template",
    "left>campaign",
    "redeemed>offer",
    "redeemed>campaign",
    "via>channel",
    "received>channel",
    "opened>channel",
    "clicked>channel",
)
EDGE_INDEX: Final = {edge_type: index for index, edge_type in enumerate(EDGE_TYPES)}


class GraphEdge(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``customer_id --type--> entity`` at ``event_ts_ms``.

    ``source`` is the event's topic, partition and offset. Edges of one source partition arrive in the order
    of their offsets, which is how the entity's side knows a repeated one.
    """

    customer_id: str
    type: str
    entity: str
    event_ts_ms: int
    source: tuple[str, int, int]


class GraphEdges(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Edges that one checkpoint drew to the entities of one partition; msgpack on ``graph-edges``.

    In one record and not one each, since an event draws two or three. The record lies in the partition that the
    entities' names hash to, and has no key.
    """

    version: int = GRAPH_EDGES_VERSION
    edges: tuple[GraphEdge, ...]
