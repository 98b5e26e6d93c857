"""What an erasure takes, and what it leaves alone."""

from __future__ import annotations

from support.logs import START_MS, Sent, Worker, log_of

from schemas.events import CLICKSTREAM, PROFILES
from schemas.graph import ERASED

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
    first = worker.ingest.cut(0)
    worker.ingest.written()
    assert [(edge.type, edge.entity) for edge in first.edges if edge.type == ERASED] == [(ERASED, "item:a")]
    worker.take(CLICKSTREAM, log[CLICKSTREAM][1:])
    worker.take(PROFILES, log[PROFILES][1:])
    second = worker.ingest.cut(0)
    assert not [edge for edge in second.edges if edge.type == ERASED]
    assert [snapshot.customer_id for snapshot in second.snapshots] == ["c1"]
    assert [erasure.receipt_id for erasure in second.erasures] == [erasure.receipt_id for erasure in first.erasures]
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert customer.view().events == 1
    assert worker.ingest.counts["duplicates"] == 1


def test_newer_events_are_not_forgotten_by_the_other_side_of_the_graph() -> None:
    after = purchase("b", START_MS + 2 * HOUR_MS)
    log = log_of([purchase("a", START_MS), after, Sent(PROFILES, "c1", START_MS + HOUR_MS, None)])
    worker = Worker()
    worker.take(CLICKSTREAM, log[CLICKSTREAM])
    worker.take(PROFILES, log[PROFILES])
    told = [edge for edge in worker.ingest.cut(0).edges if edge.type == ERASED]
    assert {edge.entity for edge in told} == {"item:a", "item:b"}
    assert all(edge.event_ts_ms < after.ts_ms for edge in told), "the entity keeps what is newer"
