"""Making checkpoints durable, in the one order in which a crash loses nothing and tells nothing twice.

0. what must not come behind any other output (revocations of decisions) delivered,
1. outputs (snapshots, outcomes, edges, dead letters) and changelog records delivered,
2. the meta record delivered, which makes the checkpoint count (not sent together with the others: a producer that gives
   up on one record may still deliver the next),
3. one RocksDB write that carries the changelog offset reached,
4. source offsets committed.

A crash between any two steps leaves local state behind the changelog, and committed offsets behind
both; what is read again is skipped by the offsets in the state, and outputs that are written again
carry the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from schemas.records import OutputRecord
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import Clocks
from streams.runtime.runner import Commit, Offsets
from streams.state import keys
from streams.state.checkpoints import StateCheckpoint, changed_records, changelog_records, local_batch
from streams.state.ownership import OwnershipLost
from streams.stateful.held import Core, Held
from streams.stateful.owned_log import DELIVERY_TIMEOUT_S

logger: Final = logging.getLogger(__name__)

_PROBE_AFTER_MS: Final = 2_000
#: A quiet partition is written this often: it shows that the store is kept, and what a former owner wrote behind our
#: back is overwritten before compaction takes our version away, see ``_COMPACTION_LAG_MS`` in
#: :mod:`streams.kafka.admin`.
_REFRESH_MS: Final = 20 * 60_000

CheckpointT = TypeVar("CheckpointT", bound=StateCheckpoint)


class CheckpointWriter(Generic[CheckpointT]):
    """Writes the checkpoints of one role's partitions, as long as they are this worker's.

    Args:
        role: its name, for people.
        held: partitions that are open now; looked at, never changed.
        outputs: what leaves with a checkpoint.
        first: what is there before any of that leaves: records of several topics overtake each other.
        lost: called with each partition that turns out to be somebody else's; it is not held any more afterwards.
    """

    def __init__(
        self,
        role: str,
        held: Mapping[int, Held[Core[StateCheckpoint]]],
        outbox: Outbox,
        committer: Commit,
        clocks: Clocks,
        *,
        outputs: Callable[[CheckpointT], Iterable[OutputRecord]],
        first: Callable[[CheckpointT], Sequence[OutputRecord]],
        lost: Callable[[int], None],
    ) -> None:
        self._role = role
        self._held = held
        self._outbox = outbox
        self._committer = committer
        self._clocks = clocks
        self._outputs = outputs
        self._first = first
        self._lost = lost
        self._durable: dict[int, Mapping[str, int]] = {}
        self._written_ms: dict[int, int] = {}
        self._committed_ms = clocks.monotonic_ms()

    def opened(self, partition: int, next_offsets: Mapping[str, int]) -> None:
        """It was opened just now, with a state that accounts for what comes before these offsets."""
        self._durable[partition] = next_offsets
        # State may be ahead of the committed offsets: the first checkpoint commits whatever it holds, or lag would lie.
        self._written_ms.pop(partition, None)
        self._committed_ms = self._clocks.monotonic_ms()

    async def write(self, checkpoints: Mapping[int, CheckpointT]) -> dict[int, CheckpointT]:
        """Make checkpoints of held partitions durable.

        Returns:
            Those that were worth a write; none where the partitions are lost.
        """
        news = {partition: made for partition, made in checkpoints.items() if self._is_news(partition, made)}
        if not news or await self._was_away(news):
            return {}
        # 0.
        if first := [output for checkpoint in news.values() for output in self._first(checkpoint)]:
            self._outbox.send_all(first)
            await self._delivered()
        # 1.
        sent: dict[int, int] = {}
        for partition, checkpoint in news.items():
            self._outbox.send_all(self._outputs(checkpoint))
            sent[partition] = self._held[partition].log.send(changed_records(checkpoint))
        await self._delivered()
        # 2.
        for partition, checkpoint in news.items():
            sent[partition] += self._held[partition].log.send([(keys.META, checkpoint.meta)])
        await self._delivered()
        # 3.
        for partition, checkpoint in news.items():
            await self._keep(partition, checkpoint, sent[partition])
        # 4.
        await self._commit({partition: made for partition, made in news.items() if partition in self._held})
        return news

    async def still_owner(self) -> bool:
        """Ask the group by committing what it has anyway: an expelled member is refused."""
        offsets = _by_place({partition: self._durable.get(partition, {}) for partition in self._held})
        return not offsets or await self._committer.commit(offsets)

    async def _was_away(self, partitions: Iterable[int]) -> bool:
        """Paused for long, perhaps past the session: what others may have gone on with is not ours to tell."""
        if self._clocks.monotonic_ms() - self._committed_ms <= _PROBE_AFTER_MS or await self.still_owner():
            return False
        logger.error("%s was away too long and is no member of its group any more", self._role)
        for partition in partitions:
            self._lost(partition)
        return True

    async def _delivered(self) -> None:
        await self._outbox.delivered(self._outbox.mark(), DELIVERY_TIMEOUT_S)

    async def _keep(self, partition: int, checkpoint: StateCheckpoint, sent: int) -> None:
        """It is in the changelog: write it locally, unless the partition turns out to be somebody else's."""
        store, _, log = self._held[partition]
        try:
            stale = await log.zombie_writes(sent)
            # Overwritten first: once the local store is past a former owner's records, nobody looks at them again.
            if stale:
                await log.overwrite(store, stale, dict(changelog_records(checkpoint)))
            batch = local_batch(checkpoint, log.owner.next_offset, log.owner.fencing_token, self._clocks.wall_ms())
            await asyncio.to_thread(store.write, batch)
        except OwnershipLost as lost:
            logger.error("%s belongs to another worker now: %s", log.where, lost)
            self._lost(partition)

    async def _commit(self, kept: Mapping[int, StateCheckpoint]) -> None:
        offsets = _by_place({partition: checkpoint.next_offsets for partition, checkpoint in kept.items()})
        if offsets and await self._committer.commit(offsets):
            self._committed_ms = self._clocks.monotonic_ms()
        for partition, checkpoint in kept.items():
            self._durable[partition] = checkpoint.next_offsets
            self._written_ms[partition] = self._clocks.monotonic_ms()
            self._held[partition].core.written()

    def _is_news(self, partition: int, checkpoint: StateCheckpoint) -> bool:
        """Where only the clock moved it is worth a write now and then, and as the first one of a known state."""
        written_ms = self._written_ms.get(partition)
        if checkpoint.is_news or self._durable.get(partition) != checkpoint.next_offsets:
            return True
        is_due = written_ms is None or self._clocks.monotonic_ms() - written_ms > _REFRESH_MS
        return is_due and bool(checkpoint.next_offsets)


def _by_place(offsets: Mapping[int, Mapping[str, int]]) -> Offsets:
    return {(topic, partition): offset for partition, by_topic in offsets.items() for topic, offset in by_topic.items()}
