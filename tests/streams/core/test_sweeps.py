"""Sweeps: everyone once, in any steps and through restarts, only whom the filter names, and nothing changed by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, LogRecord, Sent, Worker, log_of

from schemas.codec import json_encode
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES
from schemas.snapshot import Snapshot
from schemas.sweep import SWEEPS, Sweep
from streams.core.config import DAY_MS
from streams.core.durable import IngestCheckpoint
from streams.core.sweeps import MOST_WAITING


class Swept(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Remembers every refresh snapshot that came out."""

    def __init__(self, **options: Any) -> None:
        self.refreshed: list[Snapshot] = []
        self._orders = 0
        super().__init__(**options)

    def deliver(self, done: IngestCheckpoint) -> None:
        super().deliver(done)
        self.refreshed += [snapshot for snapshot in done.snapshots if snapshot.kind == "refresh"]

    def order(self, **said: Any) -> None:
        self.take_order(json_encode(msgspec.convert({"sweep_id": "s"} | said, Sweep)))

    def take_order(self, value: bytes | None) -> list[Any]:
        record = LogRecord(self._orders, b"s", value, (), START_MS)
        self._orders += 1
        return list(self.ingest.take_sweeps([record]))


def of_customers(count: int, every_ms: int = 1_000, **options: Any) -> Swept:
    worker = Swept(**options)
    events = [
        Sent(
            CLICKSTREAM,
            f"c{number:03}",
            START_MS + number * every_ms,
            {
                "event": "purchase",
                "event_ts_ms": START_MS + number * every_ms,
                "event_id": f"e{number}",
                "item_id": f"i{number % 3}",
            },
        )
        for number in range(count)
    ]
    for source_index, topic in enumerate(log_of(events, START_MS + count * every_ms)):
        worker.take(source_index, topic)
    worker.checkpoint()
    return worker


@settings(max_examples=examples(60), deadline=None)
@given(
    count=st.integers(0, 30),
    steps=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6),
    cache_bytes=st.sampled_from([0, 1 << 30]),
)
def test_everyone_is_looked_at_once(count: int, steps: list[tuple[int, bool]], cache_bytes: int) -> None:
    worker = of_customers(count, cache_bytes=cache_bytes)
    before = worker.state()
    worker.order()
    worker.checkpoint()
    while worker.ingest.sweep is not None:
        for limit, restarts in steps:
            worker.ingest.sweep_on(limit)
            worker.checkpoint()
            if restarts:
                worker.restart()
    assert [snapshot.customer_id for snapshot in worker.refreshed] == [f"c{number:03}" for number in range(count)]
    after = worker.state()
    assert {key: value for key, value in before.items() if key != b"m"} == {
        key: value for key, value in after.items() if key != b"m"
    }


def test_a_step_that_was_not_written_is_done_again() -> None:
    worker = of_customers(5)
    worker.order()
    worker.checkpoint()
    worker.ingest.sweep_on(3)
    worker.die_while_writing()
    first = worker.refreshed.copy()
    worker.ingest.sweep_on(3)
    worker.checkpoint()
    assert worker.refreshed == 2 * first and len(first) == 3


def test_a_step_is_news_even_where_nothing_else_is() -> None:
    worker = of_customers(3)
    worker.order()
    worker.checkpoint()
    assert not worker.ingest.checkpoint(0).is_news
    worker.ingest.sweep_on(10)
    done = worker.ingest.checkpoint(0)
    assert done.is_news and not done.changes and not done.pieces
    assert worker.ingest.sweep is None


def test_a_refresh_is_the_customer_at_the_time_that_event_time_has_come_to() -> None:
    worker = of_customers(1)
    worker.order()
    later = log_of([], START_MS + 2 * DAY_MS)
    for source_index, topic in enumerate(later):
        worker.take(source_index, [record._replace(offset=100) for record in topic])
    worker.checkpoint()
    worker.ingest.sweep_on(10)
    worker.checkpoint()
    (snapshot,) = worker.refreshed
    customer = worker.ingest.customer("c000")
    assert customer is not None
    assert snapshot.as_of_ms == worker.ingest.watermark.value_ms == START_MS + 2 * DAY_MS - CONFIG.lateness_ms
    live = customer.snapshot()
    assert live is not None and live.question_id != snapshot.question_id
    assert (snapshot.recent, snapshot.history, snapshot.applied) == (live.recent, live.history, live.applied)
    again = customer.snapshot_as(snapshot)
    assert again == snapshot


def test_whom_the_conditions_name() -> None:
    worker = Swept()
    said = [
        Sent(PROFILES, "mails", START_MS, {"consent": {"email": {"marketing": True}}}),
        Sent(PROFILES, "refuses", START_MS, {"consent": {"email": {"marketing": False}, "sms": {"service": True}}}),
        Sent(CLICKSTREAM, "buys", START_MS + DAY_MS, {"event": "purchase", "item_id": "i", "category": "tea"}),
        Sent(CLICKSTREAM, "mails", START_MS + DAY_MS, {"event": "item_view", "item_id": "i"}),
        Sent(CAMPAIGN_SENDS, "gets", START_MS + 2 * DAY_MS, {"event": "send", "campaign_id": "x", "channel": "email"}),
    ]
    events = [
        sent._replace(body=(sent.body or {}) | {"event_ts_ms": sent.ts_ms, "event_id": f"e{number}"})
        for number, sent in enumerate(said)
    ]
    for source_index, topic in enumerate(log_of(events, START_MS + 3 * DAY_MS)):
        worker.take(source_index, topic)
    worker.checkpoint()

    def named(**conditions: Any) -> set[str]:
        worker.refreshed.clear()
        worker.order(**conditions)
        worker.ingest.sweep_on(100)
        worker.checkpoint()
        return {snapshot.customer_id for snapshot in worker.refreshed}

    assert named() == {"mails", "refuses", "buys", "gets"}
    assert named(active_within_ms=2 * DAY_MS) == {"buys", "mails", "gets"}
    assert named(channels=["email"]) == {"mails"}
    assert named(channels=["email", "sms"]) == {"mails", "refuses"}
    assert named(entities=["item:i"]) == {"buys", "mails"}
    assert named(entities=["category:tea", "campaign:x"]) == {"buys", "gets"}
    assert named(entities=["campaign:i"]) == set()
    assert named(entities=["item:i"], channels=["email"], active_within_ms=1) == set()


def test_who_was_erased_is_not_refreshed() -> None:
    worker = of_customers(2)
    erased = log_of([Sent(PROFILES, "c001", START_MS + DAY_MS, None)])[PROFILES]
    worker.take(PROFILES, [record._replace(offset=50) for record in erased])
    worker.order()
    worker.ingest.sweep_on(10)
    worker.checkpoint()
    assert [snapshot.customer_id for snapshot in worker.refreshed] == ["c000"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no sweep"),
        (b"", "no sweep"),
        (b"{", "no sweep"),
        (b"\xff", "no sweep"),
        (b'{"sweep_id":""}', "no sweep"),
        (b'{"sweep_id":"s","per_s":0}', "no sweep"),
        (b'{"sweep_id":"s","version":2}', "sweep version 2"),
        (b'{"sweep_id":"s","active_within_ms":100000000000000000000000}', "no sweep"),
        (b'{"sweep_id":"s","x":' + b"[" * 60_000 + b"]" * 60_000 + b"}", "no sweep: it is too large"),
        (b'{"sweep_id":"s","x":' + b"[" * 600 + b"]" * 600 + b"}", "nested too deeply"),
        (b'{"sweep_id":"s","entities":[' + b'"item:1",' * 256 + b'"item:1"]}', "no sweep"),
    ],
)
def test_what_is_no_order_is_a_dead_letter(value: bytes | None, said: str) -> None:
    worker = of_customers(1)
    (letter,) = worker.take_order(value)
    assert letter.topic == "dead-letter" and said.encode() in dict(letter.headers)["dl_message"]
    assert worker.ingest.sweep is None and worker.ingest.next_offsets[SWEEPS] == 1


def test_orders_wait_for_each_other_and_are_bounded() -> None:
    worker = of_customers(2)
    for number in range(MOST_WAITING):
        worker.order(sweep_id=f"s{number}", per_s=1)
    (letter,) = worker.take_order(b'{"sweep_id":"one more"}')
    assert b"one more" in dict(letter.headers)["dl_message"]
    worker.checkpoint()
    worker.restart()
    for number in range(MOST_WAITING):
        sweep = worker.ingest.sweep
        assert sweep is not None and sweep.sweep_id == f"s{number}"
        worker.ingest.sweep_on(10)
        worker.checkpoint()
    assert worker.ingest.sweep is None and len(worker.refreshed) == 2 * MOST_WAITING


def test_an_order_that_was_taken_before_is_not_taken_again() -> None:
    worker = of_customers(1)
    worker.order()
    record = LogRecord(0, b"s", json_encode(Sweep(sweep_id="s")), (), START_MS)
    assert worker.ingest.take_sweeps([record]) == []
    worker.ingest.sweep_on(10)
    worker.checkpoint()
    assert worker.ingest.sweep is None and len(worker.refreshed) == 1
