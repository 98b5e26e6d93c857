"""Which of the 30 commonest categories a household buys from in the next two weeks, on Complete Journey."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import goods, journey, trained
from infra.evaluate.asked import Asked, asked_rows
from infra.evaluate.floors import Activity, OrdersByCustomer, hand_made, visits_of
from infra.evaluate.goods import GoodsRows
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import EvaluationFindings, EvaluationOptions, steps_of
from infra.evaluate.shelves import GENERAL, Shelf, commonest
from models.saved_model import read_card
from streams.core.config import DAY_MS

ABOUT: Final = "categories bought in the next 14 days, beside boosted trees on counts"
ACTIVE_DAYS: Final = 28
HORIZON_DAYS: Final = 14
GOODS: Final = 30
_TARGET: Final = 0.7935


@dataclass(frozen=True)
class CategorySpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    train_days: tuple[int, ...]
    fit_before_ms: int
    validate_from_ms: int
    """Choices are made on the training days from then on, fitted on those before ``fit_before_ms``."""
    encoded_days: tuple[int, ...]
    """Training days and further ones: what the churn evaluation has encoded already."""
    model_until_ms: int
    """Of the encoder, which is that of the churn evaluation; before the first test day."""
    test_days: tuple[int, ...]
    count: int = GOODS
    trees: int = goods.TREES


SPANS: Final = CategorySpans(
    plan=journey.PLAN,
    train_days=tuple(at for at in journey.TRAIN_DAYS if at <= journey.day_ms("2017-08-05")),
    fit_before_ms=journey.day_ms("2017-06-24"),
    validate_from_ms=journey.day_ms("2017-07-08"),
    encoded_days=journey.TRAIN_DAYS,
    model_until_ms=journey.day_ms("2017-09-17"),
    test_days=journey.TEST_DAYS,
)


def run(options: EvaluationOptions, say: Say, spans: CategorySpans = SPANS) -> EvaluationFindings:
    """Judge what the embedding adds to counts."""
    found = replay(spans.plan, options.folder, say)
    bought = found.purchases
    activity, visits = Activity(bought), visits_of(bought)
    known_ms = spans.train_days[-1] + HORIZON_DAYS * DAY_MS
    chosen = commonest(bought, bought.category, known_ms, spans.count)
    shelf = Shelf(bought, bought.category, chosen)
    asked = {
        name: asked_rows(found, activity, days, ACTIVE_DAYS)
        for name, days in (("train", spans.encoded_days), ("weekly days", spans.test_days))
    }
    train, test = (rows_of(rows, shelf, visits, HORIZON_DAYS) for rows in asked.values())
    learned = train.as_of_ms <= spans.train_days[-1]
    train = train.take(learned)
    say(f"{len(train):,} rows to train on, {len(test):,} to test on, {test.labels.mean():.1%} positive")
    plan = trained.ModelPlan(until_ms=spans.model_until_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    random = trained.randomised(directory, 0, options.folder)

    def embedded(where: Path) -> tuple[trained.Floats, trained.Floats]:
        seen, judged = trained.embeddings(where, found, asked, options.folder, say)
        return seen[learned], judged

    fresh = trained.not_fitted_on(asked["train"].snapshots)[learned]
    embeddings = {goods.OURS: embedded(directory), goods.RANDOM: embedded(random)}
    choice = goods.choose(
        train, embeddings[goods.OURS][0], fresh, spans.fit_before_ms, spans.validate_from_ms, spans.trees, say
    )
    judged = goods.judge(train, test, embeddings, fresh, choice, spans.trees, say)
    positive = float(test.labels.mean())
    group = f"{len(test):,} questions of {len(np.unique(test.customer)):,} customers, {spans.count} categories"
    results, targets = goods.figures(group, test, judged, _TARGET, min(options.rounds, 300))
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: customers active in the last {ACTIVE_DAYS} days; each of the {spans.count} commonest "
            f"categories bought in the next {HORIZON_DAYS} days ({positive:.1%} positive). Weekly days, trained from "
            f"{journey.day_of(spans.train_days[0])} to {journey.day_of(spans.train_days[-1])}, tested from "
            f"{journey.day_of(spans.test_days[0])} to {journey.day_of(spans.test_days[-1])}."
        ),
        results=results,
        targets=targets,
        notes=[
            f"Floor: one set of boosted trees a category, on {len(GENERAL)} features of the customer and the "
            "category's own counts (half-lives 14 and 60 days) and age. Snapshots are the core's, by a sweep each day.",
            f"On top of the floor's logit comes a linear function of the embedding, {choice}, fitted on "
            f"{fresh.sum():,} rows of customers whom the encoder was not fitted on; the ridge was chosen on training "
            f"days from {journey.day_of(spans.validate_from_ms)} on, with a fit on those before "
            f"{journey.day_of(spans.fit_before_ms)}, and holds for the controls, too.",
            "The encoder is that of the churn evaluation, trained on what was known by "
            f"{journey.day_of(spans.model_until_ms)}: before the first test day, but some weeks after the floor's last "
            f"label. {steps_of(directory)}.",
        ],
        models={"model": read_card(directory).model_version},
    )


def rows_of(rows: Asked, shelf: Shelf, visits: OrdersByCustomer, days: float) -> GoodsRows:
    """Features and labels of a protocol's rows."""
    return GoodsRows(
        rows.customer,
        rows.as_of_ms,
        hand_made(visits, rows.customer, rows.as_of_ms),
        shelf.features(rows.customer, rows.as_of_ms),
        shelf.labels(rows.customer, rows.as_of_ms, days),
    )
