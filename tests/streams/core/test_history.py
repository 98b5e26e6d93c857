"""Closed sessions in brief: bounded, the oldest pooled by month, and nothing counted twice or lost within the bound."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS

from schemas.snapshot import SESSION, Session, sessions
from schemas.words import hash_of
from streams.core.config import DAY_MS
from streams.core.history import FRESH_ENTRIES, MONTHS, SINGLE_ENTRIES, History, Tally, count, local_hour


def session(day: int, *, value: float = 1.0, category: int = 1, sessions: int = 1) -> Session:
    return Session(START_MS // 1000 + day * 86_400, 5, 3, value, 7, 20, sessions, 2, 1, category, 0, 0, 9, 0)


def history_of(entries: list[Session]) -> History:
    history = History()
    for entry in entries:
        history.add(entry)
    return history


@given(count=st.integers(0, 400), every=st.integers(1, 20))
def test_sums_are_kept_while_months_are(count: int, every: int) -> None:
    history = history_of([session(day * every, value=float(day % 5)) for day in range(count)])
    found = list(sessions(history.entries))
    assert len(found) < SINGLE_ENTRIES + MONTHS + FRESH_ENTRIES
    assert [entry.start_s for entry in found] == sorted(entry.start_s for entry in found)
    singles = [entry for entry in found if entry.sessions == 1]
    assert len(singles) >= min(count, SINGLE_ENTRIES)
    if count * every < 30 * (MONTHS - 1):  # no month is gone yet
        assert sum(entry.sessions for entry in found) == count
        assert sum(entry.events for entry in found) == 3 * count
        assert sum(entry.value for entry in found) == sum(day % 5 for day in range(count))
        assert sum(entry.messages for entry in found) == 2 * count


@given(splits=st.lists(st.integers(0, 200), max_size=4))
def test_stored_in_between_it_goes_on_alike(splits: list[int]) -> None:
    entries = [session(day) for day in range(200)]
    straight, stored = history_of(entries), History()
    for at, entry in enumerate(entries):
        stored.add(entry)
        if at in splits:
            stored = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=History)
    assert stored == straight


def test_older_entries_change_at_merges_only() -> None:
    history, merges = History(), 0
    for day in range(300):
        before = history.older
        history.add(session(day))
        assert (history.older != before) == (history.merges != merges)
        merges = history.merges
    assert merges == 300 // FRESH_ENTRIES


def test_a_month_says_what_most_of_its_sessions_say() -> None:
    early = [session(day, category=2 if day % 3 else 1) for day in range(10)]
    entries = [*early, *(session(day) for day in range(60, 60 + SINGLE_ENTRIES + 6))]
    assert len(entries) % FRESH_ENTRIES == 0
    first, second, *_ = sessions(history_of(entries).entries)
    assert (first.sessions, first.category, first.second_category) == (10, 2, 1)
    assert (first.channel, first.local_hour, first.item) == (7, 20, 9)
    assert second.sessions > 1, "the next month is pooled too"


def test_numbers_that_do_not_fit_are_the_largest_that_do() -> None:
    tally = Tally(messages=1_000, redemptions=1_000)
    for at in range(1_000):
        count(tally.items, hash_of(f"item:{at}"))
    entry = tally.entry(START_MS, START_MS + 100 * DAY_MS, START_MS, 10**6)
    assert (entry.minutes, entry.events, entry.messages, entry.redemptions) == (65_535, 65_535, 255, 255)
    assert len(SESSION.pack(*entry)) == 40
    assert len(tally.items) == 64


def test_the_week_begins_on_monday() -> None:
    monday_ms = 1_499_644_800_000  # 2017-07-10T00:00Z
    assert [local_hour(monday_ms + hours * 3_600_000) for hours in (0, 1, 167, 168)] == [0, 1, 167, 0]
