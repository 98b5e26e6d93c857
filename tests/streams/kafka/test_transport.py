"""The runner's promises and the assignment, without a broker."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP

from schemas.errors import StateCorrupt, TopicMismatch
from streams.runtime.roles import RoleRunner

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


class Rig:
    """A runner with the app's side of it: a queue and an agent."""

    def __init__(self, prefetch_records: int = 10) -> None:
        self.role = Role()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.failures: list[BaseException] = []
        self.runner = RoleRunner(
            self.role,
            prefix="p.",
            prefetch_records=prefetch_records,
            offer=self.queue.put_nowait,
            failed=self.failures.append,
        )

    async def agent(self) -> None:
        while not self.queue.empty():
            await self.runner.handle(self.queue.get_nowait())

    def deliver(self, topic: str, partition: int, count: int) -> None:
        self.runner.deliver(TP("p." + topic, partition), [cast(Any, object())] * count)


def held(*numbers: int) -> set[TP]:
    return {TP("p." + topic, number) for topic in TOPICS for number in numbers}


def test_names_are_logical_and_starts_physical():
    async def main() -> None:
        rig = Rig()
        rig.role.starts = {("clickstream", 1): 7}
        assert await rig.runner.assigned(held(0, 1)) == {TP("p.clickstream", 1): 7}
        rig.deliver("campaign-sends", 1, 3)
        await rig.agent()
        assert rig.role.calls == [("assigned", {0, 1}), ("process", "campaign-sends", 1, 3)]

    asyncio.run(main())


def test_batches_fetched_before_a_rebalance_are_dropped():
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(held(0))
        rig.deliver("clickstream", 0, 1)
        await rig.runner.revoked()
        await rig.runner.assigned(held(0))
        rig.deliver("clickstream", 0, 2)
        await rig.agent()
        assert rig.role.calls[1:] == [("revoked", {0}), ("assigned", {0}), ("process", "clickstream", 0, 2)]

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
        rig.deliver("clickstream", 1, 1)
        rig.role.gate.clear()
        work = asyncio.create_task(rig.agent())
        await asyncio.sleep(0)
        revoke = asyncio.create_task(rig.runner.revoked())
        await asyncio.sleep(0.01)
        assert rig.role.calls[-1][0] == "process"
        rig.role.gate.set()
        await asyncio.gather(work, revoke)
        assert rig.role.calls[-1] == ("revoked", {1})

    asyncio.run(main())


def test_room_is_bounded_by_records():
    async def main() -> None:
        rig = Rig(prefetch_records=10)
        await rig.runner.assigned(held(0))
        rig.deliver("clickstream", 0, 9)
        assert await rig.runner.has_capacity(0.01)
        rig.deliver("clickstream", 0, 5)
        assert not await rig.runner.has_capacity(0.01)
        waiter = asyncio.create_task(rig.runner.has_capacity(5))
        await rig.agent()
        assert await waiter
        rig.deliver("clickstream", 0, 20)
        assert not await rig.runner.has_capacity(0.01)
        await rig.runner.revoked()
        assert await rig.runner.has_capacity(0.01)

    asyncio.run(main())


def test_a_lost_batch_is_noticed():
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(held(0))
        rig.deliver("clickstream", 0, 1)
        rig.deliver("clickstream", 0, 1)
        rig.queue.get_nowait()
        await rig.agent()
        assert "lost" in str(rig.failures[0])
        assert ("process", "clickstream", 0, 1) not in rig.role.calls

    asyncio.run(main())


@pytest.mark.parametrize("where", ["assigned", "process", "idle", "revoked"])
def test_after_a_failure_only_stop_is_called(where: str):
    async def main() -> None:
        rig = Rig()
        rig.role.fails_in = where
        await rig.runner.assigned(held(0))
        ticks = asyncio.create_task(rig.runner.tick_for_ever(0.001))
        await asyncio.sleep(0.01)
        rig.deliver("clickstream", 0, 1)
        rig.deliver("clickstream", 0, 1)
        await rig.agent()
        await rig.runner.revoked()
        await rig.runner.assigned(held(0, 1))
        await rig.runner.shutdown()
        await asyncio.wait_for(ticks, 1)
        assert [str(failure) for failure in rig.failures] == [f"broken in {where}"]
        names = [call[0] for call in rig.role.calls]
        assert names.index(where) == len(names) - 2
        assert names[-1] == "stop"

    asyncio.run(main())


def test_shutdown_flushes_then_stops_once():
    async def main() -> None:
        rig = Rig()
        await rig.runner.assigned(held(0))
        rig.deliver("clickstream", 0, 1)
        await rig.runner.shutdown()
        await rig.runner.shutdown()
        await rig.agent()
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
        assert isinstance(rig.failures[0], TopicMismatch)
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
            for name, given in answer.items():
                by_topic = {topic: set(numbers) for topic, numbers in given.assignment}
                sets = {frozenset(by_topic.get(topic, set())) for topic in topics}
                assert len(sets) == 1, (names, by_topic)
                for number in sets.pop():
                    assert number not in taken
                    taken[number] = name
                members[name].on_assignment(given)
            assert taken.keys() == set(range(partitions))
            if partitions >= len(members):
                assert set(taken.values()) == set(members)
            for name in members:
                before = {number for number, of in owner.items() if of == name}
                kept = {number for number in before if taken[number] == name}
                assert len(kept) >= min(len(before), partitions // len(members)), "moved without need"
            owner = taken
