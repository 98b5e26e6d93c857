"""The benches of memory and growth at a tiny size: they run, and say what they promise to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.bench import growth, memory, written
from infra.bench.report import Options
from infra.bench.visits import BUYING, START_MS, Partition, customer_id, fill, live, visit_times


def options(folder: Path) -> Options:
    return Options(rounds=1, scale=0.001, folder=folder)


def quiet(_text: str) -> None:
    pass


@pytest.mark.slow
def test_memory_is_reported_per_customer(tmp_path: Path) -> None:
    found = memory.run(options(tmp_path), quiet)
    figures = {row.name: row.median for row in found.results}
    assert figures["1,000 customers, disk"] > 0 and figures["before the first customer"] > 10
    assert len(found.targets) == 2 and all(target.at_most for target in found.targets)
    assert not (tmp_path / "memory").exists()


@pytest.mark.slow
def test_growth_tells_the_cost_of_every_size(tmp_path: Path) -> None:
    found = growth.run(options(tmp_path), quiet)
    names = [row.name for row in found.results]
    assert "history of 10 events" in names and "1,000 customers, nothing cached" in names
    assert all(row.median > 0 for row in found.results)
    assert not (tmp_path / "growth").exists()


@pytest.mark.slow
def test_a_customer_with_a_long_tail_writes_no_more_than_others(tmp_path: Path) -> None:
    found = written.run(Options(rounds=1, scale=0.1, folder=tmp_path), quiet)
    assert all(row.median > 100 for row in found.results)
    assert all(target.met for target in found.targets), found.targets


def test_what_the_benches_send_is_taken_in() -> None:
    partition = Partition(None, 1 << 20)
    events = live(partition, range(3), 4, visit_times(START_MS), visits_per_epoch=2)
    ingest = partition.offline.ingest
    assert events == 3 * 4 * len(BUYING) == ingest.counts["applied"]
    assert not ingest.counts["late"] and not ingest.counts["dead_lettered"] and not ingest.counts["duplicates"]
    customer = ingest.customer(customer_id(0))
    assert customer is not None and customer.settled.timeline.sessions == 4


@pytest.mark.parametrize("customers", [120])
def test_ready_made_customers_are_known_again(customers: int) -> None:
    crowd = Partition(None, 0)
    fill(crowd.offline.store, range(customers))
    cost_us = growth.crowd_cost_us(crowd.offline.store, customers, 0, 2, iter(range(1, 1_000)))
    assert cost_us > 0
    known = Partition(crowd.offline.store, 0).offline.ingest.customer(customer_id(7))
    assert known is not None and known.settled.timeline.sessions > 3
