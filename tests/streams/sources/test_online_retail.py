"""Online Retail: invoices as events, what is left out and why, and that nothing else is lost."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from schemas.codec import decode_event, json_encode
from schemas.errors import ConfigError
from schemas.events import CLICKSTREAM, Clickstream, Profile
from schemas.limits import MAX_LINES
from streams.core.baskets import amount_of, is_return
from streams.sources.datasets import online_retail
from streams.sources.datasets.online_retail import COLUMNS, STOCK, OnlineRetail
from streams.sources.datasets.record import SourceRecord, order
from streams.sources.source import DatasetSource, load_source

LINES: Final = (
    # invoice, code, description, quantity, local time, price, customer, country
    ("500001", "85123a", "WHITE  HEART ", "6", "2011-01-10 08:26:00", "2.55", "17850.0", "France"),
    ("500001", "71053", "LANTERN", "2", "2011-01-10 08:27:00", "3.5", "17850.0", "France"),
    ("500001", "POST", "POSTAGE", "1", "2011-01-10 08:26:00", "18.0", "17850.0", "France"),
    ("500002", "85123A", "white heart", "1", "2011-07-10 12:00:00", "2.75", "", "United Kingdom"),
    ("500002", "85123A", "WHITE HEART", "1", "2011-07-10 12:00:00", "0.0", "", "United Kingdom"),
    ("C500003", "71053", "LANTERN", "-1", "2011-07-11 12:00:00", "3.5", "17850.0", "France"),
    ("C500003", "D", "Discount", "-1", "2011-07-11 12:00:00", "5.0", "17850.0", "France"),
    ("500004", "71053", "damaged", "-40", "2011-07-11 13:00:00", "0.0", "", "United Kingdom"),
    ("500005", "71053", "found", "4", "2011-07-11 14:00:00", "0.0", "", "United Kingdom"),
    ("500006", "22000", "GIFT", "1", "2011-07-12 14:00:00", "0.0", "17851.0", "EIRE"),
    ("500006", "M", "Manual", "1", "2011-07-12 14:00:00", "1.0", "17851.0", "EIRE"),
    ("500007", "S", "SAMPLES", "-1", "2011-07-13 14:00:00", "9.0", "", "United Kingdom"),
    ("A500008", "B", "Adjust bad debt", "1", "2011-07-14 14:00:00", "-11062.06", "", "United Kingdom"),
    ("500009", "AMAZONFEE", "AMAZON FEE", "1", "2011-07-15 14:00:00", "7.0", "", "United Kingdom"),
    *(
        ("500010", f"{30_000 + at}", f"THING {at}", "1", "2011-07-16 14:00:00", "0.5", "17852.0", "Germany")
        for at in range(2 * MAX_LINES + 1)
    ),
)


def write(path: Path, lines: tuple[tuple[str, ...], ...] = LINES, columns: tuple[str, ...] = COLUMNS) -> Path:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *lines])
    return path


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> OnlineRetail:
    return OnlineRetail.load(write(tmp_path_factory.mktemp("retail") / online_retail.FILE))


def bodies(retail: OnlineRetail) -> dict[str, tuple[str, Clickstream]]:
    return {
        record.body.event_id or "": (record.key, record.body)
        for record in retail.events()
        if isinstance(record.body, Clickstream)
    }


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_an_invoice_is_a_purchase_with_lines(retail: OnlineRetail) -> None:
    key, body = bodies(retail)["invoice-500001"]
    assert (key, body.event, body.order_id) == ("17850", "purchase", "500001")
    assert body.event_ts_ms == ms("2011-01-10T08:26:00")  # its first line, in winter
    assert body.items is not None
    assert [(line.item_id, line.title, line.quantity, line.price) for line in body.items] == [
        ("85123A", "white heart", 6, 2.55),
        ("71053", "lantern", 2, 3.5),
    ]
    assert amount_of(body) == pytest.approx(6 * 2.55 + 2 * 3.5)


def test_an_invoice_without_a_customer_is_a_guest_in_summer_time(retail: OnlineRetail) -> None:
    key, body = bodies(retail)["invoice-500002"]
    assert key == "guest-500002"
    assert body.event_ts_ms == ms("2011-07-10T11:00:00")
    assert body.items is not None and [line.price for line in body.items] == [2.75, 0.0]


def test_an_invoice_with_a_c_is_a_return(retail: OnlineRetail) -> None:
    key, body = bodies(retail)["invoice-C500003"]
    assert (key, body.event, body.order_id) == ("17850", "return", None)
    assert is_return(body) and amount_of(body) == -3.5


def test_a_long_invoice_is_one_order_in_several_events(retail: OnlineRetail) -> None:
    parts = {name: body for name, (_, body) in bodies(retail).items() if body.order_id == "500010"}
    assert [len(body.items or ()) for body in parts.values()] == [MAX_LINES, MAX_LINES, 1]
    assert list(parts) == ["invoice-500010-01", "invoice-500010-02", "invoice-500010-03"]


def test_what_is_left_out_is_counted_by_reason(retail: OnlineRetail) -> None:
    assert retail.left_out == {
        "postage": 1, "discounts": 1, STOCK: 2, "manual entries": 2, "samples": 1, "fees": 1,
    }  # fmt: skip
    assert retail.kept + retail.left_out.total() == len(LINES)
    assert retail.kept == sum(len(body.items or ()) for _, body in bodies(retail).values())
    assert "invoice-500006" in bodies(retail), "a free item of a customer is kept"


def test_events_are_in_order_and_every_customer_has_a_profile(retail: OnlineRetail) -> None:
    records = list(retail.events())
    profiles = [record for record in records if isinstance(record.body, Profile)]
    rest = [record for record in records if not isinstance(record.body, Profile)]
    assert records == [*profiles, *rest] and rest == sorted(rest, key=order)
    assert [record.key for record in profiles] == ["17850", "17851", "17852"]
    assert {record.event_ts_ms for record in profiles} == {rest[0].event_ts_ms - 1_000}
    assert isinstance(profiles[0].body, Profile) and profiles[0].body.attributes == {"country": "France"}
    assert retail.count() == len(records)
    assert (retail.from_ms, retail.until_ms) == (rest[0].event_ts_ms, rest[-1].event_ts_ms + 1)


def test_every_event_is_valid_on_the_wire(retail: OnlineRetail) -> None:
    for record in retail.events():
        if isinstance(record.body, Clickstream):
            value, ts_ms = json_encode(record.body), record.event_ts_ms
            assert decode_event(CLICKSTREAM, record.key.encode(), value, (), ts_ms, 0).body == record.body


def test_the_catalog_has_the_usual_description_and_price(retail: OnlineRetail) -> None:
    entries = {entry.id: entry for entry in retail.catalog()}
    assert (entries["85123A"].title, entries["85123A"].price) == ("white heart", 2.65)
    assert (entries["22000"].title, entries["22000"].price) == ("gift", None)
    assert "POST" not in entries


def test_a_range_and_a_limit_take_whole_customers(retail: OnlineRetail) -> None:
    source = DatasetSource("online-retail", retail)
    from_ms, to_ms = ms("2011-07-01T00:00:00"), ms("2011-07-13T00:00:00")
    every = list(source.records(from_ms, to_ms))
    assert {record.key for record in every} == {"17850", "17851", "guest-500002"}
    assert source.count(from_ms, to_ms) == len(every)
    some = list(source.records(from_ms, to_ms, limit=1))
    (chosen,) = {record.key for record in some}
    assert [record.body for record in some if record.topic == "clickstream"] == [
        record.body for record in every if record.topic == "clickstream" and record.key == chosen
    ]
    assert source.count(from_ms, to_ms, 1) == len(some)


def test_absent_and_wrong_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSEGRAPH_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="set PULSEGRAPH_DATA to the folder that has"):
        load_source("online-retail")
    path = write(tmp_path / online_retail.FILE, columns=("a", "b"))
    with pytest.raises(ConfigError, match="is no Online Retail"):
        load_source("online-retail")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ConfigError, match=r"is no Online Retail|cannot be read"):
        load_source("online-retail")
    write(path, (("1", "2"),))
    with pytest.raises(ConfigError, match="cannot be read as Online Retail"):
        load_source("online-retail")
    write(path, ((*LINES[0][:5], "free", *LINES[0][6:]),))
    with pytest.raises(ConfigError, match="cannot be read as Online Retail"):
        load_source("online-retail")
    write(path, ())
    with pytest.raises(ConfigError, match="has no invoice"):
        load_source("online-retail")


@pytest.fixture(scope="module")
def everything() -> OnlineRetail:
    path = online_retail.data_file()
    if not path.exists():
        pytest.skip(f"Online Retail is not at {path}: set PULSEGRAPH_DATA to its folder")
    return OnlineRetail.load(path)


@pytest.mark.slow
def test_the_real_file_is_kept_or_left_out_line_by_line(everything: OnlineRetail) -> None:
    assert everything.kept + everything.left_out.total() == 541_909
    assert dict(everything.left_out) == {
        "postage": 2_110, "discounts": 77, STOCK: 2_101, "manual entries": 575, "fees": 87, "samples": 63,
    }  # fmt: skip
    records: list[SourceRecord] = list(everything.events())
    found = [record.body for record in records if isinstance(record.body, Clickstream)]
    purchases = [body for body in found if body.event == "purchase"]
    assert (len(purchases), len(found) - len(purchases), len(records) - len(found)) == (20_124, 3_422, 4_363)
    assert sum(len(body.items or ()) for body in found) == everything.kept
    assert max(len(json_encode(record.body)) for record in records) < 32_768
    customers = {
        record.key
        for record in records
        if isinstance(record.body, Clickstream) and record.body.event == "purchase" and record.key.isdecimal()
    }
    assert len(customers) == 4_335, "of 4,339 customers with purchases four bought nothing but postage or the like"
