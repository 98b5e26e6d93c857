"""A field that nobody reads sinks nothing, and a refusal says what to write instead."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Worker

from schemas import errors
from schemas.codec import DecodedEvent, decode_event, decode_key
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS, SOURCES, Clickstream, type_by_source
from schemas.records import LogRecord
from schemas.rfc3339 import NotATime, parse_ms

BUY: Final[dict[str, Any]] = {
    "event": "purchase",
    "event_ts_ms": START_MS,
    "item_id": "i1",
    "price": 2.5,
    "quantity": 2,
}
URL: Final = "https://shop.example/" + "a/" * 80


def decoded(body: Any, source_index: int = CLICKSTREAM, timestamp: int = START_MS) -> DecodedEvent:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_event(source_index, b"c1", value, (), timestamp, CONFIG.max_future_ms)


@pytest.mark.parametrize(
    ("changes", "field", "becomes", "repairs"),
    [
        ({"item_id": 42}, "item_id", "42", ("item_id converted",)),
        ({"item_id": 42.0}, "item_id", "42", ("item_id converted",)),
        ({"order_id": 2**70}, "order_id", str(2**70), ("order_id converted",)),
        ({"event_id": True}, "event_id", None, ("event_id dropped",)),
        ({"channel": ""}, "channel", None, ("channel dropped",)),
        ({"channel": {"name": "app"}}, "channel", None, ("channel dropped",)),
        ({"category": "c" * 100}, "category", "c" * 64, ("category cut",)),
        ({"title": "t" * 600}, "title", "t" * 512, ("title cut",)),
        ({"title": 7}, "title", "7", ("title converted",)),
        ({"query": ["a"]}, "query", None, ("query dropped",)),
        ({"page": URL}, "page", URL[:128], ("page cut",)),
        ({"page": "/p?" + "q" * 200}, "page", "/p", ("page cut",)),
        ({"event_ts_ms": float(START_MS)}, "event_ts_ms", START_MS, ("event_ts_ms converted",)),
        ({"event_ts_ms": str(START_MS)}, "event_ts_ms", START_MS, ("event_ts_ms converted",)),
        ({"value": 5, "price": 1e300}, "price", None, ("price dropped",)),
        ({"value": 5, "quantity": "two"}, "quantity", None, ("quantity dropped",)),
        ({"properties": {"n": 2**60}}, "properties", {"n": str(2**60)}, ("properties converted",)),
        ({"properties": {"n": 1.7e12}}, "properties", {"n": 1_700_000_000_000}, ("properties converted",)),
        ({"properties": {"n": {"a": [1]}}}, "properties", {"n": '{"a":[1]}'}, ("properties converted",)),
        ({"properties": {"u": "x" * 900}}, "properties", {"u": "x" * 512}, ("properties cut",)),
        ({"properties": {"": 1, "a": 1}}, "properties", {"a": 1}, ("properties dropped",)),
        ({"properties": "none"}, "properties", None, ("properties dropped",)),
        ({"unknown": 10**400}, "price", 2.5, ()),
        ({"event": "Purchase"}, "event", "purchase", ("event converted",)),
        ({"event": "PURCHASE"}, "event", "purchase", ("event converted",)),
        ({"event": "Add to cart"}, "event", "add_to_cart", ("event converted",)),
        ({"event": "pageView"}, "event", "page_view", ("event converted",)),
        ({"event": "loyalty_scan"}, "event", "loyalty_scan", ()),
    ],
    ids=str,
)
def test_the_purchase_stays(changes: dict[str, Any], field: str, becomes: Any, repairs: tuple[str, ...]) -> None:
    found = decoded(BUY | changes)
    assert getattr(found.body, field) == becomes
    assert found.repairs == repairs


_SHORTEST: Final[dict[str, dict[str, Any]]] = {
    "clickstream": {"event": "purchase"},
    "campaign-sends": {"event": "send", "campaign_id": "k1"},
    "redemptions": {"offer_id": "o1"},
    "profiles": {},
}
#: What is read as a name, a time or a sum, and consent: of these nothing is guessed.
_REFUSED: Final = {
    "clickstream": {"event", "event_ts_ms", "price", "quantity", "items", "value", "currency"},
    "campaign-sends": {"event", "event_ts_ms", "campaign_id"},
    "redemptions": {"event_ts_ms", "offer_id", "value"},
    "profiles": {"event_ts_ms", "consent"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_becomes_of_each_unreadable_field_is_decided(source: str) -> None:
    """A new field is repaired in schemas/repair.py, or it is a reason to refuse the event and named above."""
    refused = set()
    for field in msgspec.structs.fields(type_by_source[source]):
        body = {"event_ts_ms": START_MS} | _SHORTEST[source] | {field.name: {"nested": [1]}}
        try:
            assert decoded(body, SOURCES.index(source)).repairs, field.name
        except errors.InvalidField:
            refused.add(field.name)
    assert refused == _REFUSED[source]


def test_repairs_are_counted_by_topic_field_and_kind() -> None:
    worker = Worker()
    value = json.dumps(BUY | {"item_id": 42, "properties": {"a": {}, "b": "x" * 900}}).encode()
    assert worker.ingest.take(CLICKSTREAM, [LogRecord(0, b"c1", value, (), START_MS)], 0) == []
    counts = {name: count for name, count in worker.ingest.counts.items() if name.startswith("repaired")}
    assert counts == {
        "repaired\x1fclickstream\x1fitem_id\x1fconverted": 1,
        "repaired\x1fclickstream\x1fproperties\x1fconverted": 1,
        "repaired\x1fclickstream\x1fproperties\x1fcut": 1,
    }


def test_lines_are_repaired_each() -> None:
    lines = [{"item_id": 1, "title": "t" * 600}, {"item_id": "b", "category": "", "price": 1}]
    body = decoded({"event": "purchase", "event_ts_ms": START_MS, "items": lines}).body
    assert isinstance(body, Clickstream) and body.items is not None
    assert [(line.item_id, len(line.title or ""), line.category) for line in body.items] == [
        ("1", 512, None),
        ("b", 0, None),
    ]


def test_ids_that_are_too_long_stay_apart() -> None:
    one, other = ("x" * 300 + end for end in "ab")
    ids = {getattr(decoded(BUY | {"item_id": name}).body, "item_id") for name in (one, other)}  # noqa: B009
    assert len(ids) == 2 and all(len(name) == 128 for name in ids)


_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=700),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=80), inner, max_size=80),
    max_leaves=10,
)
_UNREAD: Final = ("event_id", "item_id", "title", "category", "order_id", "page", "query", "channel", "properties")


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(st.sampled_from([*_UNREAD, "extra", "decision_id"]), _JUNK, max_size=8))
def test_no_junk_in_what_nobody_sums_costs_a_purchase(junk: dict[str, Any]) -> None:
    body = {"event": "purchase", "event_ts_ms": START_MS, "value": 7.5} | junk
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # half of a surrogate pair is no JSON
    worker = Worker()
    record = LogRecord(0, b"c1", json.dumps(body).encode(), (), START_MS)
    assert worker.ingest.take(CLICKSTREAM, [record], 0) == []
    customer = worker.ingest.customer("c1")
    assert customer is not None and customer.view().events == 1
    worker.checkpoint()
    worker.restart()
    assert worker.ingest.customer("c1") is not None


@pytest.mark.parametrize(
    ("body", "source_index", "error", "says"),
    [
        (
            BUY | {"event_ts_ms": "2026-07-14T02:40:00Z"},
            CLICKSTREAM,
            errors.InvalidField,
            "takes epoch milliseconds, a whole number such as 946684800000; this looks like ISO 8601: 2026-",
        ),
        (BUY | {"event_ts_ms": START_MS // 1_000}, CLICKSTREAM, errors.OutOfTime, "looks like seconds"),
        (BUY | {"event_ts_ms": START_MS * 1_000}, CLICKSTREAM, errors.OutOfTime, "looks like microseconds"),
        (BUY | {"event_ts_ms": START_MS * 10**6}, CLICKSTREAM, errors.OutOfTime, "looks like nanoseconds"),
        (BUY | {"event": "purchase\n"}, CLICKSTREAM, errors.InvalidField, "the nearest name is purchase"),
        (BUY | {"event": "purchse!"}, CLICKSTREAM, errors.InvalidField, "the nearest name is purchase"),
        (BUY | {"price": "9.99"}, CLICKSTREAM, errors.InvalidField, "price takes a number; write it without quotes"),
        (
            {"event": "sent", "event_ts_ms": START_MS, "campaign_id": "x"},
            CAMPAIGN_SENDS,
            errors.InvalidField,
            "the nearest name is send",
        ),
        (
            {"event": "clicked", "event_ts_ms": START_MS},
            CAMPAIGN_SENDS,
            errors.InvalidField,
            "the nearest name is click",
        ),
        ({"event_ts_ms": START_MS, "offerid": "o"}, REDEMPTIONS, errors.InvalidField, "is it what you call offerid"),
        (
            {"event": "purchase", "event_ts_ms": START_MS, "items": [{"item_id": "a"}] * 201},
            CLICKSTREAM,
            errors.InvalidField,
            "several events with one order_id",
        ),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_refusal_names_the_remedy(body: Any, source_index: int, error: type[errors.DeadLetter], says: str) -> None:
    with pytest.raises(error) as refused:
        decoded(body, source_index)
    assert says in str(refused.value)


@pytest.mark.parametrize("timestamp", [-1, 0])
def test_a_record_without_a_timestamp_is_refused_as_that(timestamp: int) -> None:
    with pytest.raises(errors.OutOfTime) as refused:
        decoded(BUY, timestamp=timestamp)
    assert f"the record has no Kafka timestamp ({timestamp})" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (b"null", "names nobody"),
        (b"undefined", "names nobody"),
        (b"NaN", "names nobody"),
        (b"[object Object]", "names nobody"),
        (b'"42"', "JSON text in quotes"),
        (b'{"schema":{"type":"string"},"payload":"42"}', "StringConverter"),
        (b'{"customer_id":42}', "StringConverter"),
        (b"[42]", "StringConverter"),
        ((42).to_bytes(8, "big"), "a number in 8 bytes, 42"),
        ((42).to_bytes(4, "big"), "a number in 4 bytes, 42"),
        ((2**62).to_bytes(8, "big"), "a number in 8 bytes"),
        (b"\0\0\0\0\1\x06423", "schema registry"),
        (b"42\n", "control characters"),
        (b"\t42", "control characters"),
        (b"\x1b[31m", "control characters"),
        ("\ufeff42".encode(), "control characters"),
        (b" 42", "begins or ends with a space"),
        (b"42 ", "begins or ends with a space"),
        ("42\u00a0".encode(), "begins or ends with a space"),
    ],
    ids=str,
)
def test_a_key_that_is_no_id_is_never_a_customer(key: bytes, says: str) -> None:
    with pytest.raises(errors.InvalidKey) as refused:
        decode_key(key)
    assert says in str(refused.value)


@pytest.mark.parametrize("key", [b"42", "ü€𝕏".encode(), b"a b", b"user@example.org", b"{", b"nullable", b"x" * 128])
def test_a_key_that_may_be_an_id_is_one(key: bytes) -> None:
    if key == b"{":
        with pytest.raises(errors.InvalidKey):
            decode_key(key)
    else:
        assert decode_key(key) == key.decode()


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from([4, 8]))
def test_small_numbers_in_bytes_are_no_customers(number: int, size: int) -> None:
    if -(2**15) <= number < 2**16:
        with pytest.raises(errors.InvalidKey):
            decode_key(number.to_bytes(size, "big", signed=True))


@pytest.mark.parametrize(
    "text",
    [
        "2017-07-14T02:40:00Z",
        "2017-07-14t02:40:00z",
        "2017-07-14 02:40:00Z",
        "2017-07-14T02:40:00.0Z",
        "2017-07-14T02:40:00.000000000Z",
        "2017-07-14T02:40:00.000999999999Z",
        "2017-07-14T04:40:00+02:00",
        "2017-07-13T21:10:00-05:30",
        "2017-07-14T02:40:00-00:00",
        "2017-07-14T02:39:60Z",
        " 2017-07-14T02:40:00Z\n",
    ],
)
def test_a_time_in_every_form_of_rfc_3339(text: str) -> None:
    assert parse_ms(text) == START_MS
    found = decode_event(PROFILES, b"c1", None, [("ce_time", text.encode())], START_MS, 0)
    assert found.event_ts_ms == START_MS


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2017-07-14", "2017-07-14T02:40:00", "2017-02-30T00:00:00Z", "2017-07-14T25:00:00Z",
     "2017-07-14T02:40:00+25:00", "2017-W28-5T02:40:00Z", "20170714T024000Z", "1500000000000", "0000-01-01T00:00:00Z",
     "２０17-07-14T02:40:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(NotATime):
        parse_ms(text)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.integers(-1439, 1439),
    st.integers(0, 9),
    st.sampled_from("Tt "),
)
def test_times_are_read_as_python_writes_them(moment: datetime, minutes: int, digits: int, between: str) -> None:
    local = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)), microsecond=moment.microsecond // 1_000 * 1_000)
    fraction = f".{local.microsecond:06d}000"[: digits + 1] if digits else ""
    text = local.strftime("%Y").zfill(4) + local.strftime(f"-%m-%d{between}%H:%M:%S") + fraction
    text += local.isoformat()[-6:]
    kept = int(fraction[1:4].ljust(3, "0")) if digits else 0
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_ms(text) == (local.replace(microsecond=0) - epoch) // timedelta(milliseconds=1) + kept
