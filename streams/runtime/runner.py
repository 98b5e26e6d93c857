"""What a role is, and the runner that calls it: one call at a time, in order, never for a partition it lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from faust.types import TP

from schemas.errors import TopicMismatch
from schemas.records import RawRecord
from streams.kafka.admin import more_partitions

Offsets = Mapping[tuple[str, int], int]
"""(logical topic, partition) -> next offset to read."""

logger: Final = logging.getLogger(__name__)


Missed = Callable[[str, str, int, int], None]


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

    async def pause(self, topic: str, partitions: Collection[int]) -> None:
        """Read no more of a topic until the next rebalance; a batch of it may already be on its way."""

    def reached(self, topic: str, partition: int, event_ms: int) -> None:
        """Event time has come so far there. Of topics of which that is known, those furthest behind are read first.

        A role that says it of one says it of all its topics, of each partition that it was assigned, each time anew.
        """


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


class RoleRunner:
    """Makes the calls to a role: batches for its agent, rebalances as a
    :class:`streams.kafka.transport.AssignmentHandler`, ticks and the stop for its app.

    Args:
        role: what to run.
        prefix: put before a logical topic name to get the broker's.
        failed: called once with the exception that ends the role.
        missed: called with (role, logical topic, partition, records) that were removed before they were read.
        partitions: of every topic; None where that is not known.
    """

    def __init__(
        self,
        role: Role,
        *,
        prefix: str,
        failed: Callable[[BaseException], None],
        missed: Missed = lambda *_: None,
        partitions: int | None = None,
    ) -> None:
        self.role = role
        self.failure: BaseException | None = None
        self.owned: frozenset[int] | None = None
        """Partitions that were restored; None before the group has given any, and while it gives them anew."""
        self._prefix = prefix
        self._failed = failed
        self._missed = missed
        self._partitions = partitions
        self._lock = asyncio.Lock()
        self._held: set[int] = set()
        self._stopping = False
        self._stopped = False

    @property
    def name(self) -> str:
        """The role's."""
        return self.role.name

    @property
    def closed(self) -> bool:
        """Whether the role failed or is stopping: it gets no more records."""
        return self._stopping or self.failure is not None

    def _logical(self, partition: TP) -> tuple[str, int]:
        return partition.topic.removeprefix(self._prefix), partition.partition

    async def assigned(self, partitions: set[TP]) -> Mapping[TP, int]:
        """Restore through the role, and translate its start offsets."""
        async with self._lock:
            if self.closed:
                return {}
            starts: Offsets | None = None
            with self._guarded():
                self._held = self._copartitioned(partitions)
                starts = await self.role.on_assigned(set(self._held))
            if self.failure is not None:
                return {}
            self.owned = frozenset(self._held)
            return {TP(self._prefix + topic, number): offset for (topic, number), offset in (starts or {}).items()}

    def spare(self) -> None:
        """The group has more members than partitions, and none for this one."""
        self.owned = frozenset()

    def _copartitioned(self, partitions: set[TP]) -> set[int]:
        by_topic: dict[str, set[int]] = {}
        for partition in partitions:
            topic, number = self._logical(partition)
            by_topic.setdefault(topic, set()).add(number)
        for topic, numbers in by_topic.items():
            if self._partitions is not None and max(numbers) >= self._partitions:
                raise TopicMismatch(more_partitions(self._prefix + topic, self._partitions))
        sets = set(map(frozenset, by_topic.values()))
        if len(sets) != 1 or by_topic.keys() != set(self.role.topics):
            shown = "; ".join(f"{topic} {sorted(by_topic.get(topic, ()))}" for topic in self.role.topics)
            raise TopicMismatch(
                f"role {self.role.name} needs the same partitions of all its topics and got: {shown}. "
                "Give them equal partition counts: pulsegraph topics create"
            )
        return set(next(iter(sets)))

    async def revoked(self) -> None:
        """Let the batch in work finish, then flush and close."""
        self.owned = None
        async with self._lock:
            await self._let_go()

    async def _let_go(self) -> None:
        held, self._held = self._held, set()
        if held and self.failure is None:
            with self._guarded():
                await self.role.on_revoked(held)

    def cut(self, partition: TP, cut: tuple[int, int]) -> None:
        """Retention overtook the role: what lay between the two offsets was never read."""
        topic, number = self._logical(partition)
        self._missed(self.role.name, topic, number, cut[1] - cut[0])

    async def process(self, partition: TP, records: list[RawRecord]) -> None:
        """Run the role on a batch, unless a rebalance that came in between took the partition away."""
        topic, number = self._logical(partition)
        async with self._lock:
            if number in self._held and not self.closed:
                with self._guarded():
                    await self.role.process(Batch(topic, number, records))

    async def tick_for_ever(self, tick_s: float) -> None:
        """Call ``idle`` about every ``tick_s``, with partitions or without; after the batch in work where one is."""
        while not self.closed:
            await asyncio.sleep(tick_s)
            async with self._lock:
                if not self.closed:
                    with self._guarded():
                        await self.role.idle()

    async def shutdown(self) -> None:
        """Take no more, flush and close what is held unless the role failed, then stop the role. Safe to repeat."""
        self._stopping = True
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
        except Exception as exc:  # noqa: BLE001 - whatever a role raises ends the process and never just goes on
            self.fail(exc)

    def fail(self, exc: BaseException) -> None:
        """End the role: from now on only ``stop`` is called."""
        if self.failure is None:
            self.failure = exc
            self._failed(exc)
        else:
            logger.error("role %s failed again while stopping", self.role.name, exc_info=exc)
