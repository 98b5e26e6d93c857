"""The short schedule of faults, on Apache Kafka with three nodes: the long one is `make faults`."""

from __future__ import annotations

import pytest

from infra.faults.run import Plan, run
from schemas.topics import PREDICTION_TOPICS

pytestmark = [pytest.mark.apache, pytest.mark.slow, pytest.mark.timeout(900)]


def test_faults_change_nothing(tmp_path):
    report = run(Plan(events=12_000, kills=3, seed=1), tmp_path / "run", print)
    # How long a kill holds progress up depends on what else this machine does: `make faults` is where it is judged.
    problems = [problem for problem in report.problems if "held progress up" not in problem]
    assert not problems
    assert report.kills >= 3
    assert {"pause", "broker", "swap"} <= report.actions.keys()
    assert {"state", "outcomes", "last_snapshots", *PREDICTION_TOPICS} <= report.checks.keys()
    assert all(check.compared for name, check in report.checks.items() if name != "contradictions")
    assert report.sources.duplicates and report.sources.late and report.sources.dead_letters
