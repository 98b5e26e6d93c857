"""What became of live predictions, which have no outcome of their own: read off the outcomes that follow them.

Whoever was predicted at t churned if no activity came in (t, t + horizon]. A churn outcome as of a, with t <= a, says
when the last activity before a was (a feature of its snapshot) and when the first one after it was (``after_ms``, or
none before the horizon's end). So it tells exactly whether there was activity after t:

- the last one before a lies after t: the customer came back;
- else nobody came between t and a, and the first one after a is the first one after t.

No other stand-in is as good: ``sample`` snapshots weigh an order by its lines and see it half done, while a live one
is taken of what a checkpoint or a coalescing encoder leaves.

Who gets an answer must not depend on the answer. Of an inactive customer there is an outcome only after a return, so
taking what comes would see returns alone. A weekly point follows for sure within ``every_ms`` where the last activity
is at most ``active_ms - every_ms`` old; only such predictions are judged, and only by an outcome from within that time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from schemas.snapshot import SnapshotKind
from streams.core.scoring import DISORDER_MS, key_of

_SAME_MS: Final = 1_000
"""Times that come from a snapshot's features, float32 days, are off by a second at most."""


class Made(NamedTuple):
    """A live prediction of churn."""

    question_id: str
    customer_id: str
    as_of_ms: int
    last_activity_ms: int | None
    horizon_ms: int
    kind: SnapshotKind = "event"


class Silence(NamedTuple):
    """What a churn outcome tells of a customer's activity: none between ``last_ms`` and ``next_ms`` or ``due_ms``."""

    as_of_ms: int
    due_ms: int
    """End of its horizon."""
    last_ms: int
    """Newest activity before ``as_of_ms``, to a second."""
    next_ms: int | None
    """First one after it; None where none came within the horizon."""
    counted: bool = False
    """See :class:`streams.core.scoring.ModelSaid`."""


class Answer(NamedTuple):
    """The label of a live prediction; counts from ``due_ms`` on."""

    question_id: str
    label: int
    due_ms: int
    as_of_ms: int
    kind: SnapshotKind
    """Of the prediction's snapshot."""
    counted: bool = False
    """Of the outcome that it was read off."""


_Half = TypeVar("_Half", Made, Silence)
_ByCustomer = dict[str, dict[_Half, None]]
"""Customer id -> what is known of them, each once, however often it is read."""


class LiveAnswers:
    """Joins live predictions with the outcomes of the same customers, in either order of arrival.

    Memory is bounded as in :class:`streams.core.scoring.LiveScore`: by what can no longer be joined, then by an even
    sample, here of the customers.

    Args:
        active_ms: a customer gets outcomes while the last activity is at most this old (``core.churn_active_ms``).
        every_ms: time between two of them (``core.horizon_every_ms``).
        kept: predictions and outcomes that are remembered.
    """

    def __init__(self, *, active_ms: int, every_ms: int, kept: int) -> None:
        self._active_ms = active_ms
        self._every_ms = every_ms
        self._kept = kept
        self._below = 1 << 64
        self._made: _ByCustomer[Made] = {}
        self._silences: _ByCustomer[Silence] = {}
        self._open = 0
        self._newest_as_of_ms = -1
        self._now_ms = -1

    @property
    def open(self) -> int:
        """Predictions and outcomes that are remembered."""
        return self._open

    @property
    def share(self) -> float:
        """Of all customers, those in the sample: 1, 1/2, 1/4, ..."""
        return self._below / (1 << 64)

    def judges(self, made: Made) -> bool:
        """Whether an answer will come, whatever it is. Those not in the sample are not judged either."""
        return (
            made.last_activity_ms is not None
            and made.as_of_ms - made.last_activity_ms <= self._active_ms - self._every_ms
            and self._every_ms <= made.horizon_ms
            and key_of(made.customer_id) < self._below
        )

    def predicted(self, made: Made) -> Answer | None:
        """A prediction that is judged; its answer where it is known already."""
        self._newest_as_of_ms = max(self._newest_as_of_ms, made.as_of_ms)
        for silence in self._silences.get(made.customer_id, ()):
            if (answer := self._answer(made, silence)) is not None:
                return answer
        self._add(self._made, made.customer_id, made)
        return None

    def resolved(self, customer_id: str, silence: Silence, resolved_ms: int) -> list[Answer]:
        """A churn outcome, known at ``resolved_ms``; the answers that it gives."""
        self._now_ms = max(self._now_ms, resolved_ms)
        if key_of(customer_id) >= self._below:
            return []
        waiting = self._made.get(customer_id, {})
        answers = {made: answer for made in waiting if (answer := self._answer(made, silence)) is not None}
        for made in answers:
            del waiting[made]
        self._open -= len(answers)
        # It may answer what is read later: predictions are on a topic of their own.
        self._add(self._silences, customer_id, silence)
        return list(answers.values())

    def _answer(self, made: Made, silence: Silence) -> Answer | None:
        begin_ms, as_of_ms = made.as_of_ms, silence.as_of_ms
        if not begin_ms <= as_of_ms <= begin_ms + self._every_ms:
            return None
        end_ms = begin_ms + made.horizon_ms
        if silence.last_ms > begin_ms + _SAME_MS:
            label = 0
        elif silence.next_ms is not None:
            if silence.next_ms <= begin_ms:
                return None  # at the same instant: it tells of no time after it
            label = int(silence.next_ms > end_ms)
        elif silence.due_ms >= end_ms:
            label = 1
        else:
            return None  # of a shorter horizon
        # Known of everybody by then, so what counts from there on are all of them.
        return Answer(made.question_id, label, end_ms + self._every_ms, begin_ms, made.kind, silence.counted)

    def _add(self, halves: _ByCustomer[_Half], customer_id: str, half: _Half) -> None:
        known = halves.setdefault(customer_id, {})
        if half in known:
            return
        known[half] = None
        self._open += 1
        if self._open > self._kept:
            self._shrink()

    def _shrink(self) -> None:
        # What can no longer be joined, by how far the log of the other half has come.
        late_ms = self._now_ms - self._every_ms - DISORDER_MS
        read_ms = self._newest_as_of_ms - DISORDER_MS
        self._made = _kept(self._made, lambda made: made.as_of_ms + made.horizon_ms >= late_ms)
        self._silences = _kept(self._silences, lambda silence: silence.as_of_ms >= read_ms)
        self._count()
        while self._open > max(1, self._kept * 3 // 4):
            self._below >>= 1
            self._made = _below(self._made, self._below)
            self._silences = _below(self._silences, self._below)
            self._count()

    def _count(self) -> None:
        self._open = sum(map(len, self._made.values())) + sum(map(len, self._silences.values()))


def _below(found: _ByCustomer[_Half], bound: int) -> _ByCustomer[_Half]:
    return {customer: halves for customer, halves in found.items() if key_of(customer) < bound}


def _kept(found: _ByCustomer[_Half], keep: Callable[[_Half], bool]) -> _ByCustomer[_Half]:
    left = {customer: {half: None for half in halves if keep(half)} for customer, halves in found.items()}
    return {customer: halves for customer, halves in left.items() if halves}
