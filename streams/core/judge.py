"""Judges every kind of prediction: each meets what became of it, and counts once its horizon has ended."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

import msgspec

from schemas.features import NAMES
from schemas.snapshot import LIVE_KINDS, Head, Outcome, Snapshot, SnapshotKind
from streams.core.config import DAY_MS, CoreConfig
from streams.core.live_answers import LiveAnswers, Made, Silence
from streams.core.scoring import LiveScore

SCORED: Final[tuple[tuple[Head, SnapshotKind], ...]] = (
    ("churn", "horizon"),
    ("churn", "sample"),
    ("churn", "event"),
    ("churn", "refresh"),
    ("redemption", "send"),
)
"""Heads, and the kinds of snapshots that each is asked of. Kinds differ in whom they show and when, so each is judged
by itself: a good one hides a bad one in any sum."""

_activity_days: Final = Struct("<f")
_ACTIVITY_AT: Final = _activity_days.size * NAMES.index("days_since_activity")


class ScoredPrediction(msgspec.Struct):
    """The fields of a prediction of a probability that judging needs."""

    question_id: str
    probability: float
    customer_id: str = ""
    snapshot_kind: str = "event"
    as_of_ms: int | None = None
    horizon_days: int = 0
    last_activity_ms: int | None = None


class Judge:
    """The scores of some partitions' predictions, by head and kind.

    Predictions and outcomes may come in either order, and again. Those of other kinds than :data:`SCORED` count for
    nothing.

    Args:
        config: says of whom outcomes are sure to follow, see :mod:`streams.core.live_answers`.
        window: newest pairs of a head and kind that count; None for all.
        kept: halves of pairs that are remembered of each.
    """

    def __init__(self, config: CoreConfig, *, window: int | None, kept: int) -> None:
        self.scores: dict[tuple[str, str], LiveScore] = {of_kind: LiveScore(window, kept=kept) for of_kind in SCORED}
        self.newest_ms = 0
        """Event time of the newest outcome, of any head: they lie on one topic, in its order."""
        self._answers = {
            kind: LiveAnswers(active_ms=config.churn_active_ms, every_ms=config.horizon_every_ms, kept=kept)
            for kind in LIVE_KINDS
        }

    def predicted(self, head: Head, said: ScoredPrediction) -> None:
        """A prediction of ``head``."""
        kind = said.snapshot_kind
        score = self.scores.get((head, kind))
        if score is None:
            return
        if kind not in LIVE_KINDS:
            score.predicted(said.question_id, said.probability, said.as_of_ms)
            return
        if said.as_of_ms is None:
            return
        horizon_ms = said.horizon_days * DAY_MS
        made = Made(said.question_id, said.customer_id, said.as_of_ms, said.last_activity_ms, horizon_ms)
        answers = self._answers[kind]
        if not answers.judges(made):
            return
        score.predicted(said.question_id, said.probability, said.as_of_ms)
        if (answer := answers.predicted(made)) is not None:
            score.answered(*answer)

    def answered(self, outcome: Outcome) -> None:
        """An outcome: of a question, and of what was said live before it."""
        snapshot = outcome.snapshot
        self.newest_ms = max(self.newest_ms, outcome.resolved_ms)
        score = self.scores.get((outcome.head, snapshot.kind))
        if score is None:
            return
        score.answered(outcome.question_id, outcome.label, outcome.due_ms, snapshot.as_of_ms)
        if outcome.head != "churn":
            return
        after_ms = outcome.labels.get("after_ms")
        next_ms = None if after_ms is None else snapshot.as_of_ms + int(after_ms)  # type: ignore[arg-type]
        if outcome.label == (next_ms is not None):
            return  # a return that does not say when: it tells nothing of other times
        last_ms = last_activity_ms(snapshot)
        if last_ms is None:
            return  # who is asked of was active; this is of another release
        silence = Silence(snapshot.as_of_ms, outcome.due_ms, last_ms, next_ms)
        for kind, answers in self._answers.items():
            for answer in answers.resolved(snapshot.customer_id, silence, outcome.resolved_ms):
                self.scores["churn", kind].answered(*answer)

    def pass_time(self, now_ms: int) -> None:
        """Event time has come to ``now_ms``: pairs whose horizon ended by then count."""
        for score in self.scores.values():
            score.pass_time(now_ms)

    def resize(self, window: int) -> None:
        """Let another number of pairs count."""
        for score in self.scores.values():
            score.resize(window)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.scores)


def last_activity_ms(snapshot: Snapshot) -> int | None:
    """Event time of a snapshot's newest activity, to about a second; None where there was none."""
    if len(snapshot.features) < _ACTIVITY_AT + _activity_days.size:
        return None
    (days,) = _activity_days.unpack_from(snapshot.features, _ACTIVITY_AT)
    return None if days < 0 else snapshot.as_of_ms - round(days * DAY_MS)
