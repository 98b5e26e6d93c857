"""Curves: monotone, consistent, and right although rows are not followed to the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.survival import BINS, EDGES_DAYS, MOST_DAYS, days_until, happened, seen, survival, within

hazards = st.lists(st.floats(0, 1), min_size=BINS, max_size=BINS).map(lambda found: np.array([found]))
days = st.floats(0, MOST_DAYS)


@given(hazards, days, days)
def test_what_happens_within_more_days_is_no_less_likely(hazard: np.ndarray, one: float, other: float) -> None:
    curve = survival(hazard)
    short, long = (float(within(curve, day)[0]) for day in sorted((one, other)))
    assert -1e-12 <= short <= long + 1e-12 <= 1 + 2e-12


@given(hazards)
def test_an_edge_is_what_the_bins_before_it_say(hazard: np.ndarray) -> None:
    curve = survival(hazard)
    for at, edge in enumerate(EDGES_DAYS.tolist()):
        assert within(curve, edge)[0] == pytest.approx(1 - np.prod(1 - hazard[0, :at]))


@given(hazards, st.floats(0.01, 0.99))
def test_a_time_has_the_probability_that_it_was_asked_for(hazard: np.ndarray, share: float) -> None:
    curve = survival(np.clip(hazard, 0, 0.999))
    until = float(days_until(curve, share)[0])
    if np.isinf(until):
        assert within(curve, MOST_DAYS)[0] < share
    else:
        assert within(curve, until)[0] == pytest.approx(share, abs=1e-6)


@given(hazards, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_times_are_in_the_order_of_their_shares(hazard: np.ndarray, one: float, other: float) -> None:
    low, high = (float(days_until(survival(hazard), share)[0]) for share in sorted((one, other)))
    assert 0 <= low <= high + 1e-9


@given(st.floats(0, 100) | st.just(np.inf), st.floats(0, 80) | st.just(np.nan))
def test_a_row_tells_of_bins_that_were_followed_up_to_what_happened(after: float, followed: float) -> None:
    (row,) = seen(np.array([after]), np.array([followed]))
    known = np.isfinite(row)
    last = int(known.sum())
    assert known[:last].all() and not row[: max(0, last - 1)].any(), "zeros, then perhaps a one, then nothing"
    for at in range(BINS):
        whole = followed >= EDGES_DAYS[at + 1]
        assert known[at] == (whole and after >= EDGES_DAYS[at]), at
        assert (row[at] == 1) == (whole and EDGES_DAYS[at] <= after < EDGES_DAYS[at + 1]), at


@given(st.floats(0, 100) | st.just(np.inf), st.sampled_from(EDGES_DAYS[1:].tolist()))
def test_a_horizon_that_was_followed_has_its_label(after: float, horizon: float) -> None:
    row = seen(np.array([after]), np.array([MOST_DAYS]))
    assert happened(row, horizon)[0] == (after < horizon)
    shorter = seen(np.array([after]), np.array([horizon]))
    assert happened(shorter, horizon)[0] == (after < horizon)
    if horizon < MOST_DAYS:
        assert np.isnan(happened(shorter, MOST_DAYS)[0]) == (after >= horizon)


def test_rows_that_are_not_followed_to_the_end_bend_nothing() -> None:
    """Half of many customers of a known rate are followed for 28 days only: the bins still have that rate."""
    random = np.random.default_rng(0)
    after = random.exponential(12.0, 200_000)
    followed = np.where(random.random(len(after)) < 0.5, 28.0, MOST_DAYS)
    rates = np.nanmean(seen(after, followed), axis=0)
    true = -np.expm1(-np.diff(EDGES_DAYS) / 12.0)
    assert rates == pytest.approx(true, abs=0.02)


def test_what_is_no_edge_or_beyond_the_end_has_no_answer() -> None:
    with pytest.raises(ValueError, match="no edge"):
        happened(seen(np.zeros(1), np.zeros(1)), 5.0)
    with pytest.raises(ValueError, match="not within"):
        within(survival(np.zeros((1, BINS))), 57.0)
