"""What an erasure takes, and what it leaves alone."""

from __future__ import annotations

import pytest
from support.logs import START_MS, Sent, Worker, log_of

from schemas.events import CLICKSTREAM, PROFILES
from schemas.graph import ERASED
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
