"""Event time is what several customers confirm: no single clock moves it, and late events count."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import CONFIG, START_MS, LogRecord, Worker

from schemas import codec
from schemas.events import CLICKSTREAM, SOURCES
from schemas.snapshot import Outcome, sessions
from streams.core.config import DAY_MS, HOUR_MS, MINUTE_MS, CoreConfig
from streams.core.event_clock import NOT_OBSERVED_MS, EventClock

YEAR_MS = 365 * DAY_MS


def confirmed(times: list[tuple[int, int]], keys: int) -> int:
    """The definition, worked out plainly: who spoke last stands last, and the newest that a customer said counts."""
    reached, known = NOT_OBSERVED_MS, dict[int, int]()
    for name, at_ms in times:
        known[name] = max(at_ms, known.pop(name, at_ms))
        if len(known) > 2 * keys - 1:
            del known[next(iter(known))]
        if len(known) >= min(keys, 2):
            reached = max(reached, sorted(known.values(), reverse=True)[:keys][-1])
    return reached


@given(times=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1_000)), max_size=60), keys=st.integers(1, 4))
def test_it_is_the_kth_newest_of_the_last_customers(times: list[tuple[int, int]], keys: int) -> None:
    clock = EventClock(keys)
    for name, at_ms in times:
        clock.confirm(b"c%d" % name, at_ms)
        again = EventClock(keys, clock.newest_ms, clock.encode())
        assert (again.encode(), again.newest_ms, again.quiet_ms) == (clock.encode(), clock.newest_ms, clock.quiet_ms)
        clock = again
    assert clock.newest_ms == confirmed(times, keys)


def event(customer: str, ts_ms: int, offset: int, record_ms: int | None = None, **said: Any) -> LogRecord:
    body = {"event": "purchase", "event_ts_ms": ts_ms, "event_id": f"e{offset}", **said}
    return LogRecord(offset, customer.encode(), codec.json_encode(body), (), ts_ms if record_ms is None else record_ms)


@pytest.mark.parametrize("honest_record_time", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_one_client_in_a_hundred_with_a_fast_clock_makes_nobody_late(seed: int, honest_record_time: bool) -> None:
    rng = random.Random(seed)
    fast = {f"c{number}": rng.choice((MINUTE_MS, 10 * MINUTE_MS - 1, DAY_MS, 10 * YEAR_MS)) for number in range(10)}
    worker = Worker(
        msgspec.structs.replace(CONFIG, watermark_keys=CoreConfig().watermark_keys, max_future_ms=20 * YEAR_MS)
    )
    honest = 0
    for offset in range(4_000):
        now_ms, customer = START_MS + offset * 1_000, f"c{rng.randrange(1_000)}"
        ahead_ms = fast.get(customer, 0)
        honest += not ahead_ms
        worker.take(CLICKSTREAM, [event(customer, now_ms + ahead_ms, offset, now_ms if honest_record_time else None)])
        if offset % 100 == 0:
            worker.checkpoint()
    late = worker.ingest.counts["late"]
    assert late <= 0.01 * honest, f"{late} of {honest} honest events are late"
    assert worker.ingest.counts["applied"] == 4_000
    reached_ms = worker.ingest.watermark.newest_ms[CLICKSTREAM]
    assert now_ms - MINUTE_MS <= reached_ms <= now_ms + MINUTE_MS, "and event time goes on all the same"
    assert (worker.ingest.counts["ahead"] > 0) == any(ahead_ms >= DAY_MS for ahead_ms in fast.values())


def test_an_event_ahead_of_its_time_waits_or_is_refused_as_the_setting_says() -> None:
    def take(refuse_ahead: bool) -> tuple[Any, list[Any]]:
        worker = Worker(msgspec.structs.replace(CONFIG, refuse_ahead=refuse_ahead, watermark_keys=2))
        records = [event(f"c{number}", START_MS + number, number) for number in range(4)]
        return worker, worker.ingest.take(CLICKSTREAM, [*records, event("fast", START_MS + YEAR_MS, 4)], 0)

    worker, letters = take(False)
    assert not letters and worker.ingest.counts["ahead"] == 1
    worker.checkpoint()
    fast = worker.ingest.customer("fast")
    assert fast is not None and len(fast.tail) == 1, "it is held until event time comes to it"
    worker, letters = take(True)
    assert [letter.reason for letter in letters] == ["out_of_time"]
    assert worker.ingest.customer("fast") is None


def test_a_till_that_uploads_a_day_late_is_counted_beside_live_traffic() -> None:
    worker, offset = Worker(), 0
    for minute in range(60):
        worker.take(CLICKSTREAM, [event("web", START_MS + DAY_MS + minute * MINUTE_MS, offset)])
        offset += 1
        if minute % 2:
            till = event(f"shop{minute}", START_MS + HOUR_MS * 6 + minute, offset, value=5.0)
            worker.take(CLICKSTREAM, [till])
            worker.take(CLICKSTREAM, [till._replace(offset=offset + 1)])  # sent again: it is known
            offset += 2
        worker.checkpoint()
    counts = worker.ingest.counts
    assert (counts["late"], counts["duplicates"], counts["applied"]) == (30, 30, 90)
    shop = worker.ingest.customer("shop31")
    assert shop is not None
    seen = shop.view()
    assert (seen.events, seen.late, seen.active_days) == (1, {SOURCES[CLICKSTREAM]: 1}, 1)
    assert seen.activity_ms == START_MS + HOUR_MS * 6 + 31, "activity is when it was"
    (entry,) = sessions(seen.timeline.history.entries)
    assert (entry.sessions, seen.timeline.sessions) == (0, 0), "an entry of its own, and no session"
    assert entry.start_s == seen.activity_ms // 1000


@pytest.mark.parametrize(("behind_ms", "late"), [(CONFIG.lateness_ms, 0), (CONFIG.lateness_ms + 1, 1)])
def test_an_event_at_the_lateness_bound_is_in_time(behind_ms: int, late: int) -> None:
    worker = Worker()
    worker.take(CLICKSTREAM, [event("web", START_MS, 0), event("shop", START_MS - behind_ms, 1)])
    assert (worker.ingest.counts["late"], worker.ingest.counts["applied"]) == (late, 2)


def test_the_oldest_ids_are_forgotten_and_the_newest_are_not() -> None:
    """A customer with more events than ids are remembered: what is repeated of the newest is still known."""
    worker, count = Worker(), 3 * CONFIG.recent_ids
    log = [event("shop", START_MS + number, number) for number in range(count)]
    worker.take(CLICKSTREAM, log)
    for topic in range(4):
        worker.ingest.watermark.observe(topic, START_MS + HOUR_MS, 0)
    worker.checkpoint()
    newest, older = log[-CONFIG.recent_ids :], log[: -CONFIG.recent_ids]
    customer = worker.ingest.customer("shop")
    assert customer is not None and len(customer.settled.recent) == CONFIG.recent_ids
    again = [record._replace(offset=count + number) for number, record in enumerate([*newest, older[-1]])]
    worker.take(CLICKSTREAM, again)
    counts = worker.ingest.counts
    assert (counts["duplicates"], counts["applied"]) == (CONFIG.recent_ids, count + 1)


def test_what_comes_later_than_ids_are_kept_is_refused_with_the_reason() -> None:
    worker = Worker()
    worker.take(CLICKSTREAM, [event("web", START_MS + 10 * DAY_MS, 0)])
    just = event("shop", START_MS + 10 * DAY_MS - CONFIG.ids_kept_ms, 1)
    over = event("shop", START_MS + 10 * DAY_MS - CONFIG.ids_kept_ms - 1, 2)
    (letter,) = worker.ingest.take(CLICKSTREAM, [just, over], 0)
    assert letter.reason == "too_late" and letter.key == b"shop"
    assert worker.ingest.counts["dead_lettered"] == 1


@pytest.mark.parametrize(("days_back", "answers"), [(0.5, True), (2.0, False)])
def test_a_late_purchase_answers_the_labels_whose_horizon_it_lies_in(days_back: float, answers: bool) -> None:
    days = {"ids_kept_ms": 5, "horizon_every_ms": 100, "churn_active_ms": 200}
    config = msgspec.structs.replace(CONFIG, **{name: count * DAY_MS for name, count in days.items()})
    worker = Worker(config)
    worker.take(CLICKSTREAM, [event("shop", START_MS, 0)])
    for topic in range(4):
        worker.ingest.watermark.observe(topic, START_MS + 2 * HOUR_MS, 0)
    worker.checkpoint()
    customer = worker.ingest.customer("shop")
    assert customer is not None
    asked_ms = customer.settled.next_horizon_ms
    for topic in range(4):
        worker.ingest.watermark.observe(topic, asked_ms + DAY_MS, 0)
    worker.checkpoint()
    assert len(customer.settled.pending) == 1
    worker.take(CLICKSTREAM, [event("shop", asked_ms + DAY_MS - int(days_back * DAY_MS), 1)])
    for topic in range(4):
        worker.ingest.watermark.observe(topic, asked_ms + 2 * DAY_MS, 0)
    worker.checkpoint()
    outcomes = [msgspec.msgpack.decode(raw, type=Outcome) for raw in worker.outcomes.values()]
    assert [outcome.label for outcome in outcomes if outcome.head == "churn"] == ([0] if answers else [])
