"""Recalibration: counts that any order and any partition gives alike, a line that is right, a drift that is found."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import json_encode
from schemas.recalibrations import OutcomeTallies, WeekTally
from streams.core.recalibration import (
    KEPT_WEEKS,
    WEEK_MS,
    Of,
    Recalibration,
    Tallies,
    bin_of,
    drift_of_error,
    drift_of_inputs,
    logit,
    newest_weeks,
    recalibration,
    sigmoid,
    since_drift,
)

OF = Of("churn", "pg-1", "event")

Added = tuple[Of, int, float, int]
added = st.tuples(
    st.sampled_from([OF, Of("churn", "pg-2", "event"), Of("redemption", "pg-1", "send")]),
    st.integers(0, 40).map(lambda week: week * WEEK_MS + 5),
    st.floats(0, 1),
    st.integers(0, 1),
)


def counted(rows: Iterable[Added]) -> Tallies:
    tallies = Tallies()
    for row in rows:
        tallies.add(*row)
    return tallies


def world(weeks: range, scale: float, shift: float, count: int = 2_000, seed: int = 0) -> list[Added]:
    """A model that says logit z where ``scale * z + shift`` is true."""
    draws = random.Random(seed)
    rows = []
    for week in weeks:
        for _ in range(count):
            z = draws.gauss(-2.0, 1.5)
            label = int(draws.random() < sigmoid(scale * z + shift))
            rows.append((OF, week * WEEK_MS, sigmoid(z), label))
    return rows


@given(st.lists(added, max_size=60), st.randoms(use_true_random=False), st.integers(1, 4))
def test_counts_depend_on_no_order_and_partitions_add_up(rows: list[Added], draws: random.Random, parts: int) -> None:
    whole = counted(rows).tallies()
    shuffled = draws.sample(rows, len(rows))
    assert counted(shuffled).tallies() == whole
    merged = Tallies()
    for part in range(parts):
        merged.merge(counted(shuffled[part::parts]).tallies())
    assert merged.tallies() == whole
    assert sum(count for tally in whole for count, _ in tally.bins.values()) <= len(rows)


@given(st.lists(added, max_size=30))
def test_a_record_comes_back_as_it_was(rows: list[Added]) -> None:
    import msgspec

    said = OutcomeTallies(partition=3, next_offsets={"outcomes": 7}, newest_ms=1, tallies=counted(rows).tallies())
    assert msgspec.json.decode(json_encode(said), type=OutcomeTallies) == said


def test_only_the_newest_weeks_are_kept() -> None:
    rows: list[Added] = [(OF, week * WEEK_MS, 0.5, 1) for week in (0, KEPT_WEEKS - 1, KEPT_WEEKS)]
    assert list(counted(rows).weeks(OF)) == [KEPT_WEEKS - 1, KEPT_WEEKS]
    assert counted(rows[::-1]).tallies() == counted(rows).tallies()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.6, 0.0), (1.0, 0.8), (1.3, -0.5)])
def test_a_line_is_found(scale: float, shift: float) -> None:
    found = recalibration(counted(world(range(8), scale, shift, 8_000)).weeks(OF))
    for probability in (0.02, 0.1, 0.3, 0.7):
        assert logit(found(probability)) == pytest.approx(scale * logit(probability) + shift, abs=0.15)


def test_what_changes_for_everybody_is_found() -> None:
    """A fifth of all leave, whatever the model said: no line on the logit says so."""
    draws = random.Random(0)
    rows = []
    for week in range(8):
        for _ in range(12_000):
            said = sigmoid(draws.gauss(-2.0, 2.0))
            rows.append((OF, week * WEEK_MS, said, int(draws.random() < 1 - 0.8 * (1 - said))))
    found = recalibration(counted(rows).weeks(OF))
    assert found.low_slope < 0.3 and found.high_slope > 1.0
    for probability in (0.01, 0.1, 0.5, 0.9):
        assert found(probability) == pytest.approx(1 - 0.8 * (1 - probability), abs=0.03)


@pytest.mark.parametrize("extreme", [0.001, 0.5, 0.999])
def test_where_more_said_means_less_the_curve_is_level_and_never_falls(extreme: float) -> None:
    rows = [(OF, 0, said, int(at % 10 < 10 * (1 - said))) for said in (0.2, extreme, 0.8) for at in range(2_000)]
    found = recalibration(counted(rows).weeks(OF))
    assert found.low_slope == 0 or found.high_slope == 0
    said = [found(probability) for probability in (0.01, 0.2, 0.5, 0.8, 0.99)]
    assert said == sorted(said)


def test_without_outcomes_probabilities_stay_as_they_are() -> None:
    assert recalibration({}) == Recalibration(1.0, 1.0, 0.0)
    assert [Recalibration()(probability) for probability in (0.01, 0.9)] == pytest.approx([0.01, 0.9])
    one = recalibration(counted([(OF, 0, 0.1, 1)]).weeks(OF))
    assert 0.1 < one(0.1) < 0.2 and one(0.9) == pytest.approx(0.9, abs=0.02)


@given(st.lists(added, max_size=40))
def test_no_counts_are_beyond_it(rows: list[Added]) -> None:
    tallies = counted(rows)
    for of in tallies.known():
        found = recalibration(tallies.weeks(of))
        assert 0 <= found.low_slope < 100 and 0 <= found.high_slope < 100 and abs(found.shift) < 100
        said = [found(probability) for probability in (0.0, 1e-6, 0.3, 0.9, 1.0)]
        assert all(a <= b + 1e-12 for a, b in pairwise(said)) and all(0 < one < 1 for one in said)
        assert drift_of_error(tallies.weeks(of)) >= 0


def test_a_drift_is_found_and_what_was_before_is_forgotten() -> None:
    weeks = counted([*world(range(10), 1.0, 0.0), *world(range(10, 16), 1.0, 1.5, seed=1)]).weeks(OF)
    assert drift_of_error(weeks) > 1 > drift_of_inputs(weeks)
    assert since_drift(weeks) == 10
    assert recalibration(weeks)(0.1) == pytest.approx(sigmoid(logit(0.1) + 1.5), abs=0.02)


def test_what_stays_as_it_is_is_no_drift() -> None:
    for seed in range(20):
        weeks = counted(world(range(20), 0.8, 0.3, count=500, seed=seed)).weeks(OF)
        assert drift_of_error(weeks) < 1 and since_drift(weeks) == 0


def test_a_drift_of_inputs_is_told_from_one_of_errors() -> None:
    rows = world(range(16), 1.0, 0.0, seed=2)
    draws = random.Random(3)
    for at, (of, as_of_ms, probability, _) in enumerate(rows):
        if as_of_ms >= 8 * WEEK_MS:
            moved = sigmoid(logit(probability) + 1.5)
            rows[at] = of, as_of_ms, moved, int(draws.random() < moved)
    weeks = counted(rows).weeks(OF)
    assert drift_of_inputs(weeks) > 1 > drift_of_error(weeks)


def test_the_model_of_the_newest_predictions_is_told_of() -> None:
    older = counted([(OF, 3 * WEEK_MS, 0.5, 1)] * 9)
    newer = counted([(Of("churn", "pg-0", "event"), 4 * WEEK_MS, 0.5, 0)])
    assert list(newest_weeks([older, newer], "churn", "event")) == [4]
    assert newest_weeks([older, newer], "churn", "horizon") == {}


def test_bins_hold_what_records_allow() -> None:
    assert [bin_of(probability) for probability in (0.0, 0.5, 1.0)] == [-64, 0, 64]
    assert WeekTally(head="churn", model_version="", snapshot_kind="event", week=0, bins={-64: (1, 0), 64: (2, 2)})
