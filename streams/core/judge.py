"""Judges every kind of prediction: each meets what became of it, and counts once its horizon has ended."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.predictions import AppliedRecalibration
from schemas.recalibrations import OutcomeTallies
from schemas.snapshot import LIVE_KINDS, Head, Outcome, SnapshotKind
from streams.core.config import DAY_MS, CoreConfig
from streams.core.live_answers import Answer, LiveAnswers, Made, Silence
from streams.core.recalibration import Of, Tallies
from streams.core.scoring import LiveScore, ModelSaid

SCORED: Final[tuple[tuple[Head, SnapshotKind], ...]] = (
    ("churn", "horizon"),
    ("churn", "sample"),
    ("churn", "event"),
    ("churn", "refresh"),
    ("redemption", "send"),
)
"""Heads, and the kinds of snapshots that each is asked of. Kinds differ in whom they show and when, so each is judged
by itself: a good one hides a bad one in any sum."""


class ScoredPrediction(msgspec.Struct):
    """The fields of a prediction of a probability that judging needs."""

    question_id: str
    probability: float
    customer_id: str
    as_of_ms: int
    snapshot_kind: str = "event"
    horizon_days: int = 0
    last_activity_ms: int | None = None
    model_version: str = ""
    recalibration: AppliedRecalibration | None = None


class Judge:
    """The scores of some partitions' predictions, by head and kind.

    Predictions and outcomes may come in either order, and again. Those of other kinds than :data:`SCORED` count for
    nothing.

    Args:
        config: says of whom outcomes are sure to follow, see :mod:`streams.core.live_answers`.
        window: newest pairs of a head and kind that count; None for all.
        kept: halves of pairs that are remembered of each.
        counted: what was counted before, of a log that is read again from its beginning.

    Attributes:
        tallies: of what counts and has counted, by what the model said, before any recalibration.
    """

    def __init__(
        self, config: CoreConfig, *, window: int | None, kept: int, counted: OutcomeTallies | None = None
    ) -> None:
        self.tallies = Tallies(counted.tallies if counted else ())
        self._counted_until_ms = counted.newest_ms if counted else -1
        self.scores: dict[tuple[str, str], LiveScore] = {of_kind: LiveScore(window, kept=kept) for of_kind in SCORED}
        self.newest_ms = 0
        """Event time of the newest outcome, of any head: they lie on one topic, in its order."""
        self._answers = LiveAnswers(active_ms=config.churn_active_ms, every_ms=config.horizon_every_ms, kept=kept)

    def __len__(self) -> int:
        """Predictions and outcomes that are remembered, joined or waiting for the other."""
        return sum(len(score) + score.open for score in self.scores.values()) + self._answers.open

    def predicted(self, head: Head, said: ScoredPrediction, *, counted: bool = False) -> None:
        """A prediction of ``head``.

        Args:
            counted: it is of the part of the log that ``counted`` of the constructor accounts for; so below.
        """
        score = self.scores.get((head, said.snapshot_kind))
        if score is None:
            return
        made = _made(said)
        if made is not None and not self._answers.judges(made):
            return
        by_model = said.recalibration.model_probability if said.recalibration else said.probability
        noted = ModelSaid(said.model_version, by_model, said.as_of_ms, counted)
        score.predicted(said.question_id, said.probability, said.as_of_ms, noted)
        if made is not None and (answer := self._answers.predicted(made)) is not None:
            self._label(answer)

    def answered(self, outcome: Outcome, *, counted: bool = False) -> None:
        """An outcome: of a question, and of what was said live before it."""
        self.newest_ms = max(self.newest_ms, outcome.resolved_ms)
        snapshot = outcome.snapshot
        if snapshot is None:  # nothing that is judged yet
            return
        score = self.scores.get((outcome.head, snapshot.kind))
        if score is None:
            return
        score.answered(outcome.question_id, outcome.label, outcome.due_ms, snapshot.as_of_ms, counted)
        if outcome.head != "churn":
            return
        after_ms = outcome.labels.get("after_ms")
        next_ms = snapshot.as_of_ms + after_ms if isinstance(after_ms, int) else None
        if outcome.label == (next_ms is not None):
            return  # a return that does not say when: it tells nothing of other times
        last_ms = snapshot.last_activity_ms
        if last_ms is None:
            return  # who is asked of was active; this is of another release
        silence = Silence(snapshot.as_of_ms, outcome.due_ms, last_ms, next_ms, counted)
        for answer in self._answers.resolved(snapshot.customer_id, silence, outcome.resolved_ms):
            self._label(answer)

    def pass_time(self, now_ms: int) -> None:
        """Event time has come to ``now_ms``: pairs whose horizon ended by then count."""
        for (head, kind), score in self.scores.items():
            for found in score.pass_time(now_ms):
                if not (found.counted and found.due_ms <= self._counted_until_ms):
                    of = Of(head, found.said.model_version, kind)
                    self.tallies.add(of, found.said.as_of_ms, found.said.probability, found.label)

    def resize(self, window: int) -> None:
        """Let another number of pairs count."""
        for score in self.scores.values():
            score.resize(window)

    def _label(self, answer: Answer) -> None:
        score = self.scores["churn", answer.kind]
        score.answered(answer.question_id, answer.label, answer.due_ms, answer.as_of_ms, answer.counted)


def _made(said: ScoredPrediction) -> Made | None:
    """A prediction without an outcome of its own."""
    for kind in LIVE_KINDS:
        if said.snapshot_kind == kind:
            horizon_ms = said.horizon_days * DAY_MS
            return Made(said.question_id, said.customer_id, said.as_of_ms, said.last_activity_ms, horizon_ms, kind)
    return None
