"""What ingest and entities share: partitions with a store, a changelog and commit epochs.

An epoch ends in this order, and only then may the next one end:

1. outputs (snapshots, outcomes, edges, dead letters) delivered,
2. changelog records delivered,
3. one RocksDB write that carries the changelog offset reached,
4. source offsets committed.

A crash between any two steps leaves local state behind the changelog, and committed offsets behind
both; what is read again is skipped by the offsets in the state, and outputs that are written again
carry the same ids. While the writes of one epoch are under way, batches of the next are applied.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from schemas.deadletter import Refused
from schemas.errors import StateCorrupt
from streams.agents.positions import missed_records
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.roles import Batch, Commit, Offsets
from streams.state import keys, ownership
from streams.state.contract import KeyValue
from streams.state.epochs import Epoch, changelog_records, local_batch, read_meta
from streams.state.ownership import Ownership, OwnershipLost
from streams.state.progress import RestoreProgress, summary
from streams.state.restore import Restored, read_range, restore
from streams.state.standby import Standby

logger: Final = logging.getLogger(__name__)

_DELIVERY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 10.0
_CLAIM_ATTEMPTS: Final = 5
_PROBE_AFTER_MS: Final = 2_000
_LOST_PATIENCE_MS: Final = 60_000
_MAX_BEHIND: Final = 4  # epochs' worth of events applied before a slow flush is waited for


class Output(NamedTuple):
    """One record for another topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


class Core(Protocol):
    """The pure part of a role's partition."""

    @property
    def next_offsets(self) -> dict[str, int]: ...

    def cut(self, now_ms: int) -> Any: ...

    def written(self) -> None: ...


class EpochSettings(NamedTuple):
    """When an epoch ends: after this much time, or this many events."""

    epoch_ms: int
    epoch_events: int


class Held(NamedTuple):
    """A partition this worker owns."""

    store: KeyValue
    core: Any
    ownership: Ownership


class StatefulRole:
    """Base of roles that own state. Subclasses say what a partition is and what leaves it.

    Args:
        open_store: partition -> its local store.
        set_aside: called with a partition whose local store cannot be trusted; moves it out of the way.
        clock_ms: wall clock in ms; the only clock of the role.
        standby_partitions: partitions there are, to keep copies of those that others own; 0 keeps none.
    """

    name: str
    topics: tuple[str, ...]
    changelog: str

    def __init__(
        self,
        *,
        outbox: Outbox,
        client: Mapping[str, Any],
        prefix: str,
        epochs: EpochSettings,
        open_store: Callable[[int], KeyValue],
        set_aside: Callable[[int], Path],
        metrics: Metrics,
        clock_ms: Callable[[], int],
        standby_partitions: int = 0,
    ) -> None:
        self.held: dict[int, Held] = {}
        self._outbox = outbox
        self._client = client
        self._prefix = prefix
        self._epochs = epochs
        self._open_store = open_store
        self._set_aside = set_aside
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._committer: Commit | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._cut_ms = clock_ms()
        self._events = 0
        self._durable: dict[int, dict[str, int]] = {}
        self._committed_ms = self._cut_ms
        self._lost_ms: int | None = None
        self._standby_partitions = standby_partitions
        self._standby: Standby | None = None

    # What a subclass provides.

    def open_core(self, partition: int, store: KeyValue, meta: bytes | None) -> Core:
        raise NotImplementedError

    def take(self, core: Any, batch: Batch) -> list[Refused]:
        raise NotImplementedError

    def outputs(self, epoch: Any) -> Iterable[Output]:
        raise NotImplementedError

    def due_ms(self, record: bytes) -> int:
        raise NotImplementedError

    def flushed(self, epochs: Mapping[int, Epoch], seconds: float) -> None:
        """Called after every epoch that is durable; metrics live here."""

    # The runtime's side.

    def bind(self, committer: Commit) -> None:
        self._committer = committer
        if self._standby_partitions:
            # Now and not with the first assignment: a worker beyond the number of partitions gets none, and waits.
            self._standby = Standby(
                self._client,
                self._prefix + self.changelog,
                open_store=self._open_store,
                set_aside=self._set_aside,
                due_ms=self.due_ms,
                clock_ms=self._clock_ms,
                behind=partial(self._metrics.standby, self.name),
            )
            self._standby.follow(range(self._standby_partitions))
            self._standby.start()

    async def on_assigned(self, partitions: set[int]) -> Offsets:
        starts: dict[tuple[str, int], int] = {}
        for partition in sorted(partitions):
            if self._standby is not None:
                await asyncio.to_thread(self._standby.release, partition)
            held = await self._open_partition(partition)
            self.held[partition] = held
            known = held.core.next_offsets
            # State, not the committed offset, says where to go on: whoever has no state begins at the beginning.
            starts |= {(topic, partition): known.get(topic, 0) for topic in self.topics}
        await self._check_positions(starts)
        self._cut_ms, self._events = self._clock_ms(), 0
        self._committed_ms, self._lost_ms = self._cut_ms, None
        return starts

    async def _check_positions(self, starts: Offsets) -> None:
        places = {(self._prefix + topic, partition): start for (topic, partition), start in starts.items()}
        missed = await asyncio.to_thread(missed_records, self._client, places)
        for (name, partition), records in missed.items():
            logger.error(
                "%s-%d: retention removed %d records before they were read; state and predictions go on without them",
                name, partition, records,
            )  # fmt: skip
            self._metrics.missed(self.name, name.removeprefix(self._prefix), records)

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._join()
        if await self._still_owner():
            await self._flush(self._cut(partitions & self.held.keys()))
        for partition in partitions & self.held.keys():
            self._release(partition)

    async def process(self, batch: Batch) -> None:
        held = self.held.get(batch.partition)
        if held is None:
            return  # lost to another worker; the rebalance that says so is on its way
        self._metrics.batch(self.name, batch.topic, len(batch.records))
        for refused in self.take(held.core, batch):
            self._metrics.dead_letter(batch.topic, refused.reason)
            self._outbox.send("dead-letter", refused.key, refused.value, headers=refused.headers)
        self._events += len(batch.records)
        if self._events >= self._epochs.epoch_events * _MAX_BEHIND:
            await self._join()
        await self._maybe_flush()

    async def idle(self) -> None:
        if self._standby is not None and self._standby.failure is not None:
            raise self._standby.failure
        if self._lost_ms is not None and self._clock_ms() - self._lost_ms > _LOST_PATIENCE_MS:
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

    # Epochs.

    async def _maybe_flush(self) -> None:
        if self._flushing is not None:
            if not self._flushing.done():
                return
            await self._join()
        now_ms = self._clock_ms()
        if self._events >= self._epochs.epoch_events or now_ms - self._cut_ms >= self._epochs.epoch_ms:
            self._flushing = asyncio.create_task(self._flush(self._cut(self.held.keys())))

    async def _join(self) -> None:
        """Wait for the flush under way; what it raised is raised here, inside a call of the runtime."""
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    def _cut(self, partitions: Iterable[int]) -> dict[int, Epoch]:
        now_ms = self._clock_ms()
        self._cut_ms, self._events = now_ms, 0
        return {partition: self.held[partition].core.cut(now_ms) for partition in partitions}

    async def _flush(self, epochs: dict[int, Epoch]) -> None:
        started_ms = self._clock_ms()
        epochs = {partition: epoch for partition, epoch in epochs.items() if self._is_news(partition, epoch)}
        if not epochs:
            return
        if started_ms - self._committed_ms > _PROBE_AFTER_MS and not await self._still_owner():
            # Paused for long, perhaps past the session: what others may have gone on with is not ours to tell.
            logger.error("%s was away too long and is no member of its group any more", self.name)
            self._lost_ms = started_ms
            for partition in epochs:
                self._release(partition)
            return
        send, outbox = self._outbox.send, self._outbox
        for epoch in epochs.values():
            for topic, key, value, headers in self.outputs(epoch):
                send(topic, key, value, headers=headers)
        await outbox.delivered(outbox.mark(), _DELIVERY_TIMEOUT_S)
        sent = {
            partition: self._send_changes(partition, changelog_records(epoch)) for partition, epoch in epochs.items()
        }
        await outbox.delivered(outbox.mark(), _DELIVERY_TIMEOUT_S)
        for partition, epoch in epochs.items():
            await self._keep(partition, epoch, sent[partition])
        offsets = {
            (topic, partition): offset
            for partition, epoch in epochs.items()
            if partition in self.held
            for topic, offset in epoch.next_offsets.items()
        }
        assert self._committer is not None
        if offsets and await self._committer.commit(offsets):
            self._committed_ms = self._clock_ms()
        for partition, epoch in epochs.items():
            if partition in self.held:
                self._durable[partition] = epoch.next_offsets
                self.held[partition].core.written()
        self.flushed(epochs, (self._clock_ms() - started_ms) / 1000)

    def _send_changes(self, partition: int, records: Iterable[tuple[bytes, bytes | None]]) -> int:
        headers, sent = ownership.headers(self.held[partition].ownership.term), 0
        for key, value in records:
            self._outbox.send(self.changelog, key, value, partition=partition, headers=headers)
            sent += 1
        return sent

    async def _keep(self, partition: int, epoch: Epoch, sent: int) -> None:
        """The epoch is in the changelog: write it locally, unless the partition turns out to be somebody else's."""
        store, _, owner = self.held[partition]
        try:
            stale = await self._intruders(partition, owner, sent)
            # Overruled first: once the local store is past a former owner's records, nobody looks at them again.
            if stale:
                await self._overrule(partition, store, owner, stale, dict(changelog_records(epoch)))
            batch = local_batch(epoch, owner.next_offset, owner.term, self._clock_ms())
            await asyncio.to_thread(store.write, batch)
        except OwnershipLost as lost:
            logger.error("%s-%s belongs to another worker now: %s", self.changelog, partition, lost)
            self._lost_ms = self._clock_ms()
            self._release(partition)

    async def _intruders(self, partition: int, owner: Ownership, sent: int) -> set[bytes]:
        """Keys that others wrote while our last ``sent`` records were on their way."""
        reached = self._outbox.offset(self.changelog, partition)
        assert reached is not None
        foreign = owner.reached(reached, sent)
        if foreign is None:
            return set()
        topic = self._prefix + self.changelog
        return owner.intruders(await asyncio.to_thread(read_range, self._client, topic, partition, *foreign))

    async def _overrule(
        self,
        partition: int,
        store: KeyValue,
        owner: Ownership,
        stale: set[bytes],
        fresh: Mapping[bytes, bytes | None],
    ) -> None:
        """Put our version of records behind those of a worker that had lost the partition.

        Args:
            fresh: records newer than the store's.
        """
        headers = ownership.headers(owner.term)
        while stale:
            logger.warning("%s-%s: %d records of a former owner are overruled", self.changelog, partition, len(stale))
            ours = await asyncio.to_thread(_versions, store, sorted(stale), fresh)
            if not ours:
                return
            for key, value in ours:
                self._outbox.send(self.changelog, key, value, partition=partition, headers=headers)
            await self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S)
            stale = await self._intruders(partition, owner, len(ours))

    async def _still_owner(self) -> bool:
        """Ask the group by committing what it has anyway: an expelled member is refused."""
        offsets = {
            (topic, partition): offset
            for partition in self.held
            for topic, offset in self._durable.get(partition, {}).items()
        }
        assert self._committer is not None
        return not offsets or await self._committer.commit(offsets)

    def _release(self, partition: int) -> None:
        self.held.pop(partition).store.close()
        self._metrics.released(self.name, partition)
        if self._standby is not None:
            self._standby.follow({partition})

    def _is_news(self, partition: int, epoch: Epoch) -> bool:
        """An epoch in which only the clock moved is not worth a write."""
        return bool(epoch.changes) or self._durable.get(partition) != epoch.next_offsets

    # Opening.

    async def _open_partition(self, partition: int) -> Held:
        """Restore, then claim; again where somebody wrote between the two."""
        topic = self._prefix + self.changelog
        store, what = await asyncio.to_thread(self._restore, topic, partition)
        for _ in range(_CLAIM_ATTEMPTS):
            owner = Ownership(what.term + 1, what.next_offset)
            claim = ownership.headers(owner.term)
            self._outbox.send(self.changelog, keys.CLAIM, b"", partition=partition, headers=claim)
            await self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S)
            reached = self._outbox.offset(self.changelog, partition)
            assert reached is not None
            if owner.reached(reached, 1) is None:
                break
            again = await asyncio.to_thread(
                restore, store, self._client, topic, partition, self.due_ms, now_ms=self._clock_ms()
            )
            what = again._replace(stale=what.stale | again.stale, term=max(what.term, again.term))
        else:
            raise OwnershipLost(f"{topic}-{partition} could not be claimed: others keep writing to it")
        await self._overrule(partition, store, owner, what.stale, {})
        meta = read_meta(store).partition
        core = self.open_core(partition, store, meta)
        # State may be ahead of the committed offsets; the first epoch commits what it accounts for, or lag would lie.
        self._durable[partition] = {}
        self._metrics.restored(self.name, partition, what.records, what.size_bytes, what.seconds)
        logger.info(summary(f"{topic}-{partition}", what.records, what.size_bytes, what.seconds))
        return Held(store, core, owner)

    def _restore(self, topic: str, partition: int) -> tuple[KeyValue, Restored]:
        store: KeyValue | None = None
        where = f"{topic}-{partition}"
        progress = RestoreProgress(where, partial(self._metrics.restoring, self.name, partition))
        try:
            store = self._open_store(partition)
            return store, restore(
                store, self._client, topic, partition, self.due_ms, now_ms=self._clock_ms(), progress=progress
            )
        except StateCorrupt as error:
            if store is not None:
                store.close()
            aside = self._set_aside(partition)
            logger.error("local state of %s was set aside as %s and is rebuilt: %s", where, aside, error)
            store = self._open_store(partition)
            return store, restore(
                store, self._client, topic, partition, self.due_ms, now_ms=self._clock_ms(), progress=progress
            )


def _versions(
    store: KeyValue, wanted: Sequence[bytes], fresh: Mapping[bytes, bytes | None]
) -> list[tuple[bytes, bytes | None]]:
    """The owner's records under these keys, as the changelog has them."""
    found: list[tuple[bytes, bytes | None]] = []
    for key, value in zip(wanted, store.multi_get(wanted), strict=True):
        if key in fresh:
            found.append((key, fresh[key]))
        elif key != keys.META:
            found.append((key, value))
        elif (meta := read_meta(store).partition) is not None:
            found.append((key, meta))  # the store's own record holds more than the changelog's
    return found
