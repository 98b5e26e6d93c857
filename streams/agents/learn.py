"""learn: outcomes meet the predictions they judge; the live AUC of each head.

Holds nothing that is worth restoring: a partition that is new here is read from the beginning of what the topics
still keep, and nothing is ever committed. A partition that stays through a rebalance is read on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final, get_args

import msgspec

from schemas import codec
from schemas.snapshot import LIVE_KINDS, Head, Outcome
from streams.core.scoring import LiveScore, auc
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Commit
from streams.telemetry.metrics import Metrics

_EVERY_MS: Final = 2_000
_WINDOW: Final = 20_000
"""Outcomes that the AUC of a head rests on, all partitions together: it is computed on the event loop."""
_KEPT: Final = 20_000
"""Pending labels of one partition and head: 6 MB at most, and some thousand pairs a week."""


class _ScoredPrediction(msgspec.Struct):
    """The fields of a prediction that scoring needs."""

    question_id: str
    probability: float
    snapshot_kind: str = "event"
    as_of_ms: int | None = None


_decode_outcome: Final = codec.decoder(Outcome)
_decode_prediction: Final = msgspec.json.Decoder(_ScoredPrediction).decode


class _Known:
    """What is known of one partition, and how far its topics were read."""

    def __init__(self) -> None:
        self.scores: dict[Head, LiveScore] = {head: LiveScore(kept=_KEPT) for head in get_args(Head)}
        self.next_offsets: dict[str, int] = {}
        self.newest_ms = 0
        """Event time of the newest outcome, of any head: they lie on one topic, in its order."""


class LearnRole:
    """Joins ``outcomes`` with ``predictions.*`` of the same partition.

    The AUC is that of all held partitions' outcomes together. Their samples may differ in their share; as a
    partition is a hash of the customer, it says nothing about scores and labels, so no weights are needed.

    Args:
        monotonic_ms: a monotonic clock in ms, for how often the metric is set.
    """

    name = "learn"
    topics = ("outcomes", "predictions.churn", "predictions.redemption")

    def __init__(self, *, metrics: Metrics, monotonic_ms: Callable[[], int]) -> None:
        self._known: dict[int, _Known] = {}
        self._held: set[int] = set()
        self._metrics = metrics
        self._monotonic_ms = monotonic_ms
        self._reported_ms = monotonic_ms()

    def bind(self, committer: Commit) -> None:
        """Nothing is ever committed."""

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int]:
        # Most stay where they were, and what was read of them is still so. Where a topic was made anew or retention
        # went past the offset, the consumer begins at the beginning, and what is read again changes nothing.
        self._known = {partition: self._known.get(partition) or _Known() for partition in partitions}
        self._held = set(partitions)
        for known in self._known.values():
            for score in known.scores.values():
                score.resize(max(1, _WINDOW // len(partitions)))
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
        head = batch.topic.removeprefix("predictions.")
        for record in batch.records:
            value = record.value or b""
            try:
                if head == "outcomes":
                    _take_outcome(known, _decode_outcome(value))
                    continue
                prediction = _decode_prediction(value)
                if prediction.snapshot_kind not in LIVE_KINDS:
                    score = known.scores[head]  # type: ignore[index]
                    score.predicted(prediction.question_id, prediction.probability, prediction.as_of_ms)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._metrics.dead_letter(
                    batch.topic, "malformed"
                )  # our own topics; whoever wrote it, it judges nothing
        known.next_offsets[batch.topic] = batch.records[-1].offset + 1

    async def idle(self) -> None:
        now_ms = self._monotonic_ms()
        if now_ms - self._reported_ms < _EVERY_MS:
            return
        self._reported_ms = now_ms
        held = [self._known[partition] for partition in sorted(self._held)]
        for head in get_args(Head):
            for known in held:
                # A partition's own time, not the newest of all: of one that is still being read from its beginning
                # only early outcomes are known of the labels beyond, and those are of one kind.
                known.scores[head].pass_time(known.newest_ms)
            pairs = list(itertools.chain.from_iterable(known.scores[head].pairs for known in held))
            self._metrics.live_auc(head, auc(pairs), len(pairs))

    async def stop(self) -> None:
        """Nothing to let go of."""


def _take_outcome(known: _Known, outcome: Outcome) -> None:
    as_of_ms = outcome.snapshot.as_of_ms
    known.scores[outcome.head].answered(outcome.question_id, outcome.label, outcome.due_ms, as_of_ms)
    known.newest_ms = max(known.newest_ms, outcome.resolved_ms)


def build(context: RoleContext) -> LearnRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    return LearnRole(metrics=context.metrics, monotonic_ms=context.clocks.monotonic_ms)
