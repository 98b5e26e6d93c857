"""How good the predictions were: each joined with its outcome once the whole question is answered.

A customer who comes back early answers "no churn" at once, one who churns only after the full horizon.
Scoring answers as they come would see only the first kind among recent questions, so a pair counts when
event time has passed the end of its horizon, whatever the answer was.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final, TypeVar

Value = TypeVar("Value")

_KEPT: Final = 200_000


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


class LiveScore:
    """Joins predictions with outcomes of one head by id, in either order of arrival.

    Args:
        window: newest answered questions that count; None for all.
    """

    def __init__(self, window: int | None = 20_000) -> None:
        self._predicted: OrderedDict[str, float] = OrderedDict()
        self._answered: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._maturing: list[tuple[int, str, float, int]] = []
        self._pairs: deque[tuple[float, int]] = deque(maxlen=window)
        self._scored: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pairs)

    def predicted(self, prediction_id: str, probability: float) -> None:
        """A prediction that will be judged. A repeated one changes nothing."""
        if prediction_id in self._scored:
            return
        answer = self._answered.pop(prediction_id, None)
        if answer is not None:
            self._pair(prediction_id, probability, *answer)
        elif prediction_id not in self._predicted:
            _remember(self._predicted, prediction_id, probability)

    def answered(self, outcome_id: str, label: int, due_ms: int) -> None:
        """An outcome; ``due_ms`` ends the question's horizon."""
        if outcome_id in self._scored:
            return
        probability = self._predicted.pop(outcome_id, None)
        if probability is not None:
            self._pair(outcome_id, probability, label, due_ms)
        elif outcome_id not in self._answered:
            _remember(self._answered, outcome_id, (label, due_ms))

    def pass_time(self, now_ms: int) -> None:
        """Event time has come to ``now_ms``: questions that ended by then count."""
        while self._maturing and self._maturing[0][0] <= now_ms:
            _, _, probability, label = heappop(self._maturing)
            self._pairs.append((probability, label))

    def auc(self) -> float | None:
        return auc(self._pairs)

    @property
    def pairs(self) -> list[tuple[float, int]]:
        """(probability, label) of the questions that count."""
        return list(self._pairs)

    def _pair(self, prediction_id: str, probability: float, label: int, due_ms: int) -> None:
        _remember(self._scored, prediction_id, None)
        heappush(self._maturing, (due_ms, prediction_id, probability, label))


def _remember(where: OrderedDict[str, Value], key: str, value: Value) -> None:
    where[key] = value
    if len(where) > _KEPT:
        where.popitem(last=False)
