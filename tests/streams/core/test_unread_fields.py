"""A field that nobody reads sinks nothing, and a refusal says what to write instead."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Worker

from schemas import errors
from schemas.codec import DecodedEvent, decode_event, decode_key
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS, SOURCES, Clickstream, type_by_source
from schemas.records import LogRecord
from schemas.rfc3339 import NotATime, parse_ms
from streams.core.oddities import known_name

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
    "clickstream": {"event", "event_ts_ms", "price", "quantity", "items", "value"},
    "campaign-sends": {"event", "event_ts_ms", "campaign_id"},
    "redemptions": {"event_ts_ms", "offer_id"},
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


_OF_ANY_KIND: Final[list[Any]] = [{"nested": [1]}, "x" * 2_000, -(10**30), [], True]
#: Events that count no money, a custom one among them.
_NO_MONEY: Final = ("page_view", "search", "item_view", "add_to_cart", "remove_from_cart", "app_open", "loyalty_scan")


@pytest.mark.parametrize("event", _NO_MONEY)
def test_where_no_money_is_counted_no_field_but_name_and_time_costs_the_event(event: str) -> None:
    for field in msgspec.structs.fields(Clickstream):
        for junk in _OF_ANY_KIND:
            body = {"event": event, "event_ts_ms": START_MS} | {field.name: junk}
            if field.name in ("event", "event_ts_ms"):
                with pytest.raises(errors.DeadLetter):
                    decoded(body)
            elif field.name == "customer_id":
                continue
            else:
                assert decoded(body).repairs or (field.name, junk) == ("items", [])


_LINE: Final = {"item_id": "a", "price": 1.5, "quantity": 2}
_AMOUNT_JUNK: Final = st.sampled_from(["9.99", "", {}, [1], True, 1e300, 10**40, -1e12])


@settings(max_examples=examples(300), deadline=None)
@given(
    event=st.sampled_from(_NO_MONEY),
    own=st.dictionaries(st.sampled_from(["price", "quantity", "value", "currency"]), _AMOUNT_JUNK),
    lines=st.lists(
        st.just(_LINE)
        | st.fixed_dictionaries({"item_id": st.just("b"), "price": _AMOUNT_JUNK, "quantity": _AMOUNT_JUNK})
        | st.fixed_dictionaries({"item_id": st.just("c"), "quantity": st.just(-1)})
        | st.sampled_from([{}, None, 7, "a", {"item_id": []}, {"item_id": ""}, {"sku": "x"}]),
        max_size=220,
    ),
)
def test_lines_of_which_nothing_is_summed_are_kept_as_far_as_they_can_be(
    event: str, own: dict[str, Any], lines: list[Any]
) -> None:
    has_product = not own.keys().isdisjoint(("price", "quantity"))
    found = decoded({"event": event, "event_ts_ms": START_MS, "items": lines} | own)
    assert isinstance(found.body, Clickstream)
    assert (found.body.price, found.body.quantity, found.body.value) == (None, None, None)
    kept = [line for line in lines if isinstance(line, dict) and line.get("item_id")][:200]
    assert [line.item_id for line in found.body.items or ()] == [line["item_id"] for line in kept]
    amounts = {(line.item_id, line.price, line.quantity) for line in found.body.items or ()}
    assert amounts <= {("a", 1.5, 2), ("b", None, None), ("c", None, None)}
    assert bool(found.repairs) == bool(has_product or own or len(kept) < len(lines) or amounts - {("a", 1.5, 2)})


def test_lines_beside_a_product_are_dropped_where_no_money_is_counted() -> None:
    for own in ({"item_id": "i1"}, {"title": "All"}, {"price": 3.0}):
        found = decoded({"event": "item_view", "event_ts_ms": START_MS, "items": [_LINE]} | own)
        assert isinstance(found.body, Clickstream) and found.body.items is None
        assert found.repairs == ("items dropped",)
        with pytest.raises(errors.InvalidField, match="exclude each other"):
            decoded({"event": "purchase", "event_ts_ms": START_MS, "items": [_LINE]} | own)


@settings(max_examples=examples(200), deadline=None)
@given(price=_AMOUNT_JUNK, quantity=_AMOUNT_JUNK, currency=st.sampled_from(["", "EURO", "\u20ac", 978, [], {}, "E1R"]))
def test_amounts_that_are_summed_are_never_guessed_and_others_cost_no_purchase(
    price: Any, quantity: Any, currency: Any
) -> None:
    base = {"event": "purchase", "event_ts_ms": START_MS}
    line = {"item_id": "a", "price": price, "quantity": quantity}
    known = decoded(base | {"value": 7.5, "items": [line]}).body
    assert isinstance(known, Clickstream) and known.items is not None
    assert (known.value, known.items[0].price, known.items[0].quantity) == (7.5, None, None)
    for summed in ({"price": price}, {"items": [line]}, {"value": price}, {"price": 1.0, "quantity": quantity}):
        with pytest.raises(errors.InvalidField):
            decoded(base | summed)
    nothing = decoded(base | {"item_id": "a", "currency": currency})
    assert nothing.repairs == ("currency dropped",)
    for summed in ({"price": 1.0}, {"items": [_LINE]}, {"value": 3}):
        with pytest.raises(errors.InvalidField):
            decoded(base | {"currency": currency} | summed)


@pytest.mark.parametrize("value", ["12", {}, 1e300, 10**400, True])
def test_a_redemption_stays_whatever_it_was_worth(value: Any) -> None:
    found = decoded({"event_ts_ms": START_MS, "offer_id": "o1", "value": value}, REDEMPTIONS)
    assert getattr(found.body, "value") is None and found.repairs == ("value dropped",)  # noqa: B009


@settings(max_examples=examples(300), deadline=None)
@given(
    ids=st.lists(st.none() | st.binary(max_size=300), min_size=2, max_size=2),
    sources=st.lists(st.none() | st.binary(max_size=1_500), min_size=2, max_size=2),
)
@example(ids=[b"x" * 300 + b"a", b"x" * 300 + b"b"], sources=[b"s", b"s"])
@example(ids=[b"\xff\xfe", b"\xff\xff"], sources=[b"s", b"s"])
@example(ids=[b"1", b"1"], sources=[b"\xff", b"\xfe"])
def test_headers_cost_no_purchase_and_tell_events_apart(ids: list[Any], sources: list[Any]) -> None:
    value, names = json.dumps(BUY).encode(), []
    for event_id, source in zip(ids, sources, strict=True):
        headers = [(name, raw) for name, raw in (("ce_id", event_id), ("ce_source", source)) if raw is not None]
        found = decode_event(CLICKSTREAM, b"c1", value, headers, START_MS, 0)
        again = decode_event(CLICKSTREAM, b"c1", value, headers, START_MS, 0)
        assert (again.event_id, again.repairs) == (found.event_id, found.repairs), "an id is a function of the headers"
        assert (found.event_id is None) == (not event_id)
        assert found.event_id is None or len(found.event_id) <= 128 + 1 + 1_024
        assert bool(found.repairs) == any(not _is_header(raw, most) for raw, most in ((event_id, 128), (source, 1_024)))
        names.append((found.event_id, event_id or b"", (source or b"") if event_id else b""))
    (one, *of_one), (other, *of_other) = names
    assert (one == other) == (of_one == of_other) or b"\\x" in b"".join(raw or b"" for raw in (*ids, *sources))


def _is_header(raw: bytes | None, most: int) -> bool:
    try:
        return raw is None or 0 < len(raw.decode()) <= most
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("known", ["purchase", "send"])
@settings(max_examples=examples(200), deadline=None)
@given(
    around=st.text(st.sampled_from(" \t\n\u00a0\u200b\u202e\ufeff\u2060\0"), min_size=1, max_size=3),
    at=st.integers(0, 2),
)
def test_space_or_what_nobody_sees_around_a_name_makes_it_none(known: str, around: str, at: int) -> None:
    name = (around + known, known + around, around + known + around)[at]
    source_index = CLICKSTREAM if known == "purchase" else CAMPAIGN_SENDS
    with pytest.raises(errors.InvalidField, match=f"the nearest name is {known}"):
        decoded({"event": name, "event_ts_ms": START_MS, "campaign_id": "k"}, source_index)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("purchse", "purchase"), ("purchases", "purchase"), ("purchased", "purchase"), ("view_item", "item_view"),
     ("cart_add", "add_to_cart"), ("app_opened", "app_open"), ("Refunds", "refund"), ("ViewItem", None),
     ("loyalty_scan", None), ("page_leave", None), ("add_to_wishlist", None), ("search_result", None), ("play", None)],
)  # fmt: skip
def test_a_custom_event_that_is_nearly_a_known_one_is_counted(name: str, meant: str | None) -> None:
    worker = Worker()
    value = json.dumps({"event": name, "event_ts_ms": START_MS}).encode()
    assert worker.ingest.take(CLICKSTREAM, [LogRecord(0, b"c1", value, (), START_MS)], 0) == []
    assert known_name(name) == meant
    assert worker.ingest.counts["resembling_names"] == (meant is not None)


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_suggested_for_a_missing_field_is_no_other_field(source: str) -> None:
    """Whoever sends an ``event_id`` is not told that it should be an ``offer_id``."""
    known = type_by_source[source].__struct_fields__
    full = {"event_ts_ms": START_MS} | _SHORTEST[source]
    for missing in full:
        for near in known:
            body = {name: said for name, said in full.items() if name != missing} | {near: None, f"{missing}s": 1}
            if near in full:
                continue
            with pytest.raises(errors.DeadLetter) as refused:
                decoded(body, SOURCES.index(source))
            assert f"is it what you call {missing}s" in str(refused.value) or "campaign_id" in str(refused.value)
            body.pop(f"{missing}s")
            with pytest.raises(errors.DeadLetter) as refused:
                decoded(body, SOURCES.index(source))
            assert "is it what you call" not in str(refused.value)


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
        (b"'42'", "in quotes"),
        (b"N/A", "names nobody"),
        (b"Unknown", "names nobody"),
        (b"(not set)", "names nobody"),
        (b"Struct{id=42}", "an object as it is printed"),
        (b"Some(42)", "an object as it is printed"),
        (b"Customer[id=42]", "an object as it is printed"),
        (b"org.example.Customer@1b6d3586", "an object as it is printed"),
        (b"b'42'", "an object as it is printed"),
        (b"${customer_id}", "a variable that nobody filled in"),
        (b"$customer_id", "a variable that nobody filled in"),
        (b"%(customer_id)s", "a variable that nobody filled in"),
        (b"c-#{id}", "a variable that nobody filled in"),
        (b"{{customer_id}}", "StringConverter"),
        (b"<customer_id>", "a variable that nobody filled in"),
        ("4\u200b2".encode(), "that nobody sees"),
        ("\u202e42".encode(), "that nobody sees"),
        ("42\u2060".encode(), "that nobody sees"),
        (b"\0\0\0\0\1\x0442", "schema registry"),
        ("\0\0\0\0\1\x04ü".encode(), "schema registry"),
        (b'\0\0\0\1\0"4"', "schema registry"),
        (b"\0\0\0\0\1\x06123", "schema registry"),
        ((2**20).to_bytes(8, "big"), "a number in 8 bytes, 1048576"),
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


@pytest.mark.parametrize(
    "key",
    [
        b"42",
        "ü€𝕏".encode(),
        b"a b",
        b"user@example.org",
        b"{",
        b"nullable",
        b"x" * 128,
        b"unknown-7",
        b"O'Brien",
        b"a/b",
        b"$42",
        b"50%",
        b"a#1",
        b"bob@cafe",
    ],
)
def test_a_key_that_may_be_an_id_is_one(key: bytes) -> None:
    if key == b"{":
        with pytest.raises(errors.InvalidKey):
            decode_key(key)
    else:
        assert decode_key(key) == key.decode()


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(1, 2**31 - 1), st.text("0123456789abcXYZ-", min_size=1, max_size=60))
def test_a_framed_text_is_called_a_frame(schema: int, text: str) -> None:
    length = len(text) * 2
    varint = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    with pytest.raises(errors.InvalidKey, match="schema registry"):
        decode_key(b"\0" + schema.to_bytes(4, "big") + varint + text.encode())


@settings(max_examples=examples(300), deadline=None)
@given(
    st.text("0123456789ab-", max_size=8),
    st.characters(categories=["Cf", "Cc", "Zl", "Zp"]),
    st.text("0123", max_size=8),
)
def test_what_nobody_sees_is_in_no_key(before: str, unseen: str, after: str) -> None:
    with pytest.raises(errors.InvalidKey):
        decode_key((before + unseen + after).encode())


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
