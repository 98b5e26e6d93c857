"""What consumer, agent and runner promise together, and the assignment, without a broker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StateCorrupt, TopicMismatch
from streams.kafka.transport import RECORDS_AHEAD, BatchConsumer, BatchConsumerThread
from streams.runtime.app import build_app

TOPICS = ("clickstream", "campaign-sends")


class Role:
    """Writes down what is called, and fails or waits where told to."""

    name = "double"
    topics = TOPICS

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails_in = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.starts: dict[tuple[str, int], int] | None = None

    def bind(self, committer: Any) -> None: ...

    async def _call(self, name: str, *what: Any) -> None:
        assert not self.running, "two calls at once"
        self.running += 1
        try:
            self.calls.append((name, *what))
            await self.gate.wait()
            if self.fails_in == name:
                raise StateCorrupt(f"broken in {name}")
        finally:
            self.running -= 1

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int] | None:
        await self._call("assigned", partitions)
        return self.starts

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._call("revoked", partitions)

    async def process(self, batch: Any) -> None:
        await self._call("process", batch.topic, batch.partition, len(batch.records))

    async def idle(self) -> None:
        await self._call("idle")

    async def stop(self) -> None:
        await self._call("stop")


class Thread:
    """Stands for the consumer thread: fetches give what the test put into ``answers``, seeks are written down."""

    def __init__(self, consumer: BatchConsumer) -> None:
        self.consumer = consumer
        self.answers: list[dict[TP, list[Any]]] = []
        self.fetches: list[object] = []
        self.seeks: list[tuple[object, Mapping[TP, int]]] = []
        self.before_answer: Callable[[], Any] | None = None

    async def fetch(self, token: object, timeout_s: float, order: object) -> None:
        self.fetches.append(token)
        if self.before_answer is not None:
            await self.before_answer()
        if self.answers:
            self.consumer.fetched = token, self.answers.pop(0)
        else:
            await asyncio.sleep(0.001)

    async def seek_within(self, token: object, offsets: Mapping[TP, int]) -> None:
        self.seeks.append((token, offsets))


class Rig:
    """A role's app as :func:`build_app` makes it, of which only the agent is started; and the group's side of it."""

    def __init__(self) -> None:
        self.role = Role()
        self.app = build_app(self.role, bootstrap="127.0.0.1:9", prefix="p.")
        self.runner = self.app.runner

        async def nothing(*_: Any) -> None: ...

        self.consumer = BatchConsumer(self.app.transport, nothing, nothing, nothing)
        self.consumer._thread.thread_loop.close()
        self.thread = Thread(self.consumer)
        self.consumer._thread = cast(Any, self.thread)
        self.app.consumer = self.consumer

    async def assign(self, *numbers: int) -> object:
        """A rebalance's end; the token of the new assignment."""
        token = object()
        self.consumer.announced = token, 1
        await self.consumer.on_partitions_assigned(held(*numbers))
        return token

    async def revoke(self) -> None:
        await self.consumer.on_partitions_revoked(set())

    async def process(self, topic: str, partition: int, count: int) -> None:
        """What the agent does with a batch."""
        await self.runner.process(TP("p." + topic, partition), records(count))

    async def called(self, *calls: Any) -> None:
        """Wait until these were the role's newest calls."""
        for _ in range(500):
            if self.role.calls[-len(calls) :] == list(calls):
                return
            await asyncio.sleep(0.001)
        raise AssertionError(self.role.calls)


def records(count: int) -> list[Any]:
    return [cast(Any, object)] * count


def fetched(*batches: tuple[str, int, int]) -> dict[TP, list[Any]]:
    return {TP("p." + topic, partition): records(count) for topic, partition, count in batches}


def held(*numbers: int) -> set[TP]:
    return {TP("p." + topic, number) for topic in TOPICS for number in numbers}


def test_the_role_is_an_agent_that_iterates_what_is_fetched():
    async def main() -> None:
        rig = Rig()
        assert list(rig.app.agents) == ["double"]
        await rig.app.agents.start()
        rig.thread.answers = [
            fetched(("clickstream", 0, 2), ("campaign-sends", 1, 3)),
            fetched(("clickstream", 1, 1)),
        ]
        token = await rig.assign(0, 1)
        await rig.called(
            ("assigned", {0, 1}),
            ("process", "clickstream", 0, 2),
            ("process", "campaign-sends", 1, 3),
            ("process", "clickstream", 1, 1),
        )
        assert set(rig.thread.fetches) == {token}
        await rig.app.agents.stop()

    asyncio.run(main())


def test_nothing_is_fetched_before_the_restore_nor_while_the_role_works():
    async def main() -> None:
        rig = Rig()
        await rig.app.agents.start()
        rig.role.gate.clear()
        rig.role.starts = {("clickstream", 1): 7}
        rig.thread.answers = [fetched(("clickstream", 1, 1))]
        token = await rig.assign(1)
        await rig.called(("assigned", {1}))
        assert rig.thread.fetches == rig.thread.seeks == []
        rig.role.gate.set()
        await rig.called(("process", "clickstream", 1, 1))
        assert rig.thread.seeks == [(token, {TP("p.clickstream", 1): 7})]
        rig.role.gate.clear()
        rig.thread.answers = [fetched(("clickstream", 1, 2))]
        await rig.called(("process", "clickstream", 1, 2))
        fetches = len(rig.thread.fetches)
        await asyncio.sleep(0.02)
        assert len(rig.thread.fetches) == fetches
        rig.role.gate.set()
        await rig.app.agents.stop()

    asyncio.run(main())


def test_a_batch_is_handed_out_until_it_is_handled():
    async def main() -> None:
        rig = Rig()
        await rig.assign(0)
        rig.thread.answers = [fetched(("clickstream", 0, 1), ("campaign-sends", 0, 1)), fetched(("clickstream", 0, 2))]
        first = await rig.consumer.next_batch()
        # As after a crash on the way to the role: to pass over it would lose its records for good.
        assert await rig.consumer.next_batch() == first
        rig.consumer.handled(first[0])
        second = await rig.consumer.next_batch()
        assert second[0] == TP("p.campaign-sends", 0)
        rig.consumer.handled(second[0])
        assert await rig.consumer.next_batch() == (TP("p.clickstream", 0), records(2))

    asyncio.run(main())


def test_what_was_fetched_before_a_rebalance_is_dropped():
    async def main() -> None:
        rig = Rig()
        await rig.app.agents.start()
        await rig.assign(0)
        await rig.called(("assigned", {0}))
        rig.role.gate.clear()
        rig.thread.answers = [fetched(("clickstream", 0, 1), ("campaign-sends", 0, 1))]
        await rig.called(("process", "clickstream", 0, 1))
        revoke = asyncio.create_task(rig.revoke())
        await asyncio.sleep(0)
        rig.role.gate.set()
        await revoke
        rig.thread.answers = [fetched(("clickstream", 0, 2))]
        await rig.assign(0)
        await rig.called(("process", "clickstream", 0, 2))
        assert rig.role.calls[1:] == [
            ("process", "clickstream", 0, 1),
            ("revoked", {0}),
            ("assigned", {0}),
            ("process", "clickstream", 0, 2),
        ]
        await rig.app.agents.stop()

    asyncio.run(main())


def test_between_two_assignments_nothing_is_fetched_or_handed_out():
    async def main() -> None:
        rig = Rig()
        await rig.assign(0)
        rig.thread.answers = [fetched(("clickstream", 0, 1), ("campaign-sends", 0, 1))]
        rig.consumer.handled((await rig.consumer.next_batch())[0])
        await rig.revoke()
        waiting = asyncio.create_task(rig.consumer.next_batch())
        await asyncio.sleep(0.05)
        assert not waiting.done() and len(rig.thread.fetches) == 1
        rig.thread.answers = [fetched(("clickstream", 0, 3))]
        await rig.assign(0)
        assert await waiting == (TP("p.clickstream", 0), records(3))

    asyncio.run(main())


def test_a_fetch_that_a_rebalance_overtakes_is_dropped():
    async def main() -> None:
        rig = Rig()
        await rig.app.agents.start()
        answered = asyncio.Event()

        async def overtake() -> None:
            rig.thread.before_answer = None
            await rig.revoke()
            rig.thread.answers.append(fetched(("clickstream", 0, 2)))
            await rig.assign(0)
            answered.set()

        rig.thread.answers = [fetched(("clickstream", 0, 1))]
        rig.thread.before_answer = overtake
        await rig.assign(0)
        await answered.wait()
        await rig.called(("assigned", {0}), ("revoked", {0}), ("assigned", {0}), ("process", "clickstream", 0, 2))
        await rig.app.agents.stop()

    asyncio.run(main())


def test_names_are_logical_and_starts_physical():
    async def main() -> None:
        rig = Rig()
        rig.role.starts = {("clickstream", 1): 7}
        assert await rig.runner.assigned(held(0, 1)) == {TP("p.clickstream", 1): 7}
        await rig.process("campaign-sends", 1, 3)
        assert rig.role.calls == [("assigned", {0, 1}), ("process", "campaign-sends", 1, 3)]

    asyncio.run(main())


def test_a_batch_of_a_partition_that_is_not_held_is_dropped():
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(held(0))
        await rig.runner.revoked()
        await rig.process("clickstream", 0, 1)
        await rig.runner.assigned(held(1))
        await rig.process("clickstream", 0, 1)
        await rig.process("clickstream", 1, 2)
        assert rig.role.calls[1:] == [("revoked", {0}), ("assigned", {1}), ("process", "clickstream", 1, 2)]

    asyncio.run(main())


def test_a_rebalance_waits_for_the_batch_in_work_and_for_the_restore():
    async def main() -> None:
        rig = Rig()
        rig.role.gate.clear()
        restore = asyncio.create_task(rig.runner.assigned(held(0)))
        await asyncio.sleep(0)
        revoke = asyncio.create_task(rig.runner.revoked())
        await asyncio.sleep(0.01)
        assert rig.role.calls == [("assigned", {0})]
        rig.role.gate.set()
        await asyncio.gather(restore, revoke)
        await rig.runner.assigned(held(1))
        rig.role.gate.clear()
        work = asyncio.create_task(rig.process("clickstream", 1, 1))
        await asyncio.sleep(0)
        revoke = asyncio.create_task(rig.runner.revoked())
        await asyncio.sleep(0.01)
        assert rig.role.calls[-1][0] == "process"
        rig.role.gate.set()
        await asyncio.gather(work, revoke)
        assert rig.role.calls[-1] == ("revoked", {1})

    asyncio.run(main())


@pytest.mark.parametrize("where", ["assigned", "process", "idle", "revoked"])
def test_after_a_failure_only_stop_is_called(where: str):
    async def main() -> None:
        rig = Rig()
        rig.role.fails_in = where
        await rig.runner.assigned(held(0))
        ticks = asyncio.create_task(rig.runner.tick_for_ever(0.001))
        while rig.runner.failure is None and ("idle",) not in rig.role.calls:
            await asyncio.sleep(0.001)
        await rig.process("clickstream", 0, 1)
        await rig.process("clickstream", 0, 1)
        await rig.runner.revoked()
        await rig.runner.assigned(held(0, 1))
        await rig.runner.shutdown()
        await asyncio.wait_for(ticks, 1)
        assert str(rig.runner.failure) == f"broken in {where}"
        assert rig.app.role_failed.is_set()
        names = [call[0] for call in rig.role.calls]
        assert names.index(where) == len(names) - 2
        assert names[-1] == "stop"

    asyncio.run(main())


def test_a_role_that_failed_gets_its_agent_to_fetch_no_more():
    async def main() -> None:
        rig = Rig()
        rig.role.fails_in = "process"
        await rig.app.agents.start()
        rig.thread.answers = [fetched(("clickstream", 0, 1)), fetched(("clickstream", 0, 1))]
        await rig.assign(0)
        await asyncio.wait_for(rig.app.role_failed.wait(), 5)
        await asyncio.sleep(0.02)
        assert len(rig.thread.fetches) == 1
        assert rig.role.calls == [("assigned", {0}), ("process", "clickstream", 0, 1)]
        assert not rig.app._crashed.is_set()
        await rig.app.agents.stop()

    asyncio.run(main())


def test_shutdown_flushes_then_stops_once():
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(held(0))
        await rig.runner.shutdown()
        await rig.runner.shutdown()
        await rig.process("clickstream", 0, 1)
        await rig.runner.revoked()
        assert await rig.runner.assigned(held(0)) == {}
        assert rig.role.calls == [("assigned", {0}), ("revoked", {0}), ("stop",)]

    asyncio.run(main())


@pytest.mark.parametrize(
    "partitions",
    [held(0) | {TP("p.clickstream", 1)}, {TP("p.clickstream", 0)}],
    ids=["unequal", "a topic without partitions"],
)
def test_topics_that_are_not_copartitioned_are_refused(partitions: set[TP]):
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(partitions)
        assert isinstance(rig.runner.failure, TopicMismatch)
        assert rig.role.calls == []

    asyncio.run(main())


def test_every_assignment_is_copartitioned_and_sticky():
    """Faust's assignor, which the transport forces: members come and go, partition p of all topics stays together."""
    topics = ("clickstream", "campaign-sends", "redemptions", "profiles")
    rng = random.Random(5)
    for partitions in (1, 4, 7, 12):
        cluster: Any = SimpleNamespace(partitions_for_topic=lambda topic, count=partitions: set(range(count)))
        app = faust.App(f"assign-{partitions}", broker="aiokafka://x", autodiscover=False, web_enabled=False)
        members: dict[str, PartitionAssignor] = {}
        owner: dict[int, str] = {}
        for step in range(12):
            if len(members) > 1 and rng.random() < 0.4:
                gone = members.pop(rng.choice(sorted(members)))
                assert gone is not None
            else:
                members[f"worker-{step}"] = PartitionAssignor(app, replicas=0)
            names = list(members)
            rng.shuffle(names)
            metadata: dict[str, ConsumerProtocolMemberMetadata] = {
                name: members[name].metadata(set(rng.sample(topics, len(topics)))) for name in names
            }
            answer = members[rng.choice(names)].assign(cluster, metadata)
            taken: dict[int, str] = {}
            for name, share in answer.items():
                by_topic = {topic: set(numbers) for topic, numbers in share.assignment}
                sets = {frozenset(by_topic.get(topic, set())) for topic in topics}
                assert len(sets) == 1, (names, by_topic)
                for number in sets.pop():
                    assert number not in taken
                    taken[number] = name
                members[name].on_assignment(share)
            assert taken.keys() == set(range(partitions))
            if partitions >= len(members):
                assert set(taken.values()) == set(members)
            for name in members:
                before = {number for number, of in owner.items() if of == name}
                kept = {number for number in before if taken[number] == name}
                assert len(kept) >= min(len(before), partitions // len(members)), "moved without need"
            owner = taken


class Buffered:
    """An aiokafka consumer as far as reading what was fetched goes."""

    def __init__(self, fetched: dict[TP, list[int]]) -> None:
        self._fetcher = SimpleNamespace(_records=fetched)

    async def getmany(self, partition: TP, *, timeout_ms: int, max_records: int) -> dict[TP, list[int]]:
        assert timeout_ms == 0 and max_records > 0
        fetched = self._fetcher._records
        taken, left = fetched[partition][:max_records], fetched.pop(partition)[max_records:]
        if left:
            fetched[partition] = left
        return {partition: taken}


@given(
    sizes=st.lists(st.integers(0, 3 * RECORDS_AHEAD), max_size=6),
    others=st.integers(0, 3),
    place=st.randoms(use_true_random=False),
)
def test_what_is_furthest_behind_is_read_first(sizes: list[int], others: int, place: random.Random) -> None:
    order = [TP("clickstream", number) for number in range(len(sizes))]
    arrived = [(tp, size) for tp, size in zip(order, sizes, strict=True) if size]
    place.shuffle(arrived)
    fetched = {tp: list(range(size)) for tp, size in arrived}
    unknown = {TP("sweeps", number): [0] for number in range(others)}
    thread, consumer = BatchConsumerThread.__new__(BatchConsumerThread), cast(Any, Buffered(fetched | unknown))
    read: dict[TP, list[int]] = {}
    while records := asyncio.run(thread._at_hand(consumer, order)):
        assert list(records) == sorted(records)
        assert sum(map(len, records.values())) <= RECORDS_AHEAD
        waiting = consumer._fetcher._records
        assert not any(behind in waiting for behind in order if behind < max(records))
        for partition, batch in records.items():
            read.setdefault(partition, []).extend(batch)
    assert read == {tp: list(range(size)) for tp, size in arrived}  # all of it, each once, in order
    assert consumer._fetcher._records == unknown
