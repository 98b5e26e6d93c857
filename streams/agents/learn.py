"""learn: outcomes meet the predictions they judge; the live AUC of each head.

Holds nothing that is worth restoring: it reads what the topics still keep, from the beginning, at every
start, and commits nothing.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from schemas import codec
from schemas.snapshot import Head, Outcome
from streams.core.scoring import LiveScore
from streams.metrics import Metrics
from streams.roles import Batch, Commit

_EVERY_MS: Final = 2_000


class _Judged(msgspec.Struct):
    """The fields of a prediction that scoring needs."""

    prediction_id: str
    probability: float
    snapshot_kind: str = "event"


_decode_outcome: Final = codec.decoder(Outcome)
_decode_prediction: Final = msgspec.json.Decoder(_Judged).decode


class LearnRole:
    """Joins ``outcomes`` with ``predictions.*`` of the same partition.

    Args:
        clock_ms: wall clock in ms, for how often the metric is set.
    """

    name = "learn"
    topics = ("outcomes", "predictions.churn", "predictions.redemption")

    def __init__(self, *, metrics: Metrics, clock_ms: Any) -> None:
        self.scores: dict[Head, LiveScore] = {head: LiveScore() for head in get_args(Head)}
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._told_ms = clock_ms()
        self._newest_ms = 0

    def bind(self, committer: Commit) -> None:
        """Nothing is ever committed."""

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int]:
        self.scores = {head: LiveScore() for head in get_args(Head)}
        self._newest_ms = 0
        return {(topic, partition): 0 for topic in self.topics for partition in partitions}

    async def on_revoked(self, partitions: set[int]) -> None:
        """Other workers begin at the beginning, too."""

    async def process(self, batch: Batch) -> None:
        head = batch.topic.removeprefix("predictions.")
        for record in batch.records:
            value = record.value or b""
            try:
                if head == "outcomes":
                    outcome: Outcome = _decode_outcome(value)
                    self.scores[outcome.head].answered(outcome.outcome_id, outcome.label, outcome.due_ms)
                    self._newest_ms = max(self._newest_ms, outcome.resolved_ms)
                    continue
                judged = _decode_prediction(value)
                if judged.snapshot_kind != "event":
                    self.scores[head].predicted(judged.prediction_id, judged.probability)  # type: ignore[index]
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._metrics.dead_letter(
                    batch.topic, "malformed"
                )  # our own topics; whoever wrote it, it judges nothing

    async def idle(self) -> None:
        now_ms = self._clock_ms()
        if now_ms - self._told_ms < _EVERY_MS:
            return
        self._told_ms = now_ms
        for head, score in self.scores.items():
            score.pass_time(self._newest_ms)
            self._metrics.live_auc(head, score.auc(), len(score))

    async def stop(self) -> None:
        """Nothing to let go of."""
