"""Online Retail: who buys within 30 days, and which of the commonest items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.bench.report import Say
from infra.evaluate import goods, trained
from infra.evaluate.asked import asked_rows
from infra.evaluate.categories import rows_of
from infra.evaluate.floors import FEATURES, Activity, boosted, hand_made, visits_of
from infra.evaluate.journey import day_ms, day_of, weekly
from infra.evaluate.linear import fit_probe
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import EvaluationFindings, EvaluationOptions, estimate, goal, steps_of
from infra.evaluate.shelves import Shelf, commonest
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, Measure, auc, log_loss
from models.saved_model import read_card
from streams.core.config import DAY_MS

ABOUT: Final = "purchase in 30 days and items on Online Retail, beside boosted trees"
HORIZON_DAYS: Final = 30
GOODS: Final = 30
_TRAIN: Final = weekly("2011-03-01", "2011-07-31")
_TEST: Final = weekly("2011-09-04", "2011-11-06")


@dataclass(frozen=True)
class RetailSpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    train_days: tuple[int, ...]
    fit_before_ms: int
    validate_from_ms: int
    model_until_ms: int
    """When the last training label is known."""
    test_days: tuple[int, ...]
    goods: int = GOODS
    trees: int = 300


SPANS: Final = RetailSpans(
    plan=ReplayPlan(data="online-retail", days_ms=_TRAIN + _TEST),
    train_days=_TRAIN,
    fit_before_ms=day_ms("2011-05-31"),
    validate_from_ms=day_ms("2011-06-28"),
    model_until_ms=day_ms("2011-08-30"),
    test_days=_TEST,
)
_GOOD: Final = "LightGBM, hand-made features"
_LOGISTIC: Final = "logistic, hand-made features"
_OURS: Final = "logistic, hand-made features + embedding"
_RANDOM: Final = "logistic, hand-made features + random encoder"
_SHUFFLED: Final = "logistic, hand-made features + embeddings of other rows in training"


def run(options: EvaluationOptions, say: Say, spans: RetailSpans = SPANS) -> EvaluationFindings:
    """Judge what the embedding adds, for a purchase at all and for items."""
    found = replay(spans.plan, options.folder, say)
    bought = found.purchases
    activity, visits = Activity(bought), visits_of(bought)
    asked = {
        name: asked_rows(found, activity, days, None)
        for name, days in (("train", spans.train_days), ("weekly days", spans.test_days))
    }
    labels = [
        activity.any(rows.customer, rows.as_of_ms, rows.as_of_ms + HORIZON_DAYS * DAY_MS).astype(np.float64)
        for rows in asked.values()
    ]
    columns = [hand_made(visits, rows.customer, rows.as_of_ms) for rows in asked.values()]
    say(f"{len(labels[0]):,} rows to train on, {len(labels[1]):,} to test on, {labels[1].mean():.1%} positive")
    plan = trained.ModelPlan(until_ms=spans.model_until_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    random = trained.randomised(directory, 0, options.folder)

    def embedded(where: Path) -> tuple[trained.Floats, trained.Floats]:
        seen, judged = trained.embeddings(where, found, asked, options.folder, say)
        return seen, judged

    embeddings = {"ours": embedded(directory), "random": embedded(random)}
    people = [rows.customer for rows in asked.values()]
    say("purchase within 30 days")
    fresh = trained.not_fitted_on(asked["train"].snapshots)
    logits = _purchase(columns, labels, people[0], embeddings, fresh, spans.trees)
    measures: dict[str, Measure] = {name: auc(labels[1], scores) for name, (_, scores) in logits.items()}
    measures |= {
        f"{name}: log loss": log_loss(labels[1], logits[name][1]) for name in (_GOOD, _LOGISTIC, _OURS, _RANDOM)
    }
    drawn = Bootstrap(measures, people[1], rounds=options.rounds)
    count = len(labels[1])
    group = f"purchase within {HORIZON_DAYS} days: {count:,} questions of {len(np.unique(people[1])):,} customers"
    results = [
        estimate(group, name, "AUC", drawn.interval(name), rows=count, role=role) for name, (role, _) in logits.items()
    ]
    compared = ((_OURS, _LOGISTIC), (_OURS, _GOOD), (_OURS, _RANDOM), (_SHUFFLED, _LOGISTIC))
    for name, other in compared:
        both = f"{name} less {other}"
        results.append(estimate(group, both, "AUC", drawn.difference(name, other), rows=count, role="difference"))
    for name in (_GOOD, _LOGISTIC, _OURS, _RANDOM):
        loss = drawn.interval(f"{name}: log loss")
        results.append(estimate(group, name, "log loss", loss, rows=count, role=logits[name][0]))
    targets = [
        goal("features + embedding less LightGBM, AUC", drawn.difference(_OURS, _GOOD), 0.0, floor=drawn.values[_GOOD]),
        goal("gain over a random encoder, AUC", drawn.difference(_OURS, _RANDOM), 0.0, floor=0.0, surely=True),
    ]
    chosen = commonest(bought, bought.item, spans.model_until_ms, spans.goods)
    shelf = Shelf(bought, bought.item, chosen)
    train, test = (rows_of(rows, shelf, visits, HORIZON_DAYS) for rows in asked.values())
    pairs = {goods.OURS: embeddings["ours"], goods.RANDOM: embeddings["random"]}
    seen = pairs[goods.OURS][0]
    choice = goods.choose(train, seen, fresh, spans.fit_before_ms, spans.validate_from_ms, goods.TREES, say)
    judged = goods.judge(train, test, pairs, fresh, choice, goods.TREES, say)
    group = f"{spans.goods} commonest items within {HORIZON_DAYS} days, {test.labels.mean():.2%} positive"
    of_items, item_targets = goods.figures(group, test, judged, None, min(options.rounds, 300))
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: customers with an earlier purchase, guests aside; weekly days from "
            f"{day_of(spans.test_days[0])} to {day_of(spans.test_days[-1])} ({labels[1].mean():.1%} buy within "
            f"{HORIZON_DAYS} days), trained on those from {day_of(spans.train_days[0])} to "
            f"{day_of(spans.train_days[-1])}."
        ),
        results=results + of_items,
        targets=targets + item_targets,
        notes=[
            "The served churn head answers another question (28 days, of customers active in the last 28), so it has "
            "no row: its encoder is judged by what its embedding adds.",
            f"For items the embedding is used {choice}; decided on training days from {day_of(spans.validate_from_ms)} "
            f"on, with a fit on those before {day_of(spans.fit_before_ms)}.",
            f"Model: {steps_of(directory)}.",
        ],
        models={"model": read_card(directory).model_version},
    )


def _purchase(
    columns: list[trained.Floats],
    labels: list[Doubles],
    people: Ints,
    embeddings: Mapping[str, tuple[trained.Floats, trained.Floats]],
    fresh: npt.NDArray[np.bool_],
    trees: int,
) -> dict[str, tuple[str, Doubles]]:
    """Name → role and logits of the test rows; what embeddings add is fitted on the ``fresh`` training rows."""
    train, test = (_squeezed(part) for part in columns)

    logistic = fit_probe(train, labels[0], people)
    floor = logistic.logits(train)[fresh], logistic.logits(test)

    def beside(name: str, order: Ints | None = None) -> Doubles:
        seen, judged = embeddings[name][0][fresh], embeddings[name][1]
        seen = seen if order is None else seen[order]
        return fit_probe(seen, labels[0][fresh], people[fresh], offset=floor[0]).logits(judged, floor[1])

    return {
        _GOOD: ("floor", boosted(columns[0], labels[0], columns[1], trees=trees)),
        _LOGISTIC: ("floor", floor[1]),
        "recency alone": ("floor", -columns[1][:, FEATURES.index("recency")].astype(np.float64)),
        _OURS: ("ours", beside("ours")),
        _RANDOM: ("control", beside("random")),
        _SHUFFLED: ("control", beside("ours", np.random.default_rng(0).permutation(int(fresh.sum())))),
    }


def _squeezed(columns: trained.Floats) -> Doubles:
    """Signed logarithms, which a linear model can use."""
    out: Doubles = (np.sign(columns) * np.log1p(np.abs(columns))).astype(np.float64)
    return out
