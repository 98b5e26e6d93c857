"""What a year of a customer comes to in a snapshot: all of it, in few bytes."""

from __future__ import annotations

from random import Random

import pytest
from support.logs import START_MS, Sent, Worker, log_of

from schemas.codec import msgpack_encode
from schemas.events import CLICKSTREAM
from schemas.snapshot import Snapshot, sessions
from streams.core.config import DAY_MS, CoreConfig

LARGEST_BYTES = 12_000


def shopped(days: int, every_days: int, lines: int) -> tuple[Snapshot, float, int]:
    """The snapshot of somebody who comes so often; what was spent, and in how many sessions."""
    random, events, spent = Random(days), [], 0.0
    for day in range(0, days, every_days):
        at_ms = START_MS + day * DAY_MS
        items = [
            {"item_id": f"i{random.randrange(3_000)}", "category": f"c{random.randrange(120)}", "price": 0.25 * line}
            for line in range(lines)
        ]
        spent += sum(float(str(item["price"])) for item in items)
        body = {"event": "purchase", "event_ts_ms": at_ms, "event_id": f"e{day}", "items": items}
        events.append(Sent(CLICKSTREAM, "c1", at_ms, body))
    worker = Worker(CoreConfig(watermark_keys=1, sample_share=0.0))
    for source_index, topic in enumerate(log_of(events, START_MS + (days + 1) * DAY_MS)):
        worker.take(source_index, topic)
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    snapshot = customer.snapshot()
    assert snapshot is not None
    return snapshot, spent, len(events)


@pytest.mark.parametrize(("every_days", "lines"), [(1, 12), (3, 30), (14, 60)])
def test_a_year_is_in_it_and_it_is_small(every_days: int, lines: int) -> None:
    snapshot, spent, visits = shopped(330, every_days, lines)
    history = list(sessions(snapshot.history))
    assert sum(entry.value for entry in history) == pytest.approx(spent)
    assert sum(entry.sessions for entry in history) == visits
    assert 150 < snapshot.count_edges("purchase>item") < 300
    assert len(msgpack_encode(snapshot)) < LARGEST_BYTES


def test_many_years_take_no_more_than_one() -> None:
    year, *_ = shopped(330, 1, 12)
    longer, *_ = shopped(1_500, 1, 12)
    assert len(msgpack_encode(longer)) < 1.2 * len(msgpack_encode(year))
