"""Event time of a partition: the slowest topic's, unless it is idle; lateness by the event's own topic."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import CONFIG, Sent, record

from schemas.events import CLICKSTREAM, REDEMPTIONS
from schemas.records import LogRecord
from schemas.words import Words
from streams.core.event_clock import NOT_OBSERVED_MS, EventClock
from streams.core.partition import IngestPartition
from streams.core.watermark import Watermark
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore

T: Final = 1_500_000_000_000
LATENESS_MS: Final = 300
IDLE_MS: Final = 1_000


def watermark(*newest_ms: int, idle_ms: int = IDLE_MS, now_ms: int = 0, floor_ms: int = 0) -> Watermark:
    return Watermark([EventClock(1, at_ms) for at_ms in newest_ms], LATENESS_MS, idle_ms, now_ms, floor_ms)


@pytest.mark.parametrize("idle_ms", [0, IDLE_MS])
def test_the_slowest_topic_decides(idle_ms: int) -> None:
    mark = watermark(T + 50, T, T + 900, idle_ms=idle_ms)
    assert mark.target_ms(0) == T - LATENESS_MS
    mark.observe(1, T + 500, 0)
    assert mark.target_ms(0) == T + 50 - LATENESS_MS


@pytest.mark.parametrize("idle_ms", [0, IDLE_MS])
def test_a_topic_never_heard_of_holds_time_back(idle_ms: int) -> None:
    mark = watermark(T, NOT_OBSERVED_MS, idle_ms=idle_ms)
    assert mark.target_ms(0) == 0
    assert watermark(T, NOT_OBSERVED_MS, idle_ms=idle_ms, floor_ms=7).target_ms(0) == 7


def test_an_idle_topic_stops_counting_after_its_bound() -> None:
    mark = watermark(T, NOT_OBSERVED_MS)
    mark.observe(0, T + 10, now_ms=600)
    assert mark.target_ms(IDLE_MS - 1) == 0
    assert mark.target_ms(IDLE_MS) == T + 10 - LATENESS_MS


def test_a_topic_with_unread_records_is_not_idle() -> None:
    mark = watermark(T, T)
    mark.observe(0, T + 5_000, now_ms=IDLE_MS)
    mark.observed(1, IDLE_MS)
    assert mark.target_ms(2 * IDLE_MS - 1) == T - LATENESS_MS
    assert mark.target_ms(2 * IDLE_MS) == T + 5_000 + 0 - LATENESS_MS


def test_who_speaks_again_counts_again() -> None:
    mark = watermark(T, T)
    mark.observe(0, T + 5_000, now_ms=IDLE_MS)
    mark.advance(mark.target_ms(IDLE_MS))
    assert mark.value_ms == T + 5_000 - LATENESS_MS
    mark.observe(1, T + 1, now_ms=IDLE_MS + 1)
    assert mark.target_ms(IDLE_MS + 1) == mark.value_ms, "it holds time where it is, and cannot bring it back"
    mark.observe(0, T + 9_000, now_ms=IDLE_MS + 1)
    assert mark.target_ms(IDLE_MS + 1) == mark.value_ms
    mark.observe(1, T + 8_000, now_ms=IDLE_MS + 1)
    assert mark.target_ms(IDLE_MS + 1) == T + 8_000 - LATENESS_MS


def test_when_all_are_idle_time_goes_on_with_the_clock() -> None:
    mark = watermark(T + 70, T)
    mark.observe(0, T + 70, now_ms=500)
    quiet_from = 500 + IDLE_MS
    assert mark.target_ms(quiet_from) == T + 70 - LATENESS_MS
    assert mark.target_ms(quiet_from + 12_345) == T + 70 + 12_345 - LATENESS_MS


def test_a_partition_that_never_heard_anything_stays_where_it_is() -> None:
    assert watermark(NOT_OBSERVED_MS, NOT_OBSERVED_MS, floor_ms=3).target_ms(10**9) == 3


def test_without_an_idle_bound_the_clock_never_counts() -> None:
    mark = watermark(T, T + 5, idle_ms=0)
    assert mark.target_ms(10**15) == T - LATENESS_MS


def test_a_heartbeat_is_being_heard() -> None:
    mark = watermark(T, T)
    mark.observe(0, T + 5_000, now_ms=900)
    mark.observe(1, T, now_ms=900)  # nothing new, but somebody is there
    assert mark.target_ms(900 + IDLE_MS - 1) == T - LATENESS_MS


def test_lateness_is_judged_by_the_events_own_topic() -> None:
    mark = watermark(T, T - 10 * LATENESS_MS)
    assert mark.late_before_ms(0) == T - LATENESS_MS
    assert mark.late_before_ms(1) == T - 11 * LATENESS_MS, "this topic is still there"


def test_first_event_of_a_topic_is_never_late_by_its_topic() -> None:
    mark = watermark(T, NOT_OBSERVED_MS)
    assert mark.late_before_ms(1) <= 1


def test_what_an_idle_topic_brings_behind_the_watermark_is_late() -> None:
    mark = watermark(T, T - 10_000)
    mark.observe(0, T, now_ms=IDLE_MS)
    mark.advance(mark.target_ms(IDLE_MS))
    assert mark.value_ms == T - LATENESS_MS
    assert mark.late_before_ms(1) == mark.value_ms


def test_an_old_event_does_not_move_its_topic_back() -> None:
    mark = watermark(T)
    mark.observe(0, T - 200, 0)
    assert mark.newest_ms == [T]


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(T - 2_000, T + 20_000), st.integers(-200, 3_000), st.booleans()),
    max_size=40,
)
"""(topic, event ms, how far the clock goes, whether the partition cuts a checkpoint)"""


@given(steps=STEPS, idle_ms=st.sampled_from([0, 500, IDLE_MS]))
def test_time_never_goes_back_and_settles_nothing_punctual(
    steps: list[tuple[int, int, int, bool]], idle_ms: int
) -> None:
    mark = watermark(NOT_OBSERVED_MS, NOT_OBSERVED_MS, NOT_OBSERVED_MS, idle_ms=idle_ms)
    now_ms = 0
    for topic, event_ts_ms, passed_ms, cut in steps:
        now_ms = max(0, now_ms + passed_ms)  # wall clocks are set back now and then
        mark.observe(topic, event_ts_ms, now_ms)
        target_ms = mark.target_ms(now_ms)
        assert target_ms >= mark.value_ms
        # Whatever is behind the watermark is late on every topic: what is settled stays settled.
        assert all(mark.late_before_ms(other) >= mark.value_ms for other in range(3))
        if cut:
            before = mark.value_ms
            mark.advance(target_ms)
            assert mark.value_ms == target_ms >= before
            mark.advance(before)
            assert mark.value_ms == target_ms


@given(
    events=st.lists(st.tuples(st.integers(0, 1), st.integers(T, T + 5_000)), min_size=1, max_size=30), data=st.data()
)
def test_without_idleness_the_interleaving_does_not_matter(events: list[tuple[int, int]], data: st.DataObject) -> None:
    in_order, mixed = (
        watermark(NOT_OBSERVED_MS, NOT_OBSERVED_MS, idle_ms=0),
        watermark(NOT_OBSERVED_MS, NOT_OBSERVED_MS, idle_ms=0),
    )
    for topic, event_ts_ms in events:
        in_order.observe(topic, event_ts_ms, 0)
    for topic, event_ts_ms in data.draw(st.permutations(events), "mixed"):
        mixed.observe(topic, event_ts_ms, 0)
        mixed.advance(mixed.target_ms(0))
    assert mixed.target_ms(0) == in_order.target_ms(0)


def test_a_topic_that_brings_nothing_but_refused_records_is_idle_all_the_same() -> None:
    """They say nothing of event time, so it would stand still for as long as somebody sends them."""
    core = IngestPartition(
        0, CONFIG, Words(), StoredRecords(MemoryStore()), None, cache_bytes=1 << 20, idle_ms=IDLE_MS, now_ms=0
    )
    opened = Sent(CLICKSTREAM, "c1", T, {"event": "app_open", "event_ts_ms": T})
    assert core.take(CLICKSTREAM, [record(opened, 0)], 500) == []
    (refused,) = core.take(REDEMPTIONS, [LogRecord(0, b"c1", b"{", (), T)], 900)
    assert refused.reason == "malformed"
    core.checkpoint(IDLE_MS)
    assert core.watermark.value_ms == T - CONFIG.lateness_ms
