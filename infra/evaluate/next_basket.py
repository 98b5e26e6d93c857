"""The next basket of each customer: what is served as next items, beside what counts of the own past say.

Asked on the eve of the last order, as a sweep would ask, by a model that has not seen any last order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import journey
from infra.evaluate.last_orders import LastOrders, eves, last_orders
from infra.evaluate.online_retail import SPANS as RETAIL
from infra.evaluate.purchases import Purchases
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, mean
from infra.evaluate.trained import ModelPlan, trained
from models.inference import Predictor
from models.item_ranking import best_of
from models.task import Moment
from models.tasks.next_items import NextItemsScorer, NextItemsTask
from schemas.errors import Stop
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS, CoreConfig

ABOUT: Final = "the next basket, and of it what is new to the customer, beside counts of the own past"
BEST: Final = 10
HALF_LIFE_DAYS: Final = (14.0, 28.0, 84.0)
OURS: Final = "served"
CONTROL: Final = "served, encoder hardly trained"
CONTROL_EPOCHS: Final = 0.02
POPULAR: Final = "popularity"
FLOOR: Final = "decayed frequency, half-life 84 d"
RECALL, NDCG = f"recall@{BEST}", f"NDCG@{BEST}"
_BATCH: Final = 256


@dataclass(frozen=True)
class BasketSpan:
    """Whose last basket is asked for."""

    plan: ReplayPlan
    least_baskets: int
    """Customers with fewer are left out."""
    targets: Mapping[str, float]
    """Of the whole basket, by measure."""


SPANS: Final = (
    BasketSpan(journey.PLAN, 2, {RECALL: 0.135, NDCG: 0.178}),
    BasketSpan(RETAIL.plan, 3, {RECALL: 0.215, NDCG: 0.300}),
)

Scores = dict[tuple[str, str], Doubles]
"""(Way, measure) → of each customer, (U,)."""


def run(options: EvaluationOptions, say: Say, spans: tuple[BasketSpan, ...] = SPANS) -> EvaluationFindings:
    """Recall and NDCG of ten items: of the whole basket, and of what in it is new to the customer."""
    results: list[Estimate] = []
    targets: list[Goal] = []
    models: dict[str, str] = {}
    for span in spans:
        found = replay(span.plan, options.folder, say)
        last = last_orders(found.purchases, span.least_baskets)
        asked = eves(found, last, CoreConfig(), say)
        names = sorted(asked)
        whole, new = _floors(found.purchases, last, names)
        for way, epochs in ((OURS, options.epochs), (CONTROL, CONTROL_EPOCHS)):
            plan = ModelPlan(
                until_ms=found.source.until_ms, least_orders=span.least_baskets, epochs=epochs, size=options.size
            )
            directory = trained(found, plan, options.folder, say)
            say(f"{span.plan.data}: {way}")
            models[f"{span.plan.data}, {way}"] = steps_of(directory)
            of_whole, of_new = _served(directory, found, last, [asked[name] for name in names], way)
            whole, new = whole | of_whole, new | of_new
        of_basket, reached = _figures(f"{span.plan.data}: last baskets", whole, options, span.targets)
        of_new_items, above = _figures_of_new(f"{span.plan.data}: what is new to the customer in them", new, options)
        results += of_basket + of_new_items
        targets += reached + above
    return EvaluationFindings(
        data=(
            "The last basket of each customer, all items, from what was known on its eve. Complete Journey: customers "
            "with two baskets or more; Online Retail: with three or more, guests aside. New is what the customer never "
            "bought before; there, customers count whose last basket holds such an item."
        ),
        results=results,
        targets=targets,
        models=models,
        notes=[
            "Ties, and places that a short history leaves empty, go to what sold most in the first half of the log, "
            "last baskets aside.",
            "Ours learns from outcomes whose order is no last one, and counts words in the log without last orders and "
            "what came after. It offers only what the catalog has; the floors offer whatever was sold.",
            f"'{CONTROL}' is the same head, fitted the same way, on an encoder of {CONTROL_EPOCHS:g} epochs.",
        ],
    )


def _floors(bought: Purchases, last: LastOrders, names: list[str]) -> tuple[Scores, Scores]:
    ways: dict[str, float | None] = {f"decayed frequency, half-life {days:g} d": days for days in HALF_LIFE_DAYS}
    ways["frequency"] = None
    popular = _popularity(bought, last)
    whole: dict[tuple[str, str], list[float]] = {(way, m): [] for way in ways for m in (RECALL, NDCG)}
    new: dict[tuple[str, str], list[float]] = {(POPULAR, m): [] for m in (RECALL, NDCG)}
    order = np.lexsort((bought.order, bought.ts_ms, bought.customer))
    start = np.searchsorted(bought.customer[order], np.arange(len(bought.customers) + 1))
    numbers = bought.number_of(names)
    for name, number in zip(names, numbers.tolist(), strict=True):
        rows = order[start[number] : start[number + 1]]
        last_ms = int(bought.ts_ms[rows[-1]])
        rows = rows[(bought.order[rows] != bought.order[rows[-1]]) & (bought.item[rows] >= 0)]
        # One count for an item in a basket, however many lines of it there are.
        pairs, first = np.unique(np.stack([bought.order[rows], bought.item[rows]]), axis=1, return_index=True)
        age = (last_ms - bought.ts_ms[rows][first]) / DAY_MS
        for way, days in ways.items():
            score = popular.copy()
            np.add.at(score, pairs[1], 1.0 if days is None else np.exp2(-age / days))
            _note(whole, way, _best(score), last.wanted[name])
        unknown = popular.copy()
        unknown[last.before[name]] = -1.0
        _note(new, POPULAR, _best(unknown), np.setdiff1d(last.wanted[name], last.before[name]))
    return _arrays(whole), _arrays(new)


def _served(directory: Path, found: Replay, last: LastOrders, asked: list[Snapshot], way: str) -> tuple[Scores, Scores]:
    """What the task says of each customer, and of the candidates that the customer never bought what it says first.

    Raises:
        Stop: the model has not learned to rank items.
    """
    predictor = Predictor.load(directory, device="cpu", threads=1)
    scorer = predictor.scorers.get(NextItemsTask.name)
    if not isinstance(scorer, NextItemsScorer):
        why = predictor.model.report.left_out.get(NextItemsTask.name, "it is of an older release")
        raise Stop(f"the model of {found.plan.data} has not learned next items: {why}")
    catalog = found.catalog()
    predictor.know(catalog)
    moment = Moment(catalog, 1, 0)
    ready = scorer.ready(moment)
    numbers = {name: number for number, name in enumerate(found.purchases.items.tolist())}
    number_of = np.array([numbers.get(entry.id, -1) for entry in ready.assortment.entries], dtype=np.int64)
    whole: dict[tuple[str, str], list[float]] = {(way, m): [] for m in (RECALL, NDCG)}
    new: dict[tuple[str, str], list[float]] = {(way, m): [] for m in (RECALL, NDCG)}
    for begin in range(0, len(asked), _BATCH):
        batch = asked[begin : begin + _BATCH]
        encoded = predictor.encode(batch)
        for record in scorer.predictions(encoded, moment):
            ranked = np.array([numbers.get(item.item_id, -1) for item in record.items], dtype=np.int64)
            _note(whole, way, ranked[:BEST], last.wanted[record.customer_id])
        lists, logits = scorer.scores(encoded, range(len(batch)), ready)
        item = number_of[lists.item]
        for row, snapshot in enumerate(batch):
            own = np.searchsorted(lists.customer, (row, row + 1))
            before = last.before[snapshot.customer_id]
            fresh = own[0] + np.flatnonzero(~np.isin(item[own[0] : own[1]], before))
            top = fresh[best_of(logits[fresh], np.zeros(len(fresh), dtype=np.int64), 1, BEST)]
            _note(new, way, item[top], np.setdiff1d(last.wanted[snapshot.customer_id], before))
    return _arrays(whole), _arrays(new)


def _note(scores: dict[tuple[str, str], list[float]], way: str, ranked: Ints, wanted: Ints) -> None:
    hits = np.isin(ranked, wanted)
    scores[way, RECALL].append(float(hits.sum()) / len(wanted) if len(wanted) else float("nan"))
    scores[way, NDCG].append(ndcg(hits, len(wanted)) if len(wanted) else float("nan"))


def _arrays(scores: dict[tuple[str, str], list[float]]) -> Scores:
    return {key: np.array(values) for key, values in scores.items()}


def _figures(
    group: str, scores: Scores, options: EvaluationOptions, wanted: Mapping[str, float]
) -> tuple[list[Estimate], list[Goal]]:
    rows = len(scores[OURS, NDCG])
    drawn = _drawn(scores, np.arange(rows), options)
    group = f"{group} of {rows:,} customers"
    results = [
        estimate(group, way, measure, drawn.interval(f"{way}|{measure}"), rows=rows, role=_role(way))
        for way, measure in scores
    ]
    for measure in (RECALL, NDCG):
        for other in (FLOOR, CONTROL):
            gain = drawn.difference(f"{OURS}|{measure}", f"{other}|{measure}")
            results.append(estimate(group, f"{OURS} less {other}", measure, gain, rows=rows, role="difference"))
    targets = []
    for measure, least in wanted.items():
        floor = drawn.values[f"{FLOOR}|{measure}"]
        targets.append(goal(f"{group}, {measure}", drawn.interval(f"{OURS}|{measure}"), least, floor=floor))
    return results, targets


def _figures_of_new(group: str, scores: Scores, options: EvaluationOptions) -> tuple[list[Estimate], list[Goal]]:
    has_one = np.flatnonzero(np.isfinite(scores[OURS, NDCG]))
    kept = {key: values[has_one] for key, values in scores.items()}
    drawn = _drawn(kept, has_one, options)
    group = f"{group}, {len(has_one):,} customers"
    results = [
        estimate(group, way, measure, drawn.interval(f"{way}|{measure}"), rows=len(has_one), role=_role(way))
        for way, measure in kept
    ]
    targets = []
    for measure in (RECALL, NDCG):
        popular = drawn.values[f"{POPULAR}|{measure}"]
        name = f"{group}, {measure}, twice popularity"
        targets.append(goal(name, drawn.interval(f"{OURS}|{measure}"), 2 * popular, floor=popular))
    return results, targets


def _drawn(scores: Scores, customers: Ints, options: EvaluationOptions) -> Bootstrap:
    measures = {f"{way}|{measure}": mean(values) for (way, measure), values in scores.items()}
    return Bootstrap(measures, customers, rounds=options.rounds)


def _role(way: str) -> str:
    return {OURS: "ours", CONTROL: "control"}.get(way, "floor")


def _popularity(bought: Purchases, last: LastOrders) -> Doubles:
    """What sold most in the first half of the log, last baskets aside; far below any count of an own purchase."""
    begin_ms = np.array([last.begin_ms.get(name, np.iinfo(np.int64).max) for name in bought.customers.tolist()])
    earlier = (bought.item >= 0) & (bought.ts_ms <= np.median(bought.ts_ms))
    earlier &= bought.ts_ms < begin_ms[bought.customer]
    popular = np.bincount(bought.item[earlier], minlength=len(bought.items)).astype(np.float64)
    out: Doubles = popular / max(1.0, float(popular.max())) / 1e6
    return out


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
    discount = 1 / np.log2(np.arange(2, BEST + 2))
    return float(hits @ discount[: len(hits)] / discount[: min(wanted, BEST)].sum())
