"""What a soak says of its minutes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bench.soak import Minute, _findings, growth, later, slope
from schemas.events import Clickstream
from streams.sources.datasets.record import SourceRecord


@given(st.floats(-100, 100), st.floats(0, 1_000), st.integers(2, 200))
def test_the_slope_of_a_line_is_its_own(step: float, first: float, count: int) -> None:
    assert slope([first + step * place for place in range(count)]) == pytest.approx(step, abs=1e-6)


@pytest.mark.parametrize(("mib_a_minute", "met"), [(8.0, False), (0.1, True)])
def test_what_grew_in_the_issue_misses_the_target(mib_a_minute: float, met: bool) -> None:
    minutes = [Minute(1_000 + mib_a_minute * place, 200, 90, 1_500.0, {"ingest cache": 9.0}) for place in range(120)]
    resident, files, cost = _findings(minutes, "a broker").targets
    assert (resident.met, files.met, cost.met) == (met, True, True)
    assert resident.value == pytest.approx(60 * mib_a_minute)


def test_a_year_later_it_is_another_event_of_the_same_customer() -> None:
    body = Clickstream(event="purchase", event_ts_ms=1_500_000_000_000, event_id="e1", item_id="7")
    found = later(SourceRecord("clickstream", "42", body, 1_500_000_000_000), 2)
    assert (found.key, found.event_ts_ms) == ("42", 1_500_000_000_000 + 2 * 364 * 86_400_000)
    assert found.body is not None
    assert (found.body.event_ts_ms, found.body.event_id) == (found.event_ts_ms, "e1-2")


def test_cost_that_grows_misses_its_target() -> None:
    cost = _findings([Minute(1_000, 200, 90, 1_500.0 + 7 * place, {}) for place in range(120)], "a broker").targets[2]
    assert not cost.met
    assert growth([1.0] * 3) == 1.0
