"""learn: outcomes meet the predictions they judge; how good each head is of each kind of snapshot.

Holds nothing that is worth restoring: a partition that is new here is read from the beginning of what the topics
still keep, and nothing is ever committed. A partition that stays through a rebalance is read on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final, cast

import msgspec

from schemas import codec
from schemas.snapshot import Head, Outcome
from streams.core.config import CoreConfig
from streams.core.judge import SCORED, Judge, ScoredPrediction
from streams.core.quality import quality
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Commit
from streams.telemetry.metrics import Metrics

_EVERY_MS: Final = 2_000
_WINDOW: Final = 20_000
"""Outcomes that the measures of a head and kind rest on, all partitions together: they are computed on the event
loop."""
_KEPT: Final = 10_000
"""Pending labels of one partition, head and kind: 3 MB at most, 18 MB of all together, and some thousand pairs a
week."""

_decode_outcome: Final = codec.decoder(Outcome)
_decode_prediction: Final = msgspec.json.Decoder(ScoredPrediction).decode


class _Known:
    """What is known of one partition, and how far its topics were read."""

    def __init__(self, config: CoreConfig) -> None:
        self.judge = Judge(config, window=_WINDOW, kept=_KEPT)
        self.next_offsets: dict[str, int] = {}


class LearnRole:
    """Joins ``outcomes`` with ``predictions.*`` of the same partition.

    The measures are those of all held partitions' outcomes together. Their samples may differ in their share; as a
    partition is a hash of the customer, it says nothing about scores and labels, so no weights are needed.

    Args:
        config: what ingest asks of whom, see :class:`streams.core.judge.Judge`.
        monotonic_ms: a monotonic clock in ms, for how often the metrics are set.
    """

    name = "learn"
    topics = ("outcomes", "predictions.churn", "predictions.redemption")

    def __init__(self, *, config: CoreConfig, metrics: Metrics, monotonic_ms: Callable[[], int]) -> None:
        self._config = config
        self._known: dict[int, _Known] = {}
        self._held: set[int] = set()
        self._metrics = metrics
        self._monotonic_ms = monotonic_ms
        self._reported_ms = monotonic_ms()
        self._to_report: list[tuple[Head, str]] = []

    def remembered(self) -> int:
        """Predictions and outcomes, joined or waiting for the other; may be asked by any thread."""
        return sum(len(known.judge) for known in list(self._known.values()))

    def bind(self, committer: Commit) -> None:
        """Nothing is ever committed."""

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int]:
        # Most stay where they were, and what was read of them is still so. Where a topic was made anew or retention
        # went past the offset, the consumer begins at the beginning, and what is read again changes nothing.
        self._known = {partition: self._known.get(partition) or _Known(self._config) for partition in partitions}
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
            value = record.value or b""
            try:
                if batch.topic == "outcomes":
                    known.judge.answered(_decode_outcome(value))
                else:
                    known.judge.predicted(head, _decode_prediction(value))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._metrics.dead_letter(
                    batch.topic, "malformed"
                )  # our own topics; whoever wrote it, it judges nothing
        known.next_offsets[batch.topic] = batch.records[-1].offset + 1

    async def idle(self) -> None:
        now_ms = self._monotonic_ms()
        if not self._to_report:
            if now_ms - self._reported_ms < _EVERY_MS:
                return
            self._reported_ms = now_ms
            self._to_report = list(SCORED)
        # One a tick: 20,000 pairs take some hundredths of a second, and other roles share the event loop.
        head, kind = self._to_report.pop()
        held = [self._known[partition].judge for partition in sorted(self._held)]
        for judge in held:
            # A partition's own time, not the newest of all: of one that is still being read from its beginning
            # only early outcomes are known of the labels beyond, and those are of one kind.
            judge.scores[head, kind].pass_time(judge.newest_ms)
        pairs = list(itertools.chain.from_iterable(judge.scores[head, kind].pairs for judge in held))
        self._metrics.live_quality(head, kind, quality(pairs))

    async def stop(self) -> None:
        """Nothing to let go of."""


def build(context: RoleContext) -> LearnRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    role = LearnRole(config=context.settings.core, metrics=context.metrics, monotonic_ms=context.clocks.monotonic_ms)
    context.metrics.holds("learn predictions and outcomes", role.remembered)
    return role
