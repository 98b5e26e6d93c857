"""A few simulated customers through the evaluation of hours and channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.evaluate import send_time
from infra.evaluate.replays import ReplayPlan
from infra.evaluate.report import EvaluationOptions
from infra.evaluate.send_time import SendTimeSpans
from streams.core.config import DAY_MS
from streams.sources.source import SIMULATION_START_MS


@pytest.mark.slow
def test_send_time_end_to_end(tmp_path: Path) -> None:
    plan = ReplayPlan(
        data="simulation", seed=11, customers=60, sim_days=60, campaign_every_days=1,
        days_ms=(SIMULATION_START_MS + 59 * DAY_MS,),
    )  # fmt: skip
    options = EvaluationOptions(folder=tmp_path, epochs=1, rounds=50)
    found = send_time.run(options, lambda _: None, SendTimeSpans(plan=plan, responses=5))
    (target,) = found.targets
    assert target.low is not None and target.floor is not None
    assert target.value > target.floor, "better than the best slots of everybody"
    chance = next(row for row in found.results if row.name == "chance")
    assert target.low > chance.value
    assert all(np.isfinite(row.value) and row.rows > 1 for row in found.results)
