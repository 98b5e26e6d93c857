"""The sizing simulation: what it must give where the answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bench.sizing import Costs, share_out, simulate, size

COSTS = Costs(
    ingest_us=50.0,
    ingest_cores=1.0,
    broker_us=20.0,
    producer_us=5.0,
    others_us=300.0,
    disk_bytes=2_000.0,
    restored_per_s=40_000.0,
    takeover_s=13.0,
)


@given(cores=st.floats(0.5, 64), demands=st.lists(st.floats(0, 8), min_size=1, max_size=20))
def test_cores_are_shared_out_fairly(cores: float, demands: list[float]) -> None:
    given_out = share_out(cores, demands)
    assert all(got <= asked + 1e-9 for got, asked in zip(given_out, demands, strict=True))
    assert sum(given_out) == pytest.approx(min(cores, sum(demands)))
    # Whoever gets less than it asked for gets no less than anybody else.
    least = min((got for got, asked in zip(given_out, demands, strict=True) if got < asked - 1e-9), default=None)
    assert least is None or max(given_out) <= least + 1e-9


def test_a_worker_with_a_machine_to_itself_is_bound_by_its_own_cost() -> None:
    assert simulate(COSTS, workers=1, cores=16, events=100_000) == pytest.approx(1e6 / COSTS.ingest_us, rel=0.03)
    assert simulate(COSTS, workers=2, cores=16, events=100_000) == pytest.approx(2e6 / COSTS.ingest_us, rel=0.03)


def test_on_few_cores_all_costs_add_up() -> None:
    together_us = COSTS.ingest_us + COSTS.broker_us + COSTS.producer_us
    assert simulate(COSTS, workers=4, cores=2, events=200_000) == pytest.approx(2e6 / together_us, rel=0.05)


def test_an_uneven_share_is_bound_by_the_busiest() -> None:
    rate = simulate(COSTS, workers=2, cores=16, events=100_000, shares=[0.75, 0.25])
    assert rate == pytest.approx(1e6 / COSTS.ingest_us / 0.75, rel=0.03)


@pytest.mark.parametrize("load", [1_000.0, 50_000.0, 1_000_000.0])
def test_no_worker_is_too_busy_and_none_is_wasted(load: float) -> None:
    need = size(COSTS, load, customers=int(load * 100))
    assert need.busiest <= 0.7
    assert need.partitions >= need.ingest_workers
    if need.ingest_workers > 10:
        assert need.busiest > 0.55
    assert need.other_cores >= load * COSTS.others_us / 1e6


def test_more_load_needs_no_less() -> None:
    needs = [size(COSTS, load, customers=10_000_000) for load in (1e4, 3e4, 1e5, 3e5, 1e6)]
    assert [need.ingest_workers for need in needs] == sorted(need.ingest_workers for need in needs)
    assert [need.cores for need in needs] == sorted(need.cores for need in needs)
