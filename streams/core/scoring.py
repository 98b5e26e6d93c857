"""How good the predictions were: each joined with its outcome once the horizon has ended.

A customer who comes back early gets the label "no churn" at once, one who churns only after the full horizon.
Scoring outcomes as they come would see only the first kind among recent ones, so a pair counts when event
time has passed the end of its horizon, whatever the label.

For the same reason what is remembered must not be bounded by forgetting the oldest: whoever waits longest is
who churns. It is bounded by an even sample of the ids, which does not depend on who waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from streams.core.config import DAY_MS

_KEPT: Final = 200_000
DISORDER_MS: Final = 7 * DAY_MS
"""How far the times of one partition's predictions, or of its outcomes, may be out of order in the log."""


def auc(pairs: Iterable[tuple[float, int]]) -> float | None:
    """Area under the ROC curve of (score, label) pairs; None where one of the labels is missing.

    The Mann-Whitney statistic with mid-ranks for ties. A score that is no number counts for nothing.

    Example:
        >>> auc([(0.9, 1), (0.8, 0), (0.7, 1), (0.1, 0)])
        0.75
    """
    ranked = sorted(pair for pair in pairs if not math.isnan(pair[0]))
    positives = sum(label for _, label in ranked)
    negatives = len(ranked) - positives
    if not positives or not negatives:
        return None
    rank_sum, place = 0.0, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        middle = (place + 1 + end) / 2
        rank_sum += middle * sum(label for _, label in ranked[place:end])
        place = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


class ModelSaid(NamedTuple):
    """What a model said, for those who count what became of it."""

    model_version: str
    probability: float
    """Before any recalibration."""
    as_of_ms: int
    counted: bool = False
    """Whether the prediction is of the part of the log that was counted before."""


class Matured(NamedTuple):
    """What a model said of which the horizon has ended."""

    said: ModelSaid
    label: int
    due_ms: int
    counted: bool
    """Whether both halves are of the part of the log that was counted before."""


class _Waiting(NamedTuple):
    """A prediction without its outcome."""

    probability: float
    as_of_ms: int | None
    said: ModelSaid | None


class _Answer(NamedTuple):
    """An outcome without its prediction."""

    label: int
    due_ms: int
    as_of_ms: int | None
    counted: bool


class _Pair(NamedTuple):
    """Both; sorts by the end of the horizon."""

    due_ms: int
    key: int
    probability: float
    label: int
    said: ModelSaid | None
    counted: bool
    """The outcome."""


class LiveScore:
    """Joins predictions with outcomes of one head by id, in either order of arrival.

    Memory is bounded by adaptive sampling (after Wegman; Flajolet, "On adaptive sampling", 1990). A prediction and
    its outcome have one id. It is in the sample where a hash of it is below a threshold, which starts above every
    hash. When more than ``kept`` ids are open, the threshold is halved, and everything at or above it is forgotten,
    the pairs that count too. So:

    - whether an id is in the sample depends on the id and the threshold: not on label, probability, or the order
      of arrival. Prediction and outcome are both in it, or neither is;
    - below the bound, everything is in it;
    - the threshold never rises again: what was forgotten stays out, so all pairs that count have the same chance.

    An id counts once, whatever is repeated, in whatever order. It is remembered while it is open or among the
    ``window`` pairs that count. Those leave in the order in which their horizons ended, so one mark is enough beyond
    that: an outcome whose horizon ended at or before the mark is refused. This relies on a repeated outcome having the
    same ``due_ms`` as the first. The first prediction and the first outcome of an id count.

    What can no longer be joined would fill the sample: outcomes are kept for longer than predictions, and who is
    erased never gets an outcome. Where ``as_of_ms`` is given, such halves go before the threshold is halved.

    Args:
        window: newest pairs that count; None for all.
        kept: ids that are remembered besides those: predicted, resolved, or waiting for their end; at least 1.
    """

    def __init__(self, window: int | None = 20_000, *, kept: int = _KEPT) -> None:
        self._window = window
        self._kept = kept
        self._below = 1 << 64
        self._predicted: dict[int, _Waiting] = {}
        self._answered: dict[int, _Answer] = {}
        self._maturing: list[_Pair] = []
        self._pairs: list[_Pair] = []  # sorted
        self._joined: set[int] = set()  # keys of the two above
        self._left: tuple[int, int] = (-1, -1)  # (due ms, key) of the newest pair that left the window
        self._now_ms = -1
        self._newest_as_of_ms = -1
        self._longest_ms = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def predicted(
        self, question_id: str, probability: float, as_of_ms: int | None = None, said: ModelSaid | None = None
    ) -> None:
        """A prediction that will get an outcome. A repeated one changes nothing.

        Args:
            as_of_ms: event time of the snapshot, where known; about ascending over the calls.
            said: comes back once it counts.
        """
        if as_of_ms is not None:
            self._newest_as_of_ms = max(self._newest_as_of_ms, as_of_ms)
        key = key_of(question_id)
        if key >= self._below or key in self._joined:
            return
        answer = self._answered.pop(key, None)
        if answer is not None:
            self._join(key, _Waiting(probability, as_of_ms, said), answer)
        elif key not in self._predicted:
            self._predicted[key] = _Waiting(probability, as_of_ms, said)
            self._shrink()

    def answered(
        self, question_id: str, label: int, due_ms: int, as_of_ms: int | None = None, counted: bool = False
    ) -> None:
        """An outcome; ``due_ms`` ends the horizon, which began at ``as_of_ms``.

        Args:
            counted: see :class:`ModelSaid`.
        """
        if as_of_ms is not None:
            self._longest_ms = max(self._longest_ms, due_ms - as_of_ms)
        key = key_of(question_id)
        if key >= self._below or key in self._joined:
            return
        if (due_ms, key) <= self._left:
            self._predicted.pop(key, None)
            return
        answer = _Answer(label, due_ms, as_of_ms, counted)
        waiting = self._predicted.pop(key, None)
        if waiting is not None:
            self._join(key, waiting, answer)
        elif key not in self._answered:
            self._answered[key] = answer
            self._shrink()

    def pass_time(self, now_ms: int) -> list[Matured]:
        """Event time has come to ``now_ms``: pairs whose horizon ended by then count. Those that had not before."""
        self._now_ms = max(self._now_ms, now_ms)
        matured: list[_Pair] = []
        while self._maturing and self._maturing[0].due_ms <= now_ms:
            matured.append(heappop(self._maturing))
        if matured:
            self._pairs += matured
            self._pairs.sort(key=_place)
            self._close_window()
        return _as_matured(matured)

    def resize(self, window: int | None) -> None:
        """Let another number of pairs count; more of them come with time only."""
        self._window = window
        self._close_window()

    def auc(self) -> float | None:
        return auc(self.pairs)

    @property
    def pairs(self) -> list[tuple[float, int]]:
        """(probability, label) of the pairs that count, in the order in which their horizons ended."""
        return [(pair.probability, pair.label) for pair in self._pairs]

    @property
    def matured(self) -> list[Matured]:
        """What models said, of the same pairs, where it was told."""
        return _as_matured(self._pairs)

    @property
    def open(self) -> int:
        """Ids remembered that do not count yet."""
        return len(self._predicted) + len(self._answered) + len(self._maturing)

    @property
    def share(self) -> float:
        """Of all ids, those in the sample: 1, 1/2, 1/4, ..."""
        return self._below / (1 << 64)

    def _join(self, key: int, waiting: _Waiting, answer: _Answer) -> None:
        # One half less waits, one pair more: nothing has grown.
        self._joined.add(key)
        pair = _Pair(answer.due_ms, key, waiting.probability, answer.label, waiting.said, answer.counted)
        heappush(self._maturing, pair)

    def _close_window(self) -> None:
        if self._window is None or len(self._pairs) <= self._window:
            return
        leaving = self._pairs[: len(self._pairs) - self._window]
        del self._pairs[: len(leaving)]
        self._joined.difference_update(pair.key for pair in leaving)
        self._left = max(self._left, (leaving[-1].due_ms, leaving[-1].key))

    def _shrink(self) -> None:
        if self.open <= self._kept:
            return
        self._forget_halves()
        # Room for many, or every further id would look through all of them again.
        while self.open > max(1, self._kept * 3 // 4):
            self._halve()

    def _forget_halves(self) -> None:
        """What can no longer be joined: known from how far the log of the other half has come, not from a clock."""
        ended_ms = self._now_ms - self._longest_ms - DISORDER_MS
        self._predicted = {
            key: half for key, half in self._predicted.items() if half.as_of_ms is None or half.as_of_ms >= ended_ms
        }
        read_ms = self._newest_as_of_ms - DISORDER_MS
        self._answered = {
            key: half for key, half in self._answered.items() if half.as_of_ms is None or half.as_of_ms >= read_ms
        }

    def _halve(self) -> None:
        self._below >>= 1
        below = self._below
        self._predicted = {key: half for key, half in self._predicted.items() if key < below}
        self._answered = {key: half for key, half in self._answered.items() if key < below}
        self._maturing = [pair for pair in self._maturing if pair.key < below]
        heapify(self._maturing)
        self._pairs = [pair for pair in self._pairs if pair.key < below]
        self._joined = {key for key in self._joined if key < below}


def _as_matured(pairs: Iterable[_Pair]) -> list[Matured]:
    return [
        Matured(pair.said, pair.label, pair.due_ms, pair.counted and pair.said.counted)
        for pair in pairs
        if pair.said is not None
    ]


def _place(pair: _Pair) -> tuple[int, int]:
    return pair.due_ms, pair.key


def key_of(identity: str) -> int:
    """64 even bits of any id. Ours are hashes already, but the sample must not rest on how an id was made."""
    return int.from_bytes(blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
