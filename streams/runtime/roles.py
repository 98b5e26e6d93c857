"""What a role is, and the runner that calls it: one call at a time, in order, never for a partition it lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from faust.types import TP

from schemas.errors import TopicMismatch
from schemas.records import RawRecord

Offsets = Mapping[tuple[str, int], int]
"""(logical topic, partition) -> next offset to read."""

logger: Final = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Consecutive records of one partition, oldest first, as one fetch brought them."""

    topic: str
    """Logical name: without the deployment's prefix."""
    partition: int
    records: list[RawRecord]


class Commit(Protocol):
    """The role's handle on its consumer group."""

    async def commit(self, offsets: Offsets) -> bool:
        """Commit next offsets to read.

        Returns:
            False where some of them are no longer this worker's to commit; their records will be read again.
        """

    def is_caught_up(self, topic: str, partition: int) -> bool:
        """Whether the role has had every record there is; False where that is not known."""


class Role(Protocol):
    """The work of one consumer group. The runtime never makes two calls at once, and makes all on the event loop.

    An exception that leaves a method ends the process: :class:`schemas.errors.Stop` with exit code 2, any other with 1.
    After one, only :meth:`stop` is called.
    """

    @property
    def name(self) -> str: ...

    @property
    def topics(self) -> tuple[str, ...]:
        """Logical names. They must have equal partition counts: partition p of all of them goes to one worker."""

    def bind(self, committer: Commit) -> None:
        """Called once, before everything else."""

    async def on_assigned(self, partitions: set[int]) -> Offsets | None:
        """Open and restore these partitions, which are all that this worker now has. May take long.

        Returns:
            Where to start reading, for partitions that shall not start at the committed offset (or the earliest).
        """

    async def on_revoked(self, partitions: set[int]) -> None:
        """Flush, commit and close. Called for all partitions held before every rebalance and at a clean stop.

        The group waits for this call, so it must end well within the rebalance timeout.
        """

    async def process(self, batch: Batch) -> None:
        """Apply a batch. Records after it wait, so a slow call slows the worker down and costs no memory."""

    async def idle(self) -> None:
        """Called about every tick, between batches: checkpoints, timers, and whether all is well."""

    async def stop(self) -> None:
        """Let go of resources, last of all. Nothing may be committed here."""


class _Unit(NamedTuple):
    generation: int
    sequence: int
    batch: Batch


class RoleRunner:
    """Between transport and role: implements :class:`streams.kafka.transport.BatchHandler`.

    Args:
        role: what to run.
        prefix: put before a logical topic name to get the broker's.
        prefetch_records: fetching pauses while at least this many delivered records wait for the role.
        offer: puts a unit into the agent's channel; set by the app.
        failed: called once with the exception that ends the role.
    """

    def __init__(
        self,
        role: Role,
        *,
        prefix: str,
        prefetch_records: int,
        offer: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.role = role
        self.failure: BaseException | None = None
        self._prefix = prefix
        self._prefetch_records = prefetch_records
        self._offer = offer
        self._failed = failed
        self._lock = asyncio.Lock()
        self._capacity = asyncio.Event()
        self._held: set[int] = set()
        self._generation = 0  # moves with every rebalance: units of an older one are dropped
        self._delivered = 0
        self._handled = 0
        self._waiting_records = 0
        self._waiting: Counter[TP] = Counter()
        self._stopping = False
        self._stopped = False

    def _logical(self, partition: TP) -> tuple[str, int]:
        return partition.topic.removeprefix(self._prefix), partition.partition

    def _restart_count(self) -> None:
        self._generation += 1
        self._delivered = self._handled = self._waiting_records = 0
        self._waiting.clear()
        self._capacity.set()

    async def assigned(self, partitions: set[TP]) -> Mapping[TP, int]:
        """Restore through the role, and translate its start offsets."""
        async with self._lock:
            if self._stopping or self.failure is not None:
                return {}
            self._restart_count()
            starts: Offsets | None = None
            with self._guarded():
                self._held = self._copartitioned(partitions)
                starts = await self.role.on_assigned(set(self._held))
            if not starts or self.failure is not None:
                return {}
            return {TP(self._prefix + topic, number): offset for (topic, number), offset in starts.items()}

    def _copartitioned(self, partitions: set[TP]) -> set[int]:
        by_topic: dict[str, set[int]] = {}
        for partition in partitions:
            topic, number = self._logical(partition)
            by_topic.setdefault(topic, set()).add(number)
        sets = set(map(frozenset, by_topic.values()))
        if len(sets) != 1 or by_topic.keys() != set(self.role.topics):
            shown = "; ".join(f"{topic} {sorted(by_topic.get(topic, ()))}" for topic in self.role.topics)
            raise TopicMismatch(
                f"role {self.role.name} needs the same partitions of all its topics and got: {shown}. "
                "Give them equal partition counts: pulsegraph topics create"
            )
        return set(next(iter(sets)))

    async def revoked(self) -> None:
        """Drop what waits, let the batch in work finish, then flush and close."""
        self._restart_count()
        async with self._lock:
            await self._let_go()

    async def _let_go(self) -> None:
        held, self._held = self._held, set()
        if held and self.failure is None:
            with self._guarded():
                await self.role.on_revoked(held)

    async def has_capacity(self, timeout_s: float) -> bool:
        """True while fewer than ``prefetch_records`` delivered records wait."""
        if self._stopping or self.failure is not None:
            await asyncio.sleep(timeout_s)
            return False
        if self._waiting_records < self._prefetch_records:
            return True
        self._capacity.clear()
        try:
            await asyncio.wait_for(self._capacity.wait(), timeout_s)
        except TimeoutError:
            return False
        return not self._stopping and self.failure is None

    def deliver(self, partition: TP, records: list[RawRecord]) -> None:
        """Queue a partition's records for the agent."""
        topic, number = self._logical(partition)
        self._waiting_records += len(records)
        self._waiting[partition] += 1
        self._offer(_Unit(self._generation, self._delivered, Batch(topic, number, records)))
        self._delivered += 1

    def waits(self, partition: TP) -> bool:
        """Whether records of it were delivered and are not handled yet."""
        return self._waiting[partition] > 0

    async def handle(self, unit: _Unit) -> None:
        """Run the role on one delivered unit, unless it was fetched before the last rebalance."""
        async with self._lock:
            if unit.generation != self._generation or self._stopping or self.failure is not None:
                return
            if unit.sequence != self._handled:
                # Committing past a lost batch would lose its records for good.
                self.fail(RuntimeError(f"batch {self._handled} was lost on the way to role {self.role.name}"))
                return
            with self._guarded():
                await self.role.process(unit.batch)
            if unit.generation != self._generation or self.failure is not None:
                return  # a rebalance began meanwhile and waits for the lock; its counts start over
            self._handled += 1
            self._waiting_records -= len(unit.batch.records)
            self._waiting[TP(self._prefix + unit.batch.topic, unit.batch.partition)] -= 1
            if self._waiting_records < self._prefetch_records:
                self._capacity.set()

    async def tick_for_ever(self, tick_s: float) -> None:
        """Call ``idle`` about every ``tick_s``, with partitions or without; after the batch in work where one is."""
        while not self._stopping and self.failure is None:
            await asyncio.sleep(tick_s)
            async with self._lock:
                if not self._stopping and self.failure is None:
                    with self._guarded():
                        await self.role.idle()

    async def shutdown(self) -> None:
        """Take no more, flush and close what is held unless the role failed, then stop the role. Safe to repeat."""
        self._stopping = True
        self._restart_count()
        async with self._lock:
            if self._stopped:
                return
            self._stopped = True
            await self._let_go()
            with self._guarded():
                await self.role.stop()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - whatever a role raises ends the process (trap 2: never just go on)
            self.fail(exc)

    def fail(self, exc: BaseException) -> None:
        """End the role: from now on only ``stop`` is called."""
        if self.failure is None:
            self.failure = exc
            self._failed(exc)
        else:
            logger.error("role %s failed again while stopping", self.role.name, exc_info=exc)
