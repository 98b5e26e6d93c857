"""What customers take from a few groups of goods (categories, or single items): floors' features, and labels."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.evaluate.floors import FEATURES
from infra.evaluate.purchases import Purchases
from infra.evaluate.statistics import Doubles, Ints
from streams.core.config import DAY_MS

HALF_LIFE_DAYS: Final = (14.0, 60.0)
PER_GOOD: Final = (*(f"count, half-life {days:g} d" for days in HALF_LIFE_DAYS), "age of the last")
GENERAL: Final = (
    "recency",
    "tenure",
    "visits",
    "mean gap",
    "recency / mean gap",
    "visits in 7 d",
    "visits in 14 d",
    "visits in 28 d",
    "visits in 84 d",
    "value in 28 d",
    "value in 84 d",
    "lines in 28 d",
    "visits, half-life 14 d",
)
"""Those of :data:`infra.evaluate.floors.FEATURES` that go beside a good's own: 13."""
GENERAL_PLACES: Final = tuple(FEATURES.index(name) for name in GENERAL)
NEVER_DAYS: Final = 1_000.0


class Shelf:
    """Which of a few goods each visit took.

    Args:
        goods: numbers of the goods, -1 never among them.
        of_line: (N,) good of each purchase line, as numbered in ``bought``.
    """

    def __init__(self, bought: Purchases, of_line: Ints, goods: Ints) -> None:
        self.goods = goods
        place = np.full(int(max(of_line.max(initial=0), goods.max(initial=0))) + 2, -1, dtype=np.int64)
        place[goods] = np.arange(len(goods))
        column = place[of_line]
        chosen = column >= 0
        # One entry for a good in a visit, however many lines of it there are.
        rows = np.stack([bought.customer[chosen], bought.ts_ms[chosen], bought.order[chosen], column[chosen]])
        rows = np.unique(rows[:, np.lexsort(rows[::-1])], axis=1)
        self._ts_ms, self._column = rows[1], rows[3]
        self._start = np.searchsorted(rows[0], np.arange(len(bought.customers) + 1))

    def features(self, customer: Ints, as_of_ms: Ints) -> npt.NDArray[np.float32]:
        """:data:`PER_GOOD` of each good, from before each time: (N, G, 3)."""
        out = np.zeros((len(customer), len(self.goods), len(PER_GOOD)), dtype=np.float32)
        out[:, :, -1] = NEVER_DAYS
        for rows, part in self._by_customer(customer):
            age = (as_of_ms[rows][:, None] - self._ts_ms[part][None, :]) / DAY_MS  # (A, V)
            past = age > 0
            taken = np.eye(len(self.goods))[self._column[part]]  # (V, G)
            for place, days in enumerate(HALF_LIFE_DAYS):
                out[rows, :, place] = np.where(past, np.exp2(-np.maximum(age, 0.0) / days), 0.0) @ taken
            ages = np.where(past, age, NEVER_DAYS)
            for good in np.unique(self._column[part]):
                out[rows, good, -1] = ages[:, self._column[part] == good].min(axis=1)
        return out

    def labels(self, customer: Ints, as_of_ms: Ints, days: float) -> npt.NDArray[np.bool_]:
        """Whether each good is bought at or after each time and within so many days, (N, G)."""
        out = np.zeros((len(customer), len(self.goods)), dtype=np.bool_)
        for rows, part in self._by_customer(customer):
            ahead = self._ts_ms[part][None, :] - as_of_ms[rows][:, None]  # (A, V)
            within = (ahead >= 0) & (ahead < days * DAY_MS)
            out[rows] = within.astype(np.float64) @ np.eye(len(self.goods))[self._column[part]] > 0
        return out

    def _by_customer(self, customer: Ints) -> list[tuple[Ints, slice]]:
        order = np.argsort(customer, kind="stable")
        bounds = np.flatnonzero(np.r_[True, np.diff(customer[order]) > 0, True]).tolist()
        found = []
        for begin, end in pairwise(bounds):
            number = int(customer[order[begin]])
            part = slice(int(self._start[number]), int(self._start[number + 1]))
            if part.stop > part.start:
                found.append((order[begin:end], part))
        return found


def commonest(bought: Purchases, of_line: Ints, until_ms: int, count: int) -> Ints:
    """The goods of most visits before a time."""
    chosen = (bought.ts_ms < until_ms) & (of_line >= 0)
    pairs = np.unique(np.stack([bought.order[chosen], of_line[chosen]]), axis=1)
    counts = np.bincount(pairs[1])
    return np.argsort(-counts, kind="stable")[:count].astype(np.int64)


def floor_columns(general: npt.NDArray[np.float32], own: npt.NDArray[np.float32], good: int) -> Doubles:
    """Inputs of one good's floor: the general features and its own, (N, 16)."""
    return np.concatenate([general[:, GENERAL_PLACES], own[:, good]], axis=1).astype(np.float64)
