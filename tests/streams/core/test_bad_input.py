"""Whatever bytes come in: each record ends in a dead letter of a known class or in a documented default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Worker

from schemas import errors, heartbeat
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS, SOURCES
from schemas.limits import (
    MAX_EVENT_TS_MS,
    MAX_HEADERS_BYTES,
    MAX_KEY_BYTES,
    MAX_NESTING,
    MAX_PAYLOAD_BYTES,
)
from schemas.records import LogRecord
from streams.core.config import DAY_MS
from streams.core.graph import neighbours
from streams.inspect.dead_letters import Filter, choose, parse

Headers = Sequence[tuple[str, bytes]]
KEY: Final = b"c1"
CLICK: Final = {"event": "item_view", "event_ts_ms": START_MS, "event_id": "e1", "item_id": "i1", "category": "coffee"}
BUY: Final = CLICK | {"event": "purchase"}
SEND: Final = {"event": "send", "event_ts_ms": START_MS, "campaign_id": "x", "channel": "email"}
REDEMPTION: Final = {"event_ts_ms": START_MS, "offer_id": "o"}
PROFILE: Final = {"event_ts_ms": START_MS, "consent": {"email": {"marketing": True}}}


def raw(body: Any) -> bytes:
    return json.dumps(body).encode()


def without(body: dict[str, Any], field: str) -> bytes:
    return raw({name: value for name, value in body.items() if name != field})


class Bad(NamedTuple):
    """A record, and the class of the refusal it deserves."""

    error: type[errors.DeadLetter]
    value: bytes | None
    source_index: int = CLICKSTREAM
    key: bytes | None = KEY
    headers: Headers = ()


BEAT = heartbeat.HEARTBEAT_KEY
REFUSED: Final[dict[str, Bad]] = {
    # not text, not JSON
    "empty": Bad(errors.Malformed, b""),
    "cut short": Bad(errors.Malformed, b'{"event": "purchase", '),
    "not UTF-8": Bad(errors.Malformed, b'{"event":"item_view","event_ts_ms":1500000000000,"item_id":"\xff"}'),
    "UTF-16": Bad(errors.Malformed, json.dumps(CLICK).encode("utf-16")),
    "byte order mark": Bad(errors.Malformed, b"\xef\xbb\xbf" + raw(CLICK)),
    "NaN": Bad(errors.Malformed, raw(CLICK | {"value": float("nan")})),
    "Infinity": Bad(errors.Malformed, raw(CLICK | {"value": float("inf")})),
    "lone surrogate": Bad(errors.Malformed, b'{"event":"item_view","event_ts_ms":1500000000000,"item_id":"\\ud800"}'),
    "two objects": Bad(errors.Malformed, raw(CLICK) + raw(CLICK)),
    "nested a thousand deep": Bad(errors.InvalidField, b"[" * 1_000 + b"]" * 1_000),
    "nested deep in an unknown field": Bad(
        errors.Malformed, raw(CLICK)[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    ),
    "nested a little too deep": Bad(
        errors.Malformed, raw(CLICK)[:-1] + b',"x":' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}"
    ),
    "nested too deep before a wrong field": Bad(
        errors.Malformed, b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b',"event":1}'
    ),
    # fields
    "an array": Bad(errors.InvalidField, b"[1, 2]"),
    "a number": Bad(errors.InvalidField, b"7"),
    "JSON null": Bad(errors.InvalidField, b"null"),
    "no event": Bad(errors.InvalidField, without(CLICK, "event")),
    "no time": Bad(errors.InvalidField, without(CLICK, "event_ts_ms")),
    "time as text": Bad(errors.InvalidField, raw(CLICK | {"event_ts_ms": "2017-07-14T02:40:00Z"})),
    "time with a fraction": Bad(errors.InvalidField, raw(CLICK | {"event_ts_ms": START_MS + 0.5})),
    "time as a boolean": Bad(errors.InvalidField, raw(CLICK | {"event_ts_ms": True})),
    "event name empty": Bad(errors.InvalidField, raw(CLICK | {"event": ""})),
    "event name too long": Bad(errors.InvalidField, raw(CLICK | {"event": "x" * 65})),
    "event name of markup": Bad(errors.InvalidField, raw(CLICK | {"event": "[SESSION]"})),
    "number of a million digits": Bad(errors.Oversized, b'{"event_ts_ms":' + b"9" * 1_000_000 + b"}"),
    "price huge": Bad(errors.InvalidField, raw(BUY | {"price": 1e10})),
    "price as text": Bad(errors.InvalidField, raw(BUY | {"price": "9.99"})),
    "value as text": Bad(errors.InvalidField, raw(BUY | {"value": "9.99"})),
    "quantity as text": Bad(errors.InvalidField, raw(BUY | {"quantity": "2"})),
    "currency of money unreadable": Bad(errors.InvalidField, raw(BUY | {"value": 5, "currency": "euro"})),
    "event name with a newline": Bad(errors.InvalidField, raw(CLICK | {"event": "purchase\n"})),
    "price beyond a double": Bad(errors.InvalidField, raw(BUY)[:-1] + b',"price":1e999}'),
    "time of sixty thousand digits": Bad(errors.OutOfTime, b'{"event":"x","event_ts_ms":' + b"9" * 60_000 + b"}"),
    "unknown send event": Bad(errors.InvalidField, raw(SEND | {"event": "teleport"}), CAMPAIGN_SENDS),
    "send without a campaign": Bad(errors.InvalidField, without(SEND, "campaign_id"), CAMPAIGN_SENDS),
    "redemption without an offer": Bad(errors.InvalidField, without(REDEMPTION, "offer_id"), REDEMPTIONS),
    "consent as a list": Bad(errors.InvalidField, raw(PROFILE | {"consent": ["email"]}), PROFILES),
    "consent as text": Bad(errors.InvalidField, raw(PROFILE | {"consent": {"email": {"marketing": "yes"}}}), PROFILES),
    # size
    "payload too large": Bad(errors.Oversized, raw(CLICK | {"padding": "x" * MAX_PAYLOAD_BYTES})),
    "headers too large": Bad(errors.Oversized, raw(CLICK), headers=[("x", b"y" * MAX_HEADERS_BYTES)]),
    "very many headers": Bad(errors.Oversized, raw(CLICK), headers=[("header-name", b"1234567")] * 1_000),
    # keys
    "null key": Bad(errors.NullKey, raw(CLICK), key=None),
    "empty key": Bad(errors.InvalidKey, raw(CLICK), key=b""),
    "key not UTF-8": Bad(errors.InvalidKey, raw(CLICK), key=b"\xff\xfe"),
    "key too long": Bad(errors.InvalidKey, raw(CLICK), key=b"x" * (MAX_KEY_BYTES + 1)),
    "key of too many characters": Bad(errors.InvalidKey, raw(CLICK), key=b"x" * 129),
    "key and body disagree": Bad(errors.KeyMismatch, raw(CLICK | {"customer_id": "c2"})),
    # times
    "seconds": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": START_MS // 1_000})),
    "microseconds": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": START_MS * 1_000})),
    "time zero": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": 0})),
    "time negative": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": -1})),
    "beyond 64 bits": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": 2**70})),
    "from the future": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": START_MS + CONFIG.max_future_ms + 1})),
    "end of time": Bad(errors.OutOfTime, raw(CLICK | {"event_ts_ms": MAX_EVENT_TS_MS})),
    # tombstones
    "null clickstream": Bad(errors.UnexpectedTombstone, None),
    "null send": Bad(errors.UnexpectedTombstone, None, CAMPAIGN_SENDS),
    "null redemption": Bad(errors.UnexpectedTombstone, None, REDEMPTIONS),
    "erasure with a null key": Bad(errors.NullKey, None, PROFILES, key=None),
    # headers
    "erasure at no time": Bad(errors.InvalidField, None, PROFILES, headers=[("ce_time", b"tomorrow")]),
    "erasure without an offset": Bad(
        errors.InvalidField, None, PROFILES, headers=[("ce_time", b"2017-07-14T02:40:00")]
    ),
    "erasure of everything to come": Bad(
        errors.OutOfTime, None, PROFILES, headers=[("ce_time", b"2017-07-15T02:40:00Z")]
    ),
    "erasure before there was anything": Bad(
        errors.OutOfTime, None, PROFILES, headers=[("ce_time", b"1969-07-20T20:17:00Z")]
    ),
    "erasure time not UTF-8": Bad(errors.InvalidField, None, PROFILES, headers=[("ce_time", b"\xff")]),
    # heartbeats
    "heartbeat null": Bad(errors.Malformed, None, key=BEAT),
    "heartbeat garbage": Bad(errors.Malformed, b"tick", key=BEAT),
    "heartbeat not UTF-8": Bad(errors.Malformed, b'{"event_ts_ms":1500000000000,"x":"\xff', key=BEAT),
    "heartbeat without a time": Bad(errors.InvalidField, b"{}", key=BEAT),
    "heartbeat in seconds": Bad(errors.InvalidField, raw({"event_ts_ms": START_MS // 1_000}), key=BEAT),
    "heartbeat from the future": Bad(errors.OutOfTime, raw({"event_ts_ms": START_MS + DAY_MS}), key=BEAT),
    "heartbeat nested deep": Bad(errors.Malformed, b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", key=BEAT),
    "heartbeat nested a little too deep": Bad(
        errors.Malformed,
        b'{"event_ts_ms":%d,"x":' % START_MS + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}",
        key=BEAT,
    ),
}

GOOD = {"event": "purchase", "event_ts_ms": START_MS + CONFIG.max_future_ms, "event_id": "good", "item_id": "after"}


def _take(
    worker: Worker, source_index: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers = ()
) -> Any:
    record = LogRecord(offset, key, value, tuple(headers), START_MS)
    return worker.ingest.take(source_index, [record], 0)


def _good_one_is_applied(worker: Worker, offset: int, events: int = 1) -> None:
    assert _take(worker, CLICKSTREAM, offset, KEY, raw(GOOD)) == []
    worker.checkpoint()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    seen = customer.view()
    assert seen.events == events
    assert "after" in seen.graph.edges("purchase>item")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_class_and_its_bytes(name: str) -> None:
    bad = REFUSED[name]
    worker = Worker()
    (dead_letter,) = _take(worker, bad.source_index, 0, bad.key, bad.value, bad.headers)
    named = dict(dead_letter.headers)
    assert named["dl_error"].decode() == bad.error.__name__
    assert dead_letter.reason == named["dl_reason"].decode() == bad.error.reason
    assert (dead_letter.key, dead_letter.value) == (bad.key, bad.value)
    assert (named["dl_topic"], named["dl_partition"], named["dl_offset"]) == (
        SOURCES[bad.source_index].encode(),
        b"0",
        b"0",
    )
    assert 0 < len(named["dl_message"]) <= 4_096
    assert [header for header in dead_letter.headers if header[0].startswith("orig_")] == [
        (f"orig_{header}", content) for header, content in bad.headers
    ]
    assert worker.ingest.next_offsets == {SOURCES[bad.source_index]: 1}
    assert worker.ingest.counts["dead_lettered"] == 1
    _good_one_is_applied(worker, 1)


@pytest.mark.parametrize(
    "bad",
    [
        Bad(errors.Oversized, b"x" * (3 << 20)),
        Bad(errors.InvalidKey, raw(CLICK), key=b"k" * (3 << 20)),
        Bad(errors.Oversized, raw(CLICK), headers=[("a", b"1"), ("b", b"x" * (3 << 20)), ("c", b"2")]),
        Bad(errors.Oversized, raw(CLICK), headers=[("n" * (3 << 20), b"1")]),
        Bad(errors.Oversized, raw(CLICK), headers=[(f"h{number}", b"") for number in range(400_000)]),
    ],
    ids=["value", "key", "header", "header name", "headers"],
)
def test_what_is_too_large_for_a_dead_letter_is_truncated(bad: Bad) -> None:
    worker = Worker()
    (dead_letter,) = _take(worker, bad.source_index, 0, bad.key, bad.value, bad.headers)
    size = sum(len(name) + len(content or b"") for name, content in dead_letter.headers)
    assert size + len(dead_letter.key or b"") + len(dead_letter.value or b"") < 300_000
    found = parse(dead_letter.key, dead_letter.value, dead_letter.headers)
    assert found is not None and (found.error, found.dl_id) == (bad.error.__name__, "clickstream-0-0")
    sent = bad.headers
    assert found.cut == f"key {len(bad.key or b'')}, value {len(bad.value or b'')}, headers {len(sent)}"
    assert (bad.value or b"").startswith(found.value or b"") and (bad.key or b"").startswith(found.key or b"")
    assert found.headers == tuple(sent[: len(found.headers)])
    (_, why) = choose([found], Filter()).kept[0]
    assert "is truncated" in why


def test_every_class_has_a_case() -> None:
    # What is too late, or in another partition, is no matter of the record alone: see test_event_clock, test_misplaced.
    elsewhere = {errors.TooLate, errors.WrongPartition}
    assert {bad.error for bad in REFUSED.values()} == set(errors.DeadLetter.__subclasses__()) - elsewhere


class Kept(NamedTuple):
    """A record that is odd and taken in all the same."""

    source_index: int
    value: bytes | None
    headers: Headers = ()
    key: bytes = KEY


ACCEPTED: Final[dict[str, Kept]] = {
    "unknown event name": Kept(CLICKSTREAM, raw(CLICK | {"event": "loyalty_scan"})),
    "event name with dots": Kept(CLICKSTREAM, raw(CLICK | {"event": "shop.checkout:step-2"})),
    "unknown item": Kept(CLICKSTREAM, raw(CLICK | {"item_id": "unknown-1", "title": "never seen"})),
    "unknown fields": Kept(CLICKSTREAM, raw(CLICK | {"session": {"deep": [1, 2, {"x": None}]}})),
    "nested as deep as may be": Kept(
        CLICKSTREAM, raw(CLICK)[:-1] + b',"x":' + b"[" * (MAX_NESTING - 1) + b"]" * (MAX_NESTING - 1) + b"}"
    ),
    "brackets in text": Kept(CLICKSTREAM, raw(CLICK | {"x": '"[{\\' * 2 * MAX_NESTING})),
    "field given twice": Kept(CLICKSTREAM, raw(CLICK)[:-1] + b',"item_id":"i2"}'),
    "nulls for what may be absent": Kept(CLICKSTREAM, raw(CLICK | {"price": None, "item_id": None, "channel": None})),
    "white space around": Kept(CLICKSTREAM, b" \n" + raw(CLICK) + b"\n"),
    "NUL and controls in text": Kept(CLICKSTREAM, raw(CLICK | {"title": "a\x00b\x1b[31m", "item_id": "\x00"})),
    "emoji": Kept(CLICKSTREAM, json.dumps(CLICK | {"title": "☕ dark", "query": "naïve"}, ensure_ascii=False).encode()),
    "markup in text": Kept(CLICKSTREAM, raw(CLICK | {"query": "[SESSION] item:5 <script>"})),
    "key and body agree": Kept(CLICKSTREAM, raw(CLICK | {"customer_id": "c1"})),
    "refund": Kept(CLICKSTREAM, raw(CLICK | {"event": "purchase", "value": -5.0})),
    "long ago": Kept(CLICKSTREAM, raw(CLICK | {"event_ts_ms": START_MS - 10 * 365 * DAY_MS})),
    "a little ahead": Kept(CLICKSTREAM, raw(CLICK | {"event_ts_ms": START_MS + CONFIG.max_future_ms})),
    "header without a value": Kept(CLICKSTREAM, raw(CLICK), [("trace", None)]),  # type: ignore[list-item]
    "window before the send": Kept(CAMPAIGN_SENDS, raw(SEND | {"window_end_ms": START_MS - DAY_MS})),
    "open of a message never sent": Kept(CAMPAIGN_SENDS, raw(SEND | {"event": "open"})),
    "redemption of an offer never sent": Kept(REDEMPTIONS, raw(REDEMPTION)),
    "profile with nothing in it": Kept(PROFILES, raw({"event_ts_ms": START_MS})),
    "unknown time zone": Kept(PROFILES, raw(PROFILE | {"timezone": "Mars/Olympus"})),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_and_taken_in(name: str) -> None:
    odd = ACCEPTED[name]
    worker = Worker()
    assert _take(worker, odd.source_index, 0, odd.key, odd.value, odd.headers) == []
    assert worker.ingest.counts["applied"] == 1
    offset = 1 if odd.source_index == CLICKSTREAM else 0
    _good_one_is_applied(worker, offset, events=2)


def test_cloud_events_are_told_apart_by_source_and_id_together() -> None:
    worker, value = Worker(), without(CLICK, "event_id")
    sent: list[Headers] = [
        [("ce_source", b"/till/1"), ("ce_id", b"7")],
        [("ce_source", b"/till/2"), ("ce_id", b"7")],
        [("ce_id", b"7")],
        [("ce_source", b"/till/1"), ("ce_id", b"7"), ("ce_type", b"again")],
    ]
    for offset, headers in enumerate(sent):
        assert _take(worker, CLICKSTREAM, offset, KEY, value, headers) == []
    assert (worker.ingest.counts["applied"], worker.ingest.counts["duplicates"]) == (3, 1)


def test_a_custom_event_keeps_its_edges() -> None:
    worker = Worker()
    _take(worker, CLICKSTREAM, 0, KEY, raw(CLICK | {"event": "loyalty_scan"}))
    customer = worker.ingest.customer("c1")
    assert customer is not None
    found = neighbours(customer.view().graph, "custom>item", START_MS, CONFIG.edge_half_life_ms)
    assert [edge.entity_id for edge in found] == ["i1"]


def test_erasing_somebody_unknown_is_receipted() -> None:
    worker = Worker()
    assert _take(worker, PROFILES, 0, b"never-seen", None) == []
    (receipt,) = worker.ingest.checkpoint(0).erasures
    assert (receipt.customer_id, receipt.erased_ms) == ("never-seen", START_MS)


def test_an_erasure_takes_its_time_from_the_header() -> None:
    worker = Worker()
    _take(worker, PROFILES, 0, KEY, None, [("ce_time", b"2017-07-14T04:40:00+02:00")])
    (receipt,) = worker.ingest.checkpoint(0).erasures
    assert receipt.erased_ms == START_MS


_BODIES = st.sampled_from([CLICK, SEND, REDEMPTION, PROFILE])
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from([*CLICK, *SEND, *REDEMPTION, *PROFILE, "customer_id", "price", "properties", "window_end_ms"])
_SPOILED = st.builds(lambda body, spoilt: raw(body | spoilt), _BODIES, st.dictionaries(_FIELDS, _JUNK, max_size=3))
_VALUES = st.none() | st.binary(max_size=200) | _JUNK.map(raw) | _SPOILED
_KEYS = st.none() | st.binary(max_size=6) | st.sampled_from([KEY, b"c2", BEAT])
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_time", "ce_type", "x"]) | st.text(max_size=8),
        st.binary(max_size=20) | st.sampled_from([b"2017-07-14T02:40:00Z", b"0001-01-01T00:00:00+23:59", b"e1"]),
    ),
    max_size=3,
)
_TIMESTAMPS = st.sampled_from([START_MS, 0, -1, START_MS + 400 * DAY_MS])


@settings(max_examples=examples(400), deadline=None)
@given(
    records=st.lists(st.tuples(st.integers(0, 3), _KEYS, _VALUES, _HEADERS, _TIMESTAMPS), min_size=1, max_size=12),
    cuts=st.booleans(),
)
@example(records=[(PROFILES, KEY, None, [("ce_time", b"9999-12-31T23:59:59-23:59")], START_MS)], cuts=True)
@example(records=[(PROFILES, KEY, None, [("ce_time", b"0001-01-01T00:00:00+23:59")], START_MS)], cuts=True)
def test_nothing_escapes_and_counts_add_up(records: list[tuple[int, Any, Any, Any, int]], cuts: bool) -> None:
    worker = Worker()
    offsets = [0] * len(SOURCES)
    refused = 0
    for source_index, key, value, headers, timestamp in records:
        record = LogRecord(offsets[source_index], key, value, tuple(headers), timestamp)
        refused += len(worker.ingest.take(source_index, [record], 0))
        offsets[source_index] += 1
        if cuts:
            worker.checkpoint()
    worker.checkpoint()
    counts = worker.ingest.counts
    assert counts["dead_lettered"] == refused
    assert len(records) == refused + counts["applied"] + counts["duplicates"] + counts["heartbeats"]
    assert worker.ingest.next_offsets == {
        SOURCES[source_index]: count for source_index, count in enumerate(offsets) if count
    }
    worker.restart()
    assert worker.ingest.next_offsets == {
        SOURCES[source_index]: count for source_index, count in enumerate(offsets) if count
    }
