"""Decay in ticks: exact where it promises to be, close to ``2 ** x`` everywhere, finite over the years we accept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.limits import MAX_EVENT_TS_MS, MIN_EVENT_TS_MS
from streams.core.config import DAY_MS, CoreConfig
from streams.core.decay import (
    LANDMARK_MS,
    MIN_FORWARD_HALF_LIFE_MS,
    factor,
    forward_weight,
    power,
    present_weight,
)

TIMES = st.integers(MIN_EVENT_TS_MS, MAX_EVENT_TS_MS)
HALF_LIVES = st.sampled_from([7 * DAY_MS, 28 * DAY_MS, 84 * DAY_MS])
FORWARD_HALF_LIVES = st.integers(MIN_FORWARD_HALF_LIFE_MS, 1_000 * DAY_MS)


def ticks_of(ts_ms: int, half_life_ms: int) -> int:
    return ts_ms * 256 // half_life_ms


@given(ticks=st.integers(-250_000, 250_000))
def test_power_is_two_to_the_ticks(ticks: int) -> None:
    if -1022 * 256 <= ticks < 1024 * 256:
        assert power(ticks) == pytest.approx(2.0 ** (ticks / 256), rel=1e-13)


@given(ticks=st.integers(-1000 * 256, 1000 * 256))
def test_a_half_life_is_half_to_the_bit(ticks: int) -> None:
    assert power(ticks) == 2 * power(ticks - 256)
    assert power(ticks) < power(ticks + 1)


def test_far_past_decays_to_nothing() -> None:
    assert power(-1_000_000) == 0.0
    assert factor(MIN_EVENT_TS_MS, MAX_EVENT_TS_MS, DAY_MS) == 0.0


@given(times=st.tuples(TIMES, TIMES, TIMES), half_life_ms=HALF_LIVES)
def test_steps_add_up(times: tuple[int, int, int], half_life_ms: int) -> None:
    a, b, c = sorted(times)
    steps, whole = factor(a, b, half_life_ms) * factor(b, c, half_life_ms), factor(a, c, half_life_ms)
    if whole > 1e-280:
        assert steps == pytest.approx(whole, rel=4e-16 * 2)


@given(first=TIMES, lives=st.integers(0, 200), rest_ms=st.integers(0, 300 * DAY_MS), half_life_ms=HALF_LIVES)
def test_whole_half_lives_add_up_to_the_last_bit(first: int, lives: int, rest_ms: int, half_life_ms: int) -> None:
    middle = first + lives * half_life_ms
    last = middle + rest_ms
    steps = factor(first, middle, half_life_ms) * factor(middle, last, half_life_ms)
    assert steps == factor(first, last, half_life_ms)


@given(times=st.tuples(TIMES, TIMES), half_life_ms=HALF_LIVES)
def test_a_factor_is_the_difference_of_absolute_ticks(times: tuple[int, int], half_life_ms: int) -> None:
    early, late = sorted(times)
    ticks = ticks_of(late, half_life_ms) - ticks_of(early, half_life_ms)
    assert factor(early, late, half_life_ms) == power(-ticks) <= 1.0
    # Ticks are floors of absolute times: two of them differ from the true time by less than one tick.
    exact = (early - late) / half_life_ms
    if exact > -1000:
        found = math.log2(factor(early, late, half_life_ms))
        assert abs(found - exact) <= 1 / 256 + 1e-9


@given(ts_ms=TIMES, half_life_ms=HALF_LIVES)
def test_no_time_no_decay(ts_ms: int, half_life_ms: int) -> None:
    assert factor(ts_ms, ts_ms, half_life_ms) == 1.0


@given(times=st.tuples(TIMES, TIMES), half_life_ms=FORWARD_HALF_LIVES)
def test_forward_weights_order_by_recency(times: tuple[int, int], half_life_ms: int) -> None:
    early, late = sorted(times)
    low, high = forward_weight(early, half_life_ms), forward_weight(late, half_life_ms)
    assert low <= high
    if late - early >= half_life_ms / 128:
        assert low < high


@given(ts_ms=TIMES, as_of_ms=TIMES, half_life_ms=FORWARD_HALF_LIVES)
def test_a_forward_weight_seen_from_a_later_time_is_decayed_by_the_time_between(
    ts_ms: int, as_of_ms: int, half_life_ms: int
) -> None:
    ts_ms, as_of_ms = sorted((ts_ms, as_of_ms))
    seen = present_weight(forward_weight(ts_ms, half_life_ms), as_of_ms, half_life_ms)
    exact = (ts_ms - as_of_ms) / half_life_ms
    assert seen == pytest.approx(2.0**exact, rel=0.006, abs=1e-300)
    assert present_weight(forward_weight(ts_ms, half_life_ms), ts_ms, half_life_ms) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("ts_ms", [MIN_EVENT_TS_MS, LANDMARK_MS, MAX_EVENT_TS_MS])
@pytest.mark.parametrize("half_life_ms", [MIN_FORWARD_HALF_LIFE_MS, CoreConfig().edge_half_life_ms])
def test_forward_weights_of_a_century_are_finite_and_not_zero(ts_ms: int, half_life_ms: int) -> None:
    weight = forward_weight(ts_ms, half_life_ms)
    assert math.isfinite(weight * 1e9) and weight > 0.0, "a thousand million events on one edge"
    assert math.isfinite(present_weight(1.0, ts_ms, half_life_ms)) and present_weight(1.0, ts_ms, half_life_ms) > 0.0


def test_the_landmark_weighs_one() -> None:
    assert forward_weight(LANDMARK_MS, 28 * DAY_MS) == 1.0
