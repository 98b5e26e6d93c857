"""ingest: source events in, customer state kept; snapshots, outcomes and graph edges out."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

from schemas import codec
from schemas.deadletter import Refused
from schemas.errors import TooLate
from schemas.events import SOURCE_INDEX, SOURCES
from schemas.graph import GraphEdge, GraphEdges
from schemas.predictions import prediction_record
from schemas.records import OutputRecord
from schemas.snapshot import ERASED_MS
from schemas.sweep import SWEEPS
from schemas.words import Word, Words, hash_of
from streams.core.config import CoreConfig
from streams.core.customer import due_of
from streams.core.durable import IngestCheckpoint
from streams.core.event_clock import NOT_OBSERVED_MS
from streams.core.partition import IngestPartition
from streams.core.refusal_limit import RefusalLimit
from streams.kafka.partitioning import partition_for
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Offsets
from streams.settings.zones import INSTALLED
from streams.state.checkpoints import StoredRecords
from streams.state.contract import KeyValue
from streams.stateful.resources import Resources, resources
from streams.stateful.role import StatefulRole

logger: Final = logging.getLogger(__name__)

_MOST_OWED_MS: Final = 1_000  # of a sweep, after a checkpoint that took long
_MOST_EDGES: Final = 1_000  # of one record: some 100 KB, at most 600 KB with the longest names
_offset: Final = attrgetter("offset")


def revocations_of(checkpoint: IngestCheckpoint) -> list[OutputRecord]:
    """What has to be there before anything else leaves: until then somebody may act on what was decided before.

    What is decided on the checkpoint's own snapshots must not come before them either: of decisions of one instant
    the last one holds.
    """
    return [prediction_record("predictions.next-best-action", revoked) for revoked in checkpoint.revocations]


def outputs_of(checkpoint: IngestCheckpoint, words: Words, partitions: int) -> Iterator[OutputRecord]:
    """What leaves with a checkpoint, but for :func:`revocations_of`.

    Args:
        words: has the new ones; where several partitions share it, one checkpoint may carry another's.
        partitions: of every topic.
    """
    encode = codec.msgpack_encode
    for word in words.take_new():
        hashed = hash_of(word).hex()
        yield OutputRecord("words", hashed.encode(), codec.json_encode(Word(hash=hashed, word=word)))
    yield from _edge_records(checkpoint.edges, partitions)
    for outcome in checkpoint.outcomes:
        yield OutputRecord("outcomes", outcome.customer_id.encode(), encode(outcome))
    for snapshot in checkpoint.awaiting_label:
        yield OutputRecord("session-snapshots", snapshot.customer_id.encode(), encode(snapshot))
    for erasure in checkpoint.erasures:  # before the live snapshots, which hold what came after it
        erased = ((ERASED_MS, str(erasure.erased_ms).encode()),)
        yield OutputRecord("session-snapshots", erasure.customer_id.encode(), None, erased)
    for snapshot in checkpoint.snapshots:
        yield OutputRecord("session-snapshots", snapshot.customer_id.encode(), encode(snapshot))
    for erasure in checkpoint.erasures:
        yield OutputRecord("erasures", erasure.customer_id.encode(), codec.json_encode(erasure))


def _edge_records(edges: Sequence[GraphEdge], partitions: int) -> Iterator[OutputRecord]:
    """Edges in records by the partition of their entities, in order."""
    by_partition: dict[int, list[GraphEdge]] = {}
    for edge in edges:
        partition = partition_for(edge.entity.encode(), partitions)
        drawn = by_partition.get(partition)
        if drawn is None:
            drawn = by_partition[partition] = []
        drawn.append(edge)
    for partition, drawn in by_partition.items():
        for first in range(0, len(drawn), _MOST_EDGES):
            batch = GraphEdges(edges=tuple(drawn[first : first + _MOST_EDGES]))
            yield OutputRecord("graph-edges", None, codec.msgpack_encode(batch), partition=partition)


class IngestRole(StatefulRole[IngestPartition, IngestCheckpoint]):
    """One writer per customer: all four source topics of a partition go through one :class:`IngestPartition`.

    Args:
        cache_bytes: for decoded customers of all partitions together, in equal parts.
    """

    name = "ingest"
    topics = (*SOURCES, SWEEPS)

    def __init__(
        self,
        given: Resources,
        *,
        config: CoreConfig,
        cache_bytes: int,
        idle_ms: int,
        refusals: RefusalLimit,
        source_header: str = "ce_source",
    ) -> None:
        self._words = Words()
        super().__init__(given)
        self._config = config
        self._cache_bytes = cache_bytes
        self._idle_ms = idle_ms
        self._refusals = refusals
        self._source_header = source_header
        self._reported: dict[str, set[str]] = {}
        """Topic -> its sources that were told to be refused."""
        self._paused: set[str] = set()
        """Topics that are read no more: all who write there are refused."""
        self._counted: dict[int, dict[str, int]] = {}
        self._swept_ms: dict[int, int] = {}
        """Up to when a partition's sweep has done what its pace asks for."""

    def _home(self, key: bytes) -> int:
        return partition_for(key, self._given.partitions)

    async def on_assigned(self, partitions: set[int]) -> Offsets:
        starts = await super().on_assigned(partitions)
        for held in self.held.values():
            held.core.cache.budget_bytes = self._cache_bytes // len(self.held)
        for partition, held in self.held.items():
            self._committer.reached(SWEEPS, partition, NOT_OBSERVED_MS)  # few, and first
            for topic in SOURCES:
                self._tell_reached(topic, held.core)
        for topic in self._paused:
            await self._committer.pause(topic, partitions)
        return starts

    async def process(self, batch: Batch) -> None:
        paused = set(self._paused)
        if batch.topic not in paused:
            await super().process(batch)
        if batch.topic in paused or self._paused != paused:
            # What is on its way is dropped: the next to read of the topic is told by the state.
            await self._committer.pause(batch.topic, self.held.keys())

    def _tell_reached(self, topic: str, core: IngestPartition) -> None:
        """So that no topic is read ahead of the others: its events would wait in tails until event time has come."""
        self._committer.reached(topic, core.partition, core.watermark.clocks[SOURCE_INDEX[topic]].newest_ms)

    def open_core(self, partition: int, store: KeyValue, meta: bytes | None) -> IngestPartition:
        self._counted.pop(partition, None)
        self._swept_ms.pop(partition, None)
        return IngestPartition(
            partition,
            self._config,
            self._words,
            StoredRecords(store),
            meta,
            cache_bytes=self._cache_bytes,
            idle_ms=self._idle_ms,
            now_ms=self._monotonic_ms(),
            zones=INSTALLED,
            home=self._home,
        )

    def waiting(self) -> dict[str, Callable[[], int]]:
        def total(of: Callable[[IngestPartition], int]) -> Callable[[], int]:
            return lambda: sum(map(of, self.cores()))

        return {
            "cache": total(lambda core: len(core.cache)),
            "changed customers": total(lambda core: core.changed),
            "unsent outputs": total(lambda core: core.unsent),
            "remembered erasures": total(lambda core: core.remembered_erasures),
            "words": lambda: len(self._words),
            "partitions of keys": lambda: partition_for.cache_info().currsize,
        }

    def take(self, core: IngestPartition, batch: Batch) -> list[Refused]:
        records = batch.records
        if batch.topic == SWEEPS:
            return core.take_sweeps(records)
        first = bisect_left(records, core.next_offsets.get(batch.topic, 0), key=_offset)
        refused = core.take(SOURCE_INDEX[batch.topic], records, self._monotonic_ms())
        self._tell_reached(batch.topic, core)
        unfit = [record for record in refused if record.reason != TooLate.reason]  # lateness says nothing of the topic
        places = [bisect_left(records, record.offset, key=_offset) - first for record in unfit]
        sources = [codec.source_of(record.headers, self._source_header) for record in records[first:]]
        is_unfit = self._refusals.observe(batch.topic, sources, zip(places, unfit, strict=True))
        if unfit or batch.topic in self._reported:
            self._tell_refused(batch.topic)
        if is_unfit and batch.topic not in self._paused:
            self._paused.add(batch.topic)
            self._metrics.paused(batch.topic)
            logger.error(
                "%s is read no more: everything that writes there is refused. Its records wait, and event time with "
                "them; the other topics go on. See `pulsegraph dead-letters list --topic %s`, correct whoever writes "
                "there, then start the worker again; PULSEGRAPH_INGEST_REFUSED_SHARE=1 lets it go on with what is good",
                batch.topic, batch.topic,
            )  # fmt: skip
        return refused

    def _tell_refused(self, topic: str) -> None:
        found = self._refusals.refused(topic)
        self._metrics.refused_sources(topic, [(entry.source, entry.reasons) for entry in found])
        names = {entry.source for entry in found}
        for entry in found:
            if entry.source not in self._reported.get(topic, ()):
                reason = next(iter(entry.reasons))
                logger.error(
                    "%.0f%% of the newest records of %s in %s were refused, most as %s. What is good is taken in as "
                    "before. See `pulsegraph dead-letters list --topic %s --reason %s`",
                    100 * sum(entry.reasons.values()), entry.source, topic, reason,
                    topic, reason,
                )  # fmt: skip
        self._reported = (
            {**self._reported, topic: names} if names else {t: n for t, n in self._reported.items() if t != topic}
        )

    def checkpoint(self, partition: int, core: IngestPartition, now_ms: int) -> IngestCheckpoint:
        behind = [
            topic for topic in SOURCES if topic in self._paused or not self._committer.is_caught_up(topic, partition)
        ]
        for topic in behind:
            core.watermark.observed(SOURCE_INDEX[topic], now_ms)
        if (sweep := core.sweep) is None or behind:
            self._swept_ms.pop(partition, None)  # time spent catching up is not owed to the sweep
            return core.checkpoint(now_ms)
        since_ms = max(self._swept_ms.get(partition, now_ms), now_ms - _MOST_OWED_MS)
        if steps := sweep.per_s * (now_ms - since_ms) // 1000:
            core.sweep_on(steps)
            since_ms += steps * 1000 // sweep.per_s
        self._swept_ms[partition] = since_ms
        return core.checkpoint(now_ms)

    def first_outputs(self, checkpoint: IngestCheckpoint) -> list[OutputRecord]:
        return revocations_of(checkpoint)

    def outputs(self, checkpoint: IngestCheckpoint) -> Iterator[OutputRecord]:
        return outputs_of(checkpoint, self._words, self._given.partitions)

    def due_ms(self, record: bytes) -> int:
        return due_of(record).due_ms

    def flushed(self, checkpoints: Mapping[int, IngestCheckpoint], seconds: float) -> None:
        self._metrics.ingest_checkpoint(checkpoints, self.held, self._counted, seconds)


def build(context: RoleContext) -> IngestRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    settings, mine = context.settings, context.settings.ingest
    return IngestRole(
        resources(context, IngestRole.name),
        config=settings.core,
        cache_bytes=mine.cache_bytes,
        idle_ms=mine.idle_ms,
        refusals=RefusalLimit(mine.refused_share, mine.refused_min),
        source_header=mine.source_header,
    )
