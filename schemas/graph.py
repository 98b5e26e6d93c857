"""One directed, timestamped edge on its way from a customer to an entity."""

from __future__ import annotations

from typing import Final

import msgspec

GRAPH_EDGE_VERSION: Final = 1


class GraphEdge(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """``customer_id --type--> entity_id`` at ``event_ts_ms``; msgpack on ``graph-edges``, keyed ``kind:id``.

    ``count`` and ``weight`` are the customer's whole edge after this event, so that the entity's side can
    replace its neighbour's entry and needs no arithmetic of its own. ``source`` orders and de-duplicates.
    """

    version: int = GRAPH_EDGE_VERSION
    customer_id: str
    type: str
    entity: str
    event_ts_ms: int
    source: tuple[str, int, int]
    count: int
    weight: float
    first_ms: int
    last_ms: int
