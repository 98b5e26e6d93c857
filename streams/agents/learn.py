"""learn: outcomes meet the predictions they judge; how good each head is of each kind of snapshot, and how far off.

Nothing is ever committed: a partition that is new here is read from the beginning of what the topics still keep, for
what waits for its other half. What was counted before is on ``recalibrations``, with the offsets that it accounts for,
so that a pair counts once: not where both halves lie before them and its horizon had ended by then. Whoever writes such
a record says what is true of a part of the log, a former owner too; so none is wrong, and an older one is only older.

A partition that stays through a rebalance is read on where it was.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final, Protocol, cast

import msgspec

from schemas import codec
from schemas.recalibrations import OutcomeTallies
from schemas.records import OutputRecord
from schemas.snapshot import Head, Outcome
from streams.core.config import CoreConfig
from streams.core.judge import SCORED, Judge, ScoredPrediction
from streams.core.quality import calibration_error, quality
from streams.core.recalibration import drift_of_error, drift_of_inputs, newest_weeks
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Commit
from streams.serving.tallies import newest_tallies, record_of
from streams.telemetry.metrics import Metrics

_EVERY_MS: Final = 2_000
_PUBLISH_EVERY_MS: Final = 60_000
"""A record is some 20 KB, and what it says changes within weeks."""
_WINDOW: Final = 20_000
"""Outcomes that the measures of a head and kind rest on, all partitions together: they are computed on the event
loop."""
_KEPT: Final = 10_000
"""Pending labels of one partition, head and kind: 3 MB at most, 18 MB of all together, and some thousand pairs a
week."""

_DELIVERY_TIMEOUT_S: Final = 60.0

_decode_outcome: Final = codec.decoder(Outcome)
_decode_prediction: Final = msgspec.json.Decoder(ScoredPrediction).decode


class Sender(Protocol):
    """An :class:`streams.kafka.outbox.Outbox`, or what stands in for it where there is no broker."""

    def send_all(self, records: Iterable[OutputRecord]) -> object: ...

    def mark(self) -> int: ...

    async def delivered(self, mark: int, timeout_s: float) -> None: ...


class _Known:
    """What is known of one partition, and how far its topics were read."""

    def __init__(self, config: CoreConfig, partition: int, counted: OutcomeTallies | None) -> None:
        self.judge = Judge(config, window=_WINDOW, kept=_KEPT, counted=counted)
        self.next_offsets: dict[str, int] = {}
        self._partition = partition
        self._behind = dict(counted.next_offsets) if counted else {}
        """Offsets that were counted before, until all of them have been reached."""
        self._until_ms = counted.newest_ms if counted else -1
        self._reported_tallies = counted.tallies if counted else []

    def is_counted(self, topic: str, offset: int) -> bool:
        """Whether what was counted before accounts for this record."""
        return offset < self._behind.get(topic, 0)

    def news(self) -> OutcomeTallies | None:
        """What has been counted by now, where that is new."""
        if any(self.next_offsets.get(topic, 0) < offset for topic, offset in self._behind.items()):
            return None  # of neither part of the log: pairs of one half from before and one from later may be missing
        self._behind = {}
        tallies = self.judge.tallies.tallies()
        if tallies == self._reported_tallies:
            return None
        self._reported_tallies = tallies
        return OutcomeTallies(
            partition=self._partition,
            next_offsets=dict(self.next_offsets),
            newest_ms=max(self.judge.newest_ms, self._until_ms),
            tallies=tallies,
        )


class LearnRole:
    """Joins ``outcomes`` with ``predictions.*`` of the same partition.

    The measures are those of all held partitions' outcomes together. Their samples may differ in their share; as a
    partition is a hash of the customer, it says nothing about scores and labels, so no weights are needed.

    Args:
        config: what ingest asks of whom, see :class:`streams.core.judge.Judge`.
        monotonic_ms: a monotonic clock in ms, for how often the metrics are set and what was counted is published.
        outbox: takes what was counted.
        counted: what was published last of these partitions; may take long.
    """

    name = "learn"
    topics = ("outcomes", "predictions.churn", "predictions.redemption")

    def __init__(
        self,
        *,
        config: CoreConfig,
        metrics: Metrics,
        monotonic_ms: Callable[[], int],
        outbox: Sender,
        counted: Callable[[Collection[int]], Mapping[int, OutcomeTallies]],
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._counted = counted
        self._known: dict[int, _Known] = {}
        self._held: set[int] = set()
        self._metrics = metrics
        self._monotonic_ms = monotonic_ms
        self._reported_ms = monotonic_ms()
        self._published_ms = monotonic_ms() - _PUBLISH_EVERY_MS
        self._to_report: list[tuple[Head, str]] = []

    def remembered(self) -> int:
        """Predictions and outcomes, joined or waiting for the other; may be asked by any thread."""
        return sum(len(known.judge) for known in list(self._known.values()))

    def bind(self, committer: Commit) -> None:
        """Nothing is ever committed."""

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int]:
        # Most stay where they were, and what was read of them is still so. Where a topic was made anew or retention
        # went past the offset, the consumer begins at the beginning, and what is read again changes nothing.
        fresh = partitions - self._known.keys()
        counted = await asyncio.to_thread(self._counted, fresh) if fresh else {}
        self._known = {
            partition: self._known.get(partition) or _Known(self._config, partition, counted.get(partition))
            for partition in partitions
        }
        self._held = set(partitions)
        for known in self._known.values():
            known.judge.resize(max(1, _WINDOW // len(partitions)))
        return {
            (topic, partition): known.next_offsets.get(topic, 0)
            for partition, known in self._known.items()
            for topic in self.topics
        }

    async def on_revoked(self, partitions: set[int]) -> None:
        # What is known is kept until it is clear which partitions come back; where none does, nobody calls again.
        self._held -= partitions

    async def process(self, batch: Batch) -> None:
        known = self._known[batch.partition]
        head = cast(Head, batch.topic.removeprefix("predictions."))
        for record in batch.records:
            value, counted = record.value or b"", known.is_counted(batch.topic, record.offset)
            try:
                if batch.topic == "outcomes":
                    known.judge.answered(_decode_outcome(value), counted=counted)
                else:
                    known.judge.predicted(head, _decode_prediction(value), counted=counted)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Our own topics: whoever wrote it, it judges nothing.
                self._metrics.dead_letter(batch.topic, "malformed")
        known.next_offsets[batch.topic] = batch.records[-1].offset + 1

    async def idle(self) -> None:
        now_ms = self._monotonic_ms()
        if not self._to_report:
            if now_ms - self._reported_ms < _EVERY_MS:
                return
            self._reported_ms = now_ms
            self._to_report = list(SCORED)
            await self._publish()
        # One a tick: 20,000 pairs take some hundredths of a second, and other roles share the event loop.
        head, kind = self._to_report.pop()
        held = [self._known[partition].judge for partition in sorted(self._held)]
        scores = [judge.scores[head, kind] for judge in held]
        by_model = [(found.said.probability, found.label) for score in scores for found in score.matured]
        self._metrics.live_quality(
            head,
            kind,
            quality(list(itertools.chain.from_iterable(score.pairs for score in scores))),
            calibration_error(by_model),
        )
        weeks = newest_weeks([judge.tallies for judge in held], head, kind)
        self._metrics.drifted(head, kind, drift_of_error(weeks), drift_of_inputs(weeks))

    async def _publish(self) -> None:
        """What has been counted since the last time."""
        held = [self._known[partition] for partition in sorted(self._held)]
        for known in held:
            # A partition's own time, not the newest of all: of one that is still being read from its beginning
            # only early outcomes are known of the labels beyond, and those are of one kind.
            known.judge.pass_time(known.judge.newest_ms)
        now_ms = self._monotonic_ms()
        if now_ms - self._published_ms < _PUBLISH_EVERY_MS:
            return
        if records := [record_of(news) for known in held if (news := known.news()) is not None]:
            self._published_ms = now_ms
            self._outbox.send_all(records)
            await self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S)

    async def stop(self) -> None:
        """Nothing to let go of."""


def build(context: RoleContext) -> LearnRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    role = LearnRole(
        config=context.settings.core,
        metrics=context.metrics,
        monotonic_ms=context.clocks.monotonic_ms,
        outbox=context.outbox(LearnRole.name),
        counted=partial(newest_tallies, context.client, context.prefix),
    )
    context.metrics.holds("learn predictions and outcomes", role.remembered)
    return role
