"""What an erasure takes, and what it leaves alone."""

from __future__ import annotations

import pytest
from support.logs import CONFIG, START_MS, Sent, Worker, log_of

from schemas import heartbeat
from schemas.events import CLICKSTREAM, PROFILES, SOURCES
from schemas.graph import ERASED, GraphEdge
from schemas.records import LogRecord
from streams.core.config import DAY_MS
from streams.core.entities import Entity, decode_entity, draw, encode_entity
from streams.state import keys

HOUR_MS = 3_600_000


def purchase(item: str, ts_ms: int) -> Sent:
    body = {"event": "purchase", "item_id": item, "event_ts_ms": ts_ms, "event_id": f"{item}-{ts_ms}"}
    return Sent(CLICKSTREAM, "c1", ts_ms, body)


def test_an_erasure_that_comes_twice_leaves_what_came_after_the_first() -> None:
    erasure = Sent(PROFILES, "c1", START_MS + HOUR_MS, None)
    log = log_of([purchase("a", START_MS), purchase("b", START_MS + 2 * HOUR_MS), erasure, erasure])
    worker = Worker()
    worker.take(CLICKSTREAM, log[CLICKSTREAM][:1])
    worker.take(PROFILES, log[PROFILES][:1])
    first = worker.ingest.checkpoint(0)
    worker.ingest.written()
    assert [(edge.type, edge.entity) for edge in first.edges if edge.type == ERASED] == [(ERASED, "item:a")]
    worker.take(CLICKSTREAM, log[CLICKSTREAM][1:])
    worker.take(PROFILES, log[PROFILES][1:])
    second = worker.ingest.checkpoint(0)
    assert not [edge for edge in second.edges if edge.type == ERASED]
    assert [snapshot.customer_id for snapshot in second.snapshots] == ["c1"]
    assert [erasure.receipt_id for erasure in second.erasures] == [erasure.receipt_id for erasure in first.erasures]
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert customer.view().events == 1
    assert worker.ingest.counts["duplicates"] == 1


def test_an_erasure_of_before_another_one_takes_nothing_more() -> None:
    hours = [Sent(PROFILES, "c1", START_MS + hour * HOUR_MS, None) for hour in (2, 1)]
    log = log_of([*hours, purchase("a", START_MS), purchase("b", START_MS + 3 * HOUR_MS)])
    worker = Worker()
    worker.take(PROFILES, log[PROFILES][:1])
    worker.take(CLICKSTREAM, log[CLICKSTREAM][:2])
    worker.take(PROFILES, log[PROFILES][1:2])
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert customer.erased_ms == START_MS + 2 * HOUR_MS
    assert customer.view().events == 1, "a is of before, b is not"
    worker.checkpoint()
    worker.restart()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert (customer.erased_ms, customer.view().events) == (START_MS + 2 * HOUR_MS, 1)


def test_who_comes_back_is_no_tombstone_and_is_kept_when_the_erasure_is_forgotten() -> None:
    events = [
        purchase("a", START_MS),
        Sent(PROFILES, "c1", START_MS + HOUR_MS, None),
        purchase("b", START_MS + 2 * HOUR_MS),
    ]
    worker = Worker()
    for source_index, topic in enumerate(log_of(events, until_ms=START_MS + 3 * HOUR_MS)):
        worker.take(source_index, topic)
    worker.checkpoint()
    for days in (1, 2, 10, 100):
        key, value, headers = heartbeat.encode(START_MS + days * DAY_MS)
        for source_index in range(len(SOURCES)):
            offset = worker.ingest.next_offsets[SOURCES[source_index]]
            worker.take(source_index, [LogRecord(offset, key, value, headers, START_MS + days * DAY_MS)])
        worker.checkpoint()
        worker.checkpoint()
        customer = worker.ingest.customer("c1")
        assert customer is not None
        assert (customer.view().events, customer.is_tombstone) == (1, False)
        assert len(list(worker.store.scan(keys.RECORD, keys.RECORDS_STOP))) == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_tombstone_is_removed_by_the_worker_that_inherits_it_too(killed: bool) -> None:
    hour_ms = 3_600_000
    worker = Worker()
    log = log_of(
        [
            Sent(CLICKSTREAM, "c1", START_MS, {"event": "app_open", "event_ts_ms": START_MS}),
            Sent(PROFILES, "c1", START_MS + hour_ms, None),
        ],
        until_ms=START_MS + 100 * hour_ms,
    )
    worker.take(CLICKSTREAM, log[CLICKSTREAM][:1])
    worker.take(PROFILES, log[PROFILES][:1])
    worker.checkpoint()
    assert list(worker.store.scan(keys.RECORD, keys.RECORDS_STOP))
    if killed:
        worker.restart()
    for source_index, topic in enumerate(log):
        worker.take(source_index, topic[-1:])
    worker.checkpoint()
    assert [key for key, _ in worker.store.scan(b"", b"\xff")] == [keys.META]


def test_newer_events_are_not_forgotten_by_the_other_side_of_the_graph() -> None:
    after = purchase("b", START_MS + 2 * HOUR_MS)
    log = log_of([purchase("a", START_MS), after, Sent(PROFILES, "c1", START_MS + HOUR_MS, None)])
    worker = Worker()
    worker.take(CLICKSTREAM, log[CLICKSTREAM])
    worker.take(PROFILES, log[PROFILES])
    told = [edge for edge in worker.ingest.checkpoint(0).edges if edge.type == ERASED]
    assert {edge.entity for edge in told} == {"item:a", "item:b"}
    assert all(edge.event_ts_ms < after.ts_ms for edge in told), "the entity keeps what is newer"


def late_purchase(worker: Worker, item: str, at_ms: int, reached_ms: int) -> None:
    """A purchase that happened before what its topic has come to, by more than the bound."""
    others = [purchase("other", reached_ms)._replace(customer="c2"), purchase(item, at_ms)]
    worker.take(CLICKSTREAM, log_of(others)[CLICKSTREAM])


@pytest.mark.parametrize("profiles_first", [False, True])
def test_an_erasure_takes_what_happened_before_it_and_comes_late(profiles_first: bool) -> None:
    worker = Worker()
    (null,) = log_of([Sent(PROFILES, "c1", START_MS + 2 * HOUR_MS, None)])[PROFILES]
    if profiles_first:
        worker.take(PROFILES, [null])
    late_purchase(worker, "secret", START_MS + HOUR_MS, START_MS + 3 * HOUR_MS)
    if not profiles_first:
        worker.take(PROFILES, [null])
    done = worker.ingest.checkpoint(0)
    told = [edge for edge in done.edges if edge.entity == "item:secret"]
    drawn = [edge for edge in told if edge.type != ERASED]
    assert [edge.type for edge in told[len(drawn) :]] == [ERASED] * len(drawn)
    assert all(last.event_ts_ms >= first.event_ts_ms for first, last in zip(drawn, told[len(drawn) :], strict=True))
    worker.restart()
    worker.take(PROFILES, [null])
    late_purchase(worker, "secret", START_MS + HOUR_MS, START_MS + 3 * HOUR_MS)
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None and customer.is_tombstone
    assert not [value for _, value in worker.store.scan(b"", b"\xff") if b"secret" in value]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_erasure_of_long_ago_takes_the_same_whatever_the_batches(checkpoint: bool) -> None:
    """What has settled goes as a whole, so what would have settled by then goes, too."""
    log = log_of([purchase("a", START_MS + HOUR_MS), purchase("b", START_MS + 10 * HOUR_MS)], START_MS + 10 * HOUR_MS)
    erasure = log_of([Sent(PROFILES, "c1", START_MS, None)])[PROFILES]
    worker = Worker()
    for source_index, topic in enumerate(log):
        worker.take(source_index, topic)
    if checkpoint:
        worker.checkpoint()
    worker.take(PROFILES, [record._replace(offset=9) for record in erasure])
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert list(customer.view().graph.edges("purchase>item")) == ["b"], "younger than the bound, so not settled"
    assert customer.erased_ms == START_MS + 10 * HOUR_MS - CONFIG.lateness_ms


def test_a_late_edge_makes_an_erased_customer_no_neighbour_again() -> None:
    entity = Entity()
    drawn = GraphEdge("c1", "purchase>item", "item:a", START_MS, ("clickstream", 0, 5))
    assert draw(entity, drawn)
    gone = GraphEdge("c1", ERASED, "item:a", START_MS + HOUR_MS, ("profiles", 0, 1))
    assert draw(entity, gone)
    entity = decode_entity(encode_entity(entity))
    assert b"c1" not in encode_entity(entity)
    late = GraphEdge("c1", "purchase>item", "item:a", START_MS + 1, ("clickstream", 0, 9))
    draw(entity, late)
    assert entity.edges["purchase>item"].neighbours == {}
    again = GraphEdge("c1", "purchase>item", "item:a", START_MS + 2 * HOUR_MS, ("clickstream", 0, 10))
    draw(entity, again)
    assert list(entity.edges["purchase>item"].neighbours) == ["c1"], "who comes back is known again"
    draw(entity, GraphEdge("c2", "purchase>item", "item:a", START_MS + 40 * DAY_MS, ("clickstream", 1, 1)))
    assert decode_entity(encode_entity(entity)).erased == {}, "nobody is remembered for longer than needed"
