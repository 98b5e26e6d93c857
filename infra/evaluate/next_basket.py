"""The next basket of each customer: floors, and room for a head that is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import journey
from infra.evaluate.online_retail import SPANS as RETAIL
from infra.evaluate.purchases import Purchases
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Estimate, EvaluationFindings, EvaluationOptions, estimate
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, mean
from streams.core.config import DAY_MS

ABOUT: Final = "the next basket, floors only"
BEST: Final = 10
HALF_LIFE_DAYS: Final = (14.0, 28.0, 84.0)


@dataclass(frozen=True)
class BasketSpan:
    """Whose last basket is asked for."""

    plan: ReplayPlan
    least_baskets: int
    """Customers with fewer are left out."""


SPANS: Final = (BasketSpan(journey.PLAN, 2), BasketSpan(RETAIL.plan, 3))


def run(options: EvaluationOptions, say: Say, spans: tuple[BasketSpan, ...] = SPANS) -> EvaluationFindings:
    """Recall and NDCG of the ten items that a customer's own history suggests."""
    results: list[Estimate] = []
    for span in spans:
        found = replay(span.plan, options.folder, say)
        results += _floors(found.purchases, span, options)
    return EvaluationFindings(
        data=(
            "The last basket of each customer, all items, from the purchases before it. Complete Journey: customers "
            "with two baskets or more; Online Retail: with three or more, guests aside."
        ),
        results=results,
        targets=[],
        notes=[
            "Ties, and places that a short history leaves empty, go to what sold most in the first half of the log, "
            "last baskets aside."
        ],
        left_out=["Ours: no head ranks items yet, so there is no row of it and no target."],
    )


def _floors(bought: Purchases, span: BasketSpan, options: EvaluationOptions) -> list[Estimate]:
    ways: dict[str, float | None] = {f"decayed frequency, half-life {days:g} d": days for days in HALF_LIFE_DAYS}
    ways["frequency"] = None
    scored, customers = _scores(bought, span.least_baskets, ways)
    measures = {f"{way}|{measure}": mean(values) for (way, measure), values in scored.items()}
    drawn = Bootstrap(measures, customers, rounds=options.rounds)
    group = f"{span.plan.data}: last baskets of {len(customers):,} customers"
    return [
        estimate(group, way, measure, drawn.interval(f"{way}|{measure}"), rows=len(customers), role="floor")
        for way, measure in scored
    ]


def _scores(
    bought: Purchases, least: int, ways: dict[str, float | None]
) -> tuple[dict[tuple[str, str], Doubles], Ints]:
    order = np.lexsort((bought.order, bought.ts_ms, bought.customer))
    customer, ts_ms = bought.customer[order], bought.ts_ms[order]
    item, basket = bought.item[order], bought.order[order]
    bounds = np.flatnonzero(np.r_[True, np.diff(customer) > 0, True]).tolist()
    last_baskets = basket[np.array(bounds[1:], dtype=np.int64) - 1]
    earlier = (item >= 0) & (ts_ms <= np.median(ts_ms)) & ~np.isin(basket, last_baskets)
    popular = np.bincount(item[earlier], minlength=len(bought.items)).astype(np.float64)
    popular /= max(1.0, float(popular.max())) * 1e6  # only breaks ties
    found: dict[tuple[str, str], list[float]] = {(w, m): [] for w in ways for m in (f"recall@{BEST}", f"NDCG@{BEST}")}
    kept: list[int] = []
    for begin, end in pairwise(bounds):
        if str(bought.customers[customer[begin]]).startswith("guest-"):
            continue
        if len(np.unique(basket[begin:end])) < least:
            continue
        last = basket[begin:end] == basket[end - 1]
        wanted = np.unique(item[begin:end][last & (item[begin:end] >= 0)])
        before = ~last & (item[begin:end] >= 0)
        if not len(wanted) or not before.any():
            continue
        kept.append(int(customer[begin]))
        # One count for an item in a basket, however many lines of it there are.
        pairs, first = np.unique(
            np.stack([basket[begin:end][before], item[begin:end][before]]), axis=1, return_index=True
        )
        age = (ts_ms[end - 1] - ts_ms[begin:end][before][first]) / DAY_MS
        for way, days in ways.items():
            score = popular.copy()
            np.add.at(score, pairs[1], 1.0 if days is None else np.exp2(-age / days))
            hits = np.isin(_best(score), wanted)
            found[way, f"recall@{BEST}"].append(float(hits.sum()) / len(wanted))
            found[way, f"NDCG@{BEST}"].append(ndcg(hits, len(wanted)))
    return {key: np.array(values) for key, values in found.items()}, np.array(kept, dtype=np.int64)


def _best(score: Doubles) -> Ints:
    top = np.argpartition(-score, min(BEST, len(score) - 1))[:BEST]
    ranked: Ints = top[np.argsort(-score[top], kind="stable")]
    return ranked


def ndcg(hits: np.ndarray[tuple[int], np.dtype[np.bool_]], wanted: int) -> float:
    """Discounted gain of a ranking over that of the best one.

    Example:
        >>> ndcg(np.array([True, False]), 1), round(ndcg(np.array([False, True]), 1), 3)
        (1.0, 0.631)
    """
    discount = 1 / np.log2(np.arange(2, len(hits) + 2))
    return float(hits @ discount / discount[: min(wanted, len(hits))].sum())
