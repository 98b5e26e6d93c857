"""Our contenders: the small job on the product's stateful role and store, a role that does nothing, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from infra.bench.graph_core import GraphCheckpoint, GraphPartition, JobGraph
from infra.bench.graph_data import PARTITIONS, Totals, add_up
from infra.bench.graph_job import ContenderResult, Job
from schemas.deadletter import Refused
from schemas.records import OutputRecord
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import SYSTEM_CLOCKS
from streams.runtime.runner import Batch, Commit, Offsets, Role
from streams.state import keys
from streams.state.checkpoints import StoredRecords
from streams.state.contract import KeyValue
from streams.state.rocks import Memory, shared_memory
from streams.state.stores import RocksStores
from streams.stateful.resources import CheckpointSettings, Resources
from streams.stateful.role import StatefulRole
from streams.telemetry.metrics import Metrics

_COMMIT_S = 1.0
_CHECKPOINT_EVENTS = 20_000


class GraphRole(StatefulRole[GraphPartition, GraphCheckpoint]):
    """The small graph job with everything that a stateful role promises."""

    def __init__(self, topic: str, app: str, cache_bytes: int, given: Resources) -> None:
        self.name = app
        self.topics = (topic,)
        self._cache_bytes = cache_bytes
        super().__init__(given)

    def open_core(self, partition: int, store: KeyValue, meta: bytes | None) -> GraphPartition:
        return GraphPartition(self.topics[0], StoredRecords(store), meta, cache_bytes=self._cache_bytes)

    def take(self, core: GraphPartition, batch: Batch) -> list[Refused]:
        core.take(batch.records)
        return []

    def outputs(self, checkpoint: GraphCheckpoint) -> list[OutputRecord]:
        return []

    def checkpoint(self, partition: int, core: GraphPartition, now_ms: int) -> GraphCheckpoint:
        return core.checkpoint(now_ms)

    def due_ms(self, record: bytes) -> int:
        return -1

    def flushed(self, checkpoints: Mapping[int, GraphCheckpoint], seconds: float) -> None:
        """The clock stops by what is committed, see :class:`Stopwatch`."""


class BenchStores:
    """Stores under one folder, none of which may need a repair while the clock runs."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        self._stores = RocksStores(folder, memory)

    def open(self, partition: int) -> KeyValue:
        return self._stores.open(partition)

    def quarantine(self, partition: int) -> Path:
        raise RuntimeError(f"the store of partition {partition} is broken: a bench must not time its repair")


class EmptyRole:
    """Takes bytes and commits, nothing else."""

    def __init__(self, topic: str, app: str) -> None:
        self.name = app
        self.topics = (topic,)
        self._reached: dict[tuple[str, int], int] = {}
        self._committed_s = time.monotonic()

    def bind(self, committer: Commit) -> None:
        self._committer = committer

    async def on_assigned(self, partitions: set[int]) -> Offsets | None:
        return None

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._committer.commit(self._reached)

    async def process(self, batch: Batch) -> None:
        self._reached[batch.topic, batch.partition] = batch.records[-1].offset + 1

    async def idle(self) -> None:
        if time.monotonic() - self._committed_s >= _COMMIT_S:
            self._committed_s = time.monotonic()
            await self._committer.commit(self._reached)

    async def stop(self) -> None:
        pass


class Stopwatch:
    """A role around a role. The clock stops when all is committed, or with the last record where that is asked for.

    Args:
        role: the one to time; it is bound again, to hear of its commits.
        end: see :class:`Job`, like ``take`` and ``warm``.
        durable: stop when the offsets of all records are committed, which is after state and changelog.
        done: called once, when the clock stops.
    """

    def __init__(self, role: Role, *, end: int, take: int, warm: int, durable: bool, done: Callable[[], None]) -> None:
        self._role = role
        self._end, self._take, self._warm, self._durable = end, take, warm, durable
        self._done = done
        self._taken = self._from = 0
        self._began_s = self._stopped_s = self._cpu_s = 0.0
        self._reached: dict[tuple[str, int], int] = {}
        self._committer: Commit | None = None

    @property
    def name(self) -> str:
        return self._role.name

    @property
    def topics(self) -> tuple[str, ...]:
        return self._role.topics

    def bind(self, committer: Commit) -> None:
        self._committer = committer
        self._role.bind(self)

    async def commit(self, offsets: Offsets) -> bool:
        assert self._committer is not None
        accepted = await self._committer.commit(offsets)
        # State and changelog came first: where a broker refuses the commit, the run ends all the same.
        self._reached.update(offsets)
        if self._durable and sum(self._reached.values()) == self._end:
            self._stop()
        return accepted

    def is_caught_up(self, topic: str, partition: int) -> bool:
        assert self._committer is not None
        return self._committer.is_caught_up(topic, partition)

    async def pause(self, topic: str, partitions: Collection[int]) -> None:
        assert self._committer is not None
        await self._committer.pause(topic, partitions)

    def reached(self, topic: str, partition: int, event_ms: int) -> None:
        assert self._committer is not None
        self._committer.reached(topic, partition, event_ms)

    async def on_assigned(self, partitions: set[int]) -> Offsets | None:
        return await self._role.on_assigned(partitions)

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._role.on_revoked(partitions)

    async def process(self, batch: Batch) -> None:
        await self._role.process(batch)
        self._taken += len(batch.records)
        if not self._began_s and self._taken >= self._warm:
            self._began_s, self._from = time.perf_counter(), self._taken
            self._cpu_s = time.process_time()
        if not self._durable and self._taken >= self._take:
            self._stop()

    async def idle(self) -> None:
        await self._role.idle()

    async def stop(self) -> None:
        await self._role.stop()

    def outcome(self, totals: Totals | None) -> ContenderResult:
        return ContenderResult(
            events=self._taken - self._from,
            seconds=self._stopped_s - self._began_s,
            cpu_s=self._cpu_s,
            totals=totals,
        )

    def _stop(self) -> None:
        if not self._stopped_s:
            self._stopped_s = time.perf_counter()
            self._cpu_s = time.process_time() - self._cpu_s
            self._done()


def graph_role(job: Job, outbox: Outbox) -> GraphRole:
    """The role as a worker would build it."""
    # Half is for write buffers, which the peers have on top of their block caches.
    memory = shared_memory(2 * job.block_cache_bytes)
    return GraphRole(
        job.topic,
        job.app,
        job.cache_bytes // PARTITIONS,
        Resources(
            client={"bootstrap.servers": job.bootstrap},
            prefix="",
            outbox=outbox,
            stores=BenchStores(Path(job.folder), memory),
            clocks=SYSTEM_CLOCKS,
            metrics=Metrics(),
            checkpoints=CheckpointSettings(job.checkpoint_ms, _CHECKPOINT_EVENTS * max(1, job.checkpoint_ms // 100)),
            partitions=PARTITIONS,
        ),
    )


def stored_totals(folder: Path) -> Totals:
    """Sums over what is on the disk."""
    found = BenchStores(folder, shared_memory(8 << 20))
    stores = [found.open(partition) for partition in range(PARTITIONS)]
    try:
        return add_up(
            JobGraph.unpack(record) for store in stores for _, record in store.scan(keys.RECORD, keys.RECORDS_STOP)
        )
    finally:
        for store in stores:
            store.close()
