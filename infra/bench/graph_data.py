"""Events and ready-made states of the small graph job, and what must come out of it. Seeded: equal for everyone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from random import Random
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from infra.bench.graph_core import JobGraph
from schemas.errors import Stop

PARTITIONS: Final = 4
START_MS: Final = 1_700_000_000_000
STEP_MS: Final = 120
"""Event time from one event to the next: 5,000 customers then pause for ten minutes on average."""
_ITEMS: Final = 5_000
_FAVOURITES: Final = 24
_TASTES: Final = 1_000
_STORED_EDGES: Final = 12
_STORED_TAIL: Final = 8
_TOLERANCE: Final = 1e-6


class GraphEvent(NamedTuple):
    """One event; the job sees ``value`` and ``key`` only."""

    number: int
    item: str
    ms: int

    @property
    def key(self) -> bytes:
        return customer_id(self.number).encode()

    @property
    def value(self) -> bytes:
        return (
            b'{"event":"item_view","customer_id":"c%07d","item_id":"%s","event_ts_ms":%d,"price":%d.99}'
            % (self.number, self.item.encode(), self.ms, self.number % 90)
        )  # fmt: skip

    @property
    def partition(self) -> int:
        return partition_of(self.number)


class Totals(Struct, frozen=True, kw_only=True):
    """Sums over all customers of a store: nobody is fast by leaving something out."""

    customers: int
    events: int
    edges: int
    """Sum of the edges' counts."""
    weight: float
    """Sum of the edges' weights, each as of its own last event."""
    tail: int
    """Events in all tails."""


def customer_id(number: int) -> str:
    return f"c{number:07d}"


def partition_of(number: int) -> int:
    """Said explicitly when producing, so that no contender's partitioner matters."""
    return number % PARTITIONS


def events(customers: int, first: int, count: int) -> Iterator[GraphEvent]:
    """Events ``first`` to ``first + count`` of uniformly drawn customers; ``first`` seeds the stretch."""
    draw = Random(f"{customers} {first}").random
    for place in range(first, first + count):
        number = int(draw() * customers)
        yield GraphEvent(
            number, _item(number % _TASTES, int(_FAVOURITES * draw() * draw())), START_MS + STEP_MS * place
        )


@cache
def _item(taste: int, rank: int) -> str:
    return f"i{(taste * 31 + rank * 977) % _ITEMS:04d}"


def stored(number: int) -> JobGraph:
    """A state to begin with, about 600 bytes of JSON: a dozen edges, and the session before."""
    taste = number % _TASTES
    last_ms = START_MS - 60_000 * (taste + 1)
    graph = JobGraph()
    for rank in range(_STORED_EDGES):
        graph.items[_item(taste, rank)] = rank
        graph.weights.append(1.0 + rank / 7)
        graph.counts.append(1 + rank % 3)
        graph.lasts_ms.append(last_ms - rank * 3_600_000)
    for back in reversed(range(_STORED_TAIL)):
        graph.tail_ms.append(last_ms - 1_000 * back)
        graph.tail_at.append(back)
    graph.n = sum(graph.counts)
    return graph


@cache
def stored_bytes(taste: int) -> tuple[bytes, bytes]:
    """The same as our record and as the peers' JSON. Customers of one taste have equal states."""
    graph = stored(taste)
    names = list(graph.items)
    edges = zip(graph.weights, graph.counts, graph.lasts_ms, strict=True)
    peers = {
        "n": graph.n,
        "edges": dict(zip(names, edges, strict=True)),
        "tail": [(ms, names[at]) for ms, at in zip(graph.tail_ms, graph.tail_at, strict=True)],
    }
    return graph.pack(), msgspec.json.encode(peers)


def stored_record(number: int) -> tuple[bytes, bytes]:
    """(ours, JSON) of a customer to begin with."""
    return stored_bytes(number % _TASTES)


class Reference:
    """What the sums must be after some events, computed one by one on a dict.

    Args:
        customers: how many there are.
        prepared: whether every one of them begins with :func:`stored`.
    """

    def __init__(self, customers: int, *, prepared: bool) -> None:
        self._customers = customers
        self._prepared = prepared
        self._touched: dict[int, JobGraph] = {}

    def take(self, stretch: Iterator[GraphEvent]) -> None:
        for event in stretch:
            graph = self._touched.get(event.number)
            if graph is None:
                graph = stored(event.number) if self._prepared else JobGraph()
                self._touched[event.number] = graph
            graph.apply(event.item, event.ms)

    def totals(self) -> Totals:
        found = add_up(self._touched.values())
        if not self._prepared:
            return found
        # Those nobody touched: all of a taste, less the touched ones.
        count = [len(range(taste, self._customers, _TASTES)) for taste in range(_TASTES)]
        for number in self._touched:
            count[number % _TASTES] -= 1
        for taste, times in enumerate(count):
            if times:
                one = add_up([stored(taste)])
                found = Totals(
                    customers=found.customers + times,
                    events=found.events + times * one.events,
                    edges=found.edges + times * one.edges,
                    weight=found.weight + times * one.weight,
                    tail=found.tail + times * one.tail,
                )
        return found


def add_up(graphs: Iterable[JobGraph]) -> Totals:
    """Sums over states."""
    customers = count = edges = tail = 0
    weight = 0.0
    for graph in graphs:
        customers += 1
        count += graph.n
        tail += len(graph.tail_ms)
        edges += sum(graph.counts)
        weight += sum(graph.weights)
    return Totals(customers=customers, events=count, edges=edges, weight=weight, tail=tail)


def check(name: str, found: Totals, wanted: Totals) -> None:
    """Refuse a run whose state is not what the events give.

    Raises:
        Stop: a sum differs.
    """
    close = abs(found.weight - wanted.weight) <= _TOLERANCE * max(1.0, abs(wanted.weight))
    if not close or msgspec.structs.replace(found, weight=wanted.weight) != wanted:
        raise Stop(f"{name} ended with {found}, the events give {wanted}: its time means nothing")
