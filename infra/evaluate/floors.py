"""What any model has to beat: gradient-boosted trees on features that a competent person makes in a day.

Nothing here reads state or snapshots: floors are made from the log of purchases, so that an error of the core cannot
lower its own floor. Trees are LightGBM's, with one thread and fixed seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from infra.evaluate.purchases import Purchases
from infra.evaluate.statistics import Doubles, Ints
from streams.core.config import DAY_MS

WINDOW_DAYS: Final = (7, 14, 28, 56, 84)
HALF_LIFE_DAYS: Final = (3.5, 7.0, 14.0, 28.0, 56.0, 112.0)
_GAPS: Final = 4
_TREES: Final[dict[str, Any]] = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class Trees:
    """LightGBM, fitted.

    Raises:
        ConfigError: lightgbm is not installed.
    """

    def __init__(
        self,
        train: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        seed: int = 0,
        trees: int = 300,
        options: Mapping[str, object] | None = None,
    ) -> None:
        lightgbm = _lightgbm()
        settings = _TREES | {"seed": seed} | dict(options or {})
        data = lightgbm.Dataset(np.asarray(train), np.asarray(labels, dtype=np.float64), free_raw_data=True)
        self._booster = lightgbm.train(settings, data, num_boost_round=trees)

    def logits(self, test: npt.ArrayLike) -> Doubles:
        """(N, F) → (N,)."""
        found: Doubles = self._booster.predict(np.asarray(test), raw_score=True, num_threads=1)
        return found


def boosted(
    train: npt.ArrayLike,
    labels: npt.ArrayLike,
    test: npt.ArrayLike,
    *,
    seed: int = 0,
    trees: int = 300,
    options: Mapping[str, object] | None = None,
) -> Doubles:
    """Logits of the test rows by :class:`Trees`."""
    return Trees(train, labels, seed=seed, trees=trees, options=options).logits(test)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        from schemas.errors import ConfigError

        raise ConfigError(
            "floors need the package lightgbm: run `make install`, or pip install 'pulsegraph[reports]'"
        ) from error
    return lightgbm


@dataclass(frozen=True)
class OrdersByCustomer:
    """Orders in event-time order, by customer."""

    start: Ints
    """(customers + 1,): the rows of each customer below."""
    ts_ms: Ints
    value: Doubles
    lines: Doubles

    def of(self, customer: int) -> slice:
        return slice(int(self.start[customer]), int(self.start[customer + 1]))


def visits_of(bought: Purchases) -> OrdersByCustomer:
    """Lines summed to orders; an order's time is that of its first line."""
    _, first, member = np.unique(bought.order, return_index=True, return_inverse=True)
    customer, ts_ms = bought.customer[first], bought.ts_ms[first]
    value, lines = (np.bincount(member, each).astype(np.float64) for each in (bought.value, np.ones(len(member))))
    order = np.lexsort((ts_ms, customer))
    start = np.searchsorted(customer[order], np.arange(len(bought.customers) + 1))
    return OrdersByCustomer(start.astype(np.int64), ts_ms[order], value[order], lines[order])


FEATURES: Final = (
    "recency",
    "tenure",
    "visits",
    "mean gap",
    "deviation of gaps",
    "longest gap",
    "recency / mean gap",
    "recency / longest gap",
    "decayed mean gap",
    "recency / decayed mean gap",
    *(f"gap {back + 1} back" for back in range(_GAPS)),
    *(f"{what} in {days} d" for what in ("visits", "value", "lines") for days in WINDOW_DAYS),
    *(f"{what}, half-life {days:g} d" for what in ("visits", "value", "lines") for days in HALF_LIFE_DAYS),
    "days with a visit in 28 d",
    "mean value",
    "day of the week",
)


def hand_made(visits: OrdersByCustomer, customer: Ints, as_of_ms: Ints) -> npt.NDArray[np.float32]:
    """:data:`FEATURES` of customers at times, from what came before: (N, F)."""
    out = np.full((len(customer), len(FEATURES)), np.nan, dtype=np.float32)
    order = np.argsort(customer, kind="stable")
    bounds = np.flatnonzero(np.r_[True, np.diff(customer[order]) > 0, True])
    for begin, end in pairwise(bounds.tolist()):
        rows = order[begin:end]
        out[rows] = _of_one(visits, int(customer[rows[0]]), as_of_ms[rows])
    return out


def _of_one(visits: OrdersByCustomer, customer: int, as_of_ms: Ints) -> Doubles:
    part = visits.of(customer)
    days = visits.ts_ms[part] / DAY_MS  # (V,)
    amounts = np.stack([np.ones(len(days)), visits.value[part], visits.lines[part]])  # (3, V)
    at = as_of_ms / DAY_MS  # (A,)
    seen = np.searchsorted(visits.ts_ms[part], as_of_ms)  # visits before each time
    age = at[:, None] - days[None, :]  # (A, V)
    past = np.arange(len(days))[None, :] < seen[:, None]
    columns: list[Doubles] = []
    last = np.where(seen > 0, days[np.maximum(seen - 1, 0)] if len(days) else np.nan, np.nan)
    recency = at - last
    gaps = np.diff(days)  # (V - 1,), the gap before visit i + 1
    between = past[:, 1:]
    count = np.maximum(between.sum(1), 1)
    known = between.any(1)
    mean = np.where(known, (between * gaps).sum(1) / count, np.nan)
    square = np.where(known, (between * gaps**2).sum(1) / count, np.nan)
    longest = np.where(known, np.max(between * gaps, axis=1, initial=0.0), np.nan)
    fading = np.where(between, np.exp2(-np.maximum(age[:, 1:], 0.0) / 28.0), 0.0)
    total = fading.sum(1)
    recent_gap = np.where(total > 1e-9, (fading * gaps).sum(1) / np.maximum(total, 1e-9), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns += [
            recency, at - (days[0] if len(days) else np.nan), seen.astype(np.float64), mean,
            np.sqrt(np.maximum(square - mean**2, 0.0)), longest, recency / mean, recency / longest, recent_gap,
            recency / recent_gap,
        ]  # fmt: skip
    for back in range(_GAPS):
        place = seen - 2 - back
        columns.append(np.where(place >= 0, gaps[np.maximum(place, 0)] if len(gaps) else np.nan, np.nan))
    for amount in amounts:
        columns += [(past & (age <= window)) @ amount for window in WINDOW_DAYS]
    for amount in amounts:
        columns += [np.where(past, np.exp2(-np.maximum(age, 0.0) / half), 0.0) @ amount for half in HALF_LIFE_DAYS]
    recent = past & (age <= 28)
    columns.append(np.array([len(np.unique(np.floor(days[row]))) for row in recent], dtype=np.float64))
    columns.append((past @ amounts[1]) / np.maximum(seen, 1))
    columns.append((np.floor(at) + 3) % 7)
    return np.stack(columns, axis=1)


class Activity:
    """When customers bought something, for labels: answers for many rows at once."""

    _SPAN: Final = np.int64(1 << 44)  # more milliseconds than any event time

    def __init__(self, bought: Purchases) -> None:
        self.customers = len(bought.customers)
        self._keys: Ints = np.sort(bought.customer * self._SPAN + bought.ts_ms)

    def any(self, customer: Ints, from_ms: Ints | int, until_ms: Ints | int) -> npt.NDArray[np.bool_]:
        """Whether each customer bought with ``from_ms <= time < until_ms``, (N,)."""
        base = customer * self._SPAN
        found: npt.NDArray[np.bool_] = np.searchsorted(self._keys, base + until_ms) > np.searchsorted(
            self._keys, base + from_ms
        )
        return found

    def next_days(self, customer: Ints, as_of_ms: Ints) -> Doubles:
        """Days until each customer buys at ``as_of_ms`` or after it, (N,); infinite where nobody does."""
        base = customer * self._SPAN
        at = np.searchsorted(self._keys, base + as_of_ms)
        found = np.append(self._keys, np.iinfo(np.int64).max)[at]
        return np.where(found < base + self._SPAN, (found - base - as_of_ms) / DAY_MS, np.inf)

    def active(self, days_ms: Sequence[int], within_days: int | None) -> tuple[Ints, Ints]:
        """(customer, as of) of everybody who bought in the last days before each time; None: ever."""
        everybody = np.arange(self.customers)
        found: list[tuple[Ints, Ints]] = []
        for at_ms in days_ms:
            after_ms = at_ms - within_days * DAY_MS if within_days is not None else 0
            chosen = everybody[self.any(everybody, after_ms, at_ms)]
            found.append((chosen, np.full(len(chosen), at_ms)))
        return np.concatenate([one for one, _ in found]), np.concatenate([at for _, at in found])
