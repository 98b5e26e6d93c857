"""The edges that one customer's events add on the entities' side of the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from schemas.events import SOURCES, Clickstream
from schemas.graph import ERASED, GraphEdge
from streams.core.event import Event
from streams.core.graph import ENTITY_OF, edges_of

Source = tuple[str, int, int]
"""(topic, partition, offset) of the event that an edge comes from."""


def drawn_edges(event: Event, customer_id: str, partition: int) -> list[GraphEdge]:
    """The edges of an event, as far as the entities' side keeps them: each once, however many lines draw it."""
    source, ts_ms = (SOURCES[event.source_index], partition, event.offset), event.ts_ms
    edges: Iterable[tuple[str, str]] = edges_of(event.body) if event.edges is None else event.edges
    if isinstance(event.body, Clickstream) and event.body.items is not None:
        edges = dict.fromkeys(edges)
    drawn: list[GraphEdge] = []
    for edge_type, entity_id in edges:
        prefix = ENTITY_OF.get(edge_type)
        if prefix is not None:
            drawn.append(GraphEdge(customer_id, edge_type, prefix + entity_id, ts_ms, source))
    return drawn


def erased_edges(entities: Collection[str], customer_id: str, until_ms: int, source: Source) -> list[GraphEdge]:
    """To each entity: forget the customer's edges up to a time."""
    return [
        GraphEdge(customer_id=customer_id, type=ERASED, entity=entity, event_ts_ms=until_ms, source=source)
        for entity in sorted(entities)
    ]
