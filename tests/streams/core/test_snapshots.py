"""What a year of a customer comes to in a snapshot: all of it, in few bytes."""

from __future__ import annotations

import struct
from random import Random

import pytest
from support.logs import START_MS, Sent, Worker, log_of

from schemas.codec import msgpack_encode
from schemas.events import CLICKSTREAM, PROFILES
from schemas.features import NAMES, SIZE
from schemas.snapshot import Snapshot, sessions
from schemas.words import hash_of, split
from streams.core.config import DAY_MS, CoreConfig
from streams.core.snapshots import in_holdout

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


ATTRIBUTES = {"age": "45-54 ", "children": 2.0, "member": True, "income": "high", "nothing": None}


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ((), []),
        (("income", "age", "nothing", "not there"), ["attr:income=high", "attr:age=45-54"]),
        (("member", "children"), ["attr:member=true", "attr:children=2"]),
    ],
)
def test_models_see_the_attributes_that_a_setting_names(allowed: tuple[str, ...], said: list[str]) -> None:
    bought = {"event": "purchase", "event_ts_ms": START_MS + 1, "event_id": "e1", "item_id": "i1"}
    profile = {"event_ts_ms": START_MS, "event_id": "p1", "attributes": ATTRIBUTES}
    events = [Sent(PROFILES, "c1", START_MS, profile), Sent(CLICKSTREAM, "c1", START_MS + 1, bought)]
    worker = Worker(CoreConfig(watermark_keys=1, model_attributes=allowed))
    for source_index, topic in enumerate(log_of(events, START_MS + DAY_MS)):
        worker.take(source_index, topic)
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    snapshot = customer.snapshot()
    assert snapshot is not None
    assert split(snapshot.attributes) == [hash_of(word) for word in said]
    others = (str(value).strip().encode() for name, value in ATTRIBUTES.items() if name not in allowed)
    assert not any(other in msgpack_encode(snapshot) for other in others if len(other) > 3)


def test_what_never_happened_is_minus_one_day_ago_and_counted_0_times() -> None:
    """Of somebody whose only event is a look at a page, at 02:40 on a Friday."""
    viewed = Sent(CLICKSTREAM, "c1", START_MS, {"event": "page_view", "event_ts_ms": START_MS})
    worker = Worker(CoreConfig(watermark_keys=1))
    worker.take(CLICKSTREAM, log_of([viewed])[CLICKSTREAM])
    customer = worker.ingest.customer("c1")
    assert customer is not None
    snapshot = customer.snapshot()
    assert snapshot is not None
    said = dict(zip(NAMES, struct.unpack(f"<{SIZE}f", snapshot.features), strict=True))
    assert {name: value for name, value in said.items() if value} == {
        "days_since_activity": -1, "days_since_send": -1, "days_since_redemption": -1,
        "events_total": 1, "sessions_total": 1, "open_session_events": 1, "hour_of_day": 2, "day_of_week": 4,
        "views_7d": 1, "views_28d": 1, "views_84d": 1,
    }  # fmt: skip


@pytest.mark.parametrize("percent", [0, 20, 100])
def test_a_share_of_customers_is_held_out_and_stays_so(percent: int) -> None:
    customers = [f"c{number}" for number in range(500)]
    held_out = [customer for customer in customers if in_holdout(customer, percent)]
    assert len(held_out) == pytest.approx(500 * percent / 100, abs=35 if 0 < percent < 100 else 0)
    assert set(held_out) <= {customer for customer in customers if in_holdout(customer, percent + 1)}, "more are added"
