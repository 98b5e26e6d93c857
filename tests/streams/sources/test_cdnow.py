"""CDNOW: lines as purchases, days as orders, and files that are absent or something else."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode_event, json_encode
from schemas.errors import ConfigError
from schemas.events import CLICKSTREAM, Clickstream
from streams.sources.datasets import cdnow
from streams.sources.datasets.cdnow import COLUMNS, Cdnow, data_file
from streams.sources.datasets.record import order
from streams.sources.source import DatasetSource, load_source

Line = tuple[int, date, int, int]
"""Customer, day, records, cents."""
LINES = st.lists(
    st.tuples(
        st.integers(1, 3), st.dates(date(1997, 1, 1), date(1998, 6, 30)), st.integers(1, 99), st.integers(0, 128_601)
    ),
    min_size=1,
    max_size=30,
)


def write(path: Path, lines: list[Line], columns: tuple[str, ...] = COLUMNS) -> Path:
    """As the package has it: padded, with carriage returns."""
    said = [
        f" {customer:05d} {day:%Y%m%d} {records:2d} {cents // 100:4d}.{cents % 100:02d}"
        for customer, day, records, cents in lines
    ]
    path.write_bytes("\r\n".join([f" {'  '.join(columns)}", *said, ""]).encode())
    return path


@given(LINES)
def test_a_line_is_a_purchase_and_a_day_an_order(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> None:
    records = list(Cdnow.load(write(tmp_path_factory.mktemp("cdnow") / "file.txt", lines)).events())
    assert records == sorted(records, key=order)
    bodies = [(record.key, record.body) for record in records if isinstance(record.body, Clickstream)]
    assert {body.event for _, body in bodies} == {"purchase"}
    assert Counter(
        (int(key), datetime.fromtimestamp(body.event_ts_ms / 1000, UTC), body.quantity, body.value)
        for key, body in bodies
    ) == Counter(
        (customer, datetime(day.year + 17, day.month, day.day, 12, tzinfo=UTC), float(records), cents / 100)
        for customer, day, records, cents in lines
    )
    assert all(
        datetime.fromtimestamp(b.event_ts_ms / 1000, UTC).weekday() in _weekdays(lines, key) for key, b in bodies
    )
    assert len({body.event_id for _, body in bodies}) == len(lines)
    assert len({body.order_id for _, body in bodies}) == len({(customer, day) for customer, day, *_ in lines})
    for record in records:
        assert record.body is not None
        value, ts_ms = json_encode(record.body), record.event_ts_ms
        assert decode_event(CLICKSTREAM, record.key.encode(), value, (), ts_ms, 0).body == record.body


def _weekdays(lines: list[Line], key: str) -> set[int]:
    return {day.weekday() for customer, day, *_ in lines if customer == int(key)}


def test_a_range_and_a_limit_take_whole_customers(tmp_path: Path) -> None:
    days = [date(1997, 1, day) for day in (1, 5, 9)]
    data = Cdnow.load(write(tmp_path / "file.txt", [(customer, day, 1, 99) for customer in (1, 2) for day in days]))
    source = DatasetSource("cdnow", data)
    from_ms, to_ms = (int(datetime(2014, 1, day, 12, tzinfo=UTC).timestamp()) * 1000 for day in (5, 9))
    assert [(record.key, record.event_ts_ms) for record in source.records(from_ms, to_ms)] == [
        ("00001", from_ms), ("00002", from_ms)
    ]  # fmt: skip
    assert source.count(from_ms, to_ms) == 2 and source.count(from_ms, to_ms, 1) == 1
    (chosen,) = {record.key for record in source.records(source.from_ms, source.until_ms, limit=3)}
    assert source.count(source.from_ms, source.until_ms, 3) == 3 and chosen in ("00001", "00002")
    assert len(source.history(to_ms)) == 4 and source.catalog() == {}


def test_absent_and_wrong_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "file.txt", [], columns=("a", "b"))
    with pytest.raises(ConfigError, match="is no CDNOW"):
        Cdnow.load(path)
    with pytest.raises(ConfigError, match="has no purchase"):
        Cdnow.load(write(path, []))
    for line in ("00001 19970101 1", "00001 19971301 1 2.00", "00001 19970101 one 2.00", "00001 19970101 1 2,00 \xff"):
        path.write_text(f"{' '.join(COLUMNS)}\n{line}\n")
        with pytest.raises(ConfigError, match="cannot be read as CDNOW"):
            Cdnow.load(path)
    with pytest.raises(ConfigError, match="cannot be read as CDNOW"):
        Cdnow.load(tmp_path)
    monkeypatch.setattr(cdnow, "_PACKAGE", "no_such_package_for_sure")
    with pytest.raises(ConfigError, match=r"pulsegraph\[datasets\]"):
        load_source("cdnow")
    monkeypatch.setattr(cdnow, "_PACKAGE", "hypothesis")  # one that is there, without the file
    with pytest.raises(ConfigError, match=r"is not there.*pulsegraph\[datasets\]"):
        load_source("cdnow")


@pytest.mark.slow
def test_the_real_file() -> None:
    pytest.importorskip("lifetimes", reason="needs pulsegraph[datasets]")
    source = load_source("cdnow")
    bodies = [(key, body) for _, key, body, _ in source.history(source.until_ms) if isinstance(body, Clickstream)]
    assert len(bodies) == len({body.event_id for _, body in bodies}) == 69_659
    assert len({key for key, _ in bodies}) == 23_570
    assert len({body.order_id for _, body in bodies}) == 67_591
    days = [datetime.fromtimestamp(at_ms / 1000, UTC).date() for at_ms in (source.from_ms, source.until_ms)]
    assert days == [date(2014, 1, 1), date(2015, 6, 30)]
    said = sum(float(line.split()[3]) for line in data_file().read_text().splitlines()[1:])
    assert sum(body.value or 0.0 for _, body in bodies) == pytest.approx(said)
