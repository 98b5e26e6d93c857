"""Next items as served, on a few simulated customers; what may be learned of them, and what they are asked of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.evaluate import next_basket
from infra.evaluate.last_orders import eves, last_orders
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import EvaluationOptions
from infra.evaluate.trained import ModelPlan
from models.snapshot_columns import features_of
from schemas.features import INDEX
from streams.core.config import DAY_MS, CoreConfig

PLAN = ReplayPlan(data="simulation", seed=3, customers=60, sim_days=150)


def quiet(_text: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baskets")


@pytest.fixture(scope="module")
def found(folder: Path) -> Replay:
    return replay(PLAN, folder, quiet)


@pytest.mark.slow
def test_customers_are_seen_as_they_were_on_the_eve(found: Replay) -> None:
    last = last_orders(found.purchases, 2)
    snapshots = eves(found, last, CoreConfig(), quiet)
    assert len(snapshots) > 20 and snapshots.keys() == last.begin_ms.keys()
    bought = found.purchases
    for name, snapshot in snapshots.items():
        own = bought.ts_ms[bought.customer == bought.number_of([name])[0]]
        before = own[own < last.begin_ms[name]]
        assert (snapshot.kind, snapshot.as_of_ms) == ("refresh", last.begin_ms[name] - 1)
        days = features_of([snapshot])[0, INDEX["days_since_activity"]]
        assert days == pytest.approx((snapshot.as_of_ms - before.max()) / DAY_MS, abs=1e-3)
        assert snapshot.count_edges("purchase>item") == len(last.before[name])


@pytest.mark.slow
def test_nothing_of_a_last_order_is_learned_from(found: Replay) -> None:
    plan = ModelPlan(until_ms=found.source.until_ms, least_orders=2)
    last = last_orders(found.purchases, 2)
    learned = plan.outcomes(found) + plan.early(found)
    ordered = [outcome for outcome in learned if "order_after_ms" in outcome.labels]
    assert len(learned) < len(found.outcomes) and len(ordered) > 50
    for outcome in learned:
        begin_ms = last.begin_ms.get(outcome.customer_id, np.inf)
        assert outcome.as_of_ms < begin_ms
        if outcome.snapshot is not None:
            assert all(at_ms < begin_ms for at_ms, _ in outcome.snapshot.recent)
    for outcome in ordered:
        after_ms = outcome.labels["order_after_ms"]
        assert isinstance(after_ms, int)
        assert outcome.as_of_ms + after_ms < last.begin_ms.get(outcome.customer_id, np.inf)
    for _, name, _, ts_ms in plan.events(found):
        assert ts_ms < last.begin_ms.get(name, np.inf)


@pytest.mark.slow
def test_the_evaluation_runs(folder: Path, found: Replay) -> None:
    span = next_basket.BasketSpan(PLAN, 2, {next_basket.NDCG: 0.1})
    result = next_basket.run(EvaluationOptions(folder=folder, epochs=1, rounds=20), quiet, (span,))
    ways = {row.name for row in result.results}
    assert {next_basket.OURS, next_basket.CONTROL, next_basket.POPULAR, next_basket.FLOOR} <= ways
    assert all(np.isfinite(row.value) for row in result.results)
    ours = next(row for row in result.results if (row.name, row.measure) == (next_basket.OURS, next_basket.NDCG))
    assert ours.value > 0.05
    assert len(result.targets) == 3 and result.left_out == []
