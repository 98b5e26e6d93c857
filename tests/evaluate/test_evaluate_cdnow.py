"""BG/NBD against the paper's numbers and against its own definition, and CDNOW's evaluation on a simulation."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.evaluate import cdnow
from infra.evaluate.bg_nbd import BgNbd, Histories, histories
from infra.evaluate.floors import visits_of
from infra.evaluate.journey import day_ms, weekly
from infra.evaluate.purchases import read_purchases
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import EvaluationOptions, report_of
from schemas.errors import ConfigError
from streams.core.config import DAY_MS
from streams.sources.datasets.cdnow import data_file
from streams.sources.source import load_source


@pytest.fixture(scope="module")
def summary() -> Histories:
    """The tenth of the customers that the paper is about, as the package sums them up."""
    pytest.importorskip("lifetimes", reason="needs pulsegraph[datasets]")
    with data_file().with_name("cdnow_customers_summary.csv").open() as file:
        rows = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    return Histories(*np.array(rows).T)


@pytest.fixture(scope="module")
def fitted(summary: Histories) -> BgNbd:
    return BgNbd(summary)


def test_an_absent_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lifetimes", None)
    with pytest.raises(ConfigError, match=r"pulsegraph\[datasets\]"):
        BgNbd(Histories(*np.ones((3, 2))))


def test_parameters_are_those_of_the_paper(fitted: BgNbd) -> None:
    """Fader, Hardie and Lee (2005), table 2."""
    assert fitted.parameters == pytest.approx({"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}, abs=1e-3)


@pytest.mark.slow
def test_histories_of_the_log_are_those_of_the_package(summary: Histories) -> None:
    sample = data_file().with_name("CDNOW_sample.txt").read_text().splitlines()
    names = {number: name for name, number, *_ in (line.split() for line in sample)}
    source = load_source("cdnow")
    bought = read_purchases(source.history(source.until_ms))
    customer = bought.number_of(names[number] for number in sorted(names))
    found = histories(visits_of(bought), customer, np.full(len(customer), day_ms("2014-10-01")))
    assert len(customer) == 2_357
    for ours, theirs in zip(found, summary, strict=True):
        assert ours == pytest.approx(theirs, abs=0.0051)  # two digits


@given(
    repeats=st.integers(0, 30),
    last=st.floats(0.01, 1.0),
    age=st.floats(0.5, 80.0),
    weeks=st.floats(0.1, 40.0),
)
def test_the_probability_is_that_of_the_definition(
    fitted: BgNbd, repeats: int, last: float, age: float, weeks: float
) -> None:
    """Over rates and probabilities of leaving, each with its density and the likelihood of the history."""
    special = pytest.importorskip("scipy.special")
    known = Histories(*(np.array([value]) for value in (repeats, last * age if repeats else 0.0, age)))
    r, alpha, a, b = (fitted.parameters[name] for name in ("r", "alpha", "a", "b"))
    rate = np.exp(np.linspace(-120.0, 6.0, 20_001))
    of_rate = rate ** (r + repeats)  # of its logarithm, with the purchases
    there = of_rate * np.exp(-rate * (alpha + age))
    left = of_rate * np.exp(-rate * (alpha + known.last[0]))
    nodes, weights = special.roots_jacobi(40, b - 1, a - 1)
    leaves = (1 + nodes) / 2
    stays = weights @ (1 - leaves) ** repeats
    left_then = weights @ (leaves * (1 - leaves) ** (repeats - 1)) if repeats else 0.0
    buys = stays * (there * -np.expm1(-rate * weeks)).sum()
    expected = buys / (stays * there.sum() + left_then * left.sum())
    assert fitted.any(weeks, known)[0] == pytest.approx(expected, rel=1e-5)
    assert fitted.any(weeks, known)[0] <= fitted.expected(weeks, known)[0] * (1 + 1e-6)


@pytest.mark.slow
def test_cdnow_end_to_end(tmp_path: Path) -> None:
    """Of few real customers: those of the simulator do not buy as BG/NBD has it, and its fit ends nowhere."""
    pytest.importorskip("lightgbm")
    pytest.importorskip("lifetimes", reason="needs pulsegraph[datasets]")
    test_days = weekly("2014-07-02", "2014-07-09")
    plan = ReplayPlan(data="cdnow", one_in=80, churn_active_ms=56 * DAY_MS, days_ms=test_days)
    spans = cdnow.CdnowSpans(
        plan=plan,
        train_days=weekly("2014-04-02", "2014-06-04"),
        split_ms=test_days[0],
        test_days=test_days,
        end_ms=day_ms("2014-08-13"),
        trees=20,
    )
    found = cdnow.run(EvaluationOptions(folder=tmp_path, epochs=1, rounds=20), lambda _: None, spans)
    log = replay(plan, tmp_path, pytest.fail)
    drawn = [event for event in log.source.history(log.source.until_ms) if event[1] in log.purchases.customers]
    assert log.events(log.source.until_ms) == drawn, "whole customers"
    assert 200 < len(log.purchases.customers) < 400, "one in 80 of 23,570"
    quiet_days = [
        (o.as_of_ms - (o.seen.last_activity_ms or 0)) / DAY_MS for o in log.outcomes if o.snapshot is not None
    ]
    assert 50 < max(quiet_days) <= 56, "asked about for as long as the plan says"
    assert [row.group.partition(":")[0] for row in found.results if row.name == "BG/NBD" and row.measure == "AUC"] == [
        "everybody", "whose last order is at most 28 days old",
    ]  # fmt: skip
    for row in found.results:
        assert row.rows > 10 and np.isfinite(row.value), row
    value = {(row.name, row.measure): row.value for row in found.results if row.group.startswith("everybody")}
    for measure in ("AUC", "log loss"):
        less = value["served model", measure] - value["BG/NBD", measure]
        assert value["served model less BG/NBD", measure] == pytest.approx(less)
    assert [target.name for target in found.targets] == [
        "AUC less that of BG/NBD", "log loss less that of BG/NBD", "calibration error",
    ]  # fmt: skip
    report_of("cdnow", found, command="a test", date="2026-11-27", seconds=1.0)
