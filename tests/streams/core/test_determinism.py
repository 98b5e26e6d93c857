"""State is a function of the events: not of batches, interleaving, order within the bound, duplicates or crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import logs
from support.examples import examples
from support.logs import (
    CONFIG,
    START_MS,
    Sent,
    Worker,
    arrivals,
    content,
    log_of,
    restarted,
    sent_events,
    undisturbed,
    with_late_ones,
    without_erasures,
)

from streams.core.config import DAY_MS
from streams.core.durable import IngestCheckpoint
from streams.state import keys


@pytest.fixture(autouse=True, scope="module")
def more_pieces() -> Iterator[None]:
    with logs.more_pieces():
        yield


UNTIL_MS = st.sampled_from([START_MS, START_MS + 3 * DAY_MS, START_MS + 100 * DAY_MS])


def outputs(worker: Worker) -> tuple[dict[str, bytes], dict[tuple[str, str], bytes]]:
    return worker.outcomes, worker.snapshots


@settings(max_examples=examples(250), deadline=None)
@given(events=st.one_of(sent_events(), with_late_ones(sent_events())), until_ms=UNTIL_MS, data=st.data())
def test_batches_and_interleaving_change_nothing(events: list[Sent], until_ms: int, data: st.DataObject) -> None:
    log = log_of(events, max(until_ms, *(sent.ts_ms for sent in events)))
    worker = Worker(cache_bytes=data.draw(st.sampled_from([0, 1 << 30]), "cache"))
    for source_index, batch in arrivals(data.draw, log):
        worker.take(source_index, batch)
        if data.draw(st.booleans(), "cut"):
            worker.checkpoint()
    worker.checkpoint()
    worker.checkpoint()
    expected = undisturbed(log)
    assert worker.state() == expected.state()
    assert outputs(worker)[0] == outputs(expected)[0]
    assert outputs(worker)[1] == outputs(expected)[1]
    assert worker.refused == expected.refused


class Telling(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Counts how often each outcome, and each snapshot that awaits one, is told."""

    def restart(self) -> None:
        self.told = Counter[tuple[str, str]]()
        super().restart()

    def deliver(self, done: IngestCheckpoint) -> None:
        self.told.update(("outcome", outcome.outcome_id) for outcome in done.outcomes)
        self.told.update(("question", snapshot.question_id) for snapshot in done.awaiting_label)
        super().deliver(done)


@settings(max_examples=examples(250), deadline=None)
@given(events=st.one_of(sent_events(), with_late_ones(sent_events())), data=st.data())
def test_what_becomes_known_is_told_once(events: list[Sent], data: st.DataObject) -> None:
    """Also what was known first while its events were still in the tail, and then again when they settled."""
    worker = Telling()
    for source_index, batch in arrivals(data.draw, log_of(events, START_MS + 100 * DAY_MS)):
        worker.take(source_index, batch)
        if data.draw(st.booleans(), "cut"):
            worker.checkpoint()
    worker.checkpoint()
    worker.checkpoint()
    assert set(worker.told.values()) <= {1}, worker.told.most_common(1)
    assert {name for kind, name in worker.told if kind == "outcome"} == worker.outcomes.keys()


@settings(max_examples=examples(250), deadline=None)
@given(events=st.one_of(sent_events(), with_late_ones(sent_events())), until_ms=UNTIL_MS, data=st.data())
def test_crashes_and_replay_of_any_suffix_change_nothing(
    events: list[Sent], until_ms: int, data: st.DataObject
) -> None:
    log = log_of(events, max(until_ms, *(sent.ts_ms for sent in events)))
    worker = Worker()
    crashes = data.draw(st.integers(1, 4), "crashes")
    while True:
        done = worker.ingest.next_offsets
        # Committed offsets are never ahead of state: replay starts at or before what the state accounts for.
        rest = [
            topic[data.draw(st.integers(0, done.get(name, 0)), "from") :]
            for topic, name in zip(log, ("clickstream", "campaign-sends", "redemptions", "profiles"), strict=True)
        ]
        died = False
        for source_index, batch in arrivals(data.draw, rest):
            worker.take(source_index, batch)
            fate = data.draw(st.sampled_from(["go on", "cut", "die", "die while writing"]), "fate")
            if fate == "cut":
                worker.checkpoint()
            elif fate != "go on" and crashes:
                crashes, died = crashes - 1, True
                if fate == "die":
                    worker.restart()
                else:
                    worker.die_while_writing()
                break
        if not died:
            break
    worker.checkpoint()
    worker.checkpoint()
    expected = undisturbed(log)
    assert worker.state() == expected.state()
    assert worker.outcomes == expected.outcomes
    assert worker.snapshots == expected.snapshots


@settings(max_examples=examples(250), deadline=None)
@given(events=sent_events(), until_ms=UNTIL_MS, data=st.data())
def test_reordering_and_duplicates_within_the_bound_change_nothing(
    events: list[Sent], until_ms: int, data: st.DataObject
) -> None:
    delays = [data.draw(st.sampled_from([0, 0, 1000, 60_000, CONFIG.lateness_ms]), "delay") for _ in events]
    arriving = [
        (sent.ts_ms + delay, place, sent) for place, (sent, delay) in enumerate(zip(events, delays, strict=True))
    ]
    for place, sent in enumerate(events):
        if data.draw(st.integers(0, 9), "duplicate") == 0:
            arriving.append((sent.ts_ms + CONFIG.lateness_ms, place, sent))
    # An event that comes d later than its time is at most d behind the newest of its topic.
    shuffled = [sent for _, _, sent in sorted(arriving, key=lambda entry: entry[:2])]
    closed_ms = max(until_ms, events[-1].ts_ms)
    worker = undisturbed(log_of(shuffled, closed_ms))
    assert content(worker) == content(undisturbed(log_of(events, closed_ms)))
    assert worker.ingest.counts["late"] == 0


@settings(max_examples=examples(150), deadline=None)
@given(events=sent_events(erasures=True), data=st.data())
def test_erasures_hold_whatever_arrives_when(events: list[Sent], data: st.DataObject) -> None:
    log = log_of(events, events[-1].ts_ms + 100 * DAY_MS)
    worker = Worker()
    for source_index, batch in arrivals(data.draw, log):
        worker.take(source_index, batch)
        if data.draw(st.booleans(), "cut"):
            worker.checkpoint()
    for _ in range(3):
        worker.checkpoint()
    expected = undisturbed(log)
    expected.checkpoint()
    erased = {sent.customer for sent in events if sent.body is None}
    assert without_erasures(worker.state(), erased) == without_erasures(expected.state(), erased)


class Questions(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Counts the questions that were asked, and their answers by head; holds two of each head and customer."""

    def __init__(self) -> None:
        self.asked, self.answered = 0, Counter[str]()
        super().__init__(msgspec.structs.replace(CONFIG, pending_limit=2))

    def deliver(self, done: IngestCheckpoint) -> None:
        super().deliver(done)
        self.asked += len(done.awaiting_label)
        self.answered.update(outcome.head for outcome in done.outcomes)

    def open(self) -> Counter[str]:
        customers = {sent.decode()[1:] for sent, _ in self.store.scan(keys.RECORD, keys.RECORDS_STOP)}
        known = [known for name in customers if (known := self.ingest.customer(name)) is not None]
        return Counter(label.head for one in known for label in one.settled.pending)


@settings(max_examples=examples(150), deadline=None)
@given(events=sent_events(), data=st.data())
def test_a_label_is_resolved_pending_or_counted_as_dropped(events: list[Sent], data: st.DataObject) -> None:
    """Once, although a tail is folded again and again, and what was folded for show may be taken over."""
    worker = Questions()
    for source_index, batch in arrivals(data.draw, log_of(events, events[-1].ts_ms + CONFIG.lateness_ms + 1)):
        worker.take(source_index, batch)
        if data.draw(st.booleans(), "cut"):
            worker.checkpoint()
    worker.checkpoint()
    worker.checkpoint()
    answered, waiting = worker.answered, worker.open()
    # An order is waited for once churn is answered; a response beside every redemption that is or was waited for.
    begun = worker.asked + answered["churn"] + answered["redemption"] + waiting["redemption"]
    assert begun == answered.total() + waiting.total() + worker.ingest.counts["pending_labels_dropped"]


@settings(max_examples=examples(60), deadline=None)
@given(events=sent_events())
def test_counts_add_up(events: list[Sent]) -> None:
    worker = undisturbed(log_of([*events, *events], events[-1].ts_ms))
    counts = worker.ingest.counts
    assert counts["applied"] + counts["duplicates"] + len(worker.refused) == 2 * len(events)
    assert counts["applied"] == len(events), "what comes again is known, or so late that nobody can tell"


@settings(max_examples=examples(100), deadline=None)
@given(events=with_late_ones(sent_events()))
def test_every_event_is_in_the_state_or_refused(events: list[Sent]) -> None:
    worker = undisturbed(log_of(events, max(sent.ts_ms for sent in events) + DAY_MS))
    found = [worker.ingest.customer(name) for name in {sent.customer for sent in events}]
    held = sum(known.view().events for known in found if known is not None)
    assert held + len(worker.refused) == len(events)
    assert worker.ingest.counts["applied"] == held


@settings(max_examples=examples(150), deadline=None)
@given(events=sent_events(), data=st.data())
def test_with_more_keys_batches_and_interleaving_change_nothing_either(events: list[Sent], data: st.DataObject) -> None:
    config = msgspec.structs.replace(CONFIG, watermark_keys=2)
    log = log_of(events, events[-1].ts_ms + DAY_MS)
    worker, expected = restarted(data.draw, log, config), undisturbed(log, config=config)
    assert worker.state() == expected.state()
    assert worker.outcomes == expected.outcomes
