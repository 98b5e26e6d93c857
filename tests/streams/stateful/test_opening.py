"""A worker that dies between any two steps, or meets writes of others there: the next one ends in the same state.

The changelog, its consumer and the outbox are in memory, and fail where they are told to; all else is the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final, NamedTuple
from unittest import mock

import pytest
from confluent_kafka import KafkaError, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from support.logs import CONFIG, Sent, record
from support.owners import START, MemoryStores

from schemas.events import CLICKSTREAM
from schemas.words import Words
from streams.core.customer import due_of
from streams.core.durable import IngestCheckpoint
from streams.core.partition import IngestPartition
from streams.runtime.clocks import Clocks
from streams.state import keys, ownership
from streams.state.changelog import Changelog
from streams.state.checkpoints import StoredRecords, read_meta
from streams.state.contract import KeyValue, WriteBatch
from streams.state.memory import MemoryStore
from streams.state.ownership import OwnershipLost, Pair
from streams.state.restore import restore
from streams.stateful.checkpoint_writer import CheckpointWriter
from streams.stateful.held import Held
from streams.stateful.opening import Opening

TOPIC: Final = "ingest-changelog"
CHECKPOINTS: Final = (4, 8, 12)
"""A checkpoint ends before each of these offsets of the source."""
SOURCE: Final = [
    record(
        Sent(CLICKSTREAM, f"c{n % 3}", ts_ms, {"event": "purchase", "event_ts_ms": ts_ms, "item_id": f"i{n % 4}"}), n
    )
    for n, ts_ms in enumerate(range(START, START + 12 * 1_200_000, 1_200_000))
]
CHANGELOG: Final = Changelog({}, "", TOPIC, lambda raw: due_of(raw).due_ms)
ZOMBIE: Final[list[Pair]] = [(keys.record("c1"), b"bad"), (keys.record("unknown"), b"bad"), (keys.META, b"bad")]


class Crashed(Exception):
    """The worker is no more."""


class Steps:
    """Counts what is done, and ends it before a given step."""

    def __init__(self, last: int | None = None) -> None:
        self.taken = 0
        self._last = last

    def step(self) -> None:
        if self.taken == self._last:
            raise Crashed
        self.taken += 1


class Message(NamedTuple):
    """What a consumer returns."""

    at: int
    raw_key: bytes
    raw_value: bytes | None
    written_by: list[tuple[str, str | bytes | None]]
    failure: KafkaError | None = None

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.raw_key

    def value(self) -> bytes | None:
        return self.raw_value

    def headers(self) -> list[tuple[str, str | bytes | None]]:
        return self.written_by

    def topic(self) -> str:
        return TOPIC

    def error(self) -> KafkaError | None:
        return self.failure


class MemoryLog:
    """The one partition of the changelog."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.end = 0

    def append(self, key: bytes, value: bytes | None, headers: list[tuple[str, str | bytes | None]]) -> int:
        self.messages.append(Message(self.end, key, value, headers))
        self.end += 1
        return self.end - 1

    def write(self, pairs: Iterable[Pair], fencing_token: int) -> None:
        """Somebody else writes."""
        for key, value in pairs:
            self.append(key, value, ownership.headers(fencing_token, 99))

    def compacted(self) -> MemoryLog:
        """As Kafka would leave it after a long time: the newest record of each key."""
        newest = {message.raw_key: message for message in self.messages}
        left = MemoryLog()
        left.messages, left.end = sorted(newest.values()), self.end
        return left


class MemoryConsumer:
    """Reads a log, two records at a time."""

    def __init__(self, log: MemoryLog, steps: Steps) -> None:
        steps.step()
        self._log = log
        self._steps = steps
        self._position = 0

    def get_watermark_offsets(self, _place: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, self._log.end

    def assign(self, places: list[TopicPartition]) -> None:
        self._position = max(0, places[0].offset)

    def poll(self, _timeout_s: float) -> Message:
        return self._next()

    def consume(self, most: int, timeout: float) -> list[Message]:
        return [self._next()]

    def close(self) -> None:
        pass

    def _next(self) -> Message:
        for message in self._log.messages:
            if message.at >= self._position:
                self._position = message.at + 1
                return message
        return Message(self._log.end, b"", None, [], KafkaError(KafkaError._PARTITION_EOF))


class MemoryOutbox:
    """Delivers changelog records one by one; others may write before each.

    Args:
        others: called with how many of ours have arrived before each arrival.
    """

    def __init__(self, log: MemoryLog, steps: Steps, others: Callable[[int], None]) -> None:
        self._log = log
        self._steps = steps
        self._others = others
        self._queued: list[tuple[bytes, bytes | None, Any]] = []
        self._arrived = 0
        self._newest: int | None = None

    def send(self, topic: str, key: bytes, value: bytes | None, *, partition: int, headers: Any) -> None:
        assert (topic, partition) == (TOPIC, 0)
        self._queued.append((key, value, headers))

    def send_all(self, records: Iterable[object]) -> None:
        assert not list(records)

    def mark(self) -> int:
        return 0

    async def delivered(self, _mark: int, _timeout_s: float) -> None:
        while self._queued:
            self._steps.step()
            self._others(self._arrived)
            self._newest = self._log.append(*self._queued.pop(0))
            self._arrived += 1
        self._steps.step()

    def offset(self, topic: str, partition: int) -> int | None:
        return self._newest


class FailingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.steps = Steps()

    def write(self, batch: WriteBatch) -> None:
        self.steps.step()
        super().write(batch)


class FailingGroup:
    def __init__(self) -> None:
        self.offsets: dict[tuple[str, int], int] = {}
        self.steps = Steps()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        self.steps.step()
        self.offsets |= offsets
        return True


class World:
    """What outlives workers."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.store = FailingStore()
        self.group = FailingGroup()

    def live(
        self,
        steps: Steps | None = None,
        others: Callable[[int], None] = lambda _arrived: None,
        until: int = len(CHECKPOINTS),
    ) -> bool:
        """A worker opens the partition and writes what checkpoints are left; returns whether it kept the partition."""
        steps = steps or Steps()
        self.store.steps = self.group.steps = steps
        with reading(self.log, steps):
            return asyncio.run(self._live(MemoryOutbox(self.log, steps, others), CHECKPOINTS[:until]))

    async def _live(self, outbox: Any, checkpoints: Iterable[int]) -> bool:
        stores = MemoryStores({0: self.store})
        opening = Opening(CHANGELOG, stores, outbox, wall_ms=int, restoring=lambda *_: None)
        store, log, _ = await opening.open(0)
        core = IngestPartition(
            0,
            CONFIG,
            Words(),
            StoredRecords(store),
            read_meta(store).partition,
            cache_bytes=1 << 20,
            idle_ms=0,
            now_ms=0,
        )
        held: dict[int, Any] = {0: Held(store, core, log)}
        group: Any = self.group  # no more of a group than a writer asks
        writer: CheckpointWriter[IngestCheckpoint] = CheckpointWriter(
            "ingest",
            held,
            outbox,
            group,
            Clocks(int, int),
            outputs=lambda _: [],
            first=lambda _: [],
            lost=held.pop,
        )
        writer.opened(0, core.next_offsets)
        for end in checkpoints:
            begin = core.next_offsets.get("clickstream", 0)
            if begin < end:
                core.take(CLICKSTREAM, SOURCE[begin:end], 0)
                await writer.write({0: core.checkpoint(0)})
            if not held:
                return False
        await writer.write({0: core.checkpoint(0)})  # who found all of them written commits once, too
        return bool(held)


@contextmanager
def reading(log: MemoryLog, steps: Steps) -> Iterator[None]:
    def consumer(_config: object) -> MemoryConsumer:
        return MemoryConsumer(log, steps)

    def end_offsets(_client: object, places: Iterable[tuple[str, int]], **_: float) -> dict[tuple[str, int], int]:
        return dict.fromkeys(places, log.end)

    with mock.patch.multiple("streams.state.restore", Consumer=consumer, end_offsets=end_offsets):
        yield


def state(store: MemoryStore) -> tuple[dict[bytes, bytes], bytes | None]:
    """Records, pieces and timers, and the partition's own record."""
    found = dict(store.scan(b"", b"\xff"))
    found.pop(keys.META, None)
    return found, read_meta(store).partition


def rebuilt(log: MemoryLog) -> MemoryStore:
    """What somebody has who has nothing but the log."""
    store = MemoryStore()
    with reading(log, Steps()):
        restore(store, {}, TOPIC, 0, CHANGELOG.due_ms)
    return store


def partition_of(store: KeyValue) -> IngestPartition:
    meta = read_meta(store).partition
    return IngestPartition(0, CONFIG, Words(), StoredRecords(store), meta, cache_bytes=1 << 20, idle_ms=0, now_ms=0)


def next_offset(store: KeyValue) -> int:
    return partition_of(store).next_offsets.get("clickstream", 0)


def check_order(world: World) -> None:
    """Local state is behind the changelog, and what is committed behind both."""
    committed = world.group.offsets.get(("clickstream", 0), 0)
    assert committed <= next_offset(world.store) <= next_offset(rebuilt(world.log))


def check_end(world: World) -> None:
    """Everything is as if nothing had happened, also for who reads the log alone, now or when it is compacted."""
    expected = state(undisturbed().store)
    assert len(expected[0]) > 3
    for store in (world.store, rebuilt(world.log), rebuilt(world.log.compacted())):
        assert state(store) == expected
    assert world.group.offsets == {("clickstream", 0): len(SOURCE)}


def undisturbed() -> World:
    world = World()
    assert world.live()
    return world


def third_owner() -> World:
    """A partition with a finished checkpoint, of the token 1, half of another, of the token 2, and zombie writes."""
    world = World()
    assert world.live(until=1)
    with pytest.raises(Crashed):
        world.live(others=dies_before(3))
    world.log.write(ZOMBIE, fencing_token=1)
    known = accepted(world.log)
    assert known.stale and known.fencing_token == 2
    return world


def accepted(log: MemoryLog) -> ownership.Accepting:
    """What somebody knows who has read all of the log."""
    known = ownership.Accepting()
    known.accept(ownership.read(message) for message in log.messages)
    known.end()
    return known


def dies_before(arrival: int) -> Callable[[int], None]:
    def others(arrived: int) -> None:
        if arrived == arrival:
            raise Crashed

    return others


def zombies_before(world: World, arrival: int) -> Callable[[int], None]:
    """A former owner writes, and makes its checkpoint whole."""

    def others(arrived: int) -> None:
        if arrived == arrival:
            world.log.write(ZOMBIE, fencing_token=1)

    return others


@pytest.mark.parametrize("keeps_store", [True, False], ids=["store kept", "store lost"])
@pytest.mark.parametrize("begun", [World, third_owner])
def test_whoever_dies_between_any_two_steps_is_followed_without_loss(
    begun: Callable[[], World], keeps_store: bool
) -> None:
    for last in count():
        world = begun()
        try:
            world.live(Steps(last))
        except Crashed:
            check_order(world)
        else:
            break
        if not keeps_store:
            world.store = FailingStore()
        assert world.live()
        check_end(world)
    check_end(world)
    assert last > 20, "of every record that arrives, and of every read and write"


def test_zombies_write_between_any_two_records_and_change_nothing() -> None:
    for arrival in count():
        world = third_owner()
        zombies = sum(message.raw_value == b"bad" for message in world.log.messages)
        assert world.live(others=zombies_before(world, arrival))
        check_end(world)
        if sum(message.raw_value == b"bad" for message in world.log.messages) == zombies:
            break  # fewer records than that arrive
    assert arrival > 10


@given(arrival=st.integers(0, 30), last=st.integers(0, 70))
def test_zombies_write_and_the_owner_dies(arrival: int, last: int) -> None:
    world = third_owner()
    with suppress(Crashed):
        world.live(Steps(last), zombies_before(world, arrival))
    assert world.live()
    check_end(world)


def test_whoever_claims_later_takes_the_partition_and_the_loser_commits_no_more() -> None:
    for arrival in count(1):  # the first record is our own claim: what comes before it does not take the partition away
        world = third_owner()
        claimed: list[int] = []

        def others(arrived: int, arrival: int = arrival, world: World = world, claimed: list[int] = claimed) -> None:
            if arrived == arrival:
                world.log.write([ownership.claim(accepted(world.log).complete_to(world.log.end))], fencing_token=9)
                claimed.append(next_offset(rebuilt(world.log)))

        try:
            kept = world.live(others=others)
        except OwnershipLost:
            kept = False  # while it was opened
        assert kept == (not claimed)
        if kept:
            break
        assert world.group.offsets.get(("clickstream", 0), 0) <= claimed[0] == next_offset(rebuilt(world.log))
        check_order(world)
        assert world.live()
        check_end(world)
    assert arrival > 10


def test_where_others_keep_writing_the_claim_is_given_up() -> None:
    world = third_owner()
    before = state(rebuilt(world.log))
    with pytest.raises(OwnershipLost, match="others keep writing"):
        world.live(others=lambda _arrived: world.log.write(ZOMBIE[:1], fencing_token=1))
    assert state(rebuilt(world.log)) == before
    assert world.live()
    check_end(world)
