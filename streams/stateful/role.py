"""What ingest and entities share: partitions with a store, a changelog and checkpoints.

A partition is opened by :mod:`streams.stateful.opening`, and what a checkpoint changed is written by
:mod:`streams.stateful.checkpoint_writer`. While the writes of one checkpoint are under way, batches of the next are
applied, but the next does not end before this one has.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from schemas.deadletter import Refused
from schemas.records import OutputRecord
from schemas.topics import changelog_of
from streams.kafka.positions import continuation
from streams.runtime.runner import Batch, Commit, Offsets
from streams.state.changelog import Changelog
from streams.state.checkpoints import StateCheckpoint, read_meta
from streams.state.contract import KeyValue
from streams.state.ownership import OwnershipLost
from streams.state.progress import summary
from streams.state.standby import Standby
from streams.stateful.checkpoint_writer import CheckpointT, CheckpointWriter
from streams.stateful.held import Core, Held
from streams.stateful.opening import Opening
from streams.stateful.resources import Resources

logger: Final = logging.getLogger(__name__)

_STOP_TIMEOUT_S: Final = 10.0
_LOST_PATIENCE_MS: Final = 60_000
_MAX_BEHIND: Final = 4  # checkpoints' worth of events applied before a slow flush is waited for

CoreT = TypeVar("CoreT", bound=Core[StateCheckpoint])


class StatefulRole(ABC, Generic[CoreT, CheckpointT]):
    """Base of roles that own state. Subclasses say what a partition is and what leaves it.

    Its state is kept in the topic ``{name}-changelog``.
    """

    name: str
    topics: tuple[str, ...]

    _committer: Commit  # these two are made by bind, which the runtime calls before everything else
    _writer: CheckpointWriter[CheckpointT]

    def __init__(self, given: Resources) -> None:
        self.held: dict[int, Held[CoreT]] = {}
        self._given = given
        self._outbox = given.outbox
        self._metrics = given.metrics
        self._monotonic_ms = given.clocks.monotonic_ms
        self._changelog = Changelog(given.client, given.prefix, changelog_of(self.name), self.due_ms)
        self._opening = Opening(
            self._changelog,
            given.stores,
            given.outbox,
            wall_ms=given.clocks.wall_ms,
            restoring=partial(given.metrics.restoring, self.name),
        )
        for of, items in self.waiting().items():
            given.metrics.holds(f"{self.name} {of}", items)
        self._standby: Standby | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._checkpoint_ms = self._monotonic_ms()
        self._events = 0
        self._lost_ms: int | None = None

    # What a subclass provides.

    @abstractmethod
    def open_core(self, partition: int, store: KeyValue, meta: bytes | None) -> CoreT:
        """The partition as its store has it; ``meta`` is None where nothing was ever written."""

    @abstractmethod
    def take(self, core: CoreT, batch: Batch) -> Sequence[Refused]:
        """Apply a batch; returns what is refused."""

    @abstractmethod
    def checkpoint(self, partition: int, core: CoreT, now_ms: int) -> CheckpointT:
        """End a checkpoint of a partition; ``now_ms`` is of the monotonic clock."""

    @abstractmethod
    def outputs(self, checkpoint: CheckpointT) -> Iterable[OutputRecord]:
        """What leaves with a checkpoint."""

    def first_outputs(self, checkpoint: CheckpointT) -> Sequence[OutputRecord]:
        """What is delivered before any of :meth:`outputs` leaves."""
        return ()

    @abstractmethod
    def due_ms(self, record: bytes) -> int:
        """When a stored record is to be woken; -1 for never."""

    @abstractmethod
    def flushed(self, checkpoints: Mapping[int, CheckpointT], seconds: float) -> None:
        """Called after every checkpoint that is durable; metrics live here."""

    def waiting(self) -> dict[str, Callable[[], int]]:
        """Name of what is kept in memory -> how many there are now; asked by a thread, so by lengths alone."""
        return {}

    def cores(self) -> list[CoreT]:
        """Of the partitions held now; may be asked by any thread."""
        return [held.core for held in list(self.held.values())]

    # The runtime's side.

    def bind(self, committer: Commit) -> None:
        given = self._given
        self._committer = committer
        self._writer = CheckpointWriter(
            self.name,
            self.held,
            given.outbox,
            committer,
            given.clocks,
            outputs=self.outputs,
            first=self.first_outputs,
            lost=self._lose,
        )
        if given.standby:
            # Now and not with the first assignment: a worker beyond the number of partitions gets none, and waits.
            behind = partial(given.metrics.standby, self.name)
            self._standby = Standby(self._changelog, given.stores, wall_ms=given.clocks.wall_ms, behind=behind)
            self._standby.follow(range(given.partitions))
            self._standby.start()

    async def on_assigned(self, partitions: set[int]) -> Offsets:
        starts: dict[tuple[str, int], int] = {}
        for partition in sorted(partitions):
            if self._standby is not None:
                await asyncio.to_thread(self._standby.release, partition)
            known = (await self._open(partition)).next_offsets
            self._writer.opened(partition, {topic: known.get(topic, 0) for topic in self.topics})
            # State, not the committed offset, says where to go on: whoever has no state begins at the beginning.
            starts |= {(topic, partition): known.get(topic, 0) for topic in self.topics}
        starts |= await self._check_positions(starts)
        self._checkpoint_ms, self._events, self._lost_ms = self._monotonic_ms(), 0, None
        return starts

    async def _open(self, partition: int) -> CoreT:
        store, log, restored = await self._opening.open(partition)
        core = self.open_core(partition, store, read_meta(store).partition)
        self._metrics.restored(self.name, partition, restored.records, restored.size_bytes, restored.seconds)
        logger.info(summary(log.where, restored.records, restored.size_bytes, restored.seconds))
        self.held[partition] = Held(store, core, log)
        return core

    async def _check_positions(self, starts: Offsets) -> Offsets:
        """Compare with what the logs have; returns where to go on behind what was removed from them."""
        prefix, name = self._given.prefix, self.name
        places = {(prefix + topic, partition): start for (topic, partition), start in starts.items()}
        found = await asyncio.to_thread(continuation, self._given.client, f"{prefix}pulsegraph-{name}", places)
        for (topic, partition), records in found.missed.items():
            self._metrics.missed(name, topic.removeprefix(prefix), partition, records)
        for (topic, partition), since in found.open_since.items():
            logger.warning(
                "%s-%d: a producer's transaction is open since offset %d, and the state already has records of it (up "
                "to %d): it was kept by a version that read what was not committed. Reading goes on when the "
                "transaction ends; should it be aborted, what the state has of it stays there. To be rid of that, "
                "replay the events under another PULSEGRAPH_KAFKA_PREFIX",
                topic, partition, since, places[topic, partition],
            )  # fmt: skip
        return {(topic.removeprefix(prefix), partition): first for (topic, partition), first in found.firsts.items()}

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._join()
        self._lost_ms = None  # this is the rebalance that was waited for
        if await self._writer.still_owner():
            await self._flush(self._begin(partitions & self.held.keys()))
        for partition in partitions & self.held.keys():
            self._release(partition)

    async def process(self, batch: Batch) -> None:
        held = self.held.get(batch.partition)
        if held is None:
            return  # lost to another worker; the rebalance that says so is on its way
        next_offset = held.core.next_offsets.get(batch.topic, 0)
        if batch.records[0].offset < next_offset:
            # Reading goes on where the state says. Only who lost a log's end begins anew; what is there now would be
            # taken for what was read before.
            await self._check_positions({(batch.topic, batch.partition): next_offset})
        self._metrics.batch(self.name, batch.topic, len(batch.records))
        refused = self.take(held.core, batch)
        for dead_letter in refused:
            self._metrics.dead_letter(batch.topic, dead_letter.reason)
        self._outbox.send_all(refused)
        self._events += len(batch.records)
        if self._events >= self._given.checkpoints.checkpoint_events * _MAX_BEHIND:
            await self._join()
        await self._maybe_flush()

    async def idle(self) -> None:
        if self._standby is not None and self._standby.failure is not None:
            raise self._standby.failure
        if self._lost_ms is not None and self._monotonic_ms() - self._lost_ms > _LOST_PATIENCE_MS:
            raise OwnershipLost(f"{self.name} lost partitions and no rebalance came: a restart joins the group afresh")
        await self._maybe_flush()

    async def stop(self) -> None:
        if self._standby is not None:
            await asyncio.to_thread(self._standby.stop)
        if self._flushing is not None:
            # A write in its thread cannot be cancelled, and must not meet a closed store.
            await asyncio.wait([self._flushing], timeout=_STOP_TIMEOUT_S)
            self._flushing.cancel()
            self._flushing = None
        for held in self.held.values():
            held.store.close()
        self.held.clear()

    # Checkpoints.

    async def _maybe_flush(self) -> None:
        if self._flushing is not None:
            if not self._flushing.done():
                return
            await self._join()
        ends = self._given.checkpoints
        elapsed_ms = self._monotonic_ms() - self._checkpoint_ms
        if self._events >= ends.checkpoint_events or elapsed_ms >= ends.checkpoint_ms:
            self._flushing = asyncio.create_task(self._flush(self._begin(self.held.keys())))

    async def _join(self) -> None:
        """Wait for the flush under way; what it raised is raised here, inside a call of the runtime."""
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    def _begin(self, partitions: Iterable[int]) -> dict[int, CheckpointT]:
        now_ms = self._monotonic_ms()
        self._checkpoint_ms, self._events = now_ms, 0
        return {partition: self.checkpoint(partition, self.held[partition].core, now_ms) for partition in partitions}

    async def _flush(self, checkpoints: Mapping[int, CheckpointT]) -> None:
        started_ms = self._monotonic_ms()
        if written := await self._writer.write(checkpoints):
            self.flushed(written, (self._monotonic_ms() - started_ms) / 1000)

    def _lose(self, partition: int) -> None:
        self._lost_ms = self._monotonic_ms()
        self._release(partition)

    def _release(self, partition: int) -> None:
        self.held.pop(partition).store.close()
        self._metrics.released(self.name, partition)
        if self._standby is not None:
            self._standby.follow({partition})
