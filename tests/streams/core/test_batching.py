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
from streams.core.batching import PATIENCE_MS, MicroBatcher, Waiting


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
    batch = batcher.take(0)
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
    assert sorted(places(batcher.take(0))) == [0, 1, 2]


def test_a_refresh_and_an_event_replace_each_other() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    kinds: list[SnapshotKind] = ["event", "refresh", "event", "refresh"]
    for offset, kind in enumerate(kinds):
        batcher.add(snapshot("c", kind), 0, offset, 0)
    assert batcher.coalesced == 3
    assert places(batcher.take(0)) == [3]


def test_without_coalescing_every_snapshot_is_taken() -> None:
    batcher = MicroBatcher(size=8, age_ms=50, coalesce=False)
    for offset in range(5):
        batcher.add(snapshot("c"), 0, offset, 0)
    assert places(batcher.take(0)) == [0, 1, 2, 3, 4]
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
    batcher.take(0)
    assert not batcher.ready(10**12)


def test_a_newer_snapshot_does_not_make_the_customer_wait_longer() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    for offset in range(10):
        batcher.add(snapshot("busy"), 0, offset, 1_000 + 6 * offset)
    assert batcher.ready(1_050)


@given(size=st.integers(2, 64), kind=st.sampled_from([*JUDGED, "refresh"]))
def test_events_go_first_and_nothing_else_waits_for_ever(size: int, kind: SnapshotKind) -> None:
    batcher = MicroBatcher(size, age_ms=50)
    for offset in range(2 * size):
        batcher.add(snapshot(f"e{offset}"), 0, 2 * offset, 0)
        batcher.add(snapshot(f"o{offset}", kind), 0, 2 * offset + 1, 0)
    share = max(1, size // 4)
    assert _kinds(batcher.take(PATIENCE_MS - 1)) == ["event"] * size
    assert _kinds(batcher.take(PATIENCE_MS)) == ["event"] * (size - share) + [kind] * share
    assert _kinds(batcher.take(PATIENCE_MS - 1)) == ["event"] * share + [kind] * min(share, size - share)
    assert len(batcher.take(PATIENCE_MS)) == min(size, len(batcher) + size), "what is late fills a batch"


@pytest.mark.parametrize("kind", [*JUDGED, "refresh"])
def test_a_burst_of_what_nobody_waits_for_leaves_short_batches(kind: SnapshotKind) -> None:
    batcher = MicroBatcher(size=64, age_ms=50)
    for offset in range(1_000):
        batcher.add(snapshot(f"c{offset}", kind), 0, offset, 0)
    assert batcher.ready(0)
    assert len(batcher.take(0)) == 16
    batcher.add(snapshot("now"), 0, 1_000, 0)
    assert places(batcher.take(0))[0] == 1_000
    assert len(batcher.take(PATIENCE_MS)) == 64


def test_who_comes_back_while_a_sweep_waits_goes_first() -> None:
    batcher = MicroBatcher(size=2, age_ms=50)
    for offset in range(4):
        batcher.add(snapshot(f"c{offset}", "refresh"), 0, offset, 0)
    batcher.add(snapshot("c3"), 0, 4, 0)
    assert places(batcher.take(0)) == [4, 0]
    assert batcher.coalesced == 1


def test_a_customer_may_be_named_like_a_place_in_a_topic() -> None:
    batcher = MicroBatcher(size=8, age_ms=50)
    batcher.add(snapshot("0:7"), 0, 6, 0)
    batcher.erase("someone", 0, 7, 0)
    batcher.add(snapshot("0:9", "sample"), 0, 8, 0)
    batcher.add(snapshot("0:9"), 0, 9, 0)
    assert sorted(places(batcher.take(0))) == [6, 7, 8, 9]


def _kinds(batch: list[Waiting]) -> list[str]:
    return [entry.snapshot.kind for entry in batch if isinstance(entry.snapshot, Snapshot)]


def test_the_floor_is_the_lowest_offset_not_delivered() -> None:
    batcher = MicroBatcher(size=1, age_ms=50)
    assert batcher.floor(0) is None
    for offset, customer in enumerate(["a", "b", "a"]):
        batcher.add(snapshot(customer), 0, 10 + offset, 0)
    assert batcher.floor(0) == 11, "10 was replaced by 12"
    assert batcher.floor(1) is None
    first = batcher.take(0)
    assert places(first) == [12]
    second = batcher.take(0)
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
    in_flight = batcher.take(0)[:1]
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
        self.first: set[tuple[int, int]] = set()
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
        older = self._older(made) if kind in LIVE_KINDS and self.coalesce else None
        if older is None:
            self.order.append(place)
        else:
            was = self.waiting.pop(older)
            self.undelivered[older[0]].discard(older[1])
            self.replaced += 1
            at = self.order.index(older)
            if was.kind == kind or older in self.first:
                self.order[at] = place
            else:
                del self.order[at]
                self.order.append(place)
        if kind == "event" or older in self.first or (kind == "refresh" and not self.coalesce):
            self.first.add(place)
        self.waiting[place] = made
        self.undelivered[partition].add(offset)
        self.batcher.add(made, partition, offset, self.now_ms)

    def _older(self, made: Snapshot) -> tuple[int, int] | None:
        """Where the customer's live snapshot waits."""
        for place, seen in self.waiting.items():
            if seen.kind in LIVE_KINDS and seen.customer_id == made.customer_id:
                return place
        return None

    @rule()
    def take(self) -> None:
        batch = self.batcher.take(self.now_ms)
        taken = [(entry.partition, entry.offset) for entry in batch]
        firsts = [place for place in self.order if place in self.first]
        others = [place for place in self.order if place not in self.first]
        # Time does not pass enough for anything to become late.
        room = self.size - min(self.size, len(firsts))
        assert taken == firsts[: self.size] + others[: min(room, max(1, self.size // 4))]
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
            taken += batcher.take(0)
    while len(batcher):
        taken += batcher.take(0)
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
            taken.append(batcher.take(0))
    while len(batcher):
        taken.append(batcher.take(0))
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
