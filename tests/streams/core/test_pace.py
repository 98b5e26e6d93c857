"""A limit on one customer's events in a minute: what is dropped is counted, and the same in every run."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Sent, Worker, log_of, restarted, sent_events, undisturbed

from schemas.events import CLICKSTREAM
from streams.core.config import DAY_MS, CoreConfig

LIMITED = msgspec.structs.replace(CONFIG, key_limit_per_minute=2, key_sample=3)


def flood(count: int, event: str) -> list[Sent]:
    bodies = [{"event": event, "event_ts_ms": START_MS + at, "event_id": f"{event}{at}"} for at in range(count)]
    return [Sent(CLICKSTREAM, "bot", START_MS + at, body) for at, body in enumerate(bodies)]


def fed(events: list[Sent], config: CoreConfig) -> Worker:
    worker = Worker(config)
    for source_index, topic in enumerate(log_of(events)):
        worker.take(source_index, topic)
    worker.checkpoint()
    return worker


def test_beyond_the_limit_one_in_so_many_is_taken_and_orders_always() -> None:
    config = msgspec.structs.replace(CONFIG, key_limit_per_minute=100)
    worker = fed([*flood(2_000, "page_view"), *flood(300, "purchase")], config)
    counts = worker.ingest.counts
    assert counts["applied"] + counts["sampled_out"] == 2_300
    sampled = counts["applied"] - 300 - 100
    assert 1_900 / 16 * 0.6 < sampled < 1_900 / 16 * 1.4
    known = worker.ingest.customer("bot")
    assert known is not None and known.view().events == counts["applied"]


def test_without_a_limit_nothing_is_dropped() -> None:
    assert fed(flood(2_000, "page_view"), CONFIG).ingest.counts["applied"] == 2_000


def test_people_do_not_notice_it() -> None:
    spread = [sent._replace(ts_ms=START_MS + at * 30_000) for at, sent in enumerate(flood(100, "page_view"))]
    moved = [sent._replace(body={**(sent.body or {}), "event_ts_ms": sent.ts_ms}) for sent in spread]
    assert fed(moved, LIMITED).ingest.counts["applied"] == 100


@settings(max_examples=examples(100), deadline=None)
@given(events=sent_events(), data=st.data())
def test_batches_and_crashes_drop_the_same(events: list[Sent], data: Any) -> None:
    log = log_of(events, events[-1].ts_ms + DAY_MS)
    worker, expected = restarted(data.draw, log, LIMITED), undisturbed(log, config=LIMITED)
    assert worker.state() == expected.state()
    assert worker.outcomes == expected.outcomes


def test_a_sample_of_one_in_one_is_everything() -> None:
    config = msgspec.structs.replace(CONFIG, key_limit_per_minute=2, key_sample=1)
    assert fed(flood(100, "page_view"), config).ingest.counts["applied"] == 100
