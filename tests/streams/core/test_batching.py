"""The queue before the encoder: nothing is lost, nothing judged is replaced, nothing undelivered is committed."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.examples import examples
from support.snapshots import plain_snapshot

from schemas.snapshot import LIVE_KINDS, Snapshot, SnapshotKind
from streams.core.batching import MicroBatcher, Waiting


def snapshot(customer: str, kind: SnapshotKind = "event") -> Snapshot:
    made: Snapshot = plain_snapshot(customer_id=customer, kind=kind)
    return made


def places(batch: list[Waiting]) -> list[int]:
    return [entry.offset for entry in batch]


def test_the_newest_of_a_customer_wins_and_keeps_its_place() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    for offset, customer in enumerate(["busy", "quiet", "busy", "busy"]):
        batcher.add(snapshot(customer), 0, offset, now_ms=offset)
    assert len(batcher) == 2 and batcher.coalesced == 2
    batch = batcher.take()
    assert places(batch) == [3, 1]
    assert batch[0].since_ms == 0, "who is always busy must not wait for ever"


JUDGED: list[SnapshotKind] = [kind for kind in get_args(SnapshotKind) if kind not in LIVE_KINDS]


@pytest.mark.parametrize("kind", JUDGED)
def test_judged_snapshots_are_never_replaced(kind: SnapshotKind) -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    batcher.add(snapshot("c", kind), 0, 0, 0)
    batcher.add(snapshot("c", kind), 0, 1, 0)
    batcher.add(snapshot("c"), 0, 2, 0)
    assert batcher.coalesced == 0
    assert sorted(places(batcher.take())) == [0, 1, 2]


def test_a_refresh_and_an_event_replace_each_other() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    kinds: list[SnapshotKind] = ["event", "refresh", "event", "refresh"]
    for offset, kind in enumerate(kinds):
        batcher.add(snapshot("c", kind), 0, offset, 0)
    assert batcher.coalesced == 3
    assert places(batcher.take()) == [3]


def test_without_coalescing_every_snapshot_is_taken() -> None:
    batcher = MicroBatcher(size=8, age_ms=50, coalesce=False)
    for offset in range(5):
        batcher.add(snapshot("c"), 0, offset, 0)
    assert places(batcher.take()) == [0, 1, 2, 3, 4]
    assert batcher.coalesced == 0


def test_ready_by_size() -> None:
    batcher = MicroBatcher(size=2, age_ms=50)
    assert not batcher.ready(10**12), "an empty queue is never ready"
    batcher.add(snapshot("a"), 0, 0, 1_000)
    batcher.add(snapshot("a"), 0, 1, 1_000)
    assert not batcher.ready(1_000), "one customer is one place"
    batcher.add(snapshot("b", "send"), 0, 2, 1_000)
    assert batcher.ready(1_000)


@pytest.mark.parametrize("kind", ["event", "horizon"])
def test_ready_by_the_age_of_the_oldest(kind: SnapshotKind) -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    batcher.add(snapshot("a", kind), 0, 0, 1_000)
    batcher.add(snapshot("b", "event" if kind == "horizon" else "horizon"), 0, 1, 1_040)
    assert not batcher.ready(1_049)
    assert batcher.ready(1_050)
    batcher.take()
    assert not batcher.ready(10**12)


def test_a_newer_snapshot_does_not_make_the_customer_wait_longer() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    for offset in range(10):
        batcher.add(snapshot("busy"), 0, offset, 1_000 + 6 * offset)
    assert batcher.ready(1_050)


@given(size=st.integers(2, 64))
def test_neither_kind_starves_the_other(size: int) -> None:
    batcher = MicroBatcher(size, age_ms=50)
    for offset in range(2 * size):
        batcher.add(snapshot(f"c{offset}"), 0, 2 * offset, 0)
        batcher.add(snapshot(f"c{offset}", "send"), 0, 2 * offset + 1, 0)
    batch = batcher.take()
    judged = sum(isinstance(e.snapshot, Snapshot) and e.snapshot.kind == "send" for e in batch)
    assert len(batch) == size
    assert judged == max(1, size // 4)


def test_the_floor_is_the_lowest_offset_not_delivered() -> None:
    batcher = MicroBatcher(size=1, age_ms=50)
    assert batcher.floor(0) is None
    for offset, customer in enumerate(["a", "b", "a"]):
        batcher.add(snapshot(customer), 0, 10 + offset, 0)
    assert batcher.floor(0) == 11, "10 was replaced by 12"
    assert batcher.floor(1) is None
    first = batcher.take()
    assert places(first) == [12]
    second = batcher.take()
    assert batcher.floor(0) == 11, "taken is not delivered"
    batcher.done(second)
    assert batcher.floor(0) == 12
    batcher.done(first)
    assert batcher.floor(0) is None


def test_forgotten_partitions_leave_nothing_behind() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    for partition in (0, 1):
        batcher.add(snapshot(f"live{partition}"), partition, 5, 0)
        batcher.add(snapshot(f"sent{partition}", "send"), partition, 6, 0)
    in_flight = batcher.take()[:1]
    batcher.add(snapshot("again"), 0, 7, 0)
    batcher.forget({0})
    assert batcher.floor(0) is None and batcher.floor(1) == 5
    batcher.done(in_flight)
    assert batcher.floor(0) is None, "what was in flight when its partition left is nobody's any more"
    assert len(batcher) == 0


class Queue(RuleBasedStateMachine):
    """Against a model that remembers every offset that was added and what became of it."""

    batcher: MicroBatcher
    coalesce: bool

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.next_offset = {0: 0, 1: 0}
        self.undelivered: dict[int, set[int]] = {0: set(), 1: set()}
        self.waiting: dict[tuple[int, int], Snapshot] = {}
        self.order: list[tuple[int, int]] = []
        self.replaced = 0
        self.in_flight: list[list[Waiting]] = []

    @initialize(size=st.integers(1, 6), coalesce=st.booleans())
    def begin(self, size: int, coalesce: bool) -> None:
        self.size, self.coalesce = size, coalesce
        self.batcher = MicroBatcher(size, age_ms=10, coalesce=coalesce)

    @rule(
        partition=st.sampled_from([0, 1]),
        customer=st.sampled_from("abc"),
        kind=st.sampled_from(["event", "event", "refresh", "send", "horizon", "sample"]),
        passed_ms=st.integers(0, 4),
    )
    def add(self, partition: int, customer: str, kind: SnapshotKind, passed_ms: int) -> None:
        self.now_ms += passed_ms
        offset = self.next_offset[partition]
        self.next_offset[partition] += 1
        made = snapshot(f"{customer}{partition}", kind)
        place = partition, offset
        if kind in LIVE_KINDS and self.coalesce:
            for old, seen in list(self.waiting.items()):
                if seen.kind in LIVE_KINDS and seen.customer_id == made.customer_id:
                    del self.waiting[old]
                    self.undelivered[old[0]].discard(old[1])
                    self.order[self.order.index(old)] = place
                    self.replaced += 1
                    break
            else:
                self.order.append(place)
        else:
            self.order.append(place)
        self.waiting[place] = made
        self.undelivered[partition].add(offset)
        self.batcher.add(made, partition, offset, self.now_ms)

    @rule()
    def take(self) -> None:
        batch = self.batcher.take()
        taken = [(entry.partition, entry.offset) for entry in batch]
        assert len(taken) == min(self.size, len(self.waiting))
        for live in (True, False):
            queued = [place for place in self.order if (self.waiting[place].kind in LIVE_KINDS) == live]
            chosen = [place for place in taken if (self.waiting[place].kind in LIVE_KINDS) == live]
            assert chosen == queued[: len(chosen)], "each kind goes in the order of its queue"
        for entry, place in zip(batch, taken, strict=True):
            assert entry.snapshot is self.waiting.pop(place)
            self.order.remove(place)
        if batch:
            self.in_flight.append(batch)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        if not self.in_flight:
            return
        batch = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        self.batcher.done(batch)
        for entry in batch:
            self.undelivered[entry.partition].discard(entry.offset)

    @rule(partition=st.sampled_from([0, 1]))
    def lose(self, partition: int) -> None:
        self.batcher.forget({partition})
        self.undelivered[partition] = set()
        self.order = [place for place in self.order if place[0] != partition]
        self.waiting = {place: seen for place, seen in self.waiting.items() if place[0] != partition}

    @invariant()
    def floors_never_pass_an_undelivered_offset(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for partition, open_offsets in self.undelivered.items():
            assert self.batcher.floor(partition) == min(open_offsets, default=None)

    @invariant()
    def every_snapshot_waits_was_taken_or_was_replaced(self) -> None:
        if not hasattr(self, "batcher"):
            return
        assert len(self.batcher) == len(self.waiting)
        assert self.batcher.coalesced == self.replaced
        assert self.batcher.ready(self.now_ms + 10) == bool(self.waiting)


Queue.TestCase.settings = settings(max_examples=examples(120), stateful_step_count=30, deadline=None)
TestQueue: Any = Queue.TestCase


@given(customers=st.lists(st.sampled_from("abcd"), max_size=60), size=st.integers(1, 5))
def test_added_is_taken_plus_coalesced(customers: list[str], size: int) -> None:
    batcher = MicroBatcher(size, age_ms=0)
    taken: list[Waiting] = []
    for offset, customer in enumerate(customers):
        batcher.add(snapshot(customer, "send" if offset % 5 == 4 else "event"), 0, offset, offset)
        if offset % 7 == 6:
            taken += batcher.take()
    while len(batcher):
        taken += batcher.take()
    assert len(customers) == len(taken) + batcher.coalesced
    batcher.done(taken)
    assert batcher.floor(0) is None
    newest = {customer: offset for offset, customer in enumerate(customers) if offset % 5 != 4}
    live = [(e.snapshot, e.offset) for e in taken if isinstance(e.snapshot, Snapshot) and e.snapshot.kind == "event"]
    last = {encoded.customer_id: offset for encoded, offset in live}
    assert last == newest, "the last thing encoded of a customer is the newest that was said"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["event", "send", "erased"])), max_size=40),
    st.integers(1, 8),
    st.booleans(),
)
def test_nothing_of_before_comes_behind_an_erasure(
    said: list[tuple[str, Literal["event", "send", "erased"]]], size: int, coalesce: bool
) -> None:
    batcher = MicroBatcher(size, age_ms=0, coalesce=coalesce)
    taken: list[list[Waiting]] = []
    for offset, (customer, what) in enumerate(said):
        if what == "erased":
            batcher.erase(customer, 0, offset, offset)
        else:
            batcher.add(snapshot(customer, what), 0, offset, offset)
        if offset % 5 == 4:
            taken.append(batcher.take())
    while len(batcher):
        taken.append(batcher.take())
    for batch in taken:
        erased = [isinstance(entry.snapshot, str) for entry in batch]
        assert erased == sorted(erased, reverse=True), "erasures come first in a batch"
        assert len(batch) <= size
    order = [entry for batch in taken for entry in batch]
    for customer in "abc":
        live = [
            entry.offset
            for entry in order
            if entry.snapshot == customer or (not isinstance(entry.snapshot, str) and _is_live(entry, customer))
        ]
        assert live == sorted(live), "what is published of a customer keeps the order of the topic"
    erasures = [offset for offset, (_, what) in enumerate(said) if what == "erased"]
    assert sorted(entry.offset for entry in order if isinstance(entry.snapshot, str)) == erasures
    for batch in taken:
        batcher.done(batch)
    assert batcher.floor(0) is None


def _is_live(entry: Waiting, customer: str) -> bool:
    assert not isinstance(entry.snapshot, str)
    return entry.snapshot.customer_id == customer and entry.snapshot.kind == "event"
